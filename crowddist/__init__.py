"""crowddist adapts a crowd counter to cameras nobody has labelled."""

__version__ = "0.1.0"
