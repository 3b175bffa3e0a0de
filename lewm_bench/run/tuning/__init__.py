"""Trials of settings on validation episodes."""
