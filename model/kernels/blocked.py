"""Row blocks of the affinities, each used for everything and dropped: linear memory, any device.

`P^T x` needs row `i` of `P` and of `x` at the same time and nothing else, so one pass over blocks
of rows computes all four outputs from scores that are formed once. A block holds whole rows: its
softmax is exact, and no log-sum-exp has to be carried to a second pass. The backward pass forms
each block again. Scores and sums over blocks are float32, or float64 for float64 inputs. What a
block of bfloat16 inputs multiplies besides is bfloat16, as in the plain form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from model.attention import Mixed
from model.kernels.recompute import first_order

BLOCK_SIZE = 1 << 18
"""Most elements of a block on a CPU, unless LEAST_ROWS makes it larger: 1 MB in float32 stays in
cache while it is used several times; half and twice as many measured alike."""
BLOCK_SIZE_ELSEWHERE = 1 << 24
"""On other devices, where launches cost more than cache misses; not measured."""
LEAST_ROWS = 128
"""Of a block, however many tokens there are; products of fewer rows are slow."""


def cross_diffusion_attention(
    q_rgb: Tensor,
    k_rgb: Tensor,
    v_rgb: Tensor,
    q_aux: Tensor,
    k_aux: Tensor,
    v_aux: Tensor,
    *,
    alpha: float = 0.6,
) -> Mixed:
    """One step of the published form; arguments and result as in `model.attention`."""
    mixed: Mixed = _Fused.apply(q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux, alpha)
    return mixed


class BlockedAffinity:
    """`softmax(q k^T / sqrt(d))`, by blocks of rows."""

    def __init__(self, q: Tensor, k: Tensor) -> None:
        self.q = q
        self.k = k

    def rows(self, x: Tensor) -> Tensor:
        """`P x`."""
        out: Tensor = _Product.apply(self.q, self.k, x, False)
        return out

    def columns(self, x: Tensor) -> Tensor:
        """`P^T x`."""
        out: Tensor = _Product.apply(self.q, self.k, x, True)
        return out


class _Blocks:
    """The blocks of one call, and the memory they share.

    Args:
        like: (B, heads, N, d), an input.
        buffers: how many blocks are held at a time.
    """

    def __init__(self, like: Tensor, buffers: int) -> None:
        B, heads, self.N, self.d = like.shape
        self.total = B * heads
        most = BLOCK_SIZE if like.device.type == "cpu" else BLOCK_SIZE_ELSEWHERE
        self.rows = min(self.N, max(LEAST_ROWS, most // self.N))
        self.heads = min(self.total, max(1, most // (self.rows * self.N)))
        self.sum_dtype = torch.promote_types(like.dtype, torch.float32)
        # Scores in bfloat16 would be off by 0.4 % of themselves. The rest may be: a CPU multiplies
        # it twice as fast as float32, but float16 far slower.
        self.dtype = like.dtype if like.dtype == torch.bfloat16 else self.sum_dtype
        self.scale = self.d**-0.5
        size = self.heads * self.rows * self.N
        # Written in place: a fresh block would cost as much in page faults as in arithmetic.
        scores = size if self.dtype != self.sum_dtype else 0
        self.scores = like.new_empty(scores, dtype=self.sum_dtype)
        self.memory = [like.new_empty(size, dtype=self.dtype) for _ in range(buffers)]

    def head_slices(self) -> Iterator[slice]:
        for start in range(0, self.total, self.heads):
            yield slice(start, min(start + self.heads, self.total))

    def row_slices(self) -> Iterator[slice]:
        for start in range(0, self.N, self.rows):
            yield slice(start, min(start + self.rows, self.N))

    def flat(self, x: Tensor) -> Tensor:
        """(B, heads, N, d) -> (B * heads, N, d)."""
        return x.reshape(self.total, self.N, x.shape[-1])

    def zeros(self, like: Tensor) -> Tensor:
        """To sum over blocks in."""
        return torch.zeros_like(like, dtype=self.sum_dtype)

    def affinity(self, buffer: int, q: Tensor, k: Tensor) -> Tensor:
        """A block of `P`, (heads, rows, N), of a block of q and all of k."""
        exact = self.dtype == self.sum_dtype
        scores = self._block(self.memory[buffer] if exact else self.scores, q)
        q, k = q.to(self.sum_dtype), k.to(self.sum_dtype)
        # beta=0: what was there before is not read.
        torch.baddbmm(scores, q, k.mT, beta=0, alpha=self.scale, out=scores)
        torch.softmax(scores, dim=-1, out=scores)
        return scores if exact else self._block(self.memory[buffer], q).copy_(scores)

    def score_gradient(self, buffer: int, p: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Of the scaled scores, where that of `p` is `left right^T`; (heads, rows, N)."""
        grad = torch.bmm(left, right.mT, out=self._block(self.memory[buffer], left))
        torch.ops.aten._softmax_backward_data.out(grad, p, -1, p.dtype, grad_input=grad)
        return grad

    def _block(self, memory: Tensor, rows: Tensor) -> Tensor:
        shape = (rows.shape[0], rows.shape[1], self.N)
        return memory[: shape[0] * shape[1] * shape[2]].view(shape)


def _add_product(total: Tensor, left: Tensor, right: Tensor, alpha: float = 1.0) -> None:
    """`total += alpha left right`, where the sum may be more precise than the product."""
    if total.dtype == left.dtype:
        total.baddbmm_(left, right, alpha=alpha)
    else:
        total.add_(torch.bmm(left, right), alpha=alpha)


class _Product(torch.autograd.Function):
    """`P x`, or `P^T x` if `transposed`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, x: Tensor, transposed: bool) -> Tensor:
        ctx.save_for_backward(q, k, x)
        ctx.transposed = transposed
        blocks = _Blocks(q, buffers=1)
        q_, k_, x_ = (blocks.flat(each) for each in (q, k, x))
        out = torch.zeros_like(x_)
        for g in blocks.head_slices():
            qg, kg, xg = (each[g].to(blocks.dtype) for each in (q_, k_, x_))
            total = blocks.zeros(xg)
            for i in blocks.row_slices():
                p = blocks.affinity(0, qg[:, i], kg)
                if transposed:
                    _add_product(total, p.mT, xg[:, i])
                else:
                    total[:, i] = p @ xg
            out[g] = total
        return out.view(x.shape)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, x = ctx.saved_tensors
        blocks = _Blocks(q, buffers=2)
        flat = [blocks.flat(each) for each in (q, k, x, grad)]
        dq, dk, dx = (torch.empty_like(each) for each in flat[:3])
        for g in blocks.head_slices():
            qg, kg, xg, gg = (each[g].to(blocks.dtype) for each in flat)
            dkg, dxg = blocks.zeros(kg), blocks.zeros(xg)
            left, right = (xg, gg) if ctx.transposed else (gg, xg)
            for i in blocks.row_slices():
                p = blocks.affinity(0, qg[:, i], kg)
                if ctx.transposed:
                    dxg[:, i] = p @ gg
                else:
                    _add_product(dxg, p.mT, gg[:, i])
                ds = blocks.score_gradient(1, p, left[:, i], right)
                dq[g, i] = (ds @ kg) * blocks.scale
                _add_product(dkg, ds.mT, qg[:, i])
            dk[g], dx[g] = dkg * blocks.scale, dxg
        return dq.view(q.shape), dk.view(k.shape), dx.view(x.shape), None


class _Fused(torch.autograd.Function):
    """All four outputs of one published step in one pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Mixed:
        *qkv, alpha = inputs
        blocks = _Blocks(qkv[0], buffers=2)
        beta = 1 - alpha
        flat = [blocks.flat(each) for each in qkv]
        own = [flat[0].new_empty(flat[0].shape, dtype=blocks.dtype) for _ in range(2)]
        cross = [flat[0].new_zeros(flat[0].shape, dtype=blocks.sum_dtype) for _ in range(2)]
        for g in blocks.head_slices():
            q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = (each[g].to(blocks.dtype) for each in flat)
            for i in blocks.row_slices():
                p_rgb = blocks.affinity(0, q_rgb[:, i], k_rgb)
                p_aux = blocks.affinity(1, q_aux[:, i], k_aux)
                own_rgb = torch.bmm(p_rgb, v_rgb, out=own[0][g, i])
                own_aux = torch.bmm(p_aux, v_aux, out=own[1][g, i])
                for total, p, v, seen in (
                    (cross[0][g], p_rgb, v_aux, own_aux),
                    (cross[1][g], p_aux, v_rgb, own_rgb),
                ):
                    _add_product(total[:, i], p, v, beta)
                    total[:, i].add_(seen, alpha=beta)
                    _add_product(total, p.mT, seen, alpha)
        own_rgb, own_aux, cross_rgb, cross_aux = (
            each.to(qkv[0].dtype).view(qkv[0].shape) for each in (*own, *cross)
        )
        ctx.save_for_backward(*qkv, own_rgb, own_aux)
        ctx.alpha = alpha
        return own_rgb, own_aux, cross_rgb, cross_aux

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of a row of `P` is a sum of three products.

        For `rgb`,

        (gradient of own_rgb in all its uses) v_rgb^T
            + (1 - alpha) (gradient of cross_rgb) v_aux^T
            + alpha own_aux (gradient of cross_rgb)^T.
        """
        alpha, beta = ctx.alpha, 1 - ctx.alpha
        saved = ctx.saved_tensors
        blocks = _Blocks(saved[0], buffers=3)
        d = blocks.d
        flat = [blocks.flat(each) for each in (*saved, *grads)]
        result = [torch.empty_like(flat[0]) for _ in range(6)]
        for g in blocks.head_slices():
            (
                q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux, own_rgb, own_aux,
                g_own_rgb, g_own_aux, g_cross_rgb, g_cross_aux,
            ) = (each[g].to(blocks.dtype) for each in flat)  # fmt: skip
            right_rgb = torch.cat((v_rgb, v_aux, g_cross_rgb), dim=-1)
            right_aux = torch.cat((v_aux, v_rgb, g_cross_aux), dim=-1)
            dk_rgb, dk_aux = blocks.zeros(k_rgb), blocks.zeros(k_aux)
            # Gradients of the values, as each affinity sees them: its own modality's first.
            dv_rgb, dv_aux = (blocks.zeros(right_rgb[..., : 2 * d]) for _ in range(2))
            for i in blocks.row_slices():
                p_rgb = blocks.affinity(0, q_rgb[:, i], k_rgb)
                p_aux = blocks.affinity(1, q_aux[:, i], k_aux)
                b_rgb, b_aux = beta * g_cross_rgb[:, i], beta * g_cross_aux[:, i]
                to_rgb = torch.baddbmm(g_own_rgb[:, i] + b_aux, p_aux, g_cross_aux, alpha=alpha)
                to_aux = torch.baddbmm(g_own_aux[:, i] + b_rgb, p_rgb, g_cross_rgb, alpha=alpha)
                for p, left, right, q, k, dq, dk, dv in (
                    (p_rgb, (to_rgb, b_rgb, alpha * own_aux[:, i]), right_rgb,
                     q_rgb, k_rgb, result[0], dk_rgb, dv_rgb),
                    (p_aux, (to_aux, b_aux, alpha * own_rgb[:, i]), right_aux,
                     q_aux, k_aux, result[3], dk_aux, dv_aux),
                ):  # fmt: skip
                    wide = torch.cat(left, dim=-1)
                    _add_product(dv, p.mT, wide[..., : 2 * d])
                    ds = blocks.score_gradient(2, p, wide, right)
                    dq[g, i] = (ds @ k) * blocks.scale
                    _add_product(dk, ds.mT, q[:, i])
            result[1][g], result[4][g] = dk_rgb * blocks.scale, dk_aux * blocks.scale
            result[2][g] = dv_rgb[..., :d] + dv_aux[..., d:]
            result[5][g] = dv_aux[..., :d] + dv_rgb[..., d:]
        return *(each.view(saved[0].shape) for each in result), None
