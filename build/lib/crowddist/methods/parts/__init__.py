"""Parts that several methods share: training, counting, detection and the semantic side of a counter."""
