"""The error for what a user can mend in the data or in `data.*`."""


class DataError(ValueError):
    """A user's mistake, told in one line: what happened, what was expected, what to do."""
