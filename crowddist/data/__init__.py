"""Images, points and labels: converted once to shards, planned, streamed and augmented."""
