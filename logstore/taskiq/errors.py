"""The errors of the backends: subclasses of taskiq's errors and of the store's errors.

Rules: ``except taskiq.ResultGetError`` and ``except logstore.errors.ResultIsMissingError`` both
catch :class:`ResultIsMissingError`.  taskiq's own error classes format a template from keyword
fields, so they cannot be unpickled.  The classes of this module take a message instead.

Three classes have the names and taskiq base classes of those in ``taskiq_redis.exceptions``
(ResultIsMissingError and the two about expire times).  A program that used taskiq-redis only has to
import them from this module.  They are not subclasses of the classes in taskiq-redis, because that
would require importing it.
"""

from __future__ import annotations

from taskiq import exceptions as taskiq_errors

from logstore import errors as store_errors


class _WithMessage(taskiq_errors.ResultBackendError):
    """A taskiq error with a message as its only argument; the default is its template."""

    def __init__(self, message: str | None = None) -> None:
        text = type(self).__template__ if message is None else message
        # taskiq's own __init__ takes keyword fields only, which pickle and copy never pass.
        Exception.__init__(self, text)

    __repr__ = Exception.__repr__  # taskiq's shows keyword fields instead of the message


# -- getting a result ------------------------------------------------------------------------


class ResultIsMissingError(
    _WithMessage, taskiq_errors.ResultGetError, store_errors.ResultIsMissingError
):
    """There is no result under this task id: it was never stored, or it was removed.

    ``status`` is ``"unknown"``, or ``"expired"`` or ``"deleted"`` in the subclasses.
    """

    __template__ = "there is no result for this task"


class ResultExpiredError(ResultIsMissingError, store_errors.ResultExpiredError):
    """The result has expired or was evicted."""

    __template__ = "the result of this task has expired"


class ResultDeletedError(ResultIsMissingError, store_errors.ResultDeletedError):
    """The result was deleted, or a reader removed it with ``keep_results=False``."""

    __template__ = "the result of this task has been deleted"


_BY_STATUS = {
    kind.status: kind for kind in (ResultIsMissingError, ResultExpiredError, ResultDeletedError)
}


def missing(error: store_errors.ResultIsMissingError) -> ResultIsMissingError:
    """Return the error of the backends for an error of the store, with the same message."""
    return _BY_STATUS[error.status](str(error))


class ResultDamagedError(_WithMessage, taskiq_errors.ResultGetError, store_errors.CorruptionError):
    """The data stored for this task is not a complete result of this backend."""

    __template__ = "the data stored for this task is not a result"


class ResultIsReadyError(
    _WithMessage, taskiq_errors.ResultIsReadyError, store_errors.LogstoreError
):
    """The backend could not find out whether the task is ready."""

    __template__ = "could not find out whether this task is ready"


# -- making a backend ------------------------------------------------------------------------


class ExpireTimeMustBeMoreThanZeroError(_WithMessage, store_errors.LogstoreError, ValueError):
    """An expire time is zero, negative or not a number."""

    __template__ = "an expire time must be more than zero"


class DuplicateExpireTimeSelectedError(_WithMessage, store_errors.LogstoreError, ValueError):
    """Both ``result_ex_time`` and ``result_px_time`` were given."""

    __template__ = "choose either result_ex_time or result_px_time"


class BackendURLError(store_errors.LogstoreError, ValueError):
    """The URL has an unknown scheme, or an option that the backend does not have."""


# -- the broker ----------------------------------------------------------------------------------


class LabelError(store_errors.LogstoreError, ValueError):
    """A label of a task has a value that the broker or the worker could not read."""


class DeadTaskError(store_errors.LogstoreError):
    """The task was given up: the message says why.  It is kept as a dead letter."""


class TaskCancelledError(store_errors.LogstoreError):
    """The task was cancelled before it had a result."""


class TaskInterruptedError(store_errors.LogstoreError):
    """The task was interrupted, which is no result: its message goes back to the queue."""


class WaitingForNothingWarning(UserWarning):
    """A program waits for a result of a backend that stores nothing."""


# -- replacements for exceptions and objects that cannot be rebuilt ---------------------------


class RemoteError(store_errors.LogstoreError):
    """The replacement for a worker's exception: its type, message and traceback.

    It is used if the class of the exception is not imported in this process or not allowed by
    ``exceptions=``.  ``type`` is the dotted name of the class, ``message`` the result of ``str()``
    on the worker, ``traceback`` the worker's traceback as text, or None.
    """

    def __init__(self, type: str, message: str, traceback: str | None = None) -> None:
        super().__init__(type, message, traceback)
        self.type = type
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class RemoteObject:
    """The replacement for an argument or attribute of a worker's exception.

    It replaces an object of an unsupported type in the rebuilt exception.  ``type`` is the dotted
    name of the object's class.  ``str()`` and ``repr()`` return the same texts as on the worker.
    The attributes of the object are lost.
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
