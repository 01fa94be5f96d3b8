from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from model.preprocessing import (
    DepthConvention,
    normalise_depth,
    prepare_depth,
    prepare_nir,
    prepare_rgb,
    resize_valid,
)

CONVENTIONS: tuple[DepthConvention, ...] = ("near_bright", "near_dark", "metric")


@pytest.mark.parametrize(
    ("convention", "near"),
    [
        ("near_bright", [0.0, 0.25, 1.0]),
        ("near_dark", [1.0, 0.75, 0.0]),
        ("metric", [0.0, 1.0, 0.0]),
    ],
)
def test_near_is_1_and_missing_is_0(convention: DepthConvention, near: list[float]) -> None:
    depth = np.array([[0, 1000, 4000]], np.uint16)

    values, valid = normalise_depth(depth, convention)

    np.testing.assert_array_equal(values, np.array([near], np.float32))
    np.testing.assert_array_equal(valid, [[convention != "metric", True, True]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.int32, np.float32, np.float64])
def test_neighbouring_levels_stay_apart_in_every_dtype(dtype: str) -> None:
    depth = np.arange(256).reshape(16, 16).astype(dtype)
    if depth.dtype.itemsize > 1:
        depth = (depth + 1000).astype(dtype)

    near = prepare_depth(depth, "near_bright", (16, 16))

    assert (near.dtype, near.shape) == (np.dtype(np.float32), (16, 16, 1))
    np.testing.assert_allclose(near.ravel(), np.arange(256) / 255, atol=1e-6)  # float32


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_constant_map_says_nothing(convention: DepthConvention) -> None:
    near = prepare_depth(np.full((8, 8), 7, np.uint8), convention, (4, 4))

    np.testing.assert_array_equal(near, 0.5)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_what_is_not_finite_is_missing(convention: DepthConvention) -> None:
    depth = np.array([[np.nan, np.inf, -np.inf, 1.0, 2.0]])

    near, valid = normalise_depth(depth, convention)

    np.testing.assert_array_equal(valid, [[False, False, False, True, True]])
    assert (near[0, :3] == 0).all()


def test_nothing_valid_is_all_missing() -> None:
    near, valid = normalise_depth(np.zeros((4, 4), np.uint16), "metric")

    assert not near.any()
    assert not valid.any()


def test_a_hole_does_not_darken_what_surrounds_it() -> None:
    values, valid = np.full((8, 8), 0.8, np.float32), np.ones((8, 8), np.bool_)
    valid[3, 3] = False
    values[3, 3] = 0.0

    resized = resize_valid(values, valid, (4, 4))

    np.testing.assert_allclose(resized, 0.8, atol=1e-6)  # float32


def test_a_large_hole_stays_a_hole() -> None:
    values, valid = np.full((32, 32), 0.8, np.float32), np.ones((32, 32), np.bool_)
    valid[8:24, 8:24] = False
    values[~valid] = 0.0

    resized = resize_valid(values, valid, (8, 8))

    assert (resized[3:5, 3:5] == 0).all()
    np.testing.assert_allclose(resized[0], 0.8, atol=1e-6)  # float32


@settings(deadline=None)
@given(
    depth=arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, np.nan, np.inf]),
    ),
    convention=st.sampled_from(CONVENTIONS),
)
def test_prepared_depth_is_always_within_0_and_1(
    depth: np.ndarray[tuple[int, int], np.dtype[np.float32]], convention: DepthConvention
) -> None:
    near = prepare_depth(depth, convention, (5, 7))

    assert near.shape == (5, 7, 1)
    assert ((near >= 0) & (near <= 1)).all()


@pytest.mark.parametrize("shape", [(4,), (4, 4, 3)])
def test_depth_of_other_than_two_axes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        normalise_depth(np.zeros(shape), "near_bright")


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "CMYK"])
def test_colour_comes_out_as_height_width_3(mode: str) -> None:
    rgb = prepare_rgb(Image.new(mode, (40, 20)), (8, 6))

    assert (rgb.dtype, rgb.shape) == (np.dtype(np.uint8), (8, 6, 3))


def test_colour_is_averaged_when_it_shrinks() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200

    rgb = prepare_rgb(Image.fromarray(stripes), (8, 8))

    assert abs(rgb.astype(int) - 100).max() <= 4  # the filter is cut at the edges


@pytest.mark.parametrize(("dtype", "full"), [("u1", 255), ("<u2", 65535), (">u2", 65535)])
def test_near_infrared_is_divided_by_its_full_range(dtype: str, full: int) -> None:
    levels = np.linspace(0, full, 64).astype(dtype).reshape(8, 8)

    nir = prepare_nir(levels, (8, 8))

    assert (nir.dtype, nir.shape) == (np.dtype(np.float32), (8, 8, 1))
    np.testing.assert_allclose(nir[..., 0], levels / full, atol=1e-7)  # float32
    assert (nir.min(), nir.max()) == (0, 1)


def test_what_near_infrared_holds_does_not_scale_it() -> None:
    dim = np.full((8, 8), 51, np.uint8)
    dim[:4] = 102

    nir = prepare_nir(dim, (8, 8))

    np.testing.assert_allclose(np.unique(nir), [0.2, 0.4], atol=1e-7)  # float32


def test_near_infrared_and_colour_are_resized_alike() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8)

    nir = prepare_nir(grey, (32, 16))
    rgb = prepare_rgb(Image.fromarray(grey), (32, 16))

    # Colour is rounded to whole levels, between the filter's two passes, too.
    np.testing.assert_allclose(255 * nir, rgb[..., :1], atol=1.01)


@settings(deadline=None)
@given(
    nir=arrays(
        st.sampled_from([np.uint8, np.uint16]), array_shapes(min_dims=2, max_dims=2, max_side=9)
    )
)
def test_prepared_near_infrared_is_always_within_0_and_1(nir: np.ndarray[Any, Any]) -> None:
    values = prepare_nir(nir, (5, 7))

    assert values.shape == (5, 7, 1)
    assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4), np.float32), "uint8 or uint16, got float32"),
        (np.zeros((4, 4), np.int32), "uint8 or uint16, got int32"),
        (np.zeros((4, 4), np.uint32), "uint8 or uint16, got uint32"),
        (np.zeros((4, 4), np.bool_), "uint8 or uint16, got bool"),
    ],
)
def test_other_near_infrared_is_refused(values: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_nir(values, (8, 8))


def test_a_depth_map_without_pixels_stays_empty() -> None:
    near, valid = normalise_depth(np.zeros((0, 4), np.uint16), "near_bright")

    assert near.shape == valid.shape == (0, 4)
    assert near.dtype == np.float32
