"""The servers that some peers need: a redis-server of our own, a PostgreSQL that is there."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

POSTGRES_VARIABLE = "LOGSTORE_TEST_POSTGRES_URL"
POSTGRES_DEFAULT = "postgresql://postgres@127.0.0.1:5432/postgres"

SOCKET_NAME = "redis.sock"
START_TIMEOUT_S = 60.0
# What the figures of a PostgreSQL depend on most, as its own configuration has it.
POSTGRES_SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")


class ServerUnavailableError(Exception):
    """The server is not installed or does not answer; the message says which."""


class Redis:
    """A redis-server in a directory of its own, append-only file on, stopped with `stop`.

    It listens on a Unix socket in that directory and nowhere else.
    """

    def __init__(self, directory: Path, appendfsync: str) -> None:
        """Start it and wait until it answers.

        Raises ServerUnavailableError when it is not installed or does not start.
        """
        program = shutil.which("redis-server")
        if program is None:
            raise ServerUnavailableError("redis-server is not installed")
        directory.mkdir(parents=True, exist_ok=True)
        options = {
            "port": "0",
            "unixsocket": SOCKET_NAME,
            "dir": ".",
            "appendonly": "yes",
            "appendfsync": appendfsync,
            "save": "",
            "daemonize": "no",
        }
        command = [program]
        for name, setting in options.items():
            command += ["--" + name, setting]
        with open(directory / "redis.log", "wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
        self.pid = self._process.pid
        # The directory's own path may be longer than the 107 bytes that a socket's may have.
        path = f"/proc/{self.pid}/cwd/{SOCKET_NAME}"
        self.url = f"unix://{path}?db=0"
        self._await(path)

    def _await(self, path: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(1.0)
                    connection.connect(path)
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            # Nothing announces that the server listens; this is not in a measurement.
            time.sleep(0.01)
        self.stop()
        raise ServerUnavailableError("redis-server did not start")

    def stop(self) -> None:
        """End the server and wait for it."""
        self._process.terminate()
        try:
            self._process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def postgres_url() -> str:
    """The address of the PostgreSQL to use; nothing is known of whether it answers."""
    return os.environ.get(POSTGRES_VARIABLE, POSTGRES_DEFAULT)


def postgres_versions(url: str) -> dict[str, str]:
    """The version of the server at `url` and how it is set.

    Raises ServerUnavailableError when it is not there, or does not flush.
    """
    import asyncpg

    async def ask() -> dict[str, str]:
        connection = await asyncpg.connect(url, timeout=5.0)
        try:
            found = {"postgres": await connection.fetchval("SHOW server_version")}
            for name in POSTGRES_SETTINGS:
                found[f"postgres {name}"] = await connection.fetchval(f"SHOW {name}")
            return found
        finally:
            await connection.close()

    try:
        found = asyncio.run(ask())
    except (OSError, asyncpg.PostgresError, TimeoutError, asyncio.TimeoutError) as error:
        raise ServerUnavailableError(f"no PostgreSQL at {url}: {error}") from error
    if found["postgres fsync"] != "on":
        raise ServerUnavailableError(f"the PostgreSQL at {url} has fsync off: nothing is durable")
    return found


def postgres_drop(url: str, tables: list[str]) -> None:
    """Drop the bench's tables."""
    import asyncpg

    async def drop() -> None:
        connection = await asyncpg.connect(url, timeout=5.0)
        try:
            for table in tables:
                await connection.execute(f"DROP TABLE IF EXISTS {table}")
        finally:
            await connection.close()

    asyncio.run(drop())
