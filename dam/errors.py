"""The one exception a user is meant to see."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that says what is wrong, where, and what to do. Exit code 2."""
