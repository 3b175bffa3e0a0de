"""Agents among start and goal pairs: what they are shown, what they answer, and whether they keep their promises."""
