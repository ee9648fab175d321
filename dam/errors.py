"""The one exception a user is meant to see, and how another's text becomes part of its sentence."""

from json import JSONDecodeError


class UserError(Exception):
    """A mistake the user can mend: one sentence that says what is wrong, where, and what to do. Exit code 2."""


class ToldByAnother(UserError):
    """The sentence of another process of the same run, which says it itself."""


def printable(text: str) -> str:
    """A name from a file or of one, on one line, with nothing that a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def in_a_line(error: BaseException) -> str:
    """What another library says of its error, in one line and at most 200 characters; in plain words where it says it
    in a programmer's."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    if isinstance(error, JSONDecodeError):
        return f"it is no JSON from line {error.lineno} on"
    if isinstance(error, AttributeError | TypeError):  # a list where a mapping should be, and the like
        return "its parts are not of the kinds that belong there"
    if (mark := getattr(error, "problem_mark", None)) is not None:
        return f"it is no YAML at line {mark.line + 1}"
    return " ".join(str(error).split())[:200] or type(error).__name__
