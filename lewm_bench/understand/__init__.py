"""What a world model has understood: probes, violated expectations, straight paths, collapse, decoded dreams.

Section 5 of the LeWM paper with statistics behind it. Each module computes one thing from a ``ExaminedModel`` and returns
one of the ``records``; nothing here trains a world model or looks at test episodes to choose anything.
"""
