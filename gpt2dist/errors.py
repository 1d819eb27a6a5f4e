"""The exceptions whose message is all that a user needs; anything else is a bug and shows its traceback."""


class UserError(Exception):
    """Wrong input: shown as one readable message without a traceback, exit code 2.

    The message names the file, line or key, says what is wrong with it, and the way out.
    """


class RankUserError(UserError):
    """Wrong input that only this rank can see, so that this rank tells it; else rank 0 speaks for all."""


class RunError(Exception):
    """The input was right and the work failed all the same, for a reason that the message gives; exit code 1."""
