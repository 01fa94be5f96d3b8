"""Cross-diffusion attention in any form and number of steps, from `P x` and `P^T x` alone."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from model.attention import Mixed
from model.config import Form


class Affinity(Protocol):
    """A row-softmax affinity `P` that is never formed; x is (B, heads, N, d)."""

    def rows(self, x: Tensor) -> Tensor:
        """`P x`."""
        ...

    def columns(self, x: Tensor) -> Tensor:
        """`P^T x`."""
        ...


def cross_diffusion(
    p_rgb: Affinity,
    p_aux: Affinity,
    v_rgb: Tensor,
    v_aux: Tensor,
    *,
    alpha: float,
    steps: int,
    form: Form,
) -> Mixed:
    """What `model.attention.cross_diffusion_attention` computes, options as there."""
    own_rgb, own_aux = p_rgb.rows(v_rgb), p_aux.rows(v_aux)
    cross_rgb = _diffuse(p_rgb, p_aux, v_aux, own_aux, alpha, steps, form)
    cross_aux = _diffuse(p_aux, p_rgb, v_rgb, own_rgb, alpha, steps, form)
    return own_rgb, own_aux, cross_rgb, cross_aux


def _diffuse(
    p_to: Affinity,
    p_from: Affinity,
    v_from: Tensor,
    own_from: Tensor,
    alpha: float,
    steps: int,
    form: Form,
) -> Tensor:
    """Horner's scheme of `model.attention`; `own_from` is `P_from v_from`, at hand."""
    published = form == "published"
    inner, seen = v_from, own_from
    priors = []
    for step in range(steps):
        if step > 0:
            seen = p_from.rows(inner)
        priors.append(p_to.rows(inner) + seen)
        inner = seen if published else p_from.columns(inner)
    out = inner
    for prior in reversed(priors):
        carried = p_to.columns(out) if published else p_to.rows(out)
        out = alpha * carried + (1 - alpha) * prior
    return out
