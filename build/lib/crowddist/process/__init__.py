"""This process and its machine: errors, progress, signals, and safe text. Knows nothing of images, networks or runs."""
