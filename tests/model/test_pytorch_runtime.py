from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.runtimes.base import OutOfMemory, RuntimeFailure, bucket_of
from model.runtimes.pytorch import PyTorchRuntime
from tests.model.tiny import tiny_network, tiny_pair


def pair(rows: int) -> tuple[Any, Any]:
    rgb, aux = tiny_pair(rows, seed=rows)
    return rgb.numpy(), aux.numpy()


@pytest.mark.parametrize(
    ("rows", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (16, 16), (17, 32)]
)
def test_a_bucket_is_the_next_power_of_two(rows: int, bucket: int) -> None:
    assert bucket_of(rows) == bucket


@torch.no_grad()
def test_bfloat16_is_near_and_answers_float32() -> None:
    network = tiny_network()
    exact = PyTorchRuntime(network).run(*pair(3))

    low = PyTorchRuntime(network, precision="bf16").run(*pair(3))

    assert low.dtype == np.float32
    assert 0 < np.abs(low - exact).max() < 0.01


def test_a_compiled_network_sees_powers_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def compile_fake(network: nn.Module, **_: object) -> Callable[[Tensor, Tensor], Tensor]:
        def run(rgb: Tensor, aux: Tensor) -> Tensor:
            seen.append(len(rgb))
            answer: Tensor = network(rgb, aux)
            return answer

        return run

    monkeypatch.setattr(torch, "compile", compile_fake)
    runtime = PyTorchRuntime(tiny_network(), compiled=True)

    answers = [runtime.run(*pair(rows)) for rows in (1, 3, 4)]

    assert [len(answer) for answer in answers] == [1, 3, 4]
    assert seen == [1, 4, 4]
    expected = PyTorchRuntime(tiny_network()).run(*pair(3))
    np.testing.assert_allclose(answers[1], expected, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_network_answers_the_same() -> None:
    runtime = PyTorchRuntime(tiny_network(), compiled=True)

    answer = runtime.run(*pair(3))

    np.testing.assert_allclose(answer, PyTorchRuntime(tiny_network()).run(*pair(3)), atol=1e-5)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), OutOfMemory),
        (RuntimeError("shapes cannot be multiplied"), RuntimeFailure),
    ],
)
def test_failures_keep_their_kind(error: Exception, kind: type[Exception]) -> None:
    class Failing(nn.Module):
        def forward(self, *_: Tensor) -> Tensor:
            raise error

    with pytest.raises(RuntimeFailure) as caught:
        PyTorchRuntime(Failing()).run(*pair(1))

    assert type(caught.value) is kind


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_a_failure() -> None:
    with pytest.raises(RuntimeFailure, match="cannot use device 'cuda:0'"):
        PyTorchRuntime(tiny_network(), "cuda:0")
