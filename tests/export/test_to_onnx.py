from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from export.fold import fold_batch_norms
from export.pack import Conversion
from export.precision import LARGE, round_weights, store_as_float16
from export.to_onnx import to_onnx
from model.bundle import Bundle
from model.checkpoint import Checkpoint
from model.runtimes.onnx_runtime import OnnxRuntime
from tests.model.tiny import SIDE, tiny_network, tiny_pair


def declared(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
    kind = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
    return value.name, kind.elem_type, shape


def test_the_graph_declares_the_contract(conversion: Conversion) -> None:
    graph = conversion.model.graph

    assert [declared(value) for value in graph.input] == [
        ("rgb", TensorProto.UINT8, ["batch", SIDE, SIDE, 3]),
        ("aux", TensorProto.FLOAT, ["batch", SIDE, SIDE, 1]),
    ]
    assert [declared(value) for value in graph.output] == [
        ("saliency", TensorProto.FLOAT, ["batch", SIDE, SIDE])
    ]
    assert [(o.domain, o.version) for o in conversion.model.opset_import] == [("", 20)]


def test_another_operator_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"opset must be among \(18, 19, 20\), got 17"):
        to_onnx(torch.nn.Identity(), (SIDE, SIDE), "saliency", 17)


def test_the_graph_holds_no_paths_of_the_machine_that_wrote_it(conversion: Conversion) -> None:
    content = conversion.model.SerializeToString()

    assert re.findall(rb"[\w/]+\.py\b", content) == []


def test_no_batch_normalisation_is_left(conversion: Conversion) -> None:
    kinds = {node.op_type for node in conversion.model.graph.node}

    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_dynamic(bundle: Bundle, checkpoint: Checkpoint, batch: int) -> None:
    rgb, aux = tiny_pair(batch, seed=batch)

    answer = OnnxRuntime(bundle.model_path).run(rgb.numpy(), aux.numpy())

    with torch.no_grad():
        expected = checkpoint.build()(rgb, aux).numpy()
    assert answer.shape == (batch, SIDE, SIDE)
    assert np.abs(answer - expected).max() < 1e-5


def test_pictures_go_in_as_bytes_and_maps_come_out_in_range(bundle: Bundle) -> None:
    rgb, aux = (each.numpy() for each in tiny_pair(1))

    answer = OnnxRuntime(bundle.model_path).run(rgb, aux)

    assert 0 <= answer.min() < answer.max() <= 1


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_resnet"])
@torch.no_grad()
def test_folding_keeps_the_answers_and_the_original(backbone: str) -> None:
    network = tiny_network(backbone=backbone, decoder="cascaded")
    before = network(*tiny_pair())

    folded = fold_batch_norms(network, *tiny_pair(1))

    left = [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert left == []
    assert (folded(*tiny_pair()) - before).abs().max() < 1e-5
    torch.testing.assert_close(network(*tiny_pair()), before, rtol=0, atol=0)


@torch.no_grad()
def test_a_normalisation_after_something_else_stays() -> None:
    norm = torch.nn.BatchNorm2d(4)
    norm.load_state_dict({**norm.state_dict(), "running_mean": torch.full((4,), 2.0)})
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), norm).eval()
    x = torch.randn(1, 3, 5, 5)

    folded = fold_batch_norms(network, x)

    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(x), network(x))


def test_float16_weights_halve_the_file(
    conversion: Conversion, conversion_float16: Conversion
) -> None:
    full, half = (len(each.model.SerializeToString()) for each in (conversion, conversion_float16))
    large = sum(
        4 * int(np.prod(tensor.dims))
        for tensor in conversion.model.graph.initializer
        if np.prod(tensor.dims) > LARGE
    )

    # Each large tensor costs a cast node besides, of less than 400 bytes.
    assert half < full - large / 2 + 400 * len(conversion.model.graph.initializer)
    assert half < 0.7 * full


def test_float16_storage_is_the_rounded_value_cast_at_load(conversion: Conversion) -> None:
    stored = store_as_float16(conversion.model).graph

    before = {t.name: numpy_helper.to_array(t) for t in conversion.model.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in stored.initializer}
    casts = {node.input[0]: node.output[0] for node in stored.node if node.op_type == "Cast"}
    halved = [name for name, values in after.items() if values.dtype == np.float16]
    assert halved
    for name in halved:
        np.testing.assert_array_equal(after[name], before[casts[name]].astype(np.float16))
    assert all(values.size <= LARGE for values in after.values() if values.dtype == np.float32)


def test_rounding_touches_large_parameters_alone() -> None:
    network = tiny_network()

    rounded = dict(round_weights(network).named_parameters())

    for name, parameter in network.named_parameters():
        expected = parameter.half().float() if parameter.numel() > LARGE else parameter
        assert torch.equal(rounded[name], expected), name


def test_a_weight_beyond_float16_is_named() -> None:
    layer = torch.nn.Linear(64, 64)
    torch.nn.init.constant_(layer.weight, 1e6)
    network = torch.nn.Sequential(layer)

    with pytest.raises(ValueError, match=r"0\.weight exceeds the range of float16"):
        round_weights(network)
