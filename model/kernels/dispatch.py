"""One entry to every implementation of cross-diffusion attention; the plain one is the reference.

| implementation | where | what it is |
|---|---|---|
| `plain` | anywhere | `model.attention`: explicit N x N matrices; always taken while exporting |
| `blocked` | anywhere | blocks of rows, one pass |
| `sdpa` | CPU, CUDA | PyTorch's fused attention, and the swapped one |
| `flex` | CUDA | FlexAttention, compiled |
| `triton` | CUDA | own kernels |
| `auto` | anywhere | the fastest as measured, see `choose` |

All but `plain` have memory linear in N, forward and backward. What needs more than PyTorch on a CPU
is imported where it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import get_args

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from model import attention
from model.attention import Mixed
from model.config import Form, Implementation
from model.kernels import blocked, sdpa
from model.kernels.choose import choose
from model.kernels.compose import Affinity, cross_diffusion

DEVICES = {"sdpa": ("cpu", "cuda"), "flex": ("cuda",), "triton": ("cuda",)}
"""Where an implementation runs; the others run anywhere."""


def cross_diffusion_attention(
    q_rgb: Tensor,
    k_rgb: Tensor,
    v_rgb: Tensor,
    q_aux: Tensor,
    k_aux: Tensor,
    v_aux: Tensor,
    *,
    alpha: float = 0.6,
    steps: int = 1,
    form: Form = "published",
    implementation: Implementation = "auto",
) -> Mixed:
    """What `model.attention.cross_diffusion_attention` computes; arguments and result as there.

    Args:
        q_rgb: queries of `rgb`; this and all that follow are (B, heads, N, d), float.
        k_rgb: keys of `rgb`.
        v_rgb: values of `rgb`.
        q_aux: queries of `aux`.
        k_aux: keys of `aux`.
        v_aux: values of `aux`.
        alpha: weight of the diffused affinity against the prior.
        steps: diffusion steps.
        form: `published` or `paper`.
        implementation: how it is computed; see above.

    Raises:
        ValueError: an argument is outside its range, shapes differ, or the implementation does
            not run on this device.
    """
    qkv = (q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux)
    attention.check_inputs(*qkv, alpha=alpha, steps=steps, form=form)
    chosen = resolve(implementation, *qkv)
    if chosen == "plain":
        return attention.cross_diffusion_attention(*qkv, alpha=alpha, steps=steps, form=form)
    cast, quiet = _autocast(*qkv)
    with quiet:
        if form == "published" and steps == 1:
            if chosen == "blocked":
                return blocked.cross_diffusion_attention(*cast, alpha=alpha)
            if chosen == "triton":
                from model.kernels import fused

                return fused.cross_diffusion_attention(*cast, alpha=alpha)
        q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = cast
        affinity = _affinity(chosen)
        return cross_diffusion(
            affinity(q_rgb, k_rgb), affinity(q_aux, k_aux), v_rgb, v_aux,
            alpha=alpha, steps=steps, form=form,
        )  # fmt: skip


def self_attention(
    q: Tensor, k: Tensor, v: Tensor, *, implementation: Implementation = "auto"
) -> Tensor:
    """`softmax(q k^T / sqrt(d)) v`; all (B, heads, N, d).

    Where cross-diffusion attention would not be plain, this is PyTorch's own.
    """
    if resolve(implementation, q, k, v) == "plain":
        return attention.affinity(q, k) @ v
    return F.scaled_dot_product_attention(q, k, v)


def resolve(implementation: Implementation, *tensors: Tensor) -> Implementation:
    """What runs for these tensors: never `auto`, and `plain` while a graph is exported.

    Raises:
        ValueError: unknown, or it does not run on the tensors' device.
    """
    known = get_args(Implementation)
    if implementation not in known:
        raise ValueError(f"implementation must be among {known}, got {implementation!r}")
    like = tensors[0]
    exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    if exporting or 0 in like.shape:
        return "plain"
    if implementation == "auto":
        return choose(
            like.device.type,
            str(_computed_dtype(like)).removeprefix("torch."),
            like.shape[-2],
            like.shape[-1],
            backward=torch.is_grad_enabled() and any(each.requires_grad for each in tensors),
        )
    devices = DEVICES.get(implementation)
    stood_in = implementation == "triton" and interpreted()
    if devices and like.device.type not in devices and not stood_in:
        raise ValueError(f"{implementation!r} runs on {' and '.join(devices)}, got {like.device}")
    return implementation


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU."""
    try:
        import triton
    except ImportError:  # no wheel for this platform
        return False
    return bool(triton.knobs.runtime.interpret)


def _affinity(implementation: Implementation) -> Callable[[Tensor, Tensor], Affinity]:
    if implementation == "blocked":
        return blocked.BlockedAffinity
    if implementation == "sdpa":
        return sdpa.affinity
    if implementation == "flex":
        from model.kernels.flex import FlexAffinity

        return FlexAffinity
    from model.kernels import fused

    return fused.affinity


def _computed_dtype(like: Tensor) -> torch.dtype:
    """What autocast makes of the inputs of a matrix product."""
    device = like.device.type
    if torch.is_autocast_enabled(device) and like.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return like.dtype


def _autocast(
    *tensors: Tensor,
) -> tuple[Sequence[Tensor], contextlib.AbstractContextManager[object]]:
    """The tensors as autocast would hand them to a matrix product, and a context without it."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors, contextlib.nullcontext()
    dtype = _computed_dtype(tensors[0])
    return [each.to(dtype) for each in tensors], torch.autocast(device, enabled=False)
