"""Every error that logstore raises, grouped by when it arises.

Rules: each class says in one sentence what has happened; the message of an instance names the
file, the place, what was expected, what was found and what the reader can do.  All are
subclasses of :class:`LogstoreError`; where a built-in exception says the same, it is a base too.
"""

from __future__ import annotations

from typing import Literal


class LogstoreError(Exception):
    """The base of all errors of this package."""

    def __str__(self) -> str:
        # A path that is not text would leave something in it that no terminal or log can take.
        return super().__str__().encode(errors="backslashreplace").decode()


# -- opening ---------------------------------------------------------------------------------


class OpenError(LogstoreError):
    """The store could not be opened; its files are as they were."""


class NotAStoreError(OpenError):
    """The path is a directory or a file that is not a logstore file."""


class FormatVersionError(OpenError):
    """The file was written by a version of logstore whose format this one cannot read."""


class TruncatedFileError(OpenError):
    """The file is shorter than its own header says; opening it would crash the process."""


class MissingLogError(OpenError):
    """The store was not closed cleanly and its log is gone: acked writes would be lost."""


class StaleTableError(OpenError):
    """The table is an older copy than the log beside it: acked writes between them are missing."""


class NetworkFilesystemError(OpenError):
    """The path is on a network file system, where locks and shared memory do not hold."""


class StorePermissionError(OpenError, PermissionError):
    """The operating system does not let this process use the store's files."""


class ResourceLimitError(OpenError, OSError):
    """A limit of this process or machine is reached: descriptors, threads, memory, addresses."""


class StoreBusyError(OpenError):
    """Another process or handle keeps the store in a state in which it cannot be opened."""


# -- damage ----------------------------------------------------------------------------------


class CorruptionError(LogstoreError):
    """Bytes on the disk are not what was written."""


class CorruptRecordError(CorruptionError):
    """One record in the table does not match its checksum; all others can still be read."""


class CorruptLogError(CorruptionError):
    """The log is damaged below what had been synced: acked writes are lost."""


class CorruptTableError(CorruptionError):
    """The table's own structure is damaged."""


class DecodeError(CorruptionError):
    """The bytes of a value are not what the encoder of this version writes, or dec_hook failed."""

    plain: object = None  # the value without dec_hook, if nothing but that has failed


# -- using -----------------------------------------------------------------------------------


class StoreClosedError(LogstoreError):
    """The store has been closed."""


class StoreReplacedError(LogstoreError):
    """A file of the open store was removed or replaced; the message says where the data is."""

    rescued: str | None = None  # the path of the file that holds everything acked


class ReadOnlyError(LogstoreError):
    """The store was opened with ``mode="r"``."""


class UnserializableValueError(LogstoreError, TypeError):
    """The value holds an object of a type that cannot be stored; nothing was written."""


class ValueTooLargeError(LogstoreError, ValueError):
    """The encoded value is larger than the limit; nothing was written."""


class WriteError(LogstoreError, OSError):
    """Writing to the disk failed; nothing of the group was made visible."""


class DiskFullError(WriteError):
    """There is no space or quota left; nothing was lost and writes work again once there is."""


class WriteTimeoutError(LogstoreError, TimeoutError):
    """The write was not done in time; whether it will be is unknown."""


# -- results ---------------------------------------------------------------------------------


class ResultError(LogstoreError):
    """There is no result to return."""


class ResultIsMissingError(ResultError, KeyError):
    """There is no result under this task id: none was ever stored, or it has gone."""

    status: Literal["unknown", "expired", "deleted"] = "unknown"
    """Which of the two, in the words of ``Store.status``: ``"unknown"`` if no result was ever
    stored, as far as the store remembers; ``"expired"`` or ``"deleted"`` in the subclasses."""

    __str__ = Exception.__str__  # KeyError would show the repr of the message


class ResultExpiredError(ResultIsMissingError):
    """The result was there and its time to live is over, or it was evicted."""

    status = "expired"


class ResultDeletedError(ResultIsMissingError):
    """The result was there and has been deleted or popped."""

    status = "deleted"


class WaitTimeoutError(ResultError, TimeoutError):
    """The result did not arrive in time."""
