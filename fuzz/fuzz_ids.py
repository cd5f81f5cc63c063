"""Fuzzer of task ids: any str.

Invariants: an id is the store's key or a ValueError, and no two ids have one key; an id is a name
of a file, which has no separator, does not begin with a dot, fits every file system, and is no
other id's even where case is ignored; what is stored under an id is found under it and listed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import logstore
from fuzz.child import error_label
from fuzz.command import main
from fuzz.target import Run, Target, expect
from logstore._arguments import task_key
from logstore._engine.frames import KEY_BYTES_MAX
from logstore.taskiq.results.filenames import file_name

TEXTS = (
    *("a", "A", "job-1", "0123456789abcdef", "", " ", ".", "..", "../../etc/passwd", "a/b", "a\\b"),
    *("\0", "a\0b", "\n", "%", "%41", "%2e", "~", "a~b", "con", "CON", "nul", "com1", "lpt9", "-x"),
    *(
        "\u00e9",
        "e\u0301",
        "\u4e2d\u6587",
        "\U0001f600",
        "\ud800",
        "\udfff\ud800",
        "\ufeff",
        "\u202e",
    ),
    *(
        "x" * 480,
        "x" * 481,
        "\u00e9" * 240,
        "\u00e9" * 241,
        "y" * 200,
        "y" * 201,
        "\u0130",
        "\u00df",
    ),
    *("app:1", "a.result.json", "a.progress.json", "\x7f", "\x85", "\u2028"),
)


def seeds() -> Sequence[bytes]:
    """Odd ids; lone surrogates are written as they are."""
    return [text.encode("utf-8", "surrogatepass") for text in TEXTS]


def as_text(data: bytes) -> str:
    """Any bytes as a str, lone surrogates included."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape")


class Ids:
    """The ids of one batch, in one store."""

    def __init__(self, store: logstore.Store) -> None:
        self.store = store
        self.names: dict[str, str] = {}
        self.keys: dict[bytes, str] = {}
        self.count = 0

    def run(self, data: bytes) -> str:
        """Use one id."""
        task_id = as_text(data)
        self.check_name(task_id)
        try:
            key = task_key(task_id)
        except ValueError as error:
            self.check_refused(task_id)
            return error_label(error)
        expect(0 < len(key) <= KEY_BYTES_MAX and key.decode() == task_id, "a wrong key")
        expect(self.keys.setdefault(key, task_id) == task_id, "a key of two ids")
        self.count += 1
        store = self.store
        store.set_result(task_id, self.count)
        expect(store.get_result(task_id) == self.count, "another value came back")
        expect(store.status(task_id) == "ready", "not ready")
        newest = next(iter(store.tasks(limit=1)))
        expect(newest.task_id == task_id, f"{newest.task_id!r} is listed")
        if self.count % 2:
            expect(store.delete_result(task_id), "nothing was deleted")
            expect(store.status(task_id) == "deleted", "not deleted")
        return f"id {len(key) > 200} {key.isascii()} {task_id.isprintable()}"

    def check_refused(self, task_id: str) -> None:
        """Every method refuses it alike."""
        for method in (self.store.get_result, self.store.status, self.store.delete_result):
            try:
                method(task_id)
            except ValueError:
                continue
            raise AssertionError("an id was refused by one method and taken by another")

    def check_name(self, task_id: str) -> None:
        """The name of its file."""
        name = file_name(task_id)
        expect(name.isascii() and 0 < len(name) <= 200, f"a file name of {len(name)} characters")
        expect(not set(name) & set('/\\\0.:*?"<>| '), f"the file name {name!r}")
        expect(name == name.lower(), "a name that depends on case")
        expect(self.names.setdefault(name, task_id) == task_id, "one file for two ids")


@contextmanager
def session() -> Iterator[Run]:
    """A store in memory."""
    with (
        tempfile.TemporaryDirectory(prefix="logstore-fuzz-") as directory,
        logstore.open(f"{directory}/app.db", sync="interval", sync_interval_s=1e6) as store,
    ):
        yield Ids(store).run
        report = store.check()
        expect(report.ok, str(report.problems))


TARGET = Target("ids", seeds, session, batch=200, bytes_max=2000)

if __name__ == "__main__":
    main(TARGET)
