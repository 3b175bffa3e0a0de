"""The training loop, its budget and what it watches."""
