"""An exporter's graph -> the same graph in a form that every runtime takes, TensorRT above all.

Each change is exact; a runtime may still add in another order. What changes:

- Shapes are numbers: no integer tensor is computed at run time. The exporter resizes to sizes that
  it computes from the batch, reshapes and expands to such shapes, too.
- uint8 is cast before anything else, because TensorRT knows it at a network's edge alone.
- Nothing is computed from constants when a runtime loads it.
- A batch normalisation of vectors is a product and a sum; TensorRT normalises maps alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator


class GraphError(Exception):
    """A graph cannot be brought into the form that is asked for; the message names the node."""


def tidy(model: ModelProto) -> ModelProto:
    """A copy in that form; one of its own results comes back unchanged.

    Raises:
        GraphError: a resize has no exact scale, or more than the batch is not fixed.
    """
    tidied = ModelProto()
    tidied.CopyFrom(model)
    _compute_constants(tidied)
    _cast_before_transposing(tidied)
    _resize_by_scales(tidied)
    _reshape_to_constants(tidied)
    _pad_expanded_constants(tidied)
    _broadcast_without_expanding(tidied)
    _scale_vectors(tidied)
    drop_unused(tidied)
    return tidied


def element_types(model: ModelProto) -> dict[str, int]:
    """The `TensorProto` data type of every tensor, by name."""
    return {name: kind.elem_type for name, kind in _kinds(model).items()}


def shapes(model: ModelProto) -> dict[str, list[int | None]]:
    """The shape of every tensor by name; a dimension that is not fixed is None."""
    return {
        name: [int(dim.dim_value) if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        for name, kind in _kinds(model).items()
    }


def constants(model: ModelProto) -> dict[str, TensorProto]:
    """Initialisers by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def replace_nodes(model: ModelProto, nodes: Iterable[NodeProto]) -> None:
    """Put `nodes`, in this order, in place of all that the graph has."""
    kept = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def drop_unused(model: ModelProto) -> None:
    """Remove the nodes and initialisers that no output depends on."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    replace_nodes(model, reversed(kept))
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _kinds(model: ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    kinds = {
        value.name: value.type.tensor_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    for tensor in graph.initializer:
        kinds[tensor.name] = helper.make_tensor_type_proto(
            tensor.data_type, tensor.dims
        ).tensor_type
    return kinds


def _compute_constants(model: ModelProto) -> None:
    """What depends on initialisers alone becomes an initialiser."""
    known = set(constants(model))
    constant, others = [], []
    for node in model.graph.node:
        if known.issuperset(filter(None, node.input)):
            known.update(node.output)
            constant.append(node)
        else:
            others.append(node)
    names = [name for node in constant for name in node.output]
    if not names:
        return
    graph = helper.make_graph(
        constant,
        "constants",
        [],
        [onnx.ValueInfoProto(name=name) for name in names],
        model.graph.initializer,
    )
    part = helper.make_model(graph, opset_imports=model.opset_import)
    values = ReferenceEvaluator(part).run(None, {})
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in zip(names, values, strict=True)
    )
    replace_nodes(model, others)


def _cast_before_transposing(model: ModelProto) -> None:
    """`Transpose` then `Cast` of a uint8 input becomes `Cast` then `Transpose`."""
    small = {
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type == TensorProto.UINT8
    }
    readers = _readers(model)
    for node in model.graph.node:
        after = readers.get(node.output[0], [])
        if node.op_type == "Transpose" and node.input[0] in small:
            if [each.op_type for each in after] != ["Cast"]:
                raise GraphError(f"{node.name}: uint8 {node.input[0]} is read before it is cast")
            (cast,) = after
            order, to = node.attribute[0], cast.attribute[0]
            source, between, out = node.input[0], node.output[0], cast.output[0]
            node.CopyFrom(helper.make_node("Cast", [source], [between], name=cast.name, to=to.i))
            cast.CopyFrom(
                helper.make_node(
                    "Transpose", [between], [out], name=f"{out}_transpose", perm=order.ints
                )
            )


def _resize_by_scales(model: ModelProto) -> None:
    known = shapes(model)
    for node in model.graph.node:
        if node.op_type != "Resize" or len(node.input) < 4:
            continue
        before, after = known[node.input[0]][2:], known.get(node.output[0], [])[2:]
        if not after or None in before or None in after:
            raise GraphError(f"{node.name}: height and width are not fixed")
        scales = np.array(
            [1, 1, *(a / b for a, b in zip(after, before, strict=True) if a and b)], np.float32
        )
        if any(
            int(np.float32(b) * scale) != a
            for a, b, scale in zip(after, before, scales[2:], strict=True)
        ):
            raise GraphError(f"{node.name}: no exact scale leads from {before} to {after}")
        name = f"{node.output[0]}_scales"
        model.graph.initializer.append(numpy_helper.from_array(scales, name))
        del node.input[1:]
        node.input.extend(["", name])


def _reshape_to_constants(model: ModelProto) -> None:
    """A shape that is computed becomes a constant, with -1 for the batch."""
    known, constant = shapes(model), constants(model)
    for node in model.graph.node:
        if node.op_type != "Reshape":
            continue
        if node.input[1] not in constant:
            shape = known[node.output[0]]
            if shape.count(None) > 1:
                raise GraphError(f"{node.name}: {shape} leaves more than the batch open")
            values = np.array([-1 if side is None else side for side in shape], np.int64)
            name = f"{node.output[0]}_shape"
            constant[name] = numpy_helper.from_array(values, name)
            model.graph.initializer.append(constant[name])
            node.input[1] = name
        if 0 not in numpy_helper.to_array(constant[node.input[1]]):
            # Without a zero in the shape it says nothing.
            kept = [each for each in node.attribute if each.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)


def _pad_expanded_constants(model: ModelProto) -> None:
    """A constant that is repeated for the batch and put before tokens: zeros before, then added.

    `Concat(Expand(c), x)` is `Pad(x) + c'`, where `c'` has zeros for the rows of `x`.
    """
    known, constant = shapes(model), constants(model)
    made_by = _producers(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        first = made_by.get(node.input[0]) if node.op_type == "Concat" else None
        if first is None or first.op_type != "Expand" or first.input[0] not in constant:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(constant[first.input[0]])
        rows = known[node.input[1]][1]
        if len(node.input) != 2 or values.ndim != 3 or node.attribute[0].i != 1 or rows is None:
            raise GraphError(f"{node.name}: only one row of tokens before others can be expanded")
        count, out = values.shape[1], node.output[0]
        padded = np.zeros((1, count + rows, values.shape[2]), values.dtype)
        padded[:, :count] = values[:1]
        pads = np.array([0, count, 0, 0, 0, 0], np.int64)
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(pads, f"{out}_pads"),
                numpy_helper.from_array(padded, f"{out}_first"),
            ]
        )
        nodes.append(
            helper.make_node(
                "Pad", [node.input[1], f"{out}_pads"], [f"{out}_padded"], name=f"{out}_pad"
            )
        )
        nodes.append(
            helper.make_node("Add", [f"{out}_padded", f"{out}_first"], [out], name=node.name)
        )
    replace_nodes(model, nodes)


def _broadcast_without_expanding(model: ModelProto) -> None:
    """An operator that broadcasts takes what was expanded for it."""
    known, made_by = shapes(model), _producers(model)
    for node in model.graph.node:
        if node.op_type not in ("Add", "Sub", "Mul", "Div"):
            continue
        for place, name in enumerate(node.input):
            expand, other = made_by.get(name), node.input[1 - place]
            if expand and expand.op_type == "Expand" and known[other] == known[node.output[0]]:
                node.input[place] = expand.input[0]


def _scale_vectors(model: ModelProto) -> None:
    """A batch normalisation of (B, C) becomes `x * scale + shift`."""
    known, constant = shapes(model), constants(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or len(known[node.input[0]]) != 2:
            nodes.append(node)
            continue
        epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)
        weight, bias, mean, var = (
            numpy_helper.to_array(constant[name]).astype(np.float64) for name in node.input[1:]
        )
        scale = weight / np.sqrt(var + epsilon)
        out = node.output[0]
        for name, values in (("scale", scale), ("shift", bias - mean * scale)):
            model.graph.initializer.append(
                numpy_helper.from_array(values.astype(np.float32), f"{out}_{name}")
            )
        nodes += [
            helper.make_node(
                "Mul", [node.input[0], f"{out}_scale"], [f"{out}_scaled"], name=f"{out}_mul"
            ),
            helper.make_node("Add", [f"{out}_scaled", f"{out}_shift"], [out], name=node.name),
        ]
    replace_nodes(model, nodes)


def _producers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def _readers(model: ModelProto) -> dict[str, list[NodeProto]]:
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers
