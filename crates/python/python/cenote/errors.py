"""What Cenote raises: one class for each kind of error, each saying what the caller should do.

All derive from `Error`, and from the built-in exception that Python programmers expect in its place.
"""


class Error(Exception):
    """Anything that Cenote raises."""


class NotFoundError(Error, LookupError):
    """What was named is not there: name something else, or make it."""


class AlreadyExistsError(Error):
    """It is there already: use it, or choose another name."""


class InvalidInputError(Error, ValueError):
    """What was given is wrong: the message says what would be right."""


class ConflictError(Error):
    """Somebody else changed it meanwhile: read again, and try again."""


class CorruptError(Error):
    """What is stored cannot be read: restore it."""


class ResourceExhaustedError(Error, MemoryError):
    """It needs more memory or disk than there is: give more, or ask for less."""


class UnavailableError(Error, OSError):
    """Something outside does not answer: try again later."""


class CancelledError(Error):
    """It was stopped."""


class UnsupportedError(Error, NotImplementedError):
    """Cenote does not do this: the message says what does."""


class InternalError(Error, RuntimeError):
    """A mistake in Cenote, or in an operator: please report it."""
