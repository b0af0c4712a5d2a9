"""The one exception a user is meant to read.

Whoever raises `UserError` writes a single line: what is wrong, where, and what to do.
The command line prints it without a traceback and exits with code 2.
"""


class UserError(Exception):
    """A mistake that the person at the keyboard can mend."""
