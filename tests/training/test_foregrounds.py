from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from tests.training.scenes import disc
from training.data.depth_simulator import _stand_up, simulate_depth
from training.data.foregrounds import (
    HeldOutDepth,
    Photo,
    SimulatedDepth,
    find_photos,
    make_thing,
    read_photo,
)
from training.data.sample import Batch, Draw, Steps, collate


@pytest.fixture
def dataset(photos_root: Path, backgrounds_root: Path) -> SimulatedDepth:
    train = [photo for photo in find_photos(photos_root) if not photo.held_out]
    backgrounds = list(backgrounds_root.iterdir())
    return SimulatedDepth(train, backgrounds, Draw((32, 64), batch_size=4, seed=3))


def test_validation_owns_whole_sets_and_nothing_is_on_both_sides(photos_root: Path) -> None:
    photos = find_photos(photos_root)

    held_out = {photo.set_name for photo in photos if photo.held_out}

    assert "grabcut_bsds" in held_out
    assert all(photo.held_out for photo in photos if photo.set_name == "grabcut_bsds")


def test_frames_of_one_video_stay_on_one_side() -> None:
    frames = [
        Photo(Path(f"davis16_val/rgb/{video}_{frame:05}.jpg"), Path("x"), "davis16_val")
        for video in ("bear", "boat", "camel", "cows", "drift", "goat", "horse", "kite")
        for frame in range(9)
    ]

    by_video: dict[str, set[bool]] = {}
    for frame in frames:
        by_video.setdefault(frame.rgb.stem.split("_")[0], set()).add(frame.held_out)

    assert all(len(sides) == 1 for sides in by_video.values())


def test_a_sample_is_a_pure_function_of_its_index(dataset: SimulatedDepth) -> None:
    for index in (0, 5, 9):
        for once, again in zip(dataset[index], dataset[index], strict=True):
            np.testing.assert_array_equal(once, again)


def test_workers_and_the_training_process_draw_the_same(dataset: SimulatedDepth) -> None:
    def batches(workers: int) -> list[Batch]:
        loader: DataLoader[Batch] = DataLoader(
            dataset,  # type: ignore[arg-type] # endless
            batch_sampler=Steps(2, 5, 4),
            collate_fn=collate,
            num_workers=workers,
        )
        return list(loader)

    for alone, worked in zip(batches(0), batches(2), strict=True):
        for one, other in zip(alone, worked, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_batch_has_one_size_and_batches_differ(dataset: SimulatedDepth) -> None:
    sizes = [{dataset[i].rgb.shape[0] for i in range(b * 4, b * 4 + 4)} for b in range(8)]

    assert all(len(of_batch) == 1 for of_batch in sizes)
    assert len(set.union(*sizes)) == 2


def test_samples_keep_the_object_and_the_contract(dataset: SimulatedDepth) -> None:
    for index in range(24):
        sample = dataset[index]
        assert sample.rgb.dtype == np.uint8
        assert sample.aux.shape == (*sample.gt.shape, 1)
        assert 0 <= sample.aux.min() <= sample.aux.max() <= 1
        assert set(np.unique(sample.gt)) <= {0.0, 1.0}
        assert sample.gt.mean() > 0.01


def test_processes_share_a_step_without_overlap() -> None:
    first = list(Steps(3, 5, 4, rank=0, world_size=2))
    second = list(Steps(3, 5, 4, rank=1, world_size=2))

    assert first == [[24, 25, 26, 27], [32, 33, 34, 35]]
    assert second == [[28, 29, 30, 31], [36, 37, 38, 39]]


def test_held_out_samples_do_not_change(photos_root: Path) -> None:
    photos = [photo for photo in find_photos(photos_root) if photo.held_out]

    once, again = (HeldOutDepth(photos, size=(64, 64))[1] for _ in range(2))

    np.testing.assert_array_equal(once.aux, again.aux)


def test_a_folder_without_photos_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected <set>/rgb"):
        find_photos(tmp_path)


def test_a_photo_without_mask_is_named(photos_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "toys" / "rgb"
    folder.mkdir(parents=True)
    (folder / "lonely.jpg").write_bytes((photos_root / "toys/rgb/01.jpg").read_bytes())

    with pytest.raises(ValueError, match=r"lonely\.jpg has no mask"):
        find_photos(tmp_path)


def test_a_mask_of_another_size_is_refused(photos_root: Path, tmp_path: Path) -> None:
    Image.new("L", (10, 10)).save(tmp_path / "gt.png")

    with pytest.raises(ValueError, match="its photo"):
        read_photo(Photo(photos_root / "toys/rgb/01.jpg", tmp_path / "gt.png", "toys"))


def test_a_thing_takes_a_plain_or_a_borrowed_outline() -> None:
    rgb, _, gt = disc(0, (64, 96))
    shapes = [make_thing(rgb, gt, np.random.default_rng(seed))[1] for seed in range(30)]

    borrowed = [np.array_equal(shape, gt) for shape in shapes]

    assert any(borrowed)
    assert not all(borrowed)
    assert all(set(np.unique(shape)) <= {0, 255} and shape.any() for shape in shapes)


def test_honest_depth_shows_the_object_before_its_rival_more_often() -> None:
    rgb, _, gt = disc(0, (96, 96))
    mask = gt > 127
    rival = (np.roll(mask, 40, axis=1) & ~mask).astype(np.uint8)

    def nearer(honest: bool) -> float:
        maps = [
            simulate_depth(rgb, mask, np.random.default_rng(seed), honest=honest, rival=rival)
            for seed in range(300)
        ]
        # Not the median: depth may miss a side of the object.
        ends = [(np.quantile(m[mask], 0.9), np.quantile(m[rival > 0], 0.9)) for m in maps]
        return float(np.mean([near > far for near, far in ends]))

    # Distractors still follow, and on this plain picture they often cover all that is not object.
    assert nearer(honest=True) > nearer(honest=False) + 0.05


def test_a_set_with_a_share_is_drawn_more_often(photos_root: Path) -> None:
    photos = find_photos(photos_root)
    draw = Draw((32,), 1, 0)

    def toys(shares: dict[str, float]) -> int:
        data = SimulatedDepth(photos, [], draw, shares)
        drawn = [data._photo(np.random.default_rng(seed)).set_name for seed in range(400)]
        return drawn.count("toys")

    assert 350 < toys({"toys": 20.0}) < 400
    assert 0 < toys({"toys": 0.05}) < 50


def test_a_share_for_a_set_without_photos_is_refused(photos_root: Path) -> None:
    with pytest.raises(ValueError, match="toyz"):
        SimulatedDepth(find_photos(photos_root), [], Draw((32,), 1, 0), {"toyz": 2.0})


def test_regions_stand_where_they_touch_the_ground() -> None:
    rgb = np.full((96, 96, 3), 200, np.uint8)
    rgb[20:60, 30:60] = (20, 20, 120)  # a post on a receding ground
    ground = np.tile(np.linspace(0, 1, 96, dtype=np.float32)[:, None], (1, 96))

    scenes = [_stand_up(ground, rgb, np.random.default_rng(seed)) for seed in range(20)]

    top, beside = (np.median([scene[24, x] for scene in scenes]) for x in (45, 5))
    assert abs(top - ground[59, 0]) < 0.1
    assert abs(beside - ground[24, 0]) < 0.1
