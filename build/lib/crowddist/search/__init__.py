"""The search of thresholds: tries values, judges each trial without the target's labels, and returns the best.

Trials read cached predictions; they run no network.
"""
