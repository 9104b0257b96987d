"""Networks, each an nn.Module built from a frozen configuration, and the weights they start from.

No training here, and no data: networks take tensors.
"""
