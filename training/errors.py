"""What can stop a run, with a one-line message for the user."""


class RunError(ValueError):
    """A user's mistake about a run directory or a checkpoint."""


class DivergedError(ArithmeticError):
    """A loss or gradient that is not finite; the weights are those of the step before."""
