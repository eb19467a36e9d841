"""The one exception that a user's input may raise."""


class InputError(ValueError):
    """Bad input, said in one line: what was expected, what came, where, and what to do.

    Every command prints its text without a traceback and exits with code 2.
    """
