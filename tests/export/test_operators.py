from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from export.graph import tidy
from export.operators import refused
from export.pack import Conversion, Options, convert
from export.precision import Low, lower
from model.checkpoint import Checkpoint
from model.config import Config, ReIDConfig, SaliencyConfig
from model.reid import ReIDNet
from model.saliency import SaliencyNet
from tests.model.tiny import TINY_VIT, tiny_config

BUNDLES = Path(__file__).parents[2] / "bundles"
LOW: tuple[Low, ...] = ("fp16", "bf16")


def one(node: onnx.NodeProto, kind: int = TensorProto.FLOAT, opset: int = 20) -> ModelProto:
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", kind, ["batch", 3, 8, 8])],
        [onnx.ValueInfoProto(name="y")],
        [helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def assert_accepted(model: ModelProto) -> None:
    """As float32, and in 16 bits."""
    for each in (model, *(lower(model, precision) for precision in LOW)):
        onnx.checker.check_model(each, full_check=True)
        assert refused(each) == []


def test_tensorrt_accepts_every_node_and_type(conversion: Conversion) -> None:
    assert_accepted(conversion.model)


@pytest.mark.parametrize("name", ["saliency-compact", "reid-compact"])
def test_tensorrt_accepts_the_shipped_networks(name: str) -> None:
    model = onnx.load(BUNDLES / name / "model.onnx")

    assert refused(model) == []
    assert_accepted(tidy(model))


def converted(config: Config) -> ModelProto:
    """With random weights."""
    network = ReIDNet(config) if isinstance(config, ReIDConfig) else SaliencyNet(config)
    return convert(Checkpoint(config, network.state_dict()), Options()).model


VIT = replace(TINY_VIT, input_size=(64, 64))


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(stand_in=True, fusion_strides=(32,)),
        replace(VIT, stand_in=True, jigsaw=3, num_cameras=2, form="paper"),
    ],
    ids=["saliency", "reid"],
)
def test_tensorrt_accepts_what_stands_in_and_shuffled_patches(config: Config) -> None:
    assert_accepted(converted(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        *(tiny_config(fusion=fusion) for fusion in ("ca", "concat", "ca_cda")),
        tiny_config(steps=2, depth=2),
        tiny_config(fusion_strides=(4, 8, 16, 32), form="paper"),
        tiny_config(backbone="test_resnet", decoder="cascaded"),
        replace(VIT, shared_trunk=True, jigsaw=4),
        replace(VIT, patch_stride=12),
        replace(ReIDConfig.preset("reid-compact"), input_size=(64, 64), stand_in=True),
    ],
    ids=lambda config: f"{config.task}-{config.fusion}-{config.backbone}",
)
def test_tensorrt_accepts_every_kind_of_network(config: Config) -> None:
    assert_accepted(converted(config))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SaliencyConfig.presets, *ReIDConfig.presets])
def test_tensorrt_accepts_every_preset(name: str) -> None:
    kind = SaliencyConfig if name in SaliencyConfig.presets else ReIDConfig

    assert_accepted(converted(kind.preset(name)))


@pytest.mark.parametrize(
    ("node", "kind", "problem"),
    [
        (
            helper.make_node("NonZero", ["x"], ["y"]),
            TensorProto.FLOAT,
            "NonZero is not in the list",
        ),
        (helper.make_node("Shape", ["x"], ["y"]), TensorProto.FLOAT, "INT64 y"),
        (helper.make_node("Relu", ["x"], ["y"]), TensorProto.DOUBLE, "Relu of DOUBLE x"),
        (
            helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1]),
            TensorProto.UINT8,
            "Transpose of UINT8 x",
        ),
        (
            helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="cubic"),
            TensorProto.FLOAT,
            "Resize with mode 'cubic'",
        ),
        (
            helper.make_node(
                "MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2], strides=[1, 1]
            ),
            TensorProto.FLOAT,
            "MaxPool with dilations",
        ),
        (
            helper.make_node("Greater", ["x", "x"], ["y"]),
            TensorProto.BFLOAT16,
            "Greater of BFLOAT16 x",
        ),
        (
            helper.make_node("Transpose", ["x"], ["y"]),
            TensorProto.BOOL,
            "Transpose of BOOL x",
        ),
    ],
)
def test_what_tensorrt_refuses_is_named(node: onnx.NodeProto, kind: int, problem: str) -> None:
    assert any(problem in line for line in refused(one(node, kind)))


def test_an_operator_set_from_the_future_is_named() -> None:
    model = one(helper.make_node("Relu", ["x"], ["y"]), opset=25)

    assert refused(model) == ["operator set 25 is newer than 23"]
