"""Errors that tell a user what was wrong, what is allowed and what to do."""


class TarflowError(ValueError):
    """An error in what a user asked for or supplied; commands print it without a traceback."""


class ConfigurationError(TarflowError):
    """An argument of a constructor that is out of range, or does not fit the others."""


class ContextError(TarflowError):
    """A condition that the flow does not know: a label out of range, a wrong number of them."""


class NonFiniteError(TarflowError):
    """A value became infinite or undefined.

    Attributes:
        transform: Index of the transform (0 is nearest the data) that produced it first; None when
            the input was not finite to begin with.
    """

    def __init__(self, message: str, transform: int | None = None):
        super().__init__(message)
        self.transform = transform


class DataError(TarflowError):
    """Data that cannot be used: missing, unreadable, or of the wrong shape, range or kind."""


class CheckpointError(TarflowError):
    """A checkpoint that is missing, truncated, foreign, or ambiguous."""
