"""Figures of where agents went and where they failed, made from records and the scenes beside them."""
