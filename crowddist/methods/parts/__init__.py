"""What several methods are built from: training a counter or a detector, semantic consistency, losses that more than
one uses.

No plan of stages: that is a method's own.
"""
