"""What every server does with a pair: our own functions, so that only the serving differs.

The doubts that our service has about a pair are left out: the others get that time for nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.answers import encode
from app.errors import Place
from app.images import DEPTH, Limits, Upload, decode_pair, upscale
from model.bundle import load_canary, open_bundle
from model.preprocessing import normalise_depth, prepare_rgb, resize_valid
from model.runtimes.onnx_runtime import OnnxRuntime

BUNDLE, PORT = "OTHERS_BUNDLE", "OTHERS_PORT"
THREADS, WORKERS, BATCH = "OTHERS_THREADS", "OTHERS_WORKERS", "OTHERS_BATCH"
CLIENTS = 16
DELAY_S = 0.005
PATH = "/v1/saliency"
TIMEOUT_S = 600
LIMITS = Limits(max_pixels=50_000_000, min_side=16)


def number(name: str) -> int:
    """Of a variable of the environment."""
    return int(os.environ[name])


class Prepared(NamedTuple):
    """A pair as the network takes it."""

    rgb: NDArray[np.uint8]
    aux: NDArray[np.float32]
    size: tuple[int, int]


class Pictures:
    """What is done to pictures before and after the network of one bundle."""

    def __init__(self) -> None:
        self._bundle = open_bundle(Path(os.environ[BUNDLE]))
        self._size = self._bundle.manifest.input_size

    def prepare(self, rgb: bytes, depth: bytes) -> Prepared:
        """Decode and resize."""
        uploads = Upload(rgb, Place("rgb")), Upload(depth, Place("depth"))
        pair = decode_pair(*uploads, DEPTH, LIMITS, resize=False)
        near, valid = normalise_depth(pair.aux, "near_bright")
        aux = resize_valid(near, valid, self._size)[..., None]
        return Prepared(prepare_rgb(pair.rgb, self._size), aux, pair.rgb.size)

    def encode(self, row: NDArray[np.float32], size: tuple[int, int]) -> bytes:
        """A grey PNG as large as the colour picture."""
        return encode("map", upscale(row, size), None, 0.5)


class Work(Pictures):
    """The same with the network; warm."""

    def __init__(self) -> None:
        super().__init__()
        self._runtime = OnnxRuntime(self._bundle.model_path, threads=number(THREADS))
        rgb, aux, _ = load_canary(self._bundle)
        for rows in (1, number(BATCH)):
            turns = np.arange(rows) % len(rgb)
            self.run(rgb[turns], aux[turns])

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """A batch: (B, H, W, 3) and (B, H, W, 1) to (B, H, W)."""
        return self._runtime.run(rgb, aux)
