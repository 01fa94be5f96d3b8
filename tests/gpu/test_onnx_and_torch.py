"""ONNX Runtime and torch on a GPU. Never run by the people who wrote it: none was at hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.inputs import scenes
from export.pack import Conversion
from model.bundle import Bundle, load_canary
from model.checkpoint import Checkpoint
from model.runtimes.base import RuntimeFailure
from model.runtimes.onnx_runtime import OnnxRuntime
from model.runtimes.pytorch import Precision, PyTorchRuntime

pytestmark = pytest.mark.gpu


def test_onnxruntime_answers_the_canary(bundle: Bundle) -> None:
    rgb, aux, expected = load_canary(bundle)
    try:
        runtime = OnnxRuntime(bundle.model_path, device="cuda", memory_limit_bytes=2**30)
    except RuntimeFailure:
        if bundle.manifest.precision != "bf16":
            raise
        pytest.xfail("ONNX Runtime may lack a bfloat16 kernel on this card")

    answer = runtime.run(rgb, aux)

    assert runtime.device == "cuda:0"
    assert np.abs(answer - expected).max() <= bundle.canary_tolerance
    for rows in (1, 3, 8, 3):
        pair = scenes(rows, bundle.manifest.input_size)
        alone = np.concatenate(
            [runtime.run(pair[0][i : i + 1], pair[1][i : i + 1]) for i in range(rows)]
        )
        assert np.abs(runtime.run(*pair) - alone).max() <= bundle.canary_tolerance


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_torch_answers_as_on_a_cpu(
    task: tuple[Checkpoint, Conversion], precision: Precision, compiled: bool
) -> None:
    checkpoint, _ = task
    pair = scenes(3, checkpoint.config.input_size)
    expected = PyTorchRuntime(checkpoint.build()).run(*pair)
    torch.backends.cudnn.allow_tf32 = False

    runtime = PyTorchRuntime(checkpoint.build(), "cuda:0", precision, compiled)

    bar = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}[precision]
    for _ in range(3):  # a CUDA graph is recorded at the second run
        assert np.abs(runtime.run(*pair) - expected).max() < bar
