"""Loss functions: pure, differentiable, one family a file: no networks or configurations."""
