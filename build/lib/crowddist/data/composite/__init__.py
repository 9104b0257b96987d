"""Composites: rendered people in the target's own images, where nobody is: a labelled source on its backgrounds."""
