"""Search over imagined actions: planners, and the agent that replans."""
