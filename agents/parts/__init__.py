"""What several agents share: networks, losses and encoders."""
