"""The search for thresholds: what is tried, how a trial is judged without the target's labels, and which values win.

It reads cached predictions alone; networks are asked elsewhere.
"""
