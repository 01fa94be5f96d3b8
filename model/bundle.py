"""A bundle: one exported network in a folder, with a manifest that names and digests every file.

`seal_bundle` writes the manifest last, so a folder without one is unfinished; `open_bundle`
trusts nothing that the manifest does not vouch for.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""What a bundle may be called."""
MANIFEST = "manifest.json"
MODEL = "model.onnx"
CANARY = "canary.npz"
PARITY = "parity.json"
CARD = "README.md"
REQUIRED_FILES = (MODEL, CANARY, PARITY, CARD)

_DEPTH: Literal["minmax_over_valid_near_1_missing_0"] = "minmax_over_valid_near_1_missing_0"


class BundleError(Exception):
    """A bundle cannot be trusted or read; the message names the file and what is wrong."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Preprocessing(_Strict):
    """How `model.preprocessing` prepares a pair for this network, in words and as one identity."""

    preprocess_id: Literal["saliency-1", "reid-1"] = "saliency-1"
    """Changes whenever the same pictures would give other arrays; an unknown one is refused."""
    rgb: Literal["bilinear"] = "bilinear"
    """Resize with antialiasing, straight to the input size."""
    aux: Literal["minmax_over_valid_near_1_missing_0", "full_range"] = _DEPTH
    """Depth: per image, at native precision, before the resize. Near-infrared: full range."""


class Manifest(_Strict):
    """What `manifest.json` holds; an unknown key is an error."""

    format_version: Literal[1] = 1
    """Layout of the bundle folder."""
    task: Literal["saliency", "reid"]
    """Which answers the network gives."""
    name: str = Field(pattern=NAME)
    """How requests choose this bundle."""
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")
    """Together with the name, the provenance of every answer."""
    input_size: tuple[int, int]
    """(height, width) in pixels, fixed by the graph."""
    preprocessing: Preprocessing = Preprocessing()
    """What turns pictures into the graph's inputs."""
    output: Literal["saliency", "embedding"] = "saliency"
    """Name of the graph's only output."""
    dim: int | None = Field(default=None, ge=1)
    """Numbers in an embedding; none for maps."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of products and convolutions in the graph; the rest is float32."""
    weights_precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """How most weights are stored; those that are not computed with as such are cast at load."""
    opset: int
    """ONNX operator set of the graph."""
    files: dict[str, str]
    """sha256 in hexadecimal of every file beside the manifest."""
    training_data: list[str]
    """What the weights were trained on, one source a line."""
    metrics: dict[str, Any]
    """Measured quality, keyed by test set."""
    licence: str
    """Terms of the weights."""
    modality_policy: Literal["reject", "substitute"] = "reject"
    """What a request with a missing modality gets."""
    created: str
    """ISO 8601 date."""
    source_commit: str
    """Commit of the software that exported the bundle."""
    config: dict[str, Any]
    """The architecture, as `to_dict()` of the task's configuration writes it."""

    @field_validator("input_size")
    @classmethod
    def _positive(cls, size: tuple[int, int]) -> tuple[int, int]:
        if min(size) < 1:
            raise ValueError(f"expected two positive sides, got {size}")
        return size

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name, digest in files.items():
            if Path(name).name != name or "\\" in name or name in ("..", MANIFEST):
                raise ValueError(f"{name!r} is not the plain name of a file beside the manifest")
            if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
                raise ValueError(f"{name}: {digest!r} is not a sha256 in hexadecimal")
        missing = [name for name in REQUIRED_FILES if name not in files]
        if missing:
            raise ValueError(f"no digest for {', '.join(missing)}")
        return files

    @model_validator(mode="after")
    def _of_one_task(self) -> Self:
        reid = self.task == "reid"
        prepared = self.preprocessing
        for name, found, expected in (
            ("output", self.output, "embedding" if reid else "saliency"),
            ("preprocess_id", prepared.preprocess_id, "reid-1" if reid else "saliency-1"),
            ("preprocessing.aux", prepared.aux, "full_range" if reid else _DEPTH),
        ):
            if found != expected:
                raise ValueError(f"{name} is {found!r}, but {self.task} has {expected!r}")
        if (self.dim is not None) != reid:
            raise ValueError(f"dim is {self.dim}, which does not fit the task {self.task}")
        return self

    @property
    def model_id(self) -> str:
        """`name@version`, as every answer carries it."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle."""

    path: Path
    """The folder."""
    manifest: Manifest
    parity: dict[str, Any]
    """Errors of every conversion step, as the exporter measured them."""

    @property
    def model_path(self) -> Path:
        """The ONNX graph."""
        return self.path / MODEL

    @property
    def canary_tolerance(self) -> float:
        """How far answers to the canary may be from the exporter's, by the certificate.

        Certificates before 0.2 do not say; what was allowed then is allowed still.
        """
        given = self.parity.get("canary_tolerance")
        if isinstance(given, float) and given > 0:
            return given
        return 1e-3 if self.manifest.precision == "fp32" else 2e-2


def seal_bundle(folder: Path, **fields: Any) -> Bundle:
    """Digest every file of `folder`, write its manifest atomically, and open the result.

    The folder must hold `model.onnx`, `canary.npz` (arrays `rgb`, `aux`, `expected`),
    `parity.json` and `README.md`; plain files beside them are digested too.

    Args:
        folder: the bundle, complete but for its manifest; an old manifest is replaced.
        fields: the fields of `Manifest` without `files`.

    Raises:
        BundleError: a file is missing, or the fields do not make a manifest.
    """
    for name in REQUIRED_FILES:
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name}: missing")
    files = {
        path.name: _sha256(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    }
    try:
        manifest = Manifest(**fields, files=files)
    except ValidationError as error:
        raise BundleError(f"{folder / MANIFEST}: {_explain(error)}") from error
    write_manifest(folder, manifest)
    return open_bundle(folder)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` so that a reader sees the old one or the new one, never a part."""
    part = folder / f".{MANIFEST}.part"
    with part.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / MANIFEST)


def open_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Read a bundle's manifest and parity file.

    Args:
        path: the bundle's folder.
        verify: recompute every digest; without it only the presence of files is checked.

    Raises:
        BundleError: a file is missing, altered or malformed, or lies outside the folder.
    """
    manifest_path = path / MANIFEST
    try:
        manifest = Manifest.model_validate_json(manifest_path.read_bytes())
    except OSError as error:
        raise BundleError(f"{manifest_path}: {error.strerror or error}") from error
    except ValidationError as error:
        raise BundleError(f"{manifest_path}: {_explain(error)}") from error
    for name, expected in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise BundleError(f"{file}: missing, although the manifest names it")
        if file.resolve().parent != path.resolve():
            raise BundleError(f"{file}: leads outside the bundle, to {file.resolve()}")
        if verify and (found := _sha256(file)) != expected:
            raise BundleError(f"{file}: sha256 is {found}, the manifest says {expected}")
    return Bundle(path, manifest, _read_parity(path / PARITY))


def bundle_folders(folder: Path) -> list[Path]:
    """`folder` itself if it is a bundle, else each of its folders that has a manifest.

    Raises:
        BundleError: `folder` does not exist.
        PermissionError: something in it may not be read.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder")
    if (folder / MANIFEST).is_file():
        return [folder]
    # A pattern that reached for the manifests would skip what may not be read.
    children = sorted(folder.glob("[!.]*"))
    return [child for child in children if (child / MANIFEST).is_file()]


def find_bundles(folder: Path, *, verify: bool = True) -> list[Bundle]:
    """Open every bundle that `bundle_folders` finds.

    Returns:
        The bundles by name; empty when there are none.

    Raises:
        BundleError: `folder` does not exist, a bundle is bad, or two share a name.
        PermissionError: something in it may not be read.
    """
    bundles = [open_bundle(path, verify=verify) for path in bundle_folders(folder)]
    for problem in equal_names(bundles):
        raise BundleError(problem)
    return sorted(bundles, key=lambda bundle: bundle.manifest.name)


def equal_names(bundles: Sequence[Bundle]) -> list[str]:
    """A line for each bundle that is named as one before it, with which it cannot be served."""
    first: dict[str, Bundle] = {}
    problems = []
    for bundle in bundles:
        name = bundle.manifest.name
        if first.setdefault(name, bundle) is not bundle:
            problems.append(
                f"{bundle.path / MANIFEST}: {first[name].path} is named {name!r} too; serve one of "
                "them, or export one under another `--name`"
            )
    return problems


def load_canary(
    bundle: Bundle,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Read inputs and the outputs that the exporter saw for them.

    Returns:
        rgb: uint8 (B, H, W, 3).
        aux: float32 (B, H, W, 1).
        expected: float32 (B, H, W) for saliency, (B, D) for embeddings.

    Raises:
        BundleError: the file does not hold these arrays.
    """
    path = bundle.path / CANARY
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rgb, aux, expected = arrays["rgb"], arrays["aux"], arrays["expected"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: {error}") from error
    height, width = bundle.manifest.input_size
    dim = bundle.manifest.dim
    batch = len(rgb) if rgb.ndim else 0
    for name, array, dtype, shape in (
        ("rgb", rgb, np.uint8, (batch, height, width, 3)),
        ("aux", aux, np.float32, (batch, height, width, 1)),
        ("expected", expected, np.float32, (batch, height, width) if dim is None else (batch, dim)),
    ):
        if batch == 0 or array.dtype != dtype or array.shape != shape:
            raise BundleError(
                f"{path}: {name} is {array.dtype} {array.shape}, "
                f"expected {np.dtype(dtype)} {shape} with at least one row"
            )
    return rgb, aux, expected


def _read_parity(path: Path) -> dict[str, Any]:
    try:
        parity = json.loads(path.read_bytes())
    except ValueError as error:
        raise BundleError(f"{path}: not JSON: {error}") from error
    if not isinstance(parity, dict):
        raise BundleError(f"{path}: expected a JSON object, got {type(parity).__name__}")
    return parity


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(error: ValidationError) -> str:
    """One line that names every offending key."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}"
        for item in error.errors(include_url=False)
    )
