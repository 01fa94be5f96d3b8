from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.training.crops import WRITERS
from training.data.reid_augment import damage_one, geometry
from training.data.reid_samples import IdentityDraw, TrainCrops, prepare_pair
from training.data.reid_sets import Crop, Picture, find_train
from training.data.sample import Draw


def crops_of(identities: int, each: int) -> list[list[Crop]]:
    return [
        [Crop(Picture(Path(f"{pid}_{i}")), None, str(pid), i) for i in range(each)]
        for pid in range(identities)
    ]


@given(
    P=st.integers(1, 5), K=st.integers(1, 4), extra=st.integers(0, 4), each=st.integers(1, 5),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_batch_has_p_identities_with_k_pictures_that_differ_while_there_are_others(
    P: int, K: int, extra: int, each: int, seed: int
) -> None:
    by_identity = crops_of(P + extra, each)
    draw = IdentityDraw(P * K, K, seed)

    for batch in range(3):
        drawn = [draw(batch * P * K + i, by_identity) for i in range(P * K)]
        assert sorted(Counter(identity for identity, _ in drawn).values()) == [K] * P
        assert all(crop.pid == str(identity) for identity, crop in drawn)
        pictures = {(crop.pid, crop.camid) for _, crop in drawn}
        assert len(pictures) == P * min(K, each)


def test_an_epoch_visits_every_identity_once() -> None:
    draw, by_identity = IdentityDraw(6, 2, seed=0), crops_of(12, 2)

    epochs = [[draw(epoch * 24 + i, by_identity)[0] for i in range(0, 24, 2)] for epoch in range(2)]

    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


@pytest.fixture
def samples(tmp_path: Path) -> TrainCrops:
    WRITERS["folders"](tmp_path)
    crops = find_train(tmp_path, "folders")
    return TrainCrops(crops, IdentityDraw(8, 2, 3), Draw((64, 96), 8, 3, 2.0), synchronous=True)


def test_a_sample_is_a_function_of_its_index(samples: TrainCrops) -> None:
    first = [samples[i] for i in (5, 70)]
    again = [samples[i] for i in (70, 5)][::-1]

    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.rgb, other.rgb)
        np.testing.assert_array_equal(one.aux, other.aux)
        assert (one.identity, one.camera) == (other.identity, other.camera)


def test_samples_have_the_size_of_their_batch_and_the_range_of_their_modality(
    samples: TrainCrops,
) -> None:
    batches = [[samples[8 * batch + i] for i in range(8)] for batch in range(6)]

    shapes = [{sample.rgb.shape for sample in batch} for batch in batches]
    assert set.union(*shapes) == {(64, 128, 3), (96, 192, 3)}
    assert all(len(each) == 1 for each in shapes)
    for sample in (sample for batch in batches for sample in batch):
        assert sample.rgb.dtype == np.uint8
        assert sample.aux.dtype == np.float32
        assert sample.aux.shape == (*sample.rgb.shape[:2], 1)
        assert 0 <= sample.aux.min() <= sample.aux.max() <= 1


def test_too_few_identities_for_a_batch_are_refused() -> None:
    crops = [crop for crops in crops_of(3, 2) for crop in crops]

    with pytest.raises(ValueError, match="takes 4 identities, but there are 3"):
        TrainCrops(crops, IdentityDraw(8, 2, 0), Draw((64,), 8, 0), synchronous=True)


def overlap(rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> float:
    inside = [x > 0.5 for x in (rgb[..., 0] / 255, aux)]
    return float((inside[0] & inside[1]).sum() / max((inside[0] | inside[1]).sum(), 1))


def test_geometry_moves_both_modalities_alike_unless_told_otherwise() -> None:
    aux = np.zeros((64, 96), np.float32)
    aux[10:40, 20:50] = 1
    rgb = np.repeat((aux * 255).astype(np.uint8)[..., None], 3, axis=2)

    alike = [overlap(*geometry(rgb, aux, np.random.default_rng(i))) for i in range(40)]
    apart = [
        overlap(*geometry(rgb, aux, np.random.default_rng(i), synchronous=False)) for i in range(40)
    ]

    assert min(alike) > 0.93  # rounding at edges and in the erased noise
    assert np.median(apart) < 0.8


def test_at_most_one_modality_is_damaged_and_the_other_stays_clean() -> None:
    own = np.random.default_rng(0)
    rgb = own.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    aux = own.random((32, 32), np.float32)
    seen = Counter[tuple[bool, bool]]()

    for seed in range(200):
        worse_rgb, worse_aux = damage_one(rgb, aux, np.random.default_rng(seed))
        seen[np.array_equal(worse_rgb, rgb), np.array_equal(worse_aux, aux)] += 1

    assert set(seen) == {(True, True), (True, False), (False, True)}
    assert min(seen.values()) > 15


def test_a_pair_is_prepared_as_the_service_does(tmp_path: Path) -> None:
    WRITERS["folders"](tmp_path)
    crop = find_train(tmp_path, "folders")[0]

    rgb, aux = prepare_pair(crop, (64, 128))

    assert rgb.shape == (64, 128, 3)
    assert aux.shape == (64, 128, 1)
    assert (rgb.dtype.name, aux.dtype.name) == ("uint8", "float32")
    assert 0.1 < aux.mean() < 0.9
