"""README and docs/: the code runs, type-checks and is formatted; what is named exists.

A python block is run as it is, in an empty directory, and prints the text block behind it.  A
client (``# client.py``) finds the files that are named in the same way (``# broker.py``) beside it,
and a worker.  A block behind ``<!-- tests/examples/x.py -->`` is a part of that script, which its
own tests run.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import logstore
import logstore.errors
import logstore.taskiq
import logstore.taskiq.errors
from logstore.taskiq import urls

from . import test_layers

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}
ALL_TEXT = "\n".join(TEXTS.values())
LANGUAGES = {"python", "text", "console"}
LINE_MAX = 120


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# -- the blocks --------------------------------------------------------------------------------


class Block(NamedTuple):
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str
    before: str  # the line above it
    output: str | None  # of a python block: the text block right behind it

    @property
    def file_name(self) -> str | None:
        """The file that a python block says it is."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found[1] if found else None

    @property
    def source(self) -> str | None:
        """The script of which a python block is a part."""
        found = re.fullmatch(r"<!-- (\S+\.py) -->", self.before)
        return found[1] if found else None


def blocks_of(document: Path) -> Iterator[Block]:
    lines = TEXTS[document].splitlines()
    fences = [n for n, line in enumerate(lines) if line.startswith("```")]
    assert len(fences) % 2 == 0, f"{named(document)}: a block without an end"
    pairs = list(zip(fences[::2], fences[1::2], strict=True))
    bodies = ["".join(f"{line}\n" for line in lines[start + 1 : end]) for start, end in pairs]
    for n, (start, end) in enumerate(pairs):
        output = None
        if n + 1 < len(pairs) and pairs[n + 1][0] == end + 2 and not lines[end + 1]:
            output = bodies[n + 1] if lines[pairs[n + 1][0]] == "```text" else None
        yield Block(document, start + 1, lines[start][3:], bodies[n], lines[start - 1], output)


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
PYTHON = [block for block in BLOCKS if block.language == "python" and block.source is None]
QUOTED = [block for block in BLOCKS if block.source is not None]
CLIENTS = [block for block in PYTHON if block.file_name == "client.py"]
PASTED = [block for block in PYTHON if block not in CLIENTS]


def place_of(block: Block) -> str:
    return f"{named(block.document)}:{block.line}"


def run(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a block as a script in a directory."""
    (directory / "pasted.py").write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-W", "error", "pasted.py"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.parametrize("block", PASTED, ids=place_of)
def test_a_block_runs_when_pasted_and_prints_what_it_says(tmp_path: Path, block: Block) -> None:
    if "logstore.testing.crash" in block.text and shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("this block needs strace")
        pytest.skip("no strace")
    done = run(block.text, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (block.output or "")


@pytest.mark.parametrize("client", CLIENTS, ids=place_of)
def test_a_client_gets_its_result_from_the_worker(tmp_path: Path, client: Block) -> None:
    files = [b for b in PYTHON if b.document == client.document and b.file_name and b != client]
    for block in files:
        (tmp_path / str(block.file_name)).write_text(block.text, encoding="utf-8")
    commands = re.findall(r"^\$ (taskiq worker .*)$", TEXTS[client.document], re.MULTILINE)
    worker = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(commands[0])],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        done = run(client.text, tmp_path)
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        log = worker.communicate()[0].decode()
    assert (done.returncode, done.stdout) == (0, client.output), done.stderr + log


def test_the_quick_start_is_short() -> None:
    assert len(BLOCKS[0].text.strip().splitlines()) <= 10


def test_no_block_is_of_another_kind() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES
    assert len(PYTHON) >= 5
    assert CLIENTS


@pytest.mark.parametrize("block", QUOTED, ids=place_of)
def test_a_quotation_is_as_in_the_script(block: Block) -> None:
    assert block.text in (ROOT / str(block.source)).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All python blocks as files, each document in a directory of its own."""
    directory = tmp_path_factory.mktemp("blocks")
    paths = []
    for block in PYTHON:
        stem = block.document.stem.lower()
        path = directory / stem / (block.file_name or f"{stem}_line_{block.line}.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        paths.append(path)
    return paths


def test_the_blocks_are_formatted(written: list[Path]) -> None:
    command = [sys.executable, "-m", "ruff", "format", "--diff", "--line-length", "100"]
    done = subprocess.run(
        [*command, "--isolated", *map(str, written)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_blocks_have_right_types_for_pyright(written: list[Path]) -> None:
    blocks = written[0].parent.parent
    config = {
        "typeCheckingMode": "standard",
        "pythonVersion": "3.10",
        "extraPaths": [str(ROOT), str(blocks / README.stem.lower())],
    }
    (blocks / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "--project", str(blocks)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_blocks_have_right_types(written: list[Path]) -> None:
    readme = README.stem.lower()
    named_files = {path.name for path in written if "_line_" not in path.name}
    assert len(named_files) == len([path for path in written if path.name in named_files])
    search_path = os.pathsep.join([str(ROOT), str(written[0].parent.parent / readme)])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict"),
            *("--config-file", str(ROOT / "pyproject.toml")),
            *("--cache-dir", str(ROOT / ".mypy_cache")),
            *map(str, written),
        ],
        env={**os.environ, "MYPYPATH": search_path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- what is named -----------------------------------------------------------------------------


def prose(document: Path) -> str:
    """A document without its blocks."""
    return re.sub(r"^```.*?^```$", "", TEXTS[document], flags=re.MULTILINE | re.DOTALL)


SPANS = [
    (document, span)
    for document in DOCUMENTS
    for span in re.findall(r"`([^`\n]+)`", prose(document))
]


OTHERS = [
    ROOT / name
    for name in ("CHANGELOG.md", "logstore/FORMAT.md", "bench/README.md", "fuzz/README.md")
]


@pytest.mark.parametrize("document", [*DOCUMENTS, *OTHERS], ids=named)
def test_no_line_is_too_long(document: Path) -> None:
    lines = document.read_text(encoding="utf-8").splitlines()
    if document != README:  # a row of a table is one line
        lines = [line for line in lines if not line.startswith("|")]
    assert [line for line in lines if len(line) > LINE_MAX] == []


def test_every_file_that_is_named_is_there() -> None:
    top = "logstore|tests|bench|fuzz|docs"
    files = [
        (document, span)
        for document, span in SPANS
        if re.fullmatch(rf"(?:{top})/[\w/.-]*|\w+\.md|Makefile|pyproject\.toml", span)
    ]
    assert files
    places = (ROOT, ROOT / "docs")
    missing = [
        (named(document), span)
        for document, span in files
        if not any((place / span).exists() for place in places)
    ]
    assert missing == []


def anchors_of(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")  # as GitHub makes them
        for heading in headings
    }


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    wrong = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
            if target.startswith("https://"):
                continue
            name, _, anchor = target.partition("#")
            path = (document.parent / name).resolve() if name else document
            if not path.exists() or (path in TEXTS and anchor and anchor not in anchors_of(path)):
                wrong.append((named(document), target))
    assert wrong == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/\w+\.md)", TEXTS[README]))
    assert linked == {named(document) for document in DOCUMENTS} - {"README.md"}


ERRORS = {
    name: kind
    for module in (logstore.errors, logstore.taskiq.errors)
    for name, kind in vars(module).items()
    if inspect.isclass(kind) and issubclass(kind, BaseException) and not name.startswith("_")
}


def test_every_error_that_is_named_exists() -> None:
    mentioned = set(re.findall(r"\b[A-Z]\w+(?:Error|Warning)\b", ALL_TEXT))
    of_taskiq = {"NoResultError", "ResultGetError", "SendTaskError", "TaskiqResultTimeoutError"}
    known = set(ERRORS) | set(dir(builtins)) | of_taskiq
    assert mentioned - known == set()


PARAMETERS = {
    name
    for function in (
        *(logstore.open, logstore.check, logstore.TaskProgress),
        *(method for _, method in inspect.getmembers(logstore.Store, inspect.isfunction)),
        *(
            getattr(logstore.taskiq, name)
            for name in logstore.taskiq.__all__
            if name.endswith("Backend")
        ),
    )
    for name in inspect.signature(function).parameters
}


def test_every_option_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = PARAMETERS | set(re.findall(r"\b([A-Z]+)\b", makefile)) | {"synchronous"}
    mentioned = {found[1] for _, span in SPANS if (found := re.match(r"(\w+)=[^=]", span))}
    assert mentioned - known == set()


def test_every_name_of_the_package_that_is_named_exists() -> None:
    missing = []
    for document, span in SPANS:
        for owner, name in re.findall(r"(?<![\w/.])(store|Store|logstore)\.([a-z]\w*)", span):
            found = logstore.Store if owner != "logstore" else logstore
            if not hasattr(found, name) and not (ROOT / "logstore" / name).is_dir():
                missing.append((named(document), span))
    assert missing == []


def test_every_name_with_an_underscore_is_one_of_the_code() -> None:
    places = [*(ROOT / "logstore").rglob("*.py"), *(ROOT / "logstore").rglob("*.md")]
    known = "\n".join(path.read_text(encoding="utf-8") for path in places)
    names = {name for _, span in SPANS for name in re.findall(r"(?<![\w/-])\w+_\w+(?!\.py)", span)}
    assert len(names) > 50
    others = {"max_connection_pool_size", "taskiq_redis", "when_received", "when_saved"}
    assert {n for n in names - others if not re.search(rf"\b{n}\b", known)} == set()


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    spans = [span for _, span in SPANS]
    lines = [
        line for block in BLOCKS if block.language == "console" for line in block.text.split("\n")
    ]
    mentioned = {
        found[1] for text in (*spans, *lines) if (found := re.match(r"(?:\$ )?make ([\w-]+)", text))
    }
    assert mentioned >= {"demo", "test"}
    assert mentioned - targets == set()


def test_the_layers_are_those_of_the_test_of_layers() -> None:
    section = (ROOT / "docs" / "contributing.md").read_text().split("## Layers\n")[1]
    rows = re.findall(r"^\d+\. (.*)$", section.split("\n## ")[0], re.MULTILINE)
    shown = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert shown == [name for layer in test_layers.LAYERS for name in layer]


# -- the options -------------------------------------------------------------------------------

OPTIONS = ROOT / "docs" / "options.md"


def rows_of(heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading of docs/options.md, by the name in the first cell."""
    section = TEXTS[OPTIONS].split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [re.split(r"(?<!\\)\|", row.strip("|")) for row in rows]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in cells}


@pytest.mark.parametrize(
    ("heading", "function"),
    [
        ("logstore.open", logstore.open),
        ("LogStoreResultBackend", logstore.taskiq.LogStoreResultBackend),
        ("LogStoreScheduleSource", logstore.taskiq.LogStoreScheduleSource),
        ("FileResultBackend", logstore.taskiq.FileResultBackend),
        ("InmemoryResultBackend", logstore.taskiq.InmemoryResultBackend),
        ("DummyResultBackend", logstore.taskiq.DummyResultBackend),
    ],
)
def test_the_options_and_their_defaults(heading: str, function: Callable[..., Any]) -> None:
    documented = {name: row[1].strip("`") for name, row in rows_of(heading).items()}
    parameters = inspect.signature(function).parameters.values()
    expected = {
        p.name: "required" if p.default is p.empty else repr(p.default).replace("'", '"')
        for p in parameters
        if p.kind is not p.VAR_KEYWORD
    }
    assert documented == expected


def test_the_options_of_urls() -> None:
    rows = rows_of("URLs")
    assert set(rows) == set(urls.SCHEMES)
    for scheme, row in rows.items():
        assert set(re.findall(r"`(\w+)`", row[-1])) == set(urls.SCHEMES[scheme].options)


# -- the messages of errors ----------------------------------------------------------------------

TROUBLE = ROOT / "docs" / "troubleshooting.md"


def sources() -> Iterator[ast.Module]:
    package = ROOT / "logstore"
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] not in ("testing", "demo"):
            yield ast.parse(path.read_text(encoding="utf-8"))


def template(node: ast.AST) -> str | None:
    """A text of the code, with {} in the place of each value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    return None


@functools.cache
def texts_of_the_code() -> str:
    found = (template(node) for tree in sources() for node in ast.walk(tree))
    return "\n".join(text for text in found if text)


@functools.cache
def messages_of_the_code() -> set[tuple[str, str]]:
    """The classes of errors, with the messages that they are made with."""
    found = set()
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                for argument in node.args if name in ERRORS else ():
                    text = template(argument)
                    if text is not None and re.search(r"\w+ \w+", text.replace("{}", "")):
                        found.add((name, text))
    return found


def messages_of_the_section(name: str) -> list[str]:
    section = re.split(rf"^#+ {name}$", TEXTS[TROUBLE], flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    shown = re.findall(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [re.sub(r"\{[^}]*\}", "{}", line) for block in shown for line in block.splitlines()]


def unwrapped(name: str) -> str:
    """The messages of a section, in which a long one goes on in an indented line."""
    return "\n".join(messages_of_the_section(name)).replace("\n    ", " ")


def test_each_error_has_a_section() -> None:
    headings = set(re.findall(r"^#+ (\w+(?:Error|Warning))$", TEXTS[TROUBLE], re.MULTILINE))
    assert headings == set(ERRORS)


@pytest.mark.parametrize("name", ERRORS)
def test_the_messages_of_an_error_are_those_of_the_code(name: str) -> None:
    known = texts_of_the_code()
    shown = unwrapped(name).splitlines()
    assert [message for message in shown if message not in known] == []
    raised = {text for kind, text in messages_of_the_code() if kind == name}
    assert raised - set(shown) == set()
