"""Images, points and labels: converted once to shards, then planned, streamed and augmented.

No network runs here, and nothing here knows what a method does with a sample.
"""
