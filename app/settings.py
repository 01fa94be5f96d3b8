"""What an operator may change."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from PIL import Image
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_PREFIX = "MUTUALFORMER_"
# Pillow's own guard stays on behind ours, so ours must not exceed it.
_PILLOW_MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485


class Settings(BaseSettings):
    """Read once, from `MUTUALFORMER_*`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` for every interface."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on."""
    bundles: Path = Path("bundles")
    """Folder of bundles, or one bundle; every bundle found is served. None found stops start-up."""
    default_model: str | None = None
    """Bundle that answers when a request names none, or several, at most one a task, separated by
    commas; a task without one takes its first by name."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks run."""
    runtime: Literal["onnxruntime", "tensorrt"] = "onnxruntime"
    """What runs them; `tensorrt` needs `device=cuda` and builds its engines at the first start."""
    engines: Path | None = None
    """Folder of TensorRT engines; `mutualformer/engines` in the user's cache folder if unset."""
    provider_policy: Literal["strict", "fallback"] = "strict"
    """`strict`: the device or no start; `fallback`: the CPU, shown in `/v1/models`, if it fails."""
    gpu_memory_bytes: int | None = Field(default=None, ge=2**20)
    """Most that ONNX Runtime takes of a GPU for each bundle, in bytes; no limit if unset."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads within one operator on a CPU; the runtime chooses if unset."""
    parallel_runs: int = Field(default=1, ge=1, le=64)
    """Batches of one network that run at once on a CPU, each on `threads` threads. With as many
    as there are cores, and `threads=1`, more is answered in a second, and a lone pair later."""
    decode_threads: int = Field(default=2, ge=1, le=256)
    """Threads that decode and prepare pictures, and as many again that write answers; so many
    pictures are decoded at once, the rest wait as they were sent."""
    max_batch: int = Field(default=8, ge=1, le=1024)
    """Most pairs of one run of a network. On a CPU 1 answers as many, and sooner."""
    max_queue_delay_ms: float = Field(default=5.0, ge=0, le=1000)
    """Longest that a pair waits for a fuller batch while its network is free, in milliseconds."""
    max_queue: int = Field(default=256, ge=1)
    """Most pairs in the house, from arrival to answer; more are refused before they are read."""
    max_queue_bytes: int = Field(default=256 * 2**20, ge=1)
    """Most bytes in the house: bodies of requests and prepared pairs."""
    request_timeout_ms: int = Field(default=30_000, ge=1)
    """Time from arrival to answer, in milliseconds; the header `X-Request-Timeout-Ms` may lower
    it. What is late is dropped before it runs."""
    max_run_s: float = Field(default=60.0, gt=0)
    """A run of a network that takes longer hangs, in seconds: the network has failed."""
    max_upload_bytes: int = Field(default=32 * 2**20, ge=1)
    """Largest request body, in bytes."""
    max_pixels: int = Field(default=50_000_000, ge=1, le=_PILLOW_MAX_PIXELS)
    """Most pixels of one picture."""
    max_request_pixels: int = Field(default=200_000_000, ge=1)
    """Most pixels of all pictures of one request."""
    min_side: int = Field(default=16, ge=1)
    """Shortest side of a picture, in pixels."""
    api_keys_file: Path | None = None
    """File of `name:sha256` lines, one API key each; without it everyone may ask."""
    rate_limit_per_s: float | None = Field(default=None, gt=0)
    """Requests for work in a second that each API key gets, or all clients together if there are
    none; unlimited if unset."""
    rate_limit_burst: int = Field(default=20, ge=1)
    """Requests that may come at once before that limit counts."""
    cors_origins: str = ""
    """Web pages of other origins that browsers let ask, separated by commas; `*` for all."""
    shutdown_grace_s: int = Field(default=30, ge=1)
    """Seconds that running requests get to finish after a signal to stop."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    metrics: bool = True
    """Whether `/metrics` answers."""
    docs: bool = True
    """Whether `/docs` and `/openapi.json` answer."""
    page: bool = True
    """Whether `/` answers the demo page."""

    @model_validator(mode="after")
    def _device_fits(self) -> Self:
        if self.runtime == "tensorrt" and self.device != "cuda":
            raise ValueError(f"runtime=tensorrt needs device=cuda, got {self.device}")
        if self.parallel_runs > 1 and self.device != "cpu":
            raise ValueError(f"parallel_runs={self.parallel_runs} needs device=cpu")
        return self

    def default_models(self) -> list[str]:
        """The names in `default_model`."""
        return _split(self.default_model or "")

    def origins(self) -> list[str]:
        """The origins in `cors_origins`."""
        return _split(self.cors_origins)


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Environment variables with our prefix that no setting reads: misspelt, most likely."""
    known = {f"{_PREFIX}{field}".upper() for field in Settings.model_fields}
    return sorted(
        name for name in names if name.upper().startswith(_PREFIX) and name.upper() not in known
    )
