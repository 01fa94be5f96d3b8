from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.scenes import disc
from training.data.depth_simulator import simulate_depth

RGB, _, GT = disc(0, (96, 96))
MASK = GT > 127


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31))
def test_depth_is_finite_and_in_range(seed: int) -> None:
    depth = simulate_depth(RGB, MASK, np.random.default_rng(seed), [MASK])

    assert depth.shape == MASK.shape
    assert depth.dtype == np.float32
    assert np.isfinite(depth).all()
    assert depth.min() >= 0
    assert depth.max() <= 1


def test_depth_is_a_function_of_the_seed() -> None:
    once, again, other = (
        simulate_depth(RGB, MASK, np.random.default_rng(seed), [MASK]) for seed in (7, 7, 8)
    )

    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_an_empty_mask_still_has_depth() -> None:
    nothing = np.zeros_like(MASK)

    maps = [simulate_depth(RGB, nothing, np.random.default_rng(i)) for i in range(20)]

    assert any(depth.std() > 0.05 for depth in maps)


def test_the_object_is_nearer_more_often_than_not_but_never_reliably() -> None:
    contrasts = []
    for seed in range(300):
        depth = simulate_depth(RGB, MASK, np.random.default_rng(seed), [MASK])
        contrasts.append(depth[MASK].mean() - depth[~MASK].mean())
    nearer = np.mean(np.array(contrasts) > 0.1)

    assert 0.45 < nearer < 0.9


def test_some_depth_says_nothing() -> None:
    maps = [simulate_depth(RGB, MASK, np.random.default_rng(seed)) for seed in range(300)]

    constant = np.mean([depth.min() == depth.max() for depth in maps])

    assert 0.01 < constant < 0.12
