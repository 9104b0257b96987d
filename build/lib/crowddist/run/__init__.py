"""A run and its training: the run folder's record, the engine that fits stages, checkpoints, and repeating a run.

Knows neither launchers nor trackers.
"""
