"""The one exception that means "the user's input is wrong"."""


class UserError(Exception):
    """Wrong input: shown as one readable message without a traceback, exit code 2.

    The message names the file, line or key, says what is wrong with it, and the way out.
    """
