from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.graph import element_types
from export.inputs import scenes
from export.pack import Conversion
from export.precision import (
    EARLY,
    LARGEST_FLOAT16,
    TYPES,
    Low,
    RangeError,
    check_range,
    emulate,
    lower,
)
from model.runtimes.onnx_runtime import OnnxRuntime
from tests.model.tiny import SIDE


def run(model: ModelProto, folder: Path) -> NDArray[np.float32]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    return OnnxRuntime(path, threads=1).run(*scenes(4, (SIDE, SIDE)))


@pytest.fixture(params=["fp16", "bf16"])
def low(request: pytest.FixtureRequest) -> Low:
    precision: Low = request.param
    return precision


def test_products_are_low_and_what_must_be_exact_is_not(conversion: Conversion, low: Low) -> None:
    lowered = lower(conversion.model, low)

    types = element_types(lowered)
    found = Counter((node.op_type, types[node.output[0]]) for node in lowered.graph.node)
    assert found["MatMul", TYPES[low]] == 34
    assert found["Conv", TYPES[low]] > 20
    assert found["Relu", TYPES[low]] > 10
    for kind in ("Softmax", "LayerNormalization", "Resize", "Sigmoid", "Mul", "ReduceMean"):
        assert found[kind, TensorProto.FLOAT] > 0
        assert found[kind, TYPES[low]] == 0
    declared = [value.type.tensor_type.elem_type for value in lowered.graph.input]
    assert declared == [TensorProto.UINT8, TensorProto.FLOAT]
    assert lowered.graph.output == conversion.model.graph.output


def test_sums_of_tokens_stay_exact(conversion: Conversion, low: Low) -> None:
    """The attention blend and the residuals: a sum of what matrix products answer."""
    lowered = lower(conversion.model, low)

    types = element_types(lowered)
    makers = {name: node for node in lowered.graph.node for name in node.output}
    softmaxes = [node for node in lowered.graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 6
    for node in lowered.graph.node:
        read = [makers[name].op_type for name in node.input if name in makers]
        if node.op_type == "Add" and types[node.output[0]] == TYPES[low]:
            assert set(read) <= {"Conv", "Relu", "Add", "Cast"}


def test_the_first_convolutions_and_the_head_stay_exact(conversion: Conversion, low: Low) -> None:
    lowered = lower(conversion.model, low)

    types = element_types(lowered)
    convolutions = [node for node in lowered.graph.node if node.op_type == "Conv"]
    stems = [node for node in convolutions if "conv_stem" in node.input[1]]
    (head,) = [node for node in convolutions if "heads" in node.input[1]]
    assert len(stems) == 2
    for node in (*stems, head):
        assert types[node.output[0]] == TensorProto.FLOAT
    assert EARLY["fp16"] < EARLY["bf16"]


def test_answers_are_near_those_of_float32(
    conversion: Conversion, low: Low, tmp_path: Path
) -> None:
    lowered = lower(conversion.model, low)

    expected = run(conversion.model, tmp_path)
    error = np.abs(run(emulate(lowered), tmp_path) - expected)

    # 11 and 8 bits of mantissa: eight times the error. Random weights, logits spread; measured
    # 6e-4 and 9e-3. See the certificate of a bundle for trained ones.
    assert 1e-6 < error.mean() < {"fp16": 2e-3, "bf16": 2e-2}[low]
    assert expected.std() > 0.1


def test_float16_runs_natively_and_agrees_with_its_emulation(
    conversion: Conversion, tmp_path: Path
) -> None:
    lowered = lower(conversion.model, "fp16")

    native, emulated = run(lowered, tmp_path), run(emulate(lowered), tmp_path)

    assert np.abs(native - emulated).mean() < 1e-3


def test_bfloat16_asks_for_the_operator_set_that_allows_it(conversion: Conversion) -> None:
    assert [each.version for each in lower(conversion.model, "bf16").opset_import] == [22]
    assert [each.version for each in lower(conversion.model, "fp16").opset_import] == [20]


def scaled(model: ModelProto, node: NodeProto, by: float) -> ModelProto:
    """With the results of one convolution scaled."""
    changed = ModelProto()
    changed.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in changed.graph.initializer}
    for name in node.input[1:]:
        values = numpy_helper.to_array(tensors[name]) * np.float32(by)
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return changed


def test_a_value_beyond_float16_is_an_error_that_names_the_node(conversion: Conversion) -> None:
    pairs = [scenes(2, (SIDE, SIDE))]
    lowered = lower(conversion.model, "fp16")
    largest = check_range(conversion.model, lowered, pairs)
    convolutions = [n for n in conversion.model.graph.node if n.op_type == "Conv"]
    node = max(convolutions, key=lambda node: largest.get(node.output[0], 0))
    model = scaled(conversion.model, node, 70_000 / largest[node.output[0]])
    assert 0 < largest[node.output[0]] < 1000

    with pytest.raises(RangeError, match=rf"{node.name} \(Conv\) answers 70000, float16 holds"):
        check_range(model, lower(model, "fp16"), pairs)


def test_a_weight_beyond_float16_is_an_error(conversion: Conversion) -> None:
    node = next(n for n in conversion.model.graph.node if "squeeze_rgb" in "".join(n.input))
    model = scaled(conversion.model, node, 1e7)

    with pytest.raises(RangeError, match=f"exceeds {LARGEST_FLOAT16:g}"):
        lower(model, "fp16")
    lower(model, "bf16")


def test_a_cast_is_shared_by_all_that_read_it(conversion: Conversion, low: Low) -> None:
    lowered = lower(conversion.model, low)

    casts = [
        (n.input[0], helper.get_attribute_value(n.attribute[0]))
        for n in lowered.graph.node
        if n.op_type == "Cast"
    ]

    assert len(casts) == len(set(casts))
