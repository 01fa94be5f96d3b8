"""Cross-diffusion attention by Triton kernels: tile sizes, launches and gradients.

Checked in Triton's interpreter on a CPU; not yet run on a GPU, so tile sizes are estimates.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.attention import Mixed
from model.kernels import triton_code
from model.kernels.recompute import RecomputedAffinity, first_order

SINGLE_LAUNCH_TOKENS = 288
"""Up to this many tokens one launch does everything: q, k and v of a head stay in cache."""
LARGEST_D = 128
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def cross_diffusion_attention(
    q_rgb: Tensor,
    k_rgb: Tensor,
    v_rgb: Tensor,
    q_aux: Tensor,
    k_aux: Tensor,
    v_aux: Tensor,
    *,
    alpha: float = 0.6,
    tile: int | None = None,
) -> Mixed:
    """One step of the published form; arguments and result as in `model.attention`.

    Args:
        q_rgb: queries of `rgb`; this and all that follow are (B, heads, N, d), d at most 128.
        k_rgb: keys of `rgb`.
        v_rgb: values of `rgb`.
        q_aux: queries of `aux`.
        k_aux: keys of `aux`.
        v_aux: values of `aux`.
        alpha: weight of the diffused affinity.
        tile: rows and keys of a tile, a power of two from 16; chosen by d and dtype if None.
    """
    mixed: Mixed = _Fused.apply(q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux, alpha, tile)
    return mixed


def affinity(q: Tensor, k: Tensor, tile: int | None = None) -> RecomputedAffinity:
    """`softmax(q k^T / sqrt(d))` of one modality, for other forms and more steps."""
    return RecomputedAffinity(_SingleEngine(tile), q, k)


class _Launch:
    """What all kernels of one call share."""

    def __init__(self, like: Tensor, tile: int | None) -> None:
        self.B, self.heads, self.N, self.d = like.shape
        if self.d > LARGEST_D or like.dtype not in DTYPES:
            raise ValueError(
                f"the triton kernels take d up to {LARGEST_D} in {DTYPES}, "
                f"got {self.d} in {like.dtype}"
            )
        wide = like.dtype.itemsize > 2
        padded = max(16, triton.next_power_of_2(self.d))
        size = tile or (32 if wide and padded > 32 else 64)
        self.acc_dtype = torch.promote_types(like.dtype, torch.float32)
        # Both are known at compilation: rounding them to float32 would show in float64.
        self.scale = self.d**-0.5
        self.options: dict[str, Any] = {
            "D": self.d,
            "DP": padded,
            "BM": size,
            "BN": size,
            "ACC": tl.float64 if like.dtype == torch.float64 else tl.float32,
            "WIDE": triton.knobs.runtime.interpret and like.dtype == torch.bfloat16,
            "num_warps": 8 if padded > 64 else 4,
            "num_stages": 2,
        }
        self.tiles = triton.cdiv(self.N, size)

    def strided(self, *tensors: Tensor) -> tuple[list[Tensor], tuple[Any, ...]]:
        """The tensors with strides in common, and the kernels' arguments that give them."""
        strides = tensors[0].stride()
        if strides[-1] != 1 or any(each.stride() != strides for each in tensors):
            tensors = tuple(each.contiguous() for each in tensors)
            # Contiguity says nothing of a dimension of size 1; say it.
            strides = (self.heads * self.N * self.d, self.N * self.d, self.d, 1)
        return list(tensors), (*strides[:3], self.heads, self.N, self.scale)

    def stats(self, like: Tensor) -> Tensor:
        """For maximum and sum of each row: (2, B, heads, N)."""
        return like.new_empty((2, self.B, self.heads, self.N), dtype=self.acc_dtype)

    def empty(self, like: Tensor, count: int, dtype: torch.dtype | None = None) -> list[Tensor]:
        shape = (self.B, self.heads, self.N, self.d)
        return [like.new_empty(shape, dtype=dtype or like.dtype) for _ in range(count)]


class _SingleEngine:
    """One modality at a time; the second halves of the kernels' arguments are never read."""

    def __init__(self, tile: int | None) -> None:
        self.tile = tile

    def rows(self, q: Tensor, k: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`P x`, and maximum and sum of the rows of scores."""
        launch = _Launch(q, self.tile)
        (q, k, x), shared = launch.strided(q, k, x)
        (out,), stats = launch.empty(q, 1), launch.stats(q)
        one = (q, k, x, x, out, out, *stats)
        grid = (launch.tiles, launch.B * launch.heads, 1)
        triton_code.rows_kernel[grid](*one, *one, *shared, PAIR=False, **launch.options)
        return out, stats

    def columns(self, q: Tensor, k: Tensor, x: Tensor, stats: Tensor) -> Tensor:
        """`P^T x`."""
        launch = _Launch(q, self.tile)
        (q, k), shared = launch.strided(q, k)
        (out,) = launch.empty(q, 1)
        one = (q, k, x.contiguous(), out, out, *stats)
        grid = (launch.tiles, launch.B * launch.heads, 1)
        triton_code.columns_kernel[grid](*one, *one, *shared, 1.0, MIX=False, **launch.options)
        return out

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, x: Tensor, out: Tensor, stats: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients for q, k and x of `out = P x`."""
        launch = _Launch(q, self.tile)
        (q, k, x), shared = launch.strided(q, k, x)
        grad = grad.contiguous()
        dq, dk, dx = launch.empty(q, 3)
        given = (q, k, x, x, grad, grad, grad, grad, _row_sums((grad, out)), *stats)
        grid = (launch.tiles, launch.B * launch.heads)
        options = {"MIX": False, **launch.options}
        triton_code.grad_q_kernel[grid](*given, dq, *shared, 1.0, **options)
        triton_code.grad_kv_kernel[grid](*given, dk, dx, dx, *shared, 1.0, **options)
        return dq, dk, dx


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Mixed:
        *qkv, alpha, tile = inputs
        launch = _Launch(qkv[0], tile)
        (q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux), shared = launch.strided(*qkv)
        own_rgb, own_aux, cross_rgb, cross_aux, prior_rgb, prior_aux = launch.empty(q_rgb, 6)
        stats_rgb, stats_aux = launch.stats(q_rgb), launch.stats(q_rgb)
        if launch.N <= SINGLE_LAUNCH_TOKENS:
            triton_code.small_kernel[(launch.B * launch.heads,)](
                q_rgb, k_rgb, v_rgb, own_rgb, prior_rgb, cross_rgb, *stats_rgb,
                q_aux, k_aux, v_aux, own_aux, prior_aux, cross_aux, *stats_aux,
                *shared, alpha, **launch.options,
            )  # fmt: skip
        else:
            grid = (launch.tiles, launch.B * launch.heads, 2)
            triton_code.rows_kernel[grid](
                q_rgb, k_rgb, v_rgb, v_aux, own_rgb, prior_rgb, *stats_rgb,
                q_aux, k_aux, v_aux, v_rgb, own_aux, prior_aux, *stats_aux,
                *shared, PAIR=True, **launch.options,
            )  # fmt: skip
            triton_code.columns_kernel[grid](
                q_rgb, k_rgb, own_aux, prior_rgb, cross_rgb, *stats_rgb,
                q_aux, k_aux, own_rgb, prior_aux, cross_aux, *stats_aux,
                *shared, alpha, MIX=True, **launch.options,
            )  # fmt: skip
        ctx.save_for_backward(*qkv, own_rgb, own_aux, stats_rgb, stats_aux)
        ctx.alpha, ctx.tile = alpha, tile
        return own_rgb, own_aux, cross_rgb, cross_aux

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """As in `blocked`: the gradient of a row of `P` is a sum of three products."""
        *qkv, own_rgb, own_aux, stats_rgb, stats_aux = ctx.saved_tensors
        alpha, launch = ctx.alpha, _Launch(qkv[0], ctx.tile)
        g_own_rgb, g_own_aux, g_cross_rgb, g_cross_aux = (each.contiguous() for each in grads)
        # The first kernel reads values and gradients with the same strides.
        q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = (each.contiguous() for each in qkv)
        _, shared = launch.strided(q_rgb)
        carried_rgb, prior_rgb, carried_aux, prior_aux = launch.empty(q_rgb, 4)
        unused_rgb, unused_aux = launch.stats(q_rgb), launch.stats(q_rgb)
        triton_code.rows_kernel[(launch.tiles, launch.B * launch.heads, 2)](
            q_rgb, k_rgb, g_cross_rgb, v_aux, carried_rgb, prior_rgb, *unused_rgb,
            q_aux, k_aux, g_cross_aux, v_rgb, carried_aux, prior_aux, *unused_aux,
            *shared, PAIR=True, **launch.options,
        )  # fmt: skip
        to_rgb = g_own_rgb + (1 - alpha) * g_cross_aux + alpha * carried_aux
        to_aux = g_own_aux + (1 - alpha) * g_cross_rgb + alpha * carried_rgb

        def one(
            q: Tensor, k: Tensor, v: Tensor, v_other: Tensor, stats: Tensor, own: Tensor,
            own_other: Tensor, to: Tensor, g_cross: Tensor, prior: Tensor, carried: Tensor,
        ) -> tuple[Tensor, ...]:  # fmt: skip
            delta = _row_sums(
                (to, own), (g_cross, (1 - alpha) * prior), (own_other, alpha * carried)
            )
            given = (q, k, v, v_other, to, g_cross, own_other, g_cross, delta, *stats)
            dq, dk = launch.empty(q, 2)
            dx, dy = launch.empty(q, 2, launch.acc_dtype)
            grid = (launch.tiles, launch.B * launch.heads)
            options = {"MIX": True, **launch.options}
            triton_code.grad_q_kernel[grid](*given, dq, *shared, alpha, **options)
            triton_code.grad_kv_kernel[grid](*given, dk, dx, dy, *shared, alpha, **options)
            return dq, dk, dx, dy

        dq_rgb, dk_rgb, dx_rgb, dy_rgb = one(
            q_rgb, k_rgb, v_rgb, v_aux, stats_rgb, own_rgb,
            own_aux, to_rgb, g_cross_rgb, prior_rgb, carried_rgb,
        )  # fmt: skip
        dq_aux, dk_aux, dx_aux, dy_aux = one(
            q_aux, k_aux, v_aux, v_rgb, stats_aux, own_aux,
            own_rgb, to_aux, g_cross_aux, prior_aux, carried_aux,
        )  # fmt: skip
        dv_rgb, dv_aux = (dx_rgb + dy_aux).to(q_rgb.dtype), (dx_aux + dy_rgb).to(q_rgb.dtype)
        return dq_rgb, dk_rgb, dv_rgb, dq_aux, dk_aux, dv_aux, None, None


def _row_sums(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Sum over pairs and channels of their products, at least float32 (B, heads, N)."""
    dtype = torch.promote_types(pairs[0][0].dtype, torch.float32)
    rows = [(one.to(dtype) * other.to(dtype)).sum(dim=-1) for one, other in pairs]
    return torch.stack(rows).sum(dim=0) if len(rows) > 1 else rows[0]
