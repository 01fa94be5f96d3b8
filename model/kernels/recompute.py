"""Gradients of `P x` and `P^T x` for engines that form `P` again from statistics of its rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass that has no gradient itself and computes in its own precision.

    Autocast, where it is on while gradients are computed, would change the type of some products.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *grads: Tensor) -> Any:
        with torch.autocast(grads[0].device.type, enabled=False):
            return backward(ctx, *grads)

    once: Callable[..., Any] = once_differentiable(run)
    return once


class Engine(Protocol):
    """One way to compute with `P = softmax(q k^T / sqrt(d))`; tensors are (B, heads, N, d)."""

    def rows(self, q: Tensor, k: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`P x`, and what `columns` and `backward` need to know of the rows of scores."""
        ...

    def columns(self, q: Tensor, k: Tensor, x: Tensor, stats: Tensor) -> Tensor:
        """`P^T x`."""
        ...

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, x: Tensor, out: Tensor, stats: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients for q, k and x of `out = P x`, where `grad` is that of `out`."""
        ...


class RecomputedAffinity:
    """`softmax(q k^T / sqrt(d))` on an engine; statistics are kept from the first use."""

    def __init__(self, engine: Engine, q: Tensor, k: Tensor) -> None:
        self.engine = engine
        self.q = q
        self.k = k
        self.stats: Tensor | None = None

    def rows(self, x: Tensor) -> Tensor:
        """`P x`."""
        out: Tensor
        out, self.stats = _Rows.apply(self.engine, self.q, self.k, x)
        return out

    def columns(self, x: Tensor) -> Tensor:
        """`P^T x`."""
        if self.stats is None:
            with torch.no_grad():
                _, self.stats = self.engine.rows(self.q, self.k, self.k)
        out: Tensor = _Columns.apply(self.engine, self.q, self.k, x, self.stats)
        return out


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, engine: Engine, q: Tensor, k: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        out, stats = engine.rows(q, k, x)
        ctx.engine = engine
        ctx.save_for_backward(q, k, x, out, stats)
        ctx.mark_non_differentiable(stats)
        return out, stats

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.engine.backward(grad, *ctx.saved_tensors)


class _Columns(torch.autograd.Function):
    """The gradient of `P` is `x g^T`: that of `P g`, were `x` the gradient of the result."""

    @staticmethod
    def forward(ctx: Any, engine: Engine, q: Tensor, k: Tensor, x: Tensor, stats: Tensor) -> Tensor:
        ctx.engine = engine
        ctx.save_for_backward(q, k, x, stats)
        out: Tensor = engine.columns(q, k, x, stats)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, x, stats = ctx.saved_tensors
        dx, _ = ctx.engine.rows(q, k, grad)
        dq, dk, _ = ctx.engine.backward(x, q, k, grad, dx, stats)
        return None, dq, dk, dx, None
