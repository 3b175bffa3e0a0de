"""Search over latent rollouts: planners, and the agent that replans."""
