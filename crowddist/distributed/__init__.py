"""The only importer of ray: the launcher, the labelling actors and the cluster runtime."""
