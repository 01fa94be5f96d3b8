"""How far an implementation is from float64, compared with the plain one in the same precision."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from model import attention

NAMES = (
    "own_rgb", "own_aux", "cross_rgb", "cross_aux",
    "dq_rgb", "dk_rgb", "dv_rgb", "dq_aux", "dk_aux", "dv_aux",
)  # fmt: skip

logit_scales = st.sampled_from([0.0, 0.3, 1.0, 5.0, 30.0])
"""At 30 most rows are one-hot, and logits reach the hundreds."""


def make_inputs(
    seed: int, shape: tuple[int, int, int, int], dtype: torch.dtype, logit_scale: float = 1.0
) -> list[Tensor]:
    """q, k, v of `rgb`, then of `aux`, (B, heads, N, d), laid out as a block leaves them."""
    B, heads, N, d = shape
    qkv = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, B, N, 3, heads, d)))
    qkv[:, :, :, 0] *= logit_scale
    return [each for pair in qkv.to(dtype) for each in pair.permute(2, 0, 3, 1, 4).unbind(0)]


def results(function: Callable[..., Any], qkv: list[Tensor], **options: Any) -> list[Tensor]:
    """Outputs, then gradients of their sum weighted with fixed noise; all float64."""
    leaves = [each.detach().requires_grad_() for each in qkv]
    outputs = function(*leaves, **options)
    rng = torch.Generator().manual_seed(len(outputs))
    weights = [
        torch.randn(each.shape, generator=rng, dtype=torch.float64).to(each) for each in outputs
    ]
    torch.autograd.backward(outputs, weights)
    gradients = [each.grad for each in leaves if each.grad is not None]
    return [each.detach().double() for each in (*outputs, *gradients)]


def assert_as_exact_as_plain(
    function: Callable[..., Any], qkv: list[Tensor], rtol: float = 0.0, **options: Any
) -> None:
    """Errors are at most twice those of the plain form in the same precision.

    Errors are root mean squares over a tensor: roundings are as random in one form as in the other,
    and the largest of a few decides by chance. One rounding of the largest term is allowed besides:
    a sum of a handful of terms, or one that cancels, is exact in one order and not in another.

    Args:
        function: an implementation.
        qkv: in the precision to test.
        rtol: allowed beyond that, relative to the largest term.
        options: for the implementation and for the plain form.
    """
    exact = results(attention.cross_diffusion_attention, [each.double() for each in qkv], **options)
    plain = results(attention.cross_diffusion_attention, qkv, **options)
    actual = results(function, qkv, **options)
    eps = torch.finfo(qkv[0].dtype).eps
    for name, got, near, want, term in zip(
        NAMES, actual, plain, exact, largest_terms(qkv), strict=True
    ):
        error, allowed = (float((each - want).square().mean() ** 0.5) for each in (got, near))
        assert error <= 2 * allowed + (eps + rtol) * term, (
            f"{name}: error {error:.3g}, plain {allowed:.3g}, largest term {term:.3g}"
        )


def peak_bytes(function: Callable[[], Any]) -> int:
    """Most memory that a call holds at a time; the profiler sees what operators allocate within."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        function()
    assert seen.profiler is not None
    events = [each for each in seen.profiler.kineto_results.events() if each.name() == "[memory]"]
    events.sort(key=lambda each: each.start_ns())
    peak: int = max(itertools.accumulate(each.nbytes() for each in events))
    return peak


def largest_terms(qkv: list[Tensor]) -> list[float]:
    """The largest summand of each result; affinities are at most 1, incoming gradients about 3."""
    q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = (float(each.abs().max()) for each in qkv)
    v, g = max(v_rgb, v_aux), 3.0
    # A gradient of scores is at most that of P, which is a scalar product of g and v.
    return [v, v, v, v, g * v * k_rgb, g * v * q_rgb, g, g * v * k_aux, g * v * q_aux, g]
