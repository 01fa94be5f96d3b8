"""The service as a process, and a client so lean that what is measured is the service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """A service that is ready."""

    pid: int
    port: int
    start_s: float
    """From the start of the process to readiness."""

    def memory_bytes(self) -> int:
        """Resident set."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    def cpu_s(self) -> float:
        """Processor time of all threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        """File descriptors, sockets included."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def threads(self) -> int:
        """Threads of the process."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def sample(self, name: str) -> float:
        """The sum of a Prometheus metric over its labels."""
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
    return port


@contextlib.contextmanager
def serving(bundles: Path, settings: Mapping[str, object]) -> Iterator[Server]:
    """Serve on a free port until the block ends."""
    port = free_port()
    variables = {f"MUTUALFORMER_{name.upper()}": str(value) for name, value in settings.items()}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve"],
        env={
            **os.environ,
            **variables,
            "MUTUALFORMER_BUNDLES": str(bundles),
            "MUTUALFORMER_PORT": str(port),
            "MUTUALFORMER_LOG_LEVEL": "error",
        },
    )
    try:
        while not _ready(port):
            if process.poll() is not None:
                raise RuntimeError(f"the service ended with {process.returncode}")
            time.sleep(0.02)
        yield Server(process.pid, port, time.perf_counter() - start)
    finally:
        process.terminate()
        process.wait(60)


def form(path: str, files: Mapping[str, bytes], headers: Mapping[str, str] | None = None) -> bytes:
    """A whole multipart request."""
    boundary = uuid.uuid4().hex
    parts = []
    for name, data in files.items():
        disposition = f'form-data; name="{name}"; filename="{name}"'
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n"
        parts += [head.encode(), data, b"\r\n"]
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    lines = {
        "Host": HOST,
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: bytes
    """In lower case."""
    seconds: float


class Wire:
    """One connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection(HOST, port))

    async def send(self, request: bytes) -> Reply:
        """Send a request and read its answer to the end."""
        start = time.perf_counter()
        self._writer.write(request)
        headers = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        size = int(headers.partition(b"content-length:")[2].split(b"\r\n")[0] or -1)
        if size >= 0:
            await self._reader.readexactly(size)
        else:  # a refusal comes in chunks
            while chunk := int(await self._reader.readuntil(b"\r\n"), 16):
                await self._reader.readexactly(chunk + 2)
            await self._reader.readexactly(2)
        return Reply(int(headers.split()[1]), headers, time.perf_counter() - start)

    async def leave(self, request: bytes) -> None:
        """Send a request, or part of one, and go."""
        self._writer.write(request)
        await self._writer.drain()
        await self.close()

    async def close(self) -> None:
        """Disconnect."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/readyz") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
