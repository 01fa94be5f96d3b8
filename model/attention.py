"""Cross-diffusion attention: each modality reads the other through both affinities.

Shapes: B batch, heads, N tokens, d head width. `rgb` is the colour image, `aux` its partner.
`P_rgb` and `P_aux` are the row-softmax affinities of each modality with itself. Everything is
computed as products of an affinity with values: no product of two affinities is ever formed.

Source: Wang et al., "MutualFormer", IJCV 2024, doi:10.1007/s11263-024-02067-x, and its code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import Form

Mixed = tuple[Tensor, Tensor, Tensor, Tensor]
"""`own_rgb, own_aux, cross_rgb, cross_aux`, each (B, heads, N, d)."""


def affinity(q: Tensor, k: Tensor) -> Tensor:
    """Row-softmax of scaled dot products: `softmax(q k^T / sqrt(d))`.

    Args:
        q: (B, heads, N, d).
        k: (B, heads, N, d).

    Returns:
        (B, heads, N, N); rows sum to 1.
    """
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1)


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
) -> Mixed:
    """Self-attention of each modality, and the diffused reading of one through the other.

    With `Y = P_rgb + P_aux` and `A_0 = I`, one diffusion step towards `rgb` is

        A_t = alpha S_rgb A_{t-1} S_aux^T + (1 - alpha) Y,    cross_rgb = A_steps v_aux

    and the same with the modalities swapped towards `aux`. `form="published"` uses `S = P^T`, as
    the authors' code computes it; `form="paper"` uses `S = P`, as their figure draws it.

    Departure: the authors' loop never feeds `A` back, so their result is `steps=1` for any
    number of iterations; here `steps` diffuses.

    Args:
        q_rgb: queries of `rgb`; this and all that follow are (B, heads, N, d), float.
        k_rgb: keys of `rgb`.
        v_rgb: values of `rgb`.
        q_aux: queries of `aux`.
        k_aux: keys of `aux`.
        v_aux: values of `aux`.
        alpha: weight of the diffused affinity against the prior `Y`, in [0, 1].
        steps: diffusion steps, at least 1.
        form: `published` or `paper`.

    Returns:
        own_rgb: `P_rgb v_rgb`, (B, heads, N, d).
        own_aux: `P_aux v_aux`.
        cross_rgb: what `rgb` reads of `v_aux`.
        cross_aux: what `aux` reads of `v_rgb`.

    Raises:
        ValueError: an argument is outside its range, or shapes differ.
    """
    check_inputs(q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux, alpha=alpha, steps=steps, form=form)
    p_rgb, p_aux = affinity(q_rgb, k_rgb), affinity(q_aux, k_aux)
    values = torch.cat((v_rgb, v_aux), dim=-1)
    # (B, heads, N, d) each: both affinities meet both values once, in two wide products.
    own_rgb, rgb_on_aux = (p_rgb @ values).chunk(2, dim=-1)
    aux_on_rgb, own_aux = (p_aux @ values).chunk(2, dim=-1)
    cross_rgb = _diffuse(
        p_rgb, p_aux, v_aux, prior=rgb_on_aux + own_aux, seen=own_aux,
        alpha=alpha, steps=steps, form=form,
    )  # fmt: skip
    cross_aux = _diffuse(
        p_aux, p_rgb, v_rgb, prior=aux_on_rgb + own_rgb, seen=own_rgb,
        alpha=alpha, steps=steps, form=form,
    )  # fmt: skip
    return own_rgb, own_aux, cross_rgb, cross_aux


def _diffuse(
    p_to: Tensor,
    p_from: Tensor,
    v_from: Tensor,
    *,
    prior: Tensor,
    seen: Tensor,
    alpha: float,
    steps: int,
    form: Form,
) -> Tensor:
    """`A_steps v_from` from thin products alone.

    `A_t X = alpha S_to A_{t-1} (S_from^T X) + (1 - alpha) Y X`, so the values are carried inwards
    through `S_from^T` once per step, then outwards through `S_to` (Horner's scheme).

    Args:
        p_to: affinity of the reading modality, (B, heads, N, N).
        p_from: affinity of the modality that is read.
        v_from: its values, (B, heads, N, d).
        prior: `Y v_from`, at hand.
        seen: `P_from v_from`, at hand.
        alpha: weight of the diffused affinity.
        steps: diffusion steps.
        form: `published` or `paper`.
    """
    s_to, s_from_t = (
        (p_to.transpose(-2, -1), p_from)
        if form == "published"
        else (p_to, p_from.transpose(-2, -1))
    )
    inner = seen if form == "published" else s_from_t @ v_from
    # priors[t] = Y X_t, where X_t = (S_from^T)^t v_from; `inner` ends as X_steps.
    priors = [prior]
    for _ in range(1, steps):
        priors.append(p_to @ inner + p_from @ inner)
        inner = s_from_t @ inner
    out = inner
    for y in reversed(priors):
        out = alpha * (s_to @ out) + (1 - alpha) * y
    return out


def cross_attention(
    q_rgb: Tensor, k_rgb: Tensor, v_rgb: Tensor, q_aux: Tensor, k_aux: Tensor, v_aux: Tensor
) -> Mixed:
    """What the paper compares with: each modality's queries meet the other's keys.

    Shapes as in `cross_diffusion_attention`; `cross_rgb = softmax(q_rgb k_aux^T / sqrt(d)) v_aux`.
    """
    return (
        affinity(q_rgb, k_rgb) @ v_rgb,
        affinity(q_aux, k_aux) @ v_aux,
        affinity(q_rgb, k_aux) @ v_aux,
        affinity(q_aux, k_rgb) @ v_rgb,
    )


def diffused_cross_attention(
    q_rgb: Tensor,
    k_rgb: Tensor,
    v_rgb: Tensor,
    q_aux: Tensor,
    k_aux: Tensor,
    v_aux: Tensor,
    *,
    alpha: float = 0.6,
    form: Form = "published",
) -> Mixed:
    """Cross-diffusion as post-optimisation of a cross-attention affinity.

    Reconstruction: the paper names this use and gives no formula. Here the cross-attention affinity
    `C` takes the place of both the start `A_0` and the prior `Y`, for one step:
    `cross_rgb = alpha S_rgb C S_aux^T v_aux + (1 - alpha) C v_aux`.

    Arguments and result as in `cross_diffusion_attention`.
    """
    check_inputs(q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux, alpha=alpha, steps=1, form=form)
    p_rgb, p_aux = affinity(q_rgb, k_rgb), affinity(q_aux, k_aux)
    c_rgb, c_aux = affinity(q_rgb, k_aux), affinity(q_aux, k_rgb)

    def diffuse(p_to: Tensor, p_from: Tensor, c: Tensor, v: Tensor) -> Tensor:
        if form == "published":
            diffused = p_to.transpose(-2, -1) @ (c @ (p_from @ v))
        else:
            diffused = p_to @ (c @ (p_from.transpose(-2, -1) @ v))
        return alpha * diffused + (1 - alpha) * (c @ v)

    return (
        p_rgb @ v_rgb,
        p_aux @ v_aux,
        diffuse(p_rgb, p_aux, c_rgb, v_aux),
        diffuse(p_aux, p_rgb, c_aux, v_rgb),
    )


def check_inputs(*tensors: Tensor, alpha: float, steps: int, form: str) -> None:
    """Raise `ValueError` if shapes differ or an option is outside its range."""
    # Compared, not collected in a set: while a graph is exported, B is symbolic and has no hash.
    if tensors[0].ndim != 4 or any(tensor.shape != tensors[0].shape for tensor in tensors):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(f"queries, keys and values must share one (B, heads, N, d), got {shapes}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if form not in ("published", "paper"):
        raise ValueError(f"form must be 'published' or 'paper', got {form!r}")
