"""Rollouts of candidate plans from far less work than calling a world model step by step; one file per model.

A model hands over its layers (``LeWMParts`` and the like): planning stands above the agents and knows none of them.
"""
