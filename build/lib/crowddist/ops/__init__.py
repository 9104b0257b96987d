"""Pure mathematics on arrays and tensors, one noun a file: no files, networks or configurations."""
