"""The one exception a user is meant to see, and how another's text becomes part of its sentence."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that says what is wrong, where, and what to do. Exit code 2."""


def in_a_line(error: BaseException) -> str:
    """What another library says of its error, in one line and at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
