"""What ends a conversation from inside a framework.

No Exceptions, since frameworks catch those, tell the model of them, and go on.
"""


class Unreachable(BaseException):
    """The tools, or the place where code runs, are gone: nothing that a model could mend."""


class OutOfTurns(BaseException):
    """The framework wants one turn more than there may be."""
