"""The exceptions of Cenote: one class for each kind of error, by what the caller should do.

All derive from `Error`, and some also from the built-in exception that Python programmers expect.
"""


class Error(Exception):
    """The base of all exceptions of Cenote."""


class NotFoundError(Error, LookupError):
    """The named thing does not exist: check the name, or create it."""


class AlreadyExistsError(Error):
    """The named thing exists already: use it, or choose another name."""


class InvalidInputError(Error, ValueError):
    """The input is wrong: the message says what would be right."""


class ConflictError(Error):
    """Another writer changed the same thing: read the newest version, and try again."""


class CorruptError(Error):
    """Stored data cannot be read: restore it."""


class ResourceExhaustedError(Error, MemoryError):
    """A limit of memory, disk or time was met: raise it, or ask for less."""


class UnavailableError(Error, OSError):
    """Something outside the process did not answer: try again later."""


class CancelledError(Error):
    """The work was cancelled."""


class UnsupportedError(Error, NotImplementedError):
    """The request is not supported: the message says what is."""


class InternalError(Error, RuntimeError):
    """A bug in Cenote, or in an operator: please report it."""
