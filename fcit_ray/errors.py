"""Errors that a user can mend. They live by themselves so that catching one imports neither torch nor ray."""


class UserError(ValueError):
    """Something given that cannot be used: the message says what, where, and what was expected."""


class DataError(UserError):
    """Data that cannot be used: which file, which record, what was found, what was expected."""
