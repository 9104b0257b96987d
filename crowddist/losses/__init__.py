"""Loss functions: pure, differentiable, one family a file.

No network and no configuration is known here: a loss takes tensors and gives a number.
"""
