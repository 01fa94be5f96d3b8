"""Triton kernels of cross-diffusion attention; importing this module imports triton.

Every program owns the rows it writes and adds in a fixed order: no atomics, and repeated runs are
equal bit for bit. Sums are float32, or float64 for float64 inputs (in the interpreter). `P` is
formed again where needed from the maximum and the sum of each row, kept apart: their log-sum-exp
would be one number as large as the largest logit, and its rounding would spoil rows that a plain
softmax gets right.

Names: BM query rows and BN keys in a tile; D channels, padded to DP; `rgb`, `aux` as everywhere.
Pointers named q, k, x and y share the strides (sb, sh, sn, 1) of (B, heads, N, D); all others are
contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _dot(a, b, total, ACC: tl.constexpr, WIDE: tl.constexpr):
    """`total + a b`. WIDE is for the interpreter, which cannot multiply bfloat16."""
    if WIDE:
        a = a.to(ACC)
        b = b.to(ACC)
    return tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)


@triton.jit
def _load(base, n, sn, N, D: tl.constexpr, DP: tl.constexpr):
    """Rows `n` of a matrix, zero beyond its edge."""
    c = tl.arange(0, DP)
    mask = (n[:, None] < N) & (c[None, :] < D)
    return tl.load(base + n[:, None] * sn + c[None, :], mask=mask, other=0.0)


@triton.jit
def _store(base, n, N, value, D: tl.constexpr, DP: tl.constexpr):
    c = tl.arange(0, DP)
    mask = (n[:, None] < N) & (c[None, :] < D)
    tl.store(base + n[:, None] * D + c[None, :], value.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _rows_tile(
    q, k, x, y, out_x, out_y, largest, total, offset, bh, start, sn, N, scale: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PAIR: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """BM rows of `P x` and, if PAIR, `P y`, by the online softmax."""
    m = start + tl.arange(0, BM)
    q_tile = _load(q + offset, m, sn, N, D, DP)
    row_max = tl.full((BM,), float("-inf"), ACC)
    row_sum = tl.zeros((BM,), ACC)
    sum_x = tl.zeros((BM, DP), ACC)
    sum_y = tl.zeros((BM, DP), ACC)
    for begin in range(0, N, BN):
        n = begin + tl.arange(0, BN)
        k_tile = _load(k + offset, n, sn, N, D, DP)
        s = _dot(q_tile, tl.trans(k_tile), None, ACC, WIDE) * scale
        s = tl.where(n[None, :] < N, s, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(s, 1))
        # exp of a difference: near the maximum its rounding is that of the score alone.
        p = tl.exp(s - new_max[:, None])
        shrink = tl.exp(row_max - new_max)
        row_sum = row_sum * shrink + tl.sum(p, 1)
        p = p.to(x.dtype.element_ty)
        x_tile = _load(x + offset, n, sn, N, D, DP)
        sum_x = _dot(p, x_tile, sum_x * shrink[:, None], ACC, WIDE)
        if PAIR:
            y_tile = _load(y + offset, n, sn, N, D, DP)
            sum_y = _dot(p, y_tile, sum_y * shrink[:, None], ACC, WIDE)
        row_max = new_max
    _store(out_x + bh * N * D, m, N, sum_x / row_sum[:, None], D, DP)
    if PAIR:
        _store(out_y + bh * N * D, m, N, sum_y / row_sum[:, None], D, DP)
    tl.store(largest + bh * N + m, row_max, mask=m < N)
    tl.store(total + bh * N + m, row_sum, mask=m < N)


@triton.jit
def _p_transposed(
    q_tile, k_tile, largest, total, m, n, bh, N, scale: tl.constexpr,
    ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A tile of `P^T`, (BN, BM).

    Beyond the last key it is 0, not `exp` of something large; beyond the last query it is 1, and
    meets zeros.
    """
    row_max = tl.load(largest + bh * N + m, mask=m < N, other=0.0)
    row_sum = tl.load(total + bh * N + m, mask=m < N, other=1.0)
    s = _dot(k_tile, tl.trans(q_tile), None, ACC, WIDE) * scale
    s = tl.where(n[:, None] < N, s, float("-inf"))
    return tl.exp(s - row_max[None, :]) / row_sum[None, :]


@triton.jit
def _columns_tile(
    q, k, z, prior, out, largest, total, offset, bh, start, sn, N, scale: tl.constexpr, alpha,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MIX: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """BN rows of `P^T z`, or, if MIX, of `alpha P^T z + (1 - alpha) (prior + z)`."""
    n = start + tl.arange(0, BN)
    k_tile = _load(k + offset, n, sn, N, D, DP)
    result = tl.zeros((BN, DP), ACC)
    for begin in range(0, N, BM):
        m = begin + tl.arange(0, BM)
        q_tile = _load(q + offset, m, sn, N, D, DP)
        p = _p_transposed(q_tile, k_tile, largest, total, m, n, bh, N, scale, ACC, WIDE)
        z_tile = _load(z + bh * N * D, m, D, N, D, DP)
        result = _dot(p.to(z_tile.dtype), z_tile, result, ACC, WIDE)
    if MIX:
        y = _load(z + bh * N * D, n, D, N, D, DP).to(ACC)
        y += _load(prior + bh * N * D, n, D, N, D, DP).to(ACC)
        result = alpha * result + (1 - alpha) * y
    _store(out + bh * N * D, n, N, result, D, DP)


@triton.jit
def rows_kernel(
    q_rgb, k_rgb, x_rgb, y_rgb, out_x_rgb, out_y_rgb, largest_rgb, total_rgb,
    q_aux, k_aux, x_aux, y_aux, out_x_aux, out_y_aux, largest_aux, total_aux,
    sb, sh, sn, heads, N, scale: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PAIR: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`P [x|y]` of both modalities; grid (row tiles, B heads, modalities)."""
    start = tl.program_id(0) * BM
    bh = tl.program_id(1).to(tl.int64)
    offset = (bh // heads) * sb + (bh % heads) * sh
    # Two calls, not a choice of pointers: what is known of each one's alignment survives.
    if tl.program_id(2) == 0:
        _rows_tile(
            q_rgb, k_rgb, x_rgb, y_rgb, out_x_rgb, out_y_rgb, largest_rgb, total_rgb,
            offset, bh, start, sn, N, scale, D, DP, BM, BN, PAIR, ACC, WIDE,
        )  # fmt: skip
    else:
        _rows_tile(
            q_aux, k_aux, x_aux, y_aux, out_x_aux, out_y_aux, largest_aux, total_aux,
            offset, bh, start, sn, N, scale, D, DP, BM, BN, PAIR, ACC, WIDE,
        )  # fmt: skip


@triton.jit
def columns_kernel(
    q_rgb, k_rgb, z_rgb, prior_rgb, out_rgb, largest_rgb, total_rgb,
    q_aux, k_aux, z_aux, prior_aux, out_aux, largest_aux, total_aux,
    sb, sh, sn, heads, N, scale: tl.constexpr, alpha,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MIX: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`P^T z` of both modalities, mixed if MIX; grid (key tiles, B heads, modalities)."""
    start = tl.program_id(0) * BN
    bh = tl.program_id(1).to(tl.int64)
    offset = (bh // heads) * sb + (bh % heads) * sh
    if tl.program_id(2) == 0:
        _columns_tile(
            q_rgb, k_rgb, z_rgb, prior_rgb, out_rgb, largest_rgb, total_rgb,
            offset, bh, start, sn, N, scale, alpha, D, DP, BM, BN, MIX, ACC, WIDE,
        )  # fmt: skip
    else:
        _columns_tile(
            q_aux, k_aux, z_aux, prior_aux, out_aux, largest_aux, total_aux,
            offset, bh, start, sn, N, scale, alpha, D, DP, BM, BN, MIX, ACC, WIDE,
        )  # fmt: skip


@triton.jit
def small_kernel(
    q_rgb, k_rgb, v_rgb, own_rgb, prior_rgb, cross_rgb, largest_rgb, total_rgb,
    q_aux, k_aux, v_aux, own_aux, prior_aux, cross_aux, largest_aux, total_aux,
    sb, sh, sn, heads, N, scale: tl.constexpr, alpha,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """All four outputs in one launch; grid (B heads,).

    What the second half reads, this program has written: a barrier within it is enough.
    """
    bh = tl.program_id(0).to(tl.int64)
    offset = (bh // heads) * sb + (bh % heads) * sh
    for start in range(0, N, BM):
        _rows_tile(
            q_rgb, k_rgb, v_rgb, v_aux, own_rgb, prior_rgb, largest_rgb, total_rgb,
            offset, bh, start, sn, N, scale, D, DP, BM, BN, True, ACC, WIDE,
        )  # fmt: skip
        _rows_tile(
            q_aux, k_aux, v_aux, v_rgb, own_aux, prior_aux, largest_aux, total_aux,
            offset, bh, start, sn, N, scale, D, DP, BM, BN, True, ACC, WIDE,
        )  # fmt: skip
    tl.debug_barrier()
    for start in range(0, N, BN):
        _columns_tile(
            q_rgb, k_rgb, own_aux, prior_rgb, cross_rgb, largest_rgb, total_rgb,
            offset, bh, start, sn, N, scale, alpha, D, DP, BM, BN, True, ACC, WIDE,
        )  # fmt: skip
        _columns_tile(
            q_aux, k_aux, own_rgb, prior_aux, cross_aux, largest_aux, total_aux,
            offset, bh, start, sn, N, scale, alpha, D, DP, BM, BN, True, ACC, WIDE,
        )  # fmt: skip


@triton.jit
def grad_q_kernel(
    q, k, x, y, grad_x, grad_y, z, grad_z, delta, largest, total, dq,
    sb, sh, sn, heads, N, scale: tl.constexpr, alpha,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MIX: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gradient for q of one modality; grid (row tiles, B heads).

    That of `P` is `grad_x x^T`, and if MIX also `(1 - alpha) grad_y y^T + alpha z grad_z^T`;
    `delta` is its product with `P`, summed over each row.
    """
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    bh = tl.program_id(1).to(tl.int64)
    offset = (bh // heads) * sb + (bh % heads) * sh
    flat = bh * N * D
    q_tile = _load(q + offset, m, sn, N, D, DP)
    grad_x_tile = _load(grad_x + flat, m, D, N, D, DP)
    row_max = tl.load(largest + bh * N + m, mask=m < N, other=0.0)
    row_sum = tl.load(total + bh * N + m, mask=m < N, other=1.0)
    row_delta = tl.load(delta + bh * N + m, mask=m < N, other=0.0)
    if MIX:
        grad_y_tile = _load(grad_y + flat, m, D, N, D, DP)
        z_tile = _load(z + flat, m, D, N, D, DP)
    result = tl.zeros((BM, DP), ACC)
    for begin in range(0, N, BN):
        n = begin + tl.arange(0, BN)
        k_tile = _load(k + offset, n, sn, N, D, DP)
        s = _dot(q_tile, tl.trans(k_tile), None, ACC, WIDE) * scale
        # Beyond the last key the score is 0, which may lie far above the maximum.
        s = tl.where(n[None, :] < N, s, float("-inf"))
        p = tl.exp(s - row_max[:, None]) / row_sum[:, None]
        x_tile = _load(x + offset, n, sn, N, D, DP)
        dp = _dot(grad_x_tile, tl.trans(x_tile), None, ACC, WIDE)
        if MIX:
            y_tile = _load(y + offset, n, sn, N, D, DP)
            grad_z_tile = _load(grad_z + flat, n, D, N, D, DP)
            dp += (1 - alpha) * _dot(grad_y_tile, tl.trans(y_tile), None, ACC, WIDE)
            dp += alpha * _dot(z_tile, tl.trans(grad_z_tile), None, ACC, WIDE)
        ds = p * (dp - row_delta[:, None])
        result = _dot(ds.to(k_tile.dtype), k_tile, result, ACC, WIDE)
    _store(dq + flat, m, N, result * scale, D, DP)


@triton.jit
def grad_kv_kernel(
    q, k, x, y, grad_x, grad_y, z, grad_z, delta, largest, total, dk, dx, dy,
    sb, sh, sn, heads, N, scale: tl.constexpr, alpha,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MIX: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gradients for k, x and, if MIX, y of one modality; grid (key tiles, B heads)."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    bh = tl.program_id(1).to(tl.int64)
    offset = (bh // heads) * sb + (bh % heads) * sh
    flat = bh * N * D
    k_tile = _load(k + offset, n, sn, N, D, DP)
    x_tile = _load(x + offset, n, sn, N, D, DP)
    if MIX:
        y_tile = _load(y + offset, n, sn, N, D, DP)
        grad_z_tile = _load(grad_z + flat, n, D, N, D, DP)
    sum_k = tl.zeros((BN, DP), ACC)
    sum_x = tl.zeros((BN, DP), ACC)
    sum_y = tl.zeros((BN, DP), ACC)
    for begin in range(0, N, BM):
        m = begin + tl.arange(0, BM)
        q_tile = _load(q + offset, m, sn, N, D, DP)
        p = _p_transposed(q_tile, k_tile, largest, total, m, n, bh, N, scale, ACC, WIDE)
        grad_x_tile = _load(grad_x + flat, m, D, N, D, DP)
        sum_x = _dot(p.to(x_tile.dtype), grad_x_tile, sum_x, ACC, WIDE)
        dp = _dot(x_tile, tl.trans(grad_x_tile), None, ACC, WIDE)
        if MIX:
            grad_y_tile = _load(grad_y + flat, m, D, N, D, DP)
            z_tile = _load(z + flat, m, D, N, D, DP)
            sum_y = _dot(p.to(x_tile.dtype), grad_y_tile, sum_y, ACC, WIDE)
            dp += (1 - alpha) * _dot(y_tile, tl.trans(grad_y_tile), None, ACC, WIDE)
            dp += alpha * _dot(grad_z_tile, tl.trans(z_tile), None, ACC, WIDE)
        row_delta = tl.load(delta + bh * N + m, mask=m < N, other=0.0)
        ds = p * (dp - row_delta[None, :])
        sum_k = _dot(ds.to(q_tile.dtype), q_tile, sum_k, ACC, WIDE)
    _store(dk + flat, n, N, sum_k * scale, D, DP)
    _store(dx + flat, n, N, sum_x, D, DP)
    if MIX:
        _store(dy + flat, n, N, (1 - alpha) * sum_y, D, DP)
