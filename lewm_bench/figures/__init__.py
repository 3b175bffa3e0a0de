"""Figures that show episodes: the ways that agents went, where they fail, and the scenes behind them."""
