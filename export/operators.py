"""What TensorRT's ONNX parser accepts, as far as this project's graphs go; needs no TensorRT.

Source: `docs/operators.md` and `docs/Changelog.md` of onnx/onnx-tensorrt at 10.15 (operator sets 9
to 24). Every operator here was there in 10.13: since then the changelog adds `Attention`,
`RotaryEmbedding`, `RMSNormalization` and `TensorScatter`, and removes nothing. NVIDIA's ONNX opset
guide and 10.x to 11.x migration pages for 11.4 name that same list and withdraw no operator.
`Greater` and `Where`, by which a missing modality is replaced, were read in the list of 8.5, which
is from before bfloat16: they are taken for float32 alone. No parser ran: a graph that passes here
may still be refused.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, helper

from export.graph import constants, element_types, shapes

LARGEST_OPSET = 23
"""Of ONNX 1.18, which the parser has had since 10.11."""

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})

OPERATORS = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "Conv", "Div", "Elu", "Erf", "Exp", "Gather", "Gelu"}
    | {"Gemm", "GlobalAveragePool", "HardSigmoid", "HardSwish", "LayerNormalization", "LeakyRelu"}
    | {"MatMul", "MaxPool", "Mul", "Pad", "Pow", "Reciprocal", "ReduceL2", "ReduceMean"}
    | {"ReduceMax", "ReduceSum", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax"}
    | {"Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"}
)
"""Accepted in float32, float16 and bfloat16; `Cast` also takes uint8, at the edge."""
CHOICE = frozenset({"Greater", "Where"})
"""Accepted in float32; what one answers and the other's first input is a boolean."""

_RESIZE: dict[str, set[object]] = {
    "mode": {"linear", "nearest"},
    "coordinate_transformation_mode": {
        *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric"),
        "align_corners",
    },
    "nearest_mode": {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"},
    "keep_aspect_ratio_policy": {"stretch"},
    "antialias": {0},
}


def refused(model: ModelProto) -> list[str]:
    """Why TensorRT would refuse the graph, a line for each reason; none: nothing is known.

    Also named: integers that are computed, and sides that are not fixed, which it may accept but
    optimises less.
    """
    types, known, constant = element_types(model), shapes(model), constants(model)
    problems = [
        f"operator set {each.version} is newer than {LARGEST_OPSET}"
        for each in model.opset_import
        if each.version > LARGEST_OPSET
    ]
    for node in model.graph.node:
        computed = [name for name in node.input if name and name not in constant]
        problems += [f"{node.name}: {problem}" for problem in _restrictions(node, constant)]
        for name in (*computed, *node.output):
            kind = types[name]
            if kind not in _accepted(node, name):
                problems.append(
                    f"{node.name}: {node.op_type} of {TensorProto.DataType.Name(kind)} {name}"
                )
            if known[name].count(None) > 1:
                problems.append(f"{node.name}: {name} has more than the batch open: {known[name]}")
        # A strongly typed network takes one type a node; `Cast` alone changes it.
        if node.op_type != "Cast" and len({types[n] for n in node.input if n} & _FLOATS) > 1:
            scales = node.op_type == "Resize"
            if not scales or types[node.input[0]] != types[node.output[0]]:
                problems.append(f"{node.name}: {node.op_type} of several types")
    return problems


def _accepted(node: NodeProto, name: str) -> frozenset[int]:
    """Data types that the node may read or answer `name` in."""
    if node.op_type == "Cast" and name in node.input:
        return _FLOATS | {TensorProto.UINT8}  # at the edge
    if node.op_type not in CHOICE:
        return _FLOATS
    condition = node.output[0] if node.op_type == "Greater" else node.input[0]
    return frozenset({TensorProto.BOOL if name == condition else TensorProto.FLOAT})


def _restrictions(node: NodeProto, constant: dict[str, TensorProto]) -> list[str]:
    if node.domain or node.op_type not in {*OPERATORS, *CHOICE, "Cast"}:
        return [f"{node.domain}::{node.op_type} is not in the list"]
    values = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    problems = []
    if node.op_type == "Resize":
        problems = [
            f"Resize with {name} {given!r}"
            for name, allowed in _RESIZE.items()
            if (given := _text(values.get(name))) is not None and given not in allowed
        ]
    if node.op_type in ("AveragePool", "MaxPool") and set(values.get("dilations", [1])) != {1}:
        problems.append(f"{node.op_type} with dilations")
    if len(node.output) > 1 and node.op_type != "Split":
        problems.append(f"{node.op_type} with {len(node.output)} outputs")
    # Axes, shapes, starts, pads and scales.
    if node.op_type in ("Reshape", "Slice", "Squeeze", "Unsqueeze", "Split", "Pad", "Resize") or (
        node.op_type.startswith("Reduce")
    ):
        problems += [
            f"{node.op_type} by {name}, which is computed"
            for name in node.input[1:]
            if name and name not in constant
        ]
    return problems


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
