from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.nir_simulator import NirFit, nir_features, simulate_nir
from training.fit_nir import fit_cubic, fit_nir, judge, read_scenes

SCENES = Path(__file__).parents[3] / "shared" / "data" / "rgb_nir_scenes"


def photo(seed: int = 0, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_the_same_photo_gives_the_same_picture() -> None:
    first, again = simulate_nir(photo()), simulate_nir(photo())

    assert first.shape == (48, 64)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (17, 23)])
def test_any_size_is_simulated(size: tuple[int, int]) -> None:
    assert simulate_nir(photo(size=size)).shape == size


def test_grass_is_brighter_than_water() -> None:
    scene = np.full((64, 64, 3), 120, np.uint8)
    scene[32:] = (70, 110, 40)
    scene[:32] = (40, 80, 110)

    nir = simulate_nir(scene).astype(int)

    assert nir[48:].mean() > nir[:16].mean() + 40


def test_a_fit_survives_its_file(tmp_path: Path) -> None:
    own = np.random.default_rng(0)
    fit = NirFit(
        (own.random((3, 22), np.float32), own.random((1, 3), np.float32)),
        (own.random((3, 1), np.float32), own.random((1, 1), np.float32)),
    )
    features = nir_features(photo()).reshape(22, -1)

    fit.save(tmp_path / "fit.npz")

    np.testing.assert_array_equal(NirFit.load(tmp_path / "fit.npz")(features), fit(features))


@pytest.mark.slow  # a minute: it reads every scene
@pytest.mark.skipif(not SCENES.is_dir(), reason="needs ../shared/data/rgb_nir_scenes")
def test_the_fit_beats_a_cubic_on_scenes_that_it_never_saw() -> None:
    scenes = read_scenes(SCENES)
    seen = [scene for scene in scenes if not scene.held_out]
    assert len(scenes) == 205

    report = judge([s for s in scenes if s.held_out], fit_nir(seen), fit_cubic(seen))

    assert report["simulator_r2"] > report["cubic_r2"] + 0.03
