"""Pure mathematics on arrays and tensors, one noun a file.

No file, network or configuration is known here; sources stand with the equations.
"""
