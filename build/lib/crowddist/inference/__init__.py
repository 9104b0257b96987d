"""Runs a trained counter: predictions, pseudo-labels, translated images, and the evaluation. Nothing here trains.

Only `evaluation` opens the target's labels.
"""
