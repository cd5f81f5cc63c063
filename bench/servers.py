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

START_TIMEOUT_S = 10.0


class ServerUnavailableError(Exception):
    """The server is not installed or does not answer; the message says which."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Redis:
    """A redis-server in a directory of its own, append-only file on, stopped with `stop`."""

    def __init__(self, directory: Path, appendfsync: str) -> None:
        """Start it and wait until it answers.

        Raises ServerUnavailableError when it is not installed or does not start.
        """
        program = shutil.which("redis-server")
        if program is None:
            raise ServerUnavailableError("redis-server is not installed")
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(directory),
            "appendonly": "yes",
            "appendfsync": appendfsync,
            "save": "",
            "daemonize": "no",
        }
        command = [program]
        for name, setting in options.items():
            command += ["--" + name, setting]
        with open(directory / "redis.log", "wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self.pid = self._process.pid
        self._await(port)

    def _await(self, port: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
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


def postgres_version(url: str) -> str:
    """The version of the server at `url`; raises ServerUnavailableError when it is not there."""
    import asyncpg

    async def ask() -> str:
        connection = await asyncpg.connect(url, timeout=5.0)
        try:
            version: str = await connection.fetchval("SHOW server_version")
            return version
        finally:
            await connection.close()

    try:
        return asyncio.run(ask())
    except (OSError, asyncpg.PostgresError, TimeoutError, asyncio.TimeoutError) as error:
        raise ServerUnavailableError(f"no PostgreSQL at {url}: {error}") from error


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
