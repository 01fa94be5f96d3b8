from __future__ import annotations

import pytest
import torch

from benchmarks.cda import Bound, _page, inputs, published
from model import attention


def test_what_is_measured_against_computes_the_same() -> None:
    """Or the ratios would compare two different things."""
    qkv = inputs(2, 3, 17, 5, torch.float64, "cpu")

    # Columns of an affinity do not sum to 1; the authors divide by the sums of its rows, which do.
    torch.testing.assert_close(published(*qkv), attention.cross_diffusion_attention(*qkv))


@pytest.mark.parametrize(
    ("value", "sense", "kept"),
    [(4.0, ">=", True), (3.99, ">=", False), (4.0, "<=", True), (4.01, "<=", False)],
)
def test_a_page_says_where_a_bound_is_missed(value: float, sense: str, kept: bool) -> None:
    bound = Bound("ratio", value, sense, 4)  # type: ignore[arg-type]

    page = _page([], [bound], "command", "machine", "float32", "cda_cpu")

    assert bound.kept == kept
    assert f"| ratio | {value:.3g}{'' if kept else ', missed'} | {sense} 4 |" in page
