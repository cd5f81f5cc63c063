"""The errors of the backends: each is taskiq's error and, where there is one, the store's too.

Rules: ``except taskiq.ResultGetError`` and ``except logstore.errors.ResultIsMissingError`` both
catch :class:`ResultIsMissingError`.  taskiq's error classes take keyword fields and format a
template from them, and so cannot be unpickled; these take a message, like any exception.

Three classes have the names and taskiq's bases of those in ``taskiq_redis.exceptions``
(ResultIsMissingError and the two about expire times), so a program that comes from taskiq-redis
changes the module it imports them from, and nothing else.  They are no subclasses of taskiq-redis's
own: ``except`` looks at the real bases of a class, so that would take an import of taskiq-redis.
"""

from __future__ import annotations

from taskiq import exceptions as taskiq_errors

from logstore import errors as store_errors


class _WithMessage(taskiq_errors.ResultBackendError):
    """A taskiq error that takes its message as its only argument; without one, its template."""

    def __init__(self, message: str | None = None) -> None:
        text = type(self).__template__ if message is None else message
        # taskiq's own __init__ takes keyword fields only, which pickle and copy never pass.
        Exception.__init__(self, text)

    __repr__ = Exception.__repr__  # taskiq's shows its keyword fields and not the message


# -- getting a result ------------------------------------------------------------------------


class ResultIsMissingError(
    _WithMessage, taskiq_errors.ResultGetError, store_errors.ResultIsMissingError
):
    """There is no result under this task id: none was ever stored, or it has gone.

    ``status`` tells which: ``"unknown"``, or ``"expired"`` or ``"deleted"`` in the subclasses.
    """

    __template__ = "there is no result for this task"


class ResultExpiredError(ResultIsMissingError, store_errors.ResultExpiredError):
    """The result was there and its time to live is over, or it was evicted."""

    __template__ = "the result of this task has expired"


class ResultDeletedError(ResultIsMissingError, store_errors.ResultDeletedError):
    """The result was there and has been deleted, or a reader took it."""

    __template__ = "the result of this task has been deleted"


_BY_STATUS = {
    kind.status: kind for kind in (ResultIsMissingError, ResultExpiredError, ResultDeletedError)
}


def missing(error: store_errors.ResultIsMissingError) -> ResultIsMissingError:
    """Return the store's error as the backends' own, with the same message."""
    return _BY_STATUS[error.status](str(error))


class ResultDamagedError(_WithMessage, taskiq_errors.ResultGetError, store_errors.CorruptionError):
    """What is stored for this task is not a whole result of this backend; others can be read."""

    __template__ = "what is stored for this task is not a result"


class ResultIsReadyError(
    _WithMessage, taskiq_errors.ResultIsReadyError, store_errors.LogstoreError
):
    """Whether the task is ready could not be found out."""

    __template__ = "whether this task is ready could not be found out"


# -- making a backend ------------------------------------------------------------------------


class ExpireTimeMustBeMoreThanZeroError(_WithMessage, store_errors.LogstoreError, ValueError):
    """An expire time is zero, negative or not a number."""

    __template__ = "an expire time must be more than zero"


class DuplicateExpireTimeSelectedError(_WithMessage, store_errors.LogstoreError, ValueError):
    """Both ``result_ex_time`` and ``result_px_time`` were given."""

    __template__ = "choose either result_ex_time or result_px_time"


class BackendURLError(store_errors.LogstoreError, ValueError):
    """The URL names no known backend, or an option that the backend does not have."""


class WaitingForNothingWarning(UserWarning):
    """Somebody waits for the result of a backend that stores nothing."""


# -- what a worker's error becomes when its class cannot be rebuilt ---------------------------


class RemoteError(store_errors.LogstoreError):
    """An exception of a worker whose class is not rebuilt here: its type, message and traceback.

    It is raised in place of exceptions whose class is not imported in this process, or was not
    allowed by ``exceptions=``.  ``type`` is the dotted name of the class, ``message`` what
    ``str()`` gave on the worker, ``traceback`` the worker's traceback as text, or None.
    """

    def __init__(self, type: str, message: str, traceback: str | None = None) -> None:
        super().__init__(type, message, traceback)
        self.type = type
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class RemoteObject:
    """What is left of an object that a worker's exception had as an argument or attribute.

    It takes the place of an object of a type that is not kept, in the exception that comes back.
    ``type`` is the dotted name of the object's class; ``str()`` and ``repr()`` give what they gave
    on the worker.  It has none of the object's attributes.
    """

    __slots__ = ("_shown", "_text", "type")

    def __init__(self, type: str, text: str, shown: str) -> None:
        self.type = type
        self._text = text
        self._shown = shown

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._shown

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RemoteObject):
            return NotImplemented
        return (self.type, self._text, self._shown) == (other.type, other._text, other._shown)

    def __hash__(self) -> int:
        return hash((self.type, self._text, self._shown))
