"""Networks, each an nn.Module built from a frozen configuration, and their initial weights. No data, no training."""
