"""Weights stored as float16 and cast to float32 at load: half the file, the same arithmetic.

The network is rounded (`round_weights`) to know what to expect of the graph, and the graph's
weights are stored rounded (`store_as_float16`). Rounding is per element, so that both agree
whatever the exporter's layout. A runtime folds the casts when it loads the graph.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

LARGE = 1024
"""Tensors of more elements are rounded; the rest (biases, norms) weigh nothing in the file."""

_SUFFIX = "_float16"


def round_weights(network: nn.Module) -> nn.Module:
    """A copy whose large parameters hold only values that float16 has.

    Raises:
        ValueError: a parameter does not fit into float16; the message names it.
    """
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if parameter.numel() > LARGE:
                parameter.copy_(parameter.half().float())
                if not parameter.isfinite().all():
                    raise ValueError(f"{name} exceeds the range of float16; store it as float32")
    return rounded


def store_as_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large float32 initialisers are float16, each followed by a cast to float32."""
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    graph = stored.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > LARGE:
            name = tensor.name
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, name + _SUFFIX))
            casts.append(
                helper.make_node(
                    "Cast", [tensor.name], [name], name=f"{name}_to_float32", to=TensorProto.FLOAT
                )
            )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return stored
