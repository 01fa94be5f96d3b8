"""Bodies of the Open Inference Protocol, version 2: JSON, or JSON with raw tensors behind it.

Source: https://github.com/kserve/open-inference-protocol, with its binary tensor data extension.
Everything here blocks and belongs in a worker thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from app.errors import BadRequest
from app.schemas import InferRequest, InferResponse, InputTensor, OutputTensor, TensorMetadata
from model.bundle import Manifest

MAX_ROWS = 64
"""Most pairs of one request."""

_TYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}
Rgb = NDArray[np.uint8]
Aux = NDArray[np.float32]


def inputs(manifest: Manifest) -> list[TensorMetadata]:
    """What a bundle takes."""
    height, width = manifest.input_size
    return [
        TensorMetadata(name="rgb", datatype="UINT8", shape=[-1, height, width, 3]),
        TensorMetadata(name="aux", datatype="FP32", shape=[-1, height, width, 1]),
    ]


def outputs(manifest: Manifest) -> list[TensorMetadata]:
    """What a bundle answers."""
    shape = list(manifest.input_size) if manifest.dim is None else [manifest.dim]
    return [TensorMetadata(name=manifest.output, datatype="FP32", shape=[-1, *shape])]


def read(body: bytes, json_size: str | None, manifest: Manifest) -> tuple[InferRequest, Rgb, Aux]:
    """Read a request.

    Args:
        body: as it came.
        json_size: the header `Inference-Header-Content-Length`, if there are tensors behind JSON.
        manifest: of the bundle that it is for.

    Returns:
        The request without its data; rgb (B, H, W, 3); aux (B, H, W, 1) in [0, 1].

    Raises:
        BadRequest: it names the tensor at fault.
    """
    size = len(body)
    if json_size is not None:
        if not (json_size.isascii() and json_size.isdecimal() and len(json_size) < 12):
            raise BadRequest(f"Inference-Header-Content-Length is {json_size[:20]!r}, not a size")
        size = int(json_size)
        if size > len(body):
            raise BadRequest(f"the body has {len(body)} bytes, its JSON was to have {size}")
    try:
        request = InferRequest.model_validate_json(body[:size])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise BadRequest(f"{place or 'body'}: {first['msg']}", field=place or None) from error
    for output in request.outputs:
        if output.name != manifest.output:
            raise BadRequest(f"no output {output.name!r}; there is {manifest.output!r}")
    arrays, rest = {}, memoryview(body)[size:]
    expected = {tensor.name: tensor for tensor in inputs(manifest)}
    for tensor in request.inputs:
        if tensor.name not in expected or tensor.name in arrays:
            raise BadRequest(f"input {tensor.name!r} is unknown or there twice", field=tensor.name)
        arrays[tensor.name], rest = _array(tensor, expected[tensor.name], rest)
    if rest:
        raise BadRequest(f"{len(rest)} bytes of the body belong to no tensor")
    if missing := expected.keys() - arrays.keys():
        raise BadRequest(f"input {min(missing)!r} is missing", field=min(missing))
    rgb, aux = arrays["rgb"], arrays["aux"]
    if len(rgb) != len(aux):
        raise BadRequest(f"{len(rgb)} rows of rgb and {len(aux)} of aux", field="aux")
    if not ((aux >= 0) & (aux <= 1)).all():
        raise BadRequest("aux has values outside of [0, 1]", field="aux")
    return request, rgb, aux


def write(request: InferRequest, manifest: Manifest, rows: Aux) -> tuple[bytes, int | None]:
    """Write an answer; with the size of its JSON if raw tensors follow it."""
    raw = request.parameters.get("binary_data_output") is True
    for output in request.outputs:
        raw = output.parameters.get("binary_data") is True
    data = rows.astype("<f4").tobytes() if raw else b""
    tensor = OutputTensor(
        name=manifest.output,
        datatype="FP32",
        shape=list(rows.shape),
        parameters={"binary_data_size": len(data)} if raw else None,
        data=None if raw else rows.ravel().tolist(),
    )
    answer = InferResponse(
        model_name=manifest.name, model_version=manifest.version, id=request.id, outputs=[tensor]
    )
    text = answer.model_dump_json(exclude_none=True).encode()
    return text + data, len(text) if raw else None


def _array(
    tensor: InputTensor, expected: TensorMetadata, rest: memoryview
) -> tuple[NDArray[Any], memoryview]:
    """The array of one tensor, and what is left of the raw bytes."""
    name = tensor.name
    rows, *sides = tensor.shape or [0]
    if tensor.datatype != expected.datatype or sides != expected.shape[1:]:
        raise BadRequest(
            f"{name} is {tensor.datatype} {tensor.shape}, "
            f"expected {expected.datatype} {expected.shape}",
            field=name,
        )
    if not 1 <= rows <= MAX_ROWS:
        raise BadRequest(f"{rows} rows of {name}; 1 to {MAX_ROWS} are taken", field=name)
    dtype = _TYPES[tensor.datatype]
    count = rows * int(np.prod(sides))
    size = tensor.parameters.get("binary_data_size")
    if size is not None:
        wrong = type(size) is not int or size != count * dtype.itemsize or size > len(rest)
        if wrong or tensor.data is not None:
            raise BadRequest(
                f"{name} needs {count * dtype.itemsize} raw bytes and no JSON data; "
                f"binary_data_size is {str(size)[:20]}, and {len(rest)} bytes are left",
                field=name,
            )
        return np.frombuffer(rest[:size], dtype).reshape(tensor.shape), rest[size:]
    try:
        values = np.asarray(tensor.data, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadRequest(f"{name}: its data is no array of numbers", field=name) from error
    if values.size != count:
        raise BadRequest(f"{name} needs {count} numbers, got {values.size}", field=name)
    whole = (values == np.floor(values)) & (values >= 0) & (values <= 255)
    if dtype == np.uint8 and not whole.all():
        raise BadRequest(f"{name} has values that are no whole number of 0 to 255", field=name)
    with np.errstate(over="ignore"):
        return values.astype(dtype).reshape(tensor.shape), rest
