"""A run and its training: the record of its folder, the engine that fits stages, checkpoints, and whether a run is
repeated exactly.

Where the work is done is not known here, nor who tracks it.
"""
