"""FlexAttention on CUDA: scores with `-lse` of the row as a score modification, both compiled.

`P^T x` is the swapped attention of `sdpa`, with the bias in the kernel. PyTorch has its gradients:
log-sum-exp is differentiable there. Those for `lse` are summed by atomic additions, so repeated
backward runs may differ in the last bits. Not yet run on a GPU; on a CPU, which has no backward
pass for it, tests check the forward algebra.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

SMALLEST_D = 16
"""CUDA refuses narrower heads; they are padded."""


class FlexAffinity:
    """`softmax(q k^T / sqrt(d))`; the log-sum-exp of its rows is kept from the first use."""

    def __init__(self, q: Tensor, k: Tensor) -> None:
        self.d = q.shape[-1]
        self.q, self.k = _padded(q), _padded(k)
        self.scale = self.d**-0.5
        self.lse: Tensor | None = None

    def rows(self, x: Tensor) -> Tensor:
        """`P x`."""
        out, self.lse = self._run(_rows, self.q, self.k, _padded(x), self.scale)
        return _cut(out, self.d)

    def columns(self, x: Tensor) -> Tensor:
        """`P^T x`."""
        if self.lse is None:
            self.rows(x)
        out = self._run(_columns, self.q, self.k, _padded(x), self.lse, self.scale)
        return _cut(out, self.d)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return (_compiled(function) if self.q.is_cuda else function)(*args)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def _rows(q: Tensor, k: Tensor, x: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, aux = flex_attention(q, k, x, scale=scale, return_aux=AuxRequest(lse=True))
    assert aux.lse is not None  # noqa: S101 - asked for
    return out, aux.lse


def _columns(q: Tensor, k: Tensor, x: Tensor, lse: Tensor, scale: float) -> Tensor:
    def logarithm_of_p(
        score: Tensor, b: Tensor, head: Tensor, _key: Tensor, query: Tensor
    ) -> Tensor:
        return score - lse[b, head, query]

    out, aux = flex_attention(
        k, q, x, score_mod=logarithm_of_p, scale=scale, return_aux=AuxRequest(lse=True)
    )
    assert aux.lse is not None  # noqa: S101 - asked for
    return (out * aux.lse.exp().unsqueeze(-1)).to(x.dtype)


def _cut(x: Tensor, d: int) -> Tensor:
    return x[..., :d]


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, (0, max(0, SMALLEST_D - x.shape[-1])))
