"""Networks, each an nn.Module built from a frozen configuration, and the weights they start from. No data, no training.
"""
