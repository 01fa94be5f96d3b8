"""TensorRT engines: built once on the machine that runs them, kept under a key, never mistaken.

An engine is good for one graph, one TensorRT, one card. A file holds its key, its length and its
digest before the engine itself; whatever does not agree is built anew. Nothing here imports
tensorrt: a child process builds (`export.to_tensorrt`), `model.runtimes.tensorrt` runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Report = Callable[[str], None]
"""Told what happens, in a few words."""
HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]

MAGIC = b"mutualformer-engine-1\n"
BUILD_COMMAND = (sys.executable, "-m", "export.to_tensorrt")
"""Given the path of a request (`BuildRequest` as JSON), writes an engine or fails."""
_ROOT = Path(__file__).parents[1]


class EngineError(Exception):
    """No engine could be built; the message is the builder's."""


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built."""

    typical_batch: int = 8
    """What it is tuned for."""
    max_batch: int = 16
    """The most rows that it takes; the fewest is 1."""
    builder_level: int = 3
    """0 to 5: how long the builder searches; 3 is TensorRT's own choice."""
    tf32: bool = False
    """Whether float32 products may round their inputs to 10 bits, which tensor cores take."""
    version_compatible: bool = False
    """Whether later minor versions of TensorRT may load it."""
    hardware_compatibility: HardwareCompatibility = "none"
    """Whether other cards may load it, at some cost in speed."""
    workspace_bytes: int = 4 * 2**30
    """Most scratch memory, in bytes."""

    def __post_init__(self) -> None:
        if not 1 <= self.typical_batch <= self.max_batch:
            raise ValueError(
                "expected 1 <= typical_batch <= max_batch, "
                f"got {self.typical_batch} and {self.max_batch}"
            )
        if not 0 <= self.builder_level <= 5:
            raise ValueError(f"builder_level must be 0 to 5, got {self.builder_level}")

    @property
    def profile(self) -> tuple[int, int, int]:
        """Batch sizes: least, typical, most."""
        return 1, self.typical_batch, self.max_batch


@dataclass(frozen=True)
class Machine:
    """What an engine is bound to, besides its graph."""

    tensorrt: str
    """Version of the package."""
    compute_capability: str
    """Of the card, e.g. `9.0`."""
    card: str
    """Name of the card: engines are tuned to its clock and memory as well."""


@dataclass(frozen=True)
class EngineKey:
    """Two engines with one key are interchangeable."""

    onnx_sha256: str
    machine: Machine
    profile: tuple[int, int, int]
    flags: tuple[str, ...]

    @classmethod
    def make(cls, model: Path, machine: Machine, options: EngineOptions) -> EngineKey:
        """The key of the engine of `model`; compatible engines leave out what they do not need."""
        version, capability, card = machine.tensorrt, machine.compute_capability, machine.card
        if options.version_compatible:
            version = version.split(".")[0]
        if options.hardware_compatibility != "none":
            card = "any"
        if options.hardware_compatibility == "ampere_plus":
            capability = "8.0+"
        return cls(
            sha256(model.read_bytes()),
            Machine(version, capability, card),
            options.profile,
            (
                f"builder_level={options.builder_level}",
                f"tf32={options.tf32}",
                f"version_compatible={options.version_compatible}",
                f"hardware_compatibility={options.hardware_compatibility}",
                f"workspace_bytes={options.workspace_bytes}",
            ),
        )

    @property
    def digest(self) -> str:
        """32 hexadecimal digits."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode())[:32]


@dataclass(frozen=True)
class BuildRequest:
    """What the child process is told, as JSON."""

    model: str
    engine: str
    """File that the engine is to be written to, without header."""
    timing_cache: str
    """File that is read if it is there, and written."""
    options: EngineOptions

    @classmethod
    def read(cls, path: Path) -> BuildRequest:
        """Inverse of `write`."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "options": EngineOptions(**fields["options"])})

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def default_folder() -> Path:
    """Where engines are kept: `mutualformer/engines` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "mutualformer" / "engines"


def engine_path(folder: Path, key: EngineKey) -> Path:
    """The file of the engine with this key."""
    return folder / f"{key.digest}.engine"


def ensure_engine(
    model: Path,
    machine: Machine,
    options: EngineOptions,
    folder: Path,
    report: Report = lambda _: None,
    command: Sequence[str] = BUILD_COMMAND,
) -> bytes:
    """The engine of `model` for this machine, built if it is not there or not right.

    Of processes that ask at once, one builds; the others wait for it.

    Args:
        model: the ONNX graph.
        machine: what the engine must be built for, which is this machine.
        options: how it is built.
        folder: where engines are kept; made if missing.
        report: told of waiting, building and its progress.
        command: started with the path of the request as its last argument.

    Raises:
        EngineError: the builder fails, or the folder cannot be written.
    """
    key = EngineKey.make(model, machine, options)
    path = engine_path(folder, key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        engine = read_engine(path, key, report)
        if engine is not None:
            return engine
        # One at a time for the whole folder: builders time kernels, and would time each other.
        with _locked(folder / "build.lock", report):
            engine = read_engine(path, key, lambda _: None)  # built while we waited
            if engine is None:
                report(f"building an engine of {model} for {machine.card}; minutes")
                engine = _build(model, key, options, folder, report, command)
                write_engine(path, key, engine)
            return engine
    except OSError as error:
        raise EngineError(f"{folder}: {error}") from error


def read_engine(path: Path, key: EngineKey, report: Report) -> bytes | None:
    """The engine in a file, or None, and a report, if it is not whole or not of this key."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    head, _, engine = content.removeprefix(MAGIC).partition(b"\n")
    try:
        header = json.loads(head) if content.startswith(MAGIC) else None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        report(f"{path.name}: not an engine of this project; building it anew")
    elif header.get("key") != _plain(key):
        report(f"{path.name}: of another graph, TensorRT, card or option; building it anew")
    elif header.get("size_bytes") != len(engine) or header.get("sha256") != sha256(engine):
        report(f"{path.name}: truncated or altered; building it anew")
    else:
        return engine
    return None


def write_engine(path: Path, key: EngineKey, engine: bytes) -> None:
    """Write atomically: a reader sees the old file or the whole new one."""
    header = {"key": _plain(key), "size_bytes": len(engine), "sha256": sha256(engine)}
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".engine-", delete=False) as file:
        part = Path(file.name)
        try:
            file.write(MAGIC + json.dumps(header).encode() + b"\n" + engine)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def sha256(content: bytes) -> str:
    """Digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _plain(key: EngineKey) -> dict[str, object]:
    """As JSON gives it back: lists for tuples."""
    plain: dict[str, object] = json.loads(json.dumps(asdict(key)))
    return plain


def _build(
    model: Path,
    key: EngineKey,
    options: EngineOptions,
    folder: Path,
    report: Report,
    command: Sequence[str],
) -> bytes:
    """In a child process: a builder that crashes or leaks takes nothing with it."""
    machine = key.machine
    cache = f"{machine.tensorrt}-{machine.compute_capability}-{machine.card}".replace(" ", "_")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as name:
        request_path, engine_path = Path(name) / "request.json", Path(name) / "engine"
        request = BuildRequest(
            model=str(model.resolve()),
            engine=str(engine_path),
            timing_cache=str(folder.resolve() / f"{cache}.timing"),
            options=options,
        )
        request.write(request_path)
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with subprocess.Popen(
            [*command, str(request_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        ) as child:
            assert child.stdout is not None  # noqa: S101 - a pipe was asked for
            last = ""
            for line in child.stdout:
                last = line.strip() or last
                report(line.strip())
        if child.returncode != 0:
            raise EngineError(
                f"the builder of {model} failed with status {child.returncode}: {last}"
            )
        if not engine_path.is_file() or not engine_path.stat().st_size:
            raise EngineError(f"the builder of {model} wrote no engine")
        return engine_path.read_bytes()


@contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    """Hold a file's lock; the kernel frees it if we die."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that builds an engine")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
