"""A Docker engine for tests: found or started, with a base image where none can be pulled.

What the tests marked `docker` need, on Debian 12 as root, where no registry can be reached:

    apt-get install --no-install-recommends docker.io debootstrap prometheus nginx-light

and the plugins docker-compose and docker-buildx, which Debian has from 13 on; those two packages
run on Debian 12 as well. Anything with Docker 20.10 or newer and Compose 2.20 or newer will do.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
_LOCAL_BASE = "mutualformer-test-base:bookworm"
_CERTIFICATES = "/usr/local/share/build-certificates.pem"


def has_compose() -> bool:
    """Whether `docker compose` is there; it needs no engine to read a file."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0


def docker(*words: str, check: bool = True) -> str:
    """What `docker WORDS` prints, both streams; `AssertionError` with it on failure."""
    done = subprocess.run(
        ["docker", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert not check or done.returncode == 0, f"docker {' '.join(words)}:\n{done.stdout}"
    return done.stdout.strip()


def inspect(thing: str, kind: str = "container") -> dict[str, Any]:
    """All that the engine knows of a container or image."""
    (found,) = json.loads(docker(kind, "inspect", thing))
    return dict(found)


@contextmanager
def running_engine(folder: Path) -> Iterator[None]:
    """An engine: the one that runs, or one that is started for the tests and keeps its images.

    Args:
        folder: for the log of an engine that is started.
    """
    if _engine_answers():
        yield
        return
    assert shutil.which("dockerd"), "no Docker engine runs here, and there is no dockerd to start"
    assert os.geteuid() == 0, "no Docker engine runs here, and only root can start one"
    with (folder / "dockerd.log").open("wb") as log:
        engine = subprocess.Popen(["dockerd"], stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(_engine_answers, 60, "the Docker engine answers")
        yield
    finally:
        engine.terminate()
        engine.wait(60)


def base_image(folder: Path) -> str:
    """BASE_IMAGE if it is set or can be had, else a Debian with Python made here, under our name.

    Args:
        folder: where that Debian is put together.
    """
    name = os.environ.get("BASE_IMAGE") or _default_base()
    for candidate in (name, _LOCAL_BASE):
        if _has_image(candidate):
            return candidate
    if docker_succeeds("pull", "--quiet", name):
        return name
    debian = folder / "debian"
    subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            "--include=python3,python3-venv,ca-certificates",
            "bookworm",
            str(debian),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(debian / "var/cache/apt")
    shutil.rmtree(debian / "var/lib/apt/lists")
    changes = ["--change", "CMD python3"]
    own_certificates = os.environ.get("PIP_CERT")
    if own_certificates:  # where the package index is behind a proxy with its own
        shutil.copy(own_certificates, str(debian) + _CERTIFICATES)
        changes += ["--change", f"ENV PIP_CERT={_CERTIFICATES}"]
    with subprocess.Popen(["tar", "-C", debian, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["docker", "import", *changes, "-", _LOCAL_BASE], stdin=tar.stdout, check=True
        )
    return _LOCAL_BASE


def docker_succeeds(*words: str) -> bool:
    """Whether `docker WORDS` exits with 0."""
    return subprocess.run(["docker", *words], capture_output=True).returncode == 0


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Any, timeout_s: float, what: str) -> None:
    """Return once `condition()` holds; `AssertionError` if it takes longer."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.2)


class Stack:
    """One Compose project from our compose file, on a port of its own.

    Args:
        name: of the project.
        settings: variables of the shell that starts it.
        overrides: more compose files, laid over ours.
        folder: where the checkout is.
    """

    def __init__(
        self,
        name: str,
        settings: dict[str, str] | None = None,
        overrides: tuple[Path, ...] = (),
        folder: Path = ROOT,
    ) -> None:
        self.name = name
        self.settings = {"MUTUALFORMER_PORT": str(free_port()), **(settings or {})}
        self.overrides = overrides
        self.folder = folder

    @property
    def address(self) -> str:
        """Where it answers."""
        host = self.settings.get("MUTUALFORMER_HOST", "127.0.0.1")
        return f"http://{host}:{self.settings['MUTUALFORMER_PORT']}"

    def run(self, *words: str, check: bool = True) -> str:
        """What `docker compose WORDS` prints."""
        files = [self.folder / "docker-compose.yml", *self.overrides]
        command = ["docker", "compose", "--ansi", "never", "--project-name", self.name]
        for file in files:
            command += ["--file", str(file)]
        ours = ("MUTUALFORMER_", "COMPOSE_", "API_")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        done = subprocess.run(
            [*command, "--project-directory", str(self.folder), *words],
            env={**clean, **self.settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not check or done.returncode == 0, f"compose {' '.join(words)}:\n{done.stdout}"
        return done.stdout

    def up(self, *words: str) -> None:
        """Start it and wait until it is healthy."""
        self.run("up", "--detach", "--wait", *words)

    def container(self, service: str = "api") -> str:
        """The id of a service's container, running or not."""
        return self.run("ps", "--all", "--quiet", service).strip()

    def state(self) -> dict[str, Any]:
        """State of the service's container."""
        return dict(inspect(self.container())["State"])

    def restarts(self) -> int:
        """How often the engine has started the container again by itself."""
        return int(inspect(self.container())["RestartCount"])

    def health(self) -> str:
        """`starting`, `healthy` or `unhealthy`."""
        return str(self.state()["Health"]["Status"])

    def logs(self) -> str:
        """Everything that the service wrote."""
        return docker("logs", self.container())

    def ready(self) -> bool:
        """Whether `/readyz` says so."""
        try:
            return httpx.get(f"{self.address}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def down(self) -> None:
        """Remove its containers, networks and volumes."""
        self.run("--profile", "*", "down", "--volumes", "--timeout", "10", check=False)


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """`stack`, removed in the end; start it within."""
    try:
        yield stack
    finally:
        stack.down()


def _default_base() -> str:
    (line,) = (
        line
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("ARG BASE_IMAGE=")
    )
    return line.partition("=")[2]


def _engine_answers() -> bool:
    return docker_succeeds("info")


def _has_image(name: str) -> bool:
    return docker_succeeds("image", "inspect", name)
