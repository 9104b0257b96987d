"""The adaptation methods: they share base.py and nothing with each other."""
