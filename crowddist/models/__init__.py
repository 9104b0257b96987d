"""Networks, each an nn.Module built from a frozen configuration."""
