"""Loss functions: pure, differentiable, one family per file."""
