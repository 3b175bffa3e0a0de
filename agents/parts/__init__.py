"""What several agents share: networks, losses, encoders and fast imagination."""
