"""Fewer bits: in arithmetic (`lower`), or in storage alone (`store_as_float16`).

Arithmetic: TensorRT 11 takes the types that it finds in the graph, so precision is written there.
Convolutions and matrix products are computed in float16 or bfloat16, and what merely moves their
results, rectifies them or adds feature maps; everything else stays in float32: softmax, layer
normalisation, sums of tokens (the attention blend, residuals), resizing, heads, embeddings, and
the first convolutions of a trunk (`EARLY`).

Storage: weights are stored as float16 and cast to float32 at load: half the file, the same
arithmetic. The network is rounded (`round_weights`) to know what to expect of the graph, and the
graph's weights are stored rounded. Rounding is per element, so that both agree whatever the
exporter's layout. A runtime folds the casts when it loads the graph.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from export.graph import constants, drop_unused, element_types, replace_nodes, shapes

Low = Literal["fp16", "bf16"]

TYPES: dict[Low, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST_FLOAT16 = 65504.0
BFLOAT16_OPSET = 22
"""The first operator set whose convolution and pooling may be bfloat16."""

EARLY: dict[Low, int] = {"fp16": 2, "bf16": 8}
"""Convolutions that read maps of at most this stride, on the way down, stay in float32.

Measured on the real pairs at hand. Compact saliency network, 25 pairs, mean absolute error of the
maps: fp16 with everything low 1.4e-3, with this 1.3e-4; bf16 5.5e-3, at stride 4 1.1e-3, at 8
8.1e-4. Compact re-identification network, 204 pairs, least cosine: fp16 0.99998; bf16 at stride 4
0.9990, at 8 0.9995, where 80 % of the products are still low. No other part matters: products of
matrices in float32 as well change the last digit.
"""

PRODUCTS = frozenset({"Conv", "MatMul", "Gemm"})
"""Computed low."""
_FOLLOW = frozenset(
    {"Relu", "Clip", "Transpose", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Split", "Concat"}
    | {"MaxPool", "Flatten", "Gather"}
)
"""Low where all that they read is: exact in any type, or, for `Clip`, to the bounds."""
_BEHIND_HEADS = frozenset({"Squeeze", "Sigmoid", "Resize", "Transpose", "Reshape"})
"""What may stand between a head and the answer."""

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


class RangeError(Exception):
    """A value does not fit into float16; the message names the node that computes it."""


def lower(model: ModelProto, precision: Low) -> ModelProto:
    """A copy of a `graph.tidy` graph that computes products in 16 bits; inputs and outputs stay.

    Raises:
        RangeError: a weight does not fit.
    """
    return _Lowering(model, TYPES[precision], EARLY[precision]).run()


class _Lowering:
    """Walks the graph once, in order; every tensor has one type, and casts stand between."""

    def __init__(self, model: ModelProto, low: int, early: int) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.low = low
        self.early = early
        self.shapes = shapes(model)
        self.height = self.shapes[model.graph.input[0].name][1] or 0
        self.strides: dict[str, int] = {}
        """The coarsest stride on the way to each tensor; absent: no convolution yet."""
        self.types = element_types(model)
        self.constants = constants(model)
        self.heads = _heads(model)
        self.nodes: list[NodeProto] = []
        self.maps: set[str] = set()
        """Tensors that a convolution computed: sums of these are feature maps, not tokens."""

    def run(self) -> ModelProto:
        graph = self.model.graph
        outputs = {value.name for value in graph.output}
        for node in list(graph.node):
            self._note_stride(node)
            is_low = self._is_low(node) and not outputs.intersection(node.output)
            kind = self.low if is_low else TensorProto.FLOAT
            for place, name in enumerate(node.input):
                if self.types.get(name) in (TensorProto.FLOAT, self.low):
                    node.input[place] = self._as(name, kind)
            for name in node.output:
                if self.types.get(name) == TensorProto.FLOAT:
                    self.types[name] = kind
            if node.op_type == "Conv" or (
                node.op_type in _FOLLOW | {"Add"} and self.maps.issuperset(self._read(node))
            ):
                self.maps.update(node.output)
            self.nodes.append(node)
        replace_nodes(self.model, self.nodes)
        drop_unused(self.model)
        opset = self.model.opset_import[0]
        if self.low == TensorProto.BFLOAT16:
            opset.version = max(opset.version, BFLOAT16_OPSET)
        return self.model

    def _is_low(self, node: NodeProto) -> bool:
        if node.op_type in PRODUCTS:
            early = node.op_type == "Conv" and self.strides[node.output[0]] <= self.early
            return not early and node.output[0] not in self.heads
        read = self._read(node)
        if node.op_type == "Add" and not self.maps.issuperset(read):
            return False
        return node.op_type in _FOLLOW | {"Add"} and all(
            self.types[name] == self.low for name in read
        )

    def _note_stride(self, node: NodeProto) -> None:
        """Of what the node reads: strides never shrink, so that a decoder counts as coarse."""
        coarsest = max((self.strides.get(name, 0) for name in node.input), default=0)
        if node.op_type == "Conv":
            height = self.shapes[node.input[0]][2]
            coarsest = max(coarsest, self.height // height if height else 0)
        for name in node.output:
            self.strides[name] = coarsest

    def _read(self, node: NodeProto) -> list[str]:
        """What the node reads that is computed."""
        return [name for name in node.input if name and not self._constant(name)]

    def _constant(self, name: str) -> bool:
        return name in self.constants

    def _as(self, name: str, kind: int) -> str:
        """The name of this tensor in another type; its cast is made when it is first asked for."""
        if self.types[name] == kind:
            return name
        cast = f"{name}_{TensorProto.DataType.Name(kind).lower()}"
        if cast in self.types:
            return cast
        if self._constant(name):
            values = numpy_helper.to_array(self.constants[name])
            largest = float(np.abs(values).max(initial=0))
            if kind == TensorProto.FLOAT16 and not largest <= LARGEST_FLOAT16:
                raise RangeError(f"{name}: {largest:g} exceeds {LARGEST_FLOAT16:g}")
            tensor = numpy_helper.from_array(
                values.astype(helper.tensor_dtype_to_np_dtype(kind)), cast
            )
            self.model.graph.initializer.append(tensor)
            self.constants[cast] = tensor
        else:
            self.nodes.append(helper.make_node("Cast", [name], [cast], name=cast, to=kind))
        self.types[cast] = kind
        return cast


def _heads(model: ModelProto) -> set[str]:
    """Outputs of the products that nothing but resizing and squashing leads from to the answer."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    name = model.graph.output[0].name
    while name in made_by and made_by[name].op_type in _BEHIND_HEADS:
        name = made_by[name].input[0]
    return {name}


def check_range(
    model: ModelProto,
    lowered: ModelProto,
    pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.float32]]],
) -> dict[str, float]:
    """The largest absolute value, on these inputs, of every tensor that `lowered` holds in float16.

    Args:
        model: the float32 graph that `lowered` was made from; computes the values.
        lowered: its float16 form.
        pairs: batches of `rgb` and `aux`.

    Raises:
        RangeError: a value exceeds what float16 holds, or is not a number.
    """
    kinds = element_types(lowered)
    suffix = f"_{TensorProto.DataType.Name(TensorProto.FLOAT16).lower()}"
    held = {
        name.removesuffix(suffix) for name, kind in kinds.items() if kind == TensorProto.FLOAT16
    }
    makers = {name: node for node in model.graph.node for name in node.output if name in held}
    if not makers:
        return {}
    probe = _probe(model, makers)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    largest = dict.fromkeys(makers, 0.0)
    for rgb, aux in pairs:
        for name, value in zip(makers, session.run(None, {"rgb": rgb, "aux": aux}), strict=True):
            if not value <= LARGEST_FLOAT16:
                node = makers[name]
                raise RangeError(
                    f"{node.name} ({node.op_type}) answers {float(value):g}, "
                    f"float16 holds at most {LARGEST_FLOAT16:g}"
                )
            largest[name] = max(largest[name], float(value))
    return largest


def _probe(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """The graph with the largest absolute value of each of `names` as its outputs."""
    probe = ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    del graph.output[:]
    for name in names:
        graph.node.append(helper.make_node("Abs", [name], [f"{name}_abs"]))
        graph.node.append(
            helper.make_node("ReduceMax", [f"{name}_abs"], [f"{name}_largest"], keepdims=0)
        )
        graph.output.append(helper.make_tensor_value_info(f"{name}_largest", TensorProto.FLOAT, []))
    return probe


def emulate(lowered: ModelProto) -> ModelProto:
    """A copy that rounds where `lowered` does, and computes in float32 between.

    What matrix units do: products of 16-bit numbers, sums in float32, a rounded result. ONNX
    Runtime has no bfloat16 convolution or product on CPUs, so this is how they judge one.
    """
    kinds = element_types(lowered)
    low = set(TYPES.values())
    copied = ModelProto()
    copied.CopyFrom(lowered)
    wide: dict[str, str] = {}
    nodes: list[NodeProto] = []

    def widened(name: str) -> str:
        if name not in wide:
            wide[name] = f"{name}_wide"
            nodes.append(
                helper.make_node(
                    "Cast", [name], [wide[name]], name=wide[name], to=TensorProto.FLOAT
                )
            )
        return wide[name]

    for node in copied.graph.node:
        if node.op_type == "Cast":
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            if kinds.get(name) in low:
                node.input[place] = widened(name)
        after = []
        for place, name in enumerate(node.output):
            if kinds[name] in low:
                node.output[place] = f"{name}_exact"
                after.append(
                    helper.make_node(
                        "Cast", [node.output[place]], [name], name=name, to=kinds[name]
                    )
                )
        nodes += [node, *after]
    replace_nodes(copied, nodes)
    return copied
