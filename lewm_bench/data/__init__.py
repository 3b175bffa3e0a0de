"""Frames to disk and back: formats, collecting, exploration, other people's environments."""
