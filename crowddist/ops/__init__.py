"""Pure maths on arrays and tensors, one noun per file."""
