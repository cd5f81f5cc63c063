"""Every error that logstore raises, grouped by cause.

Rules: the docstring of a class says in one sentence what happened.  The message of an instance
names the file, the place, the expected and the found state, and what the user can do.  All are
subclasses of :class:`LogstoreError`; a built-in exception with the same meaning is also a base.
"""

from __future__ import annotations

from typing import Literal


class LogstoreError(Exception):
    """The base of all errors of this package."""

    def __str__(self) -> str:
        # A path that is not UTF-8 has surrogates, which terminals and logs cannot encode.
        return super().__str__().encode(errors="backslashreplace").decode()


# -- opening ---------------------------------------------------------------------------------


class OpenError(LogstoreError):
    """The store could not be opened; its files are unchanged."""


class NotAStoreError(OpenError):
    """The path is a directory or a file that is not a logstore file."""


class FormatVersionError(OpenError):
    """The file has a format version that this version of logstore cannot read."""


class TruncatedFileError(OpenError):
    """The file is shorter than its header says; opening it would crash the process."""


class MissingLogError(OpenError):
    """The store was not closed cleanly and its log is missing: acknowledged writes may be lost."""


class StaleTableError(OpenError):
    """The table is an older copy than its log: acknowledged writes between them are missing."""


class NetworkFilesystemError(OpenError):
    """The path is on a network file system, where locks and shared memory are unreliable."""


class StorePermissionError(OpenError, PermissionError):
    """The operating system denies this process access to the store's files."""


class ResourceLimitError(OpenError, OSError):
    """A limit was reached: file descriptors, threads, memory or address space."""


class StoreBusyError(OpenError):
    """Another process or handle uses the store in a way that excludes this operation."""


# -- damage ----------------------------------------------------------------------------------


class CorruptionError(LogstoreError):
    """Bytes on disk differ from the bytes that were written."""


class CorruptRecordError(CorruptionError):
    """A record in the table does not match its checksum; all others can still be read."""


class CorruptLogError(CorruptionError):
    """The log is damaged in its synced part: acknowledged writes are lost."""


class CorruptTableError(CorruptionError):
    """The structure of the table is damaged."""


class DecodeError(CorruptionError):
    """The bytes of a value are not in the encoding of this version, or dec_hook failed."""

    plain: object = None  # the value without dec_hook, if only dec_hook failed


# -- using -----------------------------------------------------------------------------------


class StoreClosedError(LogstoreError):
    """The store has been closed."""


class StoreReplacedError(LogstoreError):
    """A file of the open store was removed or replaced; the message says where the data is."""

    rescued: str | None = None  # the path of the file with all acknowledged writes


class ReadOnlyError(LogstoreError):
    """The store was opened with ``mode="r"``."""


class UnserializableValueError(LogstoreError, TypeError):
    """The value holds an object of a type that cannot be stored; nothing was written."""


class ValueTooLargeError(LogstoreError, ValueError):
    """The encoded value is larger than the limit; nothing was written."""


class WriteError(LogstoreError, OSError):
    """Writing to the disk failed; no write of its group became visible."""


class DiskFullError(WriteError):
    """No disk space or quota is left; nothing was lost, and writes work again after it is freed."""


class WriteTimeoutError(LogstoreError, TimeoutError):
    """The write timed out; it is unknown whether it happens."""


class MessageSettledError(LogstoreError):
    """The message of a queue has been settled, or delivered to another worker; nothing changed."""


# -- results ---------------------------------------------------------------------------------


class ResultError(LogstoreError):
    """There is no result to return."""


class ResultIsMissingError(ResultError, KeyError):
    """There is no result under this task id: it was never stored, or it was removed."""

    status: Literal["unknown", "expired", "deleted"] = "unknown"
    """The value of ``Store.status``: ``"unknown"`` if the store knows of no such result,
    ``"expired"`` or ``"deleted"`` in the subclasses."""

    __str__ = Exception.__str__  # KeyError would show the repr of the message


class ResultExpiredError(ResultIsMissingError):
    """The result has expired or was evicted."""

    status = "expired"


class ResultDeletedError(ResultIsMissingError):
    """The result was deleted or popped."""

    status = "deleted"


class WaitTimeoutError(ResultError, TimeoutError):
    """The result was not stored within the time-out."""
