"""Fuzzer of backend URLs.

Invariants: any str is a backend of its scheme that has not been opened, or a BackendURLError that
shows the URL; the file system is not touched; a path is absolute, whatever the URL.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fuzz.child import error_label
from fuzz.command import main
from fuzz.fuzz_ids import as_text
from fuzz.target import Run, Target, expect
from logstore.taskiq import open_backend
from logstore.taskiq.errors import BackendURLError
from logstore.taskiq.results.file import FileResultBackend
from logstore.taskiq.results.logstore import LogStoreResultBackend
from logstore.taskiq.urls import SCHEMES

_VALUES = (
    *("true", "no", "1", "0", "-1", "1.5", "nan", "inf", "1e400", "", "x", "faithful", "inert"),
    *("json", "pickle", "always", "interval", "9" * 30, "a,b.c", "%00", "%ff", "\u0663"),
)


# What every reader of URLs leaves out: controls and spaces before one, line ends inside.
_IGNORED = "".join(map(chr, range(33)))
_IGNORED_INSIDE = dict.fromkeys(map(ord, "\t\r\n"))


def seeds() -> Sequence[bytes]:
    """Every option of every scheme, with values of every kind."""
    urls = ["", "redis://h", "logstore:app.db", "file:relative/dir", "logstore://host/app.db"]
    urls += ["logstore:///a%2Fb%23.db", "logstore:///app.db#x", "http://[::1", "memory:///x"]
    for scheme in SCHEMES.values():
        urls.append(scheme.example)
        for name in scheme.options:
            base = scheme.example.partition("?")[0]
            urls += [f"{base}?{name}={value}" for value in _VALUES]
    return [url.encode() for url in urls]


def run(data: bytes) -> str:
    """Make a backend of a URL."""
    url = as_text(data)
    try:
        backend = open_backend(url)
    except BackendURLError as error:
        expect(repr(url) in str(error), "the message does not show the URL")
        return error_label(error)
    expect(not os.listdir("."), "something was created")
    kind = type(backend).__name__
    written = url.lstrip(_IGNORED).translate(_IGNORED_INSIDE).partition(":")[0].lower()
    expect(f":{kind}" in SCHEMES[written].backend, "another backend")
    if isinstance(backend, LogStoreResultBackend):
        check_path(backend.path)
    if isinstance(backend, FileResultBackend):
        check_path(str(backend.storage_dir))
    return kind


def check_path(path: str) -> None:
    """One that the operating system takes, wherever the process is when it is used."""
    expect(os.path.isabs(path) and "\0" not in path, f"the path {path!r}")


@contextmanager
def session() -> Iterator[Run]:
    """An empty directory."""
    with tempfile.TemporaryDirectory(prefix="logstore-fuzz-") as directory:
        os.chdir(directory)
        yield run
        os.chdir("/")


TARGET = Target("urls", seeds, session, batch=500, bytes_max=2000)

if __name__ == "__main__":
    main(TARGET)
