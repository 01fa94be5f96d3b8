"""Small bundles and pictures that tests build on; no trained weights."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper
from PIL import Image

from model.bundle import Bundle, seal_bundle
from model.runtimes.base import Runtime
from model.runtimes.echo import EchoEmbeddingRuntime, EchoRuntime

Part = tuple[str, tuple[str, bytes]]
Rows = NDArray[np.float32]

SIDE = 64
"""Input size of tiny bundles; pictures of this size pass through the resize unchanged."""

DIM = 65
"""Numbers in an embedding of tiny bundles."""


def write_onnx(path: Path) -> None:
    """Write a graph that computes what `EchoRuntime` does."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["rgb"], ["colour"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["colour", "channel"], ["grey"], keepdims=0),
            helper.make_node("Squeeze", ["aux", "channel"], ["near"]),
            helper.make_node("Mul", ["grey", "grey_scale"], ["grey_half"]),
            helper.make_node("Mul", ["near", "half"], ["near_half"]),
            helper.make_node("Add", ["grey_half", "near_half"], ["saliency"]),
        ],
        "tiny",
        [
            helper.make_tensor_value_info("rgb", TensorProto.UINT8, ["B", SIDE, SIDE, 3]),
            helper.make_tensor_value_info("aux", TensorProto.FLOAT, ["B", SIDE, SIDE, 1]),
        ],
        [helper.make_tensor_value_info("saliency", TensorProto.FLOAT, ["B", SIDE, SIDE])],
        [
            helper.make_tensor("channel", TensorProto.INT64, [1], [3]),
            helper.make_tensor("grey_scale", TensorProto.FLOAT, [], [0.5 / 255]),
            helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)


def write_reid_onnx(path: Path) -> None:
    """Write a graph that computes what `EchoEmbeddingRuntime` does."""
    shape = [-1, 4, SIDE // 4, 4, SIDE // 4, 4]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["rgb"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["levels", "scale"], ["colour"]),
            helper.make_node("Concat", ["colour", "aux"], ["seen"], axis=3),
            helper.make_node("Reshape", ["seen", "shape"], ["split"]),
            helper.make_node("ReduceMean", ["split", "within"], ["cells"], keepdims=0),
            helper.make_node("Flatten", ["cells"], ["flat"]),
            helper.make_node("Pad", ["flat", "before", "one"], ["values"]),
            helper.make_node("LpNormalization", ["values"], ["embedding"], axis=1),
        ],
        "tiny",
        [
            helper.make_tensor_value_info("rgb", TensorProto.UINT8, ["B", SIDE, SIDE, 3]),
            helper.make_tensor_value_info("aux", TensorProto.FLOAT, ["B", SIDE, SIDE, 1]),
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", DIM])],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 255]),
            helper.make_tensor("shape", TensorProto.INT64, [len(shape)], shape),
            helper.make_tensor("within", TensorProto.INT64, [2], [2, 4]),
            helper.make_tensor("before", TensorProto.INT64, [4], [0, 1, 0, 0]),
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)


def echo(task: str) -> Runtime:
    """What answers for a tiny bundle of this task."""
    return EchoEmbeddingRuntime() if task == "reid" else EchoRuntime()


def write_bundle(folder: Path, **fields: Any) -> Bundle:
    """Write and seal a bundle whose canary and graph agree with the echo runtime of its task."""
    folder.mkdir(parents=True)
    task = fields.get("task", "saliency")
    (write_reid_onnx if task == "reid" else write_onnx)(folder / "model.onnx")
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    aux = rng.random((2, SIDE, SIDE, 1), dtype=np.float32)
    np.savez(folder / "canary.npz", rgb=rgb, aux=aux, expected=echo(task).run(rgb, aux))
    (folder / "parity.json").write_text('{"onnx": {"max_abs_error": 0.0}}')
    (folder / "README.md").write_text("# A tiny bundle\n")
    return seal_bundle(folder, **manifest_fields(name=folder.name, **fields))


def manifest_fields(**changes: Any) -> dict[str, Any]:
    """Fields of a manifest, all but `files`; those of its task follow `task`."""
    reid = {
        "output": "embedding",
        "dim": DIM,
        "preprocessing": {"preprocess_id": "reid-1", "aux": "full_range"},
    }
    return {
        **(reid if changes.get("task") == "reid" else {}),
        "task": "saliency",
        "name": "tiny",
        "version": "1",
        "input_size": (SIDE, SIDE),
        "opset": 18,
        "training_data": [],
        "metrics": {},
        "licence": "Apache-2.0",
        "created": "2025-01-01",
        "source_commit": "none",
        "config": {},
        **changes,
    }


def encoded(array: ArrayLike | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """One picture as a file."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(np.asarray(array))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def npy(array: ArrayLike, **options: Any) -> bytes:
    """One array as a `.npy` file."""
    file = io.BytesIO()
    np.save(file, np.asarray(array), **options)
    return file.getvalue()


def npy_with_header(header: bytes) -> bytes:
    """A `.npy` file of any header and no data."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def png(
    width: int, height: int, *, bits: int = 8, colour_type: int = 2, rows: bytes = bytes(1000)
) -> bytes:
    """A PNG written by hand; unless `rows` are given, its pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def noise(height: int = SIDE, width: int = SIDE, seed: int = 0) -> NDArray[np.uint8]:
    """A colour picture (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    """A depth map (H, W) that covers 0 to 255."""
    values = np.linspace(0, 255, height * width).reshape(height, width)
    return values.astype(np.uint8)


def pair(rgb: bytes | None = None, depth: bytes | None = None) -> dict[str, tuple[str, bytes]]:
    """The form of a request; a good one unless told otherwise."""
    return {
        "rgb": ("rgb", encoded(noise()) if rgb is None else rgb),
        "depth": ("depth", encoded(ramp()) if depth is None else depth),
    }


Crops = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def crops(seed: int) -> Crops:
    """Colour (H, W, 3) and near-infrared (H, W) of 4 x 4 cells, as large as tiny bundles take."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    large = cells.repeat(SIDE // 4, axis=0).repeat(SIDE // 4, axis=1)
    return large[..., :3], large[..., 3]


def form(rgb: Sequence[bytes], nir: Sequence[bytes], prefix: str = "") -> list[Part]:
    """The form of a re-identification request: one part a picture."""
    return [
        (f"{prefix}{field}", (f"{index}.png", data))
        for field, files in (("rgb", rgb), ("nir", nir))
        for index, data in enumerate(files)
    ]


def crop_form(seeds: Iterable[int], prefix: str = "") -> list[Part]:
    """The form of one pair of crops for each seed."""
    pairs = [crops(seed) for seed in seeds]
    return form([encoded(rgb) for rgb, _ in pairs], [encoded(nir) for _, nir in pairs], prefix)


def embedded(*pairs: tuple[NDArray[np.uint8], NDArray[np.unsignedinteger]]) -> Rows:
    """What `EchoEmbeddingRuntime` answers for pictures of the network's own size."""
    rgb = np.stack([colour for colour, _ in pairs])
    aux = np.stack([nir / np.float32(np.iinfo(nir.dtype).max) for _, nir in pairs])
    return EchoEmbeddingRuntime().run(rgb, aux[..., None].astype(np.float32))
