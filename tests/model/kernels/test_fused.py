"""The Triton kernels in Triton's interpreter, which stands in for a GPU."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model import attention
from model.kernels import compose, dispatch
from tests.model.kernels.accuracy import assert_as_exact_as_plain, make_inputs, results

triton = pytest.importorskip("triton")
fused = pytest.importorskip("model.kernels.fused")

ROOT = Path(__file__).parents[3]
if not triton.knobs.runtime.interpret:
    pytest.skip("a GPU is there; tests marked gpu use it", allow_module_level=True)

LAUNCHES = {"single launch": 288, "two launches": 0}


@pytest.fixture(params=LAUNCHES)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Both ways to launch, with tiles of 16 so that few tokens fill several and leave a tail."""
    monkeypatch.setattr(fused, "SINGLE_LAUNCH_TOKENS", LAUNCHES[request.param])
    return functools.partial(fused.cross_diffusion_attention, tile=16)


def composed(*qkv: torch.Tensor, **options: Any) -> Any:
    q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = qkv
    p_rgb, p_aux = fused.affinity(q_rgb, k_rgb, 16), fused.affinity(q_aux, k_aux, 16)
    return compose.cross_diffusion(p_rgb, p_aux, v_rgb, v_aux, **options)


# 19 tokens: a full tile and a tail; 5 channels: most of a tile is padding.
@pytest.mark.parametrize(("shape", "alpha"), [((1, 2, 19, 5), 0.3), ((2, 1, 16, 24), 0.6)])
def test_outputs_and_gradients_in_float64(
    kernels: Callable[..., Any], shape: tuple[int, int, int, int], alpha: float
) -> None:
    qkv = make_inputs(0, shape, torch.float64, 3.0)

    actual = results(kernels, qkv, alpha=alpha)

    expected = results(attention.cross_diffusion_attention, qkv, alpha=alpha)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "logit_scale"),
    [(torch.float32, 30.0), (torch.float16, 1.0), (torch.bfloat16, 1.0)],
    ids=str,
)
def test_errors_are_at_most_twice_the_plain_forms(
    kernels: Callable[..., Any], dtype: torch.dtype, logit_scale: float
) -> None:
    qkv = make_inputs(1, (1, 1, 35, 8), dtype, logit_scale)

    # The interpreter rounds to bfloat16 towards zero, so twice as far as a GPU does.
    rtol = torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0.0
    assert_as_exact_as_plain(kernels, qkv, rtol=rtol, alpha=0.6)


@pytest.mark.parametrize(("steps", "form"), [(1, "paper"), (2, "published")])
def test_other_forms_and_more_steps(steps: int, form: str) -> None:
    qkv = make_inputs(2, (1, 1, 19, 4), torch.float64, 3.0)
    options: dict[str, Any] = {"alpha": 0.3, "steps": steps, "form": form}

    actual = results(composed, qkv, **options)

    expected = results(attention.cross_diffusion_attention, qkv, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


def test_tails_stay_out_of_rows_whose_scores_are_very_negative(kernels: Callable[..., Any]) -> None:
    """A score of 0, as beyond the last token, would be larger than all others by 200."""
    qkv = make_inputs(8, (1, 1, 19, 5), torch.float32)
    for i in (0, 3):
        qkv[i], qkv[i + 1] = qkv[i] / 10 + 10, qkv[i + 1] - 10

    assert_as_exact_as_plain(kernels, qkv, alpha=0.6)


def test_gradients_are_exact() -> None:
    qkv = [x.requires_grad_() for x in make_inputs(3, (1, 1, 3, 2), torch.float64)]

    assert torch.autograd.gradcheck(
        lambda *leaves: fused.cross_diffusion_attention(*leaves, alpha=0.3, tile=16),
        qkv,
        fast_mode=True,
    )


def test_one_token_and_unequal_strides(kernels: Callable[..., Any]) -> None:
    qkv = make_inputs(4, (1, 1, 1, 8), torch.float32)
    qkv[2] = qkv[2].clone(memory_format=torch.contiguous_format)

    assert_as_exact_as_plain(kernels, qkv, alpha=0.6)


@torch.no_grad()
def test_repeated_runs_are_equal(kernels: Callable[..., Any]) -> None:
    qkv = make_inputs(5, (1, 1, 19, 8), torch.float32)

    torch.testing.assert_close(kernels(*qkv), kernels(*qkv), rtol=0, atol=0)


@torch.no_grad()
def test_the_dispatcher_reaches_the_kernels() -> None:
    qkv = make_inputs(6, (1, 1, 9, 8), torch.float32)

    actual = dispatch.cross_diffusion_attention(*qkv, implementation="triton")

    torch.testing.assert_close(actual, attention.cross_diffusion_attention(*qkv))


def test_wide_heads_are_refused() -> None:
    qkv = make_inputs(7, (1, 1, 2, 136), torch.float32)

    with pytest.raises(ValueError, match=r"d up to 128 in .*, got 136 in torch.float32"):
        fused.cross_diffusion_attention(*qkv)


COMPILE = """
import triton.language as tl
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from model.kernels import triton_code

D, size, warps, kind = {D}, {size}, {warps}, "{kind}"
known = dict(D=D, DP=max(16, D), BM=size, BN=size, PAIR=True, MIX=True, ACC=tl.float32,
             WIDE=False, scale=D**-0.5)
numbers = dict.fromkeys(("sb", "sh", "sn", "heads", "N"), "i32") | {{"alpha": "fp32"}}
sums = ("largest", "total", "delta", "dx", "dy")
for name in ("rows", "columns", "small", "grad_q", "grad_kv"):
    kernel = getattr(triton_code, name + "_kernel")
    signature, constants = {{}}, {{}}
    for i, p in enumerate(kernel.params):
        if p.is_constexpr:
            signature[p.name], constants[(i,)] = "constexpr", known[p.name]
        else:
            pointer = "*fp32" if p.name.split("_")[0] in sums else "*" + kind
            signature[p.name] = numbers.get(p.name, pointer)
    built = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", {arch}, 32),
                    options=dict(num_warps=warps, num_stages=2))
    assert built.metadata.shared <= {shared}, (name, built.metadata.shared)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "D", "size", "warps"),
    [("bf16", 8, 64, 4), ("bf16", 64, 64, 4), ("fp16", 128, 64, 8), ("fp32", 128, 32, 8)],
)
@pytest.mark.parametrize(("arch", "shared"), [(80, 163_000), (90, 227_000)])
def test_kernels_compile_for_a_gpu(
    kind: str, D: int, size: int, warps: int, arch: int, shared: int
) -> None:
    """To machine code, within the shared memory of a block; needs no GPU."""
    code = COMPILE.format(kind=kind, D=D, size=size, warps=warps, arch=arch, shared=shared)

    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, env={"PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT), "HOME": str(Path.home())},
    )  # fmt: skip
