"""Every implementation that runs on a CPU, against float64 and against the plain form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from model import attention
from model.config import Form, Implementation
from model.kernels import blocked, sdpa
from model.kernels.compose import cross_diffusion
from model.kernels.dispatch import cross_diffusion_attention, resolve, self_attention
from model.kernels.flex import FlexAffinity
from tests.model.kernels.accuracy import (
    assert_as_exact_as_plain,
    logit_scales,
    make_inputs,
    peak_bytes,
    results,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LINEAR: tuple[Implementation, ...] = ("blocked", "sdpa")
"""Implementations of linear memory that need no GPU."""
FORMS = get_args(Form)


def using(implementation: Implementation) -> Callable[..., Any]:
    return functools.partial(cross_diffusion_attention, implementation=implementation)


@contextmanager
def small_blocks() -> Iterator[None]:
    """Blocks of 3 rows and few heads, so that small inputs have several and a last, short one."""
    names = {"LEAST_ROWS": 3, "BLOCK_SIZE": 14}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setattr(blocked, name, value)
        yield


@pytest.mark.parametrize("implementation", LINEAR)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(
    seed=st.integers(0, 2**31),
    heads=st.integers(1, 3),
    N=st.integers(1, 70),
    d=st.integers(1, 40),
    logit_scale=logit_scales,
    alpha=st.floats(0, 1),
)
@settings(max_examples=10)
def test_errors_are_at_most_twice_the_plain_forms(
    implementation: Implementation,
    dtype: torch.dtype,
    seed: int,
    heads: int,
    N: int,
    d: int,
    logit_scale: float,
    alpha: float,
) -> None:
    B = 1 + 256 // (heads * N)  # enough rows for a mean
    qkv = make_inputs(seed, (B, heads, N, d), dtype, logit_scale)

    # Log-sum-exp is rounded like the largest logit; see `sdpa`.
    logit = max(float((qkv[i] @ qkv[i + 1].mT).abs().max()) for i in (0, 3)) / d**0.5
    rtol = torch.finfo(torch.float32).eps * logit if implementation == "sdpa" else 0.0
    assert_as_exact_as_plain(using(implementation), qkv, rtol=rtol, alpha=alpha)


@pytest.mark.parametrize(
    ("dtype", "d"),
    [
        (torch.float32, 8),
        (torch.float32, 128),
        (torch.bfloat16, 8),
        (torch.bfloat16, 128),
        (torch.float16, 16),
    ],
    ids=str,
)
def test_blocks_of_rows_are_as_exact_as_whole_affinities(dtype: torch.dtype, d: int) -> None:
    N = 573  # a block of 457 rows and a shorter one

    assert_as_exact_as_plain(using("blocked"), make_inputs(0, (1, 1, N, d), dtype, 3.0))


@pytest.mark.parametrize("implementation", LINEAR)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(*(st.integers(1, most) for most in (3, 3, 17, 9))),
    logit_scale=logit_scales,
    alpha=st.floats(0, 1),
    steps=st.integers(1, 3),
    form=st.sampled_from(FORMS),
)
@settings(max_examples=25)
def test_every_form_and_number_of_steps_in_float64(
    implementation: Implementation,
    seed: int,
    shape: tuple[int, int, int, int],
    logit_scale: float,
    alpha: float,
    steps: int,
    form: Form,
) -> None:
    qkv = make_inputs(seed, shape, torch.float64, logit_scale)
    options: dict[str, Any] = {"alpha": alpha, "steps": steps, "form": form}

    with small_blocks():
        actual = results(using(implementation), qkv, **options)

    expected = results(attention.cross_diffusion_attention, qkv, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("implementation", LINEAR)
@pytest.mark.parametrize(("steps", "form"), [(1, "published"), (1, "paper"), (2, "published")])
def test_gradients_are_exact(implementation: Implementation, steps: int, form: Form) -> None:
    qkv = [x.requires_grad_() for x in make_inputs(1, (1, 2, 5, 3), torch.float64)]

    with small_blocks():
        assert torch.autograd.gradcheck(
            lambda *leaves: using(implementation)(*leaves, steps=steps, form=form, alpha=0.3), qkv
        )


@pytest.mark.parametrize("implementation", [*LINEAR, "plain", "auto"])
def test_self_attention_is_the_same_everywhere(implementation: Implementation) -> None:
    q, k, v, *_ = make_inputs(2, (2, 3, 11, 4), torch.float64, 3.0)

    out = self_attention(q, k, v, implementation=implementation)

    torch.testing.assert_close(out, attention.affinity(q, k) @ v)


@pytest.mark.parametrize("implementation", LINEAR)
@pytest.mark.parametrize(("steps", "form"), [(1, "published"), (2, "paper")])
def test_nothing_is_as_large_as_an_affinity(
    implementation: Implementation, steps: int, form: Form
) -> None:
    """Not even all together, forward and backward."""
    N = 2000
    qkv = [x.requires_grad_() for x in make_inputs(3, (1, 1, N, 8), torch.float32)]

    def run() -> None:
        outputs = using(implementation)(*qkv, steps=steps, form=form)
        torch.autograd.backward(outputs, [torch.ones_like(each) for each in outputs])

    assert 0 < peak_bytes(run) < N * N * 4 / 2


@pytest.mark.parametrize("implementation", LINEAR)
@torch.no_grad()
def test_repeated_runs_are_equal(implementation: Implementation) -> None:
    qkv = make_inputs(4, (2, 3, 600, 16), torch.float32)

    first, second = (using(implementation)(*qkv) for _ in range(2))

    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("implementation", [*LINEAR, "auto"])
def test_autocast_decides_the_type_as_for_plain_products(implementation: Implementation) -> None:
    qkv = [x.requires_grad_() for x in make_inputs(5, (2, 2, 9, 8), torch.float32)]

    with torch.autocast("cpu", torch.bfloat16):
        outputs = using(implementation)(*qkv)
        torch.autograd.backward(outputs, [torch.ones_like(each) for each in outputs])

    assert {each.dtype for each in outputs} == {torch.bfloat16}
    assert all(each.grad is not None and each.grad.dtype == torch.float32 for each in qkv)


@pytest.mark.parametrize("implementation", ["auto", "blocked", "triton"])
def test_an_exported_graph_is_the_plain_one(implementation: Implementation) -> None:
    class Mixer(torch.nn.Module):
        def forward(self, *qkv: Tensor) -> Any:
            return cross_diffusion_attention(*qkv, implementation=implementation)

    program = torch.export.export(Mixer(), tuple(make_inputs(6, (2, 2, 9, 8), torch.float32)))

    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.softmax.int" in operators
    assert operators <= {
        "aten.mul.Tensor", "aten.transpose.int", "aten.matmul.default", "aten.softmax.int",
        "aten.cat.default", "aten.chunk.default", "aten.add.Tensor", "<built-in function getitem>",
    }  # fmt: skip


def test_what_does_not_run_here_is_refused() -> None:
    qkv = make_inputs(7, (1, 1, 4, 16), torch.float32)

    with pytest.raises(ValueError, match="'flex' runs on cuda, got cpu"):
        resolve("flex", *qkv)
    with pytest.raises(ValueError, match=r"implementation must be among .*, got 'fast'"):
        resolve("fast", *qkv)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_flex_attention_computes_the_same(form: Form) -> None:
    """Forward and uncompiled, as far as a CPU goes."""
    qkv = make_inputs(8, (2, 2, 33, 10), torch.float64, 3.0)
    q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = qkv

    actual = cross_diffusion(
        FlexAffinity(q_rgb, k_rgb), FlexAffinity(q_aux, k_aux), v_rgb, v_aux,
        alpha=0.3, steps=2, form=form,
    )  # fmt: skip

    expected = attention.cross_diffusion_attention(*qkv, alpha=0.3, steps=2, form=form)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channels_carry_a_bias_in_full_precision(dtype: torch.dtype) -> None:
    """What `sdpa` feeds CUDA, by explicit products on a CPU."""
    q, k, *_ = make_inputs(9, (2, 2, 33, 24), dtype)
    bias = torch.linspace(-3000, 9, 33).expand(2, 2, 33).clone()
    scale = 24**-0.5

    wide_q, wide_k = sdpa.with_key_bias(q, k, bias, scale)

    scores = scale * (wide_q.double() @ wide_k.double().mT)
    expected = scale * (q.double() @ k.double().mT) + bias.double().unsqueeze(-2)
    torch.testing.assert_close(scores, expected, rtol=2e-7, atol=1e-5)


@pytest.mark.parametrize(("dtype", "N", "d"), [(torch.bfloat16, 37, 10), (torch.float32, 64, 8)])
def test_cuda_operators_accept_the_shapes(dtype: torch.dtype, N: int, d: int) -> None:
    """On tensors without values, which need no GPU."""
    with FakeTensorMode():
        q, k, x = (torch.empty(2, 3, N, d, device="cuda", dtype=dtype) for _ in range(3))
        engine = sdpa.CudaEngine()

        out, lse = engine.rows(q, k, x)
        columns = engine.columns(q, k, x, lse)
        gradients = engine.backward(x, q, k, x, out, lse)

    assert lse.shape == (2, 3, N)
    assert lse.dtype == torch.float32
    assert all(each.shape == q.shape for each in (out, columns, *gradients))
    assert all(each.dtype == dtype for each in (out, columns, *gradients))
