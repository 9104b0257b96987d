"""The one exception that means "the user's input is wrong": a job prints its line and exits 2."""


class InputError(ValueError):
    """What was wrong, what was got and what to do, in one line; anything else that escapes a job is a bug."""
