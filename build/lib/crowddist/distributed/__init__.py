"""Everything on Ray: launcher, labelling actors, node checks. The work itself lies elsewhere and runs without Ray."""
