"""The equations of cross-diffusion attention in plain float64 NumPy, as the paper writes them.

Nothing is factorised: every affinity, and every product of affinities, is formed as an N x N
matrix for one head of one sample at a time. Slow, and meant to be read beside the paper.
Source: Wang et al., "MutualFormer", IJCV 2024, doi:10.1007/s11263-024-02067-x, and its code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Form = Literal["published", "paper"]
Matrix = NDArray[np.float64]
Mixed = tuple[Matrix, Matrix, Matrix, Matrix]
"""`own_rgb, own_aux, cross_rgb, cross_aux`."""


def softmax_affinity(q: Matrix, k: Matrix) -> Matrix:
    """`softmax(q k^T / sqrt(d))` over rows; q and k are (N, d)."""
    logits = q @ k.T / np.sqrt(q.shape[1])
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=1, keepdims=True))


def normalised(p: Matrix, form: Form) -> Matrix:
    """`S` of an affinity, (N, N).

    The authors' `get_S` computes `(P D)^T D` with `D = diag(rowsum(P))^(-1/2)`; their figure draws
    the symmetric normalisation `D P D`.
    """
    d = np.diag(p.sum(axis=1) ** -0.5)
    return np.asarray((p @ d).T @ d if form == "published" else d @ p @ d)


def diffused_affinity(
    s_to: Matrix, s_from: Matrix, start: Matrix, prior: Matrix, alpha: float, steps: int
) -> Matrix:
    """`A_t = alpha S_to A_{t-1} S_from^T + (1 - alpha) Y` for t = 1..steps, `A_0 = start`."""
    a = start
    for _ in range(steps):
        a = alpha * (s_to @ a @ s_from.T) + (1 - alpha) * prior
    return a


def cross_diffusion_attention(
    q_rgb: ArrayLike,
    k_rgb: ArrayLike,
    v_rgb: ArrayLike,
    q_aux: ArrayLike,
    k_aux: ArrayLike,
    v_aux: ArrayLike,
    *,
    alpha: float = 0.6,
    steps: int = 1,
    form: Form = "published",
) -> Mixed:
    """Every argument and result is (B, heads, N, d)."""

    def one_head(*qkv: Matrix) -> Mixed:
        q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = qkv
        p_rgb, p_aux = softmax_affinity(q_rgb, k_rgb), softmax_affinity(q_aux, k_aux)
        s_rgb, s_aux = normalised(p_rgb, form), normalised(p_aux, form)
        identity, prior = np.eye(len(q_rgb)), p_rgb + p_aux
        to_rgb = diffused_affinity(s_rgb, s_aux, identity, prior, alpha, steps)
        to_aux = diffused_affinity(s_aux, s_rgb, identity, prior, alpha, steps)
        return p_rgb @ v_rgb, p_aux @ v_aux, to_rgb @ v_aux, to_aux @ v_rgb

    return _every_head(one_head, q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux)


def cross_attention(
    q_rgb: ArrayLike,
    k_rgb: ArrayLike,
    v_rgb: ArrayLike,
    q_aux: ArrayLike,
    k_aux: ArrayLike,
    v_aux: ArrayLike,
) -> Mixed:
    """Each modality's queries meet the other's keys; shapes as above."""

    def one_head(*qkv: Matrix) -> Mixed:
        q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = qkv
        return (
            softmax_affinity(q_rgb, k_rgb) @ v_rgb,
            softmax_affinity(q_aux, k_aux) @ v_aux,
            softmax_affinity(q_rgb, k_aux) @ v_aux,
            softmax_affinity(q_aux, k_rgb) @ v_rgb,
        )

    return _every_head(one_head, q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux)


def diffused_cross_attention(
    q_rgb: ArrayLike,
    k_rgb: ArrayLike,
    v_rgb: ArrayLike,
    q_aux: ArrayLike,
    k_aux: ArrayLike,
    v_aux: ArrayLike,
    *,
    alpha: float = 0.6,
    form: Form = "published",
) -> Mixed:
    """The cross-attention affinity is both start and prior of one step; shapes as above."""

    def one_head(*qkv: Matrix) -> Mixed:
        q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = qkv
        p_rgb, p_aux = softmax_affinity(q_rgb, k_rgb), softmax_affinity(q_aux, k_aux)
        s_rgb, s_aux = normalised(p_rgb, form), normalised(p_aux, form)
        c_rgb, c_aux = softmax_affinity(q_rgb, k_aux), softmax_affinity(q_aux, k_rgb)
        to_rgb = diffused_affinity(s_rgb, s_aux, c_rgb, c_rgb, alpha, steps=1)
        to_aux = diffused_affinity(s_aux, s_rgb, c_aux, c_aux, alpha, steps=1)
        return p_rgb @ v_rgb, p_aux @ v_aux, to_rgb @ v_aux, to_aux @ v_rgb

    return _every_head(one_head, q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux)


def _every_head(one_head: Callable[..., Mixed], *qkv: ArrayLike) -> Mixed:
    arrays = [np.asarray(each, np.float64) for each in qkv]
    out = tuple(np.empty_like(arrays[0]) for _ in range(4))
    for where in np.ndindex(arrays[0].shape[:2]):
        for target, value in zip(out, one_head(*(each[where] for each in arrays)), strict=True):
            target[where] = value
    own_rgb, own_aux, cross_rgb, cross_aux = out
    return own_rgb, own_aux, cross_rgb, cross_aux
