"""The dry run (`--check`): what a run needs, looked at before it costs hours.

Nothing is trained or written here, but for what is removed again.
"""
