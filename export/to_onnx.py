"""A network -> an ONNX graph with the names, types and shapes that every runtime expects."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from export.graph import GraphError, tidy

OPSETS = (18, 19, 20)
"""Operator sets that this project writes."""


class ConversionError(Exception):
    """The network could not be turned into a valid graph."""


class _Named(nn.Module):
    """One level above the network, so that names of its buffers and of operators cannot meet."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rgb: Tensor, aux: Tensor) -> Tensor:
        answer: Tensor = self.network(rgb, aux)
        return answer


def example_pair(size: tuple[int, int], batch: int = 2) -> tuple[Tensor, Tensor]:
    """A grey pair of `size` (height, width): `rgb` uint8 (B, H, W, 3), `aux` float32 (B, H, W, 1).

    Two rows, because tracing treats a dimension of 1 as fixed.
    """
    rgb = torch.full((batch, *size, 3), 128, dtype=torch.uint8)
    return rgb, torch.full((batch, *size, 1), 0.5)


def to_onnx(network: nn.Module, size: tuple[int, int], output: str, opset: int) -> onnx.ModelProto:
    """Convert; the batch is dynamic, height and width are fixed.

    Args:
        network: in evaluation mode; takes `rgb` and `aux`.
        size: (height, width) in pixels.
        output: name of the graph's only output.
        opset: one of `OPSETS`.

    Raises:
        ConversionError: an operator has no translation, or the exporter fails otherwise.
        ValueError: the operator set is not one of `OPSETS`.
    """
    if opset not in OPSETS:
        raise ValueError(f"opset must be among {OPSETS}, got {opset}")
    try:
        program = torch.onnx.export(
            _Named(network).eval(),
            example_pair(size),
            dynamo=True,
            input_names=["rgb", "aux"],
            output_names=[output],
            # The second is the same dimension; naming it as well is a warning.
            dynamic_shapes=({0: "batch"}, {0: torch.export.Dim.DYNAMIC}),
            opset_version=opset,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ConversionError(f"torch.onnx.export failed: {error}") from error
    assert program is not None  # noqa: S101 - the dynamo exporter answers a program
    model: onnx.ModelProto = program.model_proto
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written != {"": opset}:
        raise ConversionError(f"asked for opset {opset}, the exporter wrote {written}")
    try:
        return tidy(_without_notes(model, output))
    except GraphError as error:
        raise ConversionError(str(error)) from error


def _without_notes(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Drop what only the exporter's authors read: stack traces with local paths, inferred shapes.

    They make half of a small file, and every runtime infers shapes itself.
    """
    graph = model.graph
    graph.name = name
    del graph.value_info[:]
    for entry in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    return model
