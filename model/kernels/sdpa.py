"""PyTorch's fused attention operators: linear memory on CPU and CUDA.

`P^T x` is the swapped attention: queries meet as keys, each with the bias `-lse` of its row, so the
logits are logarithms of `P`. The operator normalises over them; `exp` of its own log-sum-exp undoes
that. The bias goes into channels of q and k: as a mask, CUDA would round it to 16 bits. Operators
that answer log-sum-exp have no public name; these are ATen's.

Precision: `lse` is one number as large as the largest logit, so `P^T x` carries its rounding,
about 1e-7 of the largest logit in float32, even in rows where the plain softmax is exact.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from model.kernels.recompute import RecomputedAffinity

aten = torch.ops.aten


def affinity(q: Tensor, k: Tensor) -> RecomputedAffinity:
    """`softmax(q k^T / sqrt(d))` on the device of `q`."""
    return RecomputedAffinity(CudaEngine() if q.is_cuda else CpuEngine(), q, k)


class CpuEngine:
    """The CPU's flash attention: any d, float64 to float16."""

    def rows(self, q: Tensor, k: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`P x` and log-sum-exp, float (B, heads, N)."""
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, x)
        return out, lse

    def columns(self, q: Tensor, k: Tensor, x: Tensor, stats: Tensor) -> Tensor:
        """`P^T x`."""
        d, scale = q.shape[-1], q.shape[-1] ** -0.5
        wide_k, wide_q = with_key_bias(k, q, -stats, scale)
        # It wants values as wide as keys.
        wide_x = F.pad(x, (0, wide_q.shape[-1] - d))
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            wide_k, wide_q, wide_x, scale=scale
        )
        return _unnormalised(out[..., :d], lse, x.dtype)

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, x: Tensor, out: Tensor, stats: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients for q, k and x of `out = P x`."""
        dq, dk, dx = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, x, out, stats, 0.0, False
        )
        return dq, dk, dx


class CudaEngine:
    """CUDA's memory-efficient attention: float32 to float16; d is padded to a multiple of 8.

    Not yet run on a GPU; tests check the shapes, and the channels on a CPU.
    """

    def rows(self, q: Tensor, k: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`P x` and log-sum-exp, float32 (B, heads, N)."""
        return self._attend(q, k, x, q.shape[-1] ** -0.5)

    def columns(self, q: Tensor, k: Tensor, x: Tensor, stats: Tensor) -> Tensor:
        """`P^T x`."""
        scale = q.shape[-1] ** -0.5
        out, lse = self._attend(*with_key_bias(k, q, -stats, scale), x, scale)
        return _unnormalised(out, lse, x.dtype)

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, x: Tensor, out: Tensor, stats: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients for q, k and x of `out = P x`."""
        d, N = q.shape[-1], q.shape[-2]
        # The operator reads log-sum-exp in rows of a multiple of 32.
        lse = F.pad(stats, (0, -N % 32), value=math.inf)
        unused = torch.zeros((), dtype=torch.int64, device=q.device)
        gradients = aten._scaled_dot_product_efficient_attention_backward(
            *(_padded(each) for each in (grad, q, k, x)), None, _padded(out), lse, unused, unused,
            0.0, [True, True, True, False], scale=d**-0.5,
        )  # fmt: skip
        dq, dk, dx = (each[..., :d] for each in gradients[:3])
        return dq, dk, dx

    @staticmethod
    def _attend(q: Tensor, k: Tensor, x: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        out, lse, *_ = aten._scaled_dot_product_efficient_attention(
            _padded(q), _padded(k), _padded(x), None, True, scale=scale
        )
        return out[..., : x.shape[-1]], lse[..., : q.shape[-2]]


def with_key_bias(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Wider q and k with `scale q' k'^T = scale q k^T + bias`.

    One channel holds the bias; three, where they have 16 bits, hold it to float32's precision: the
    value, what rounding it left, and what rounding that left.

    Args:
        q: (B, heads, N, d).
        k: (B, heads, N, d).
        bias: of each key, at least float32 (B, heads, N).
        scale: of the scores.
    """
    # A power of two near 1 / scale keeps the channels as small as the bias, and exact.
    factor = 2.0 ** math.ceil(math.log2(1 / scale))
    rest = bias / (scale * factor)
    channels = []
    for _ in range(3 if k.dtype.itemsize == 2 else 1):
        channels.append(rest.to(k.dtype))
        rest = rest - channels[-1].to(rest.dtype)
    ones = q.new_full((*q.shape[:-1], len(channels)), factor)
    return torch.cat((q, ones), dim=-1), torch.cat((k, torch.stack(channels, dim=-1)), dim=-1)


def _unnormalised(out: Tensor, lse: Tensor, dtype: torch.dtype) -> Tensor:
    """An attention's output before it was divided by the sums of its rows."""
    return (out * lse.exp().unsqueeze(-1)).to(dtype)


def _padded(x: Tensor) -> Tensor:
    """Zero channels up to a multiple of 8: the operator reads 16 bytes at a time."""
    return F.pad(x, (0, -x.shape[-1] % 8))
