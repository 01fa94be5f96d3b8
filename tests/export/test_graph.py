from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.graph import GraphError, element_types, tidy
from export.pack import Conversion

INPUT = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4, 4])


def graph(
    nodes: list[NodeProto],
    source: onnx.ValueInfoProto = INPUT,
    **constants: NDArray[np.generic],
) -> ModelProto:
    made = helper.make_graph(
        nodes,
        "made",
        [source],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: ModelProto, x: NDArray[np.generic]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def kinds(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_a_resize_to_computed_sizes_becomes_one_by_scales() -> None:
    model = graph(
        [
            helper.make_node("Shape", ["x"], ["start"], end=2),
            helper.make_node("Concat", ["start", "sides"], ["sizes"], axis=0),
            helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
        ],
        sides=np.array([8, 16]),
    )

    tidied = tidy(model)

    assert kinds(tidied) == ["Resize"]
    (scales,) = tidied.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(scales), [1, 1, 2, 4])
    np.testing.assert_array_equal(run(tidied, noise(3, 2, 4, 4)), run(model, noise(3, 2, 4, 4)))


def test_a_resize_without_an_exact_scale_is_named() -> None:
    model = graph(
        [
            helper.make_node("Shape", ["x"], ["start"], end=2),
            helper.make_node("Concat", ["start", "sides"], ["sizes"], axis=0),
            helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], name="up", mode="linear"),
        ],
        source=helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 11, 11]),
        sides=np.array([13, 13]),
    )

    with pytest.raises(GraphError, match="up: no exact scale"):
        tidy(model)


def test_a_computed_shape_becomes_a_constant() -> None:
    model = graph(
        [
            helper.make_node("Shape", ["x"], ["batch"], end=1),
            helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
            helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=1),
        ],
        rest=np.array([8, 4]),
    )

    tidied = tidy(model)

    assert kinds(tidied) == ["Reshape"]
    assert not tidied.graph.node[0].attribute
    np.testing.assert_array_equal(run(tidied, noise(3, 2, 4, 4)), run(model, noise(3, 2, 4, 4)))


def test_pictures_are_cast_before_they_are_transposed() -> None:
    model = graph(
        [
            helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["planes"], ["y"], to=TensorProto.FLOAT),
        ],
        source=helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", 4, 5, 3]),
    )
    x = np.arange(120, dtype=np.uint8).reshape(2, 4, 5, 3)

    tidied = tidy(model)

    assert kinds(tidied) == ["Cast", "Transpose"]
    np.testing.assert_array_equal(run(tidied, x), run(model, x))


def test_a_class_token_is_added_to_padding() -> None:
    model = graph(
        [
            helper.make_node("Shape", ["x"], ["batch"], end=1),
            helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
            helper.make_node("Expand", ["token", "shape"], ["tokens"]),
            helper.make_node("Concat", ["tokens", "x"], ["y"], axis=1),
        ],
        source=helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 4]),
        rest=np.array([1, 4]),
        token=noise(1, 1, 4) + 7,
    )

    tidied = tidy(model)

    assert kinds(tidied) == ["Pad", "Add"]
    np.testing.assert_array_equal(run(tidied, noise(3, 5, 4)), run(model, noise(3, 5, 4)))


def test_constants_are_computed_and_vectors_scaled() -> None:
    model = graph(
        [
            helper.make_node("Cast", ["weight"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("BatchNormalization", ["x", "wide", "b", "mean", "var"], ["y"]),
        ],
        source=helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
        weight=noise(4).astype(np.float16),
        b=noise(4),
        mean=noise(4),
        var=noise(4) ** 2,
    )

    tidied = tidy(model)

    assert kinds(tidied) == ["Mul", "Add"]
    np.testing.assert_allclose(run(tidied, noise(3, 4)), run(model, noise(3, 4)), atol=1e-6)


def test_an_exported_graph_computes_no_integers(conversion: Conversion) -> None:
    types = element_types(conversion.model)

    computed = {types[name] for node in conversion.model.graph.node for name in node.output}

    assert computed == {TensorProto.FLOAT}


def test_a_tidy_graph_stays_as_it_is(conversion: Conversion) -> None:
    assert tidy(conversion.model) == conversion.model
