"""Images, points and labels: converted once to shards, planned, streamed and augmented.

No network is asked here, and nothing here knows what a method makes of a sample.
"""
