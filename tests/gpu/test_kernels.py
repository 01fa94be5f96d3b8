"""The attention kernels on a GPU. Never run by the people who wrote it: none was at hand."""

from __future__ import annotations

import functools

import pytest
import torch

from model.config import Implementation
from model.kernels.dispatch import cross_diffusion_attention
from tests.model.kernels.accuracy import assert_as_exact_as_plain, make_inputs

pytestmark = pytest.mark.gpu
LINEAR: tuple[Implementation, ...] = ("blocked", "sdpa", "flex", "triton")


def on_gpu(
    seed: int, shape: tuple[int, int, int, int], dtype: torch.dtype, logit_scale: float
) -> list[torch.Tensor]:
    return [each.cuda() for each in make_inputs(seed, shape, dtype, logit_scale)]


@pytest.mark.parametrize("implementation", LINEAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 3, 37, 8), (2, 2, 257, 64), (1, 2, 1601, 24), (1, 1, 300, 128)]
)
@pytest.mark.parametrize("logit_scale", [1.0, 30.0])
def test_errors_are_at_most_twice_the_plain_forms(
    implementation: Implementation,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    logit_scale: float,
) -> None:
    qkv = on_gpu(0, shape, dtype, logit_scale)

    # `sdpa` and `flex` keep a log-sum-exp, which is rounded like the largest logit.
    logit = max(float((qkv[i] @ qkv[i + 1].mT).abs().max()) for i in (0, 3)) / shape[-1] ** 0.5
    keeps_lse = implementation in ("sdpa", "flex")
    rtol = torch.finfo(torch.float32).eps * logit if keeps_lse else 0.0
    function = functools.partial(cross_diffusion_attention, implementation=implementation)
    assert_as_exact_as_plain(function, qkv, rtol=rtol, alpha=0.6)


@pytest.mark.parametrize("N", [257, 1601])
def test_repeated_runs_of_the_kernels_are_equal(N: int) -> None:
    def once() -> list[torch.Tensor]:
        qkv = [x.requires_grad_() for x in on_gpu(1, (4, 3, N, 64), torch.bfloat16, 1.0)]
        outputs = cross_diffusion_attention(*qkv, implementation="triton")
        torch.autograd.backward(outputs, [torch.ones_like(each) for each in outputs])
        return [*outputs, *(each.grad for each in qkv if each.grad is not None)]

    torch.testing.assert_close(once(), once(), rtol=0, atol=0)
