from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.judge import RealPairs, read_pairs, scores

RGB = np.zeros((4, 8, 6, 3), np.uint8)
AUX = np.zeros((4, 8, 6, 1), np.float32)


def test_maps_are_scored_against_their_masks() -> None:
    gt = np.zeros((4, 8, 6), bool)
    gt[:, 2:6, 1:4] = True
    pairs = RealPairs("some.npz", RGB, AUX, gt=gt)

    perfect = scores(pairs, gt.astype(np.float32))
    wrong = scores(pairs, 1 - gt.astype(np.float32))

    assert perfect["mae"] == 0
    assert perfect["s_measure"] == pytest.approx(1, abs=1e-6)
    assert wrong["mae"] == 1
    assert wrong["s_measure"] < 0.5


def test_pairs_without_a_mask_do_not_count() -> None:
    gt = np.zeros((3, 8, 6), bool)
    gt[:, 2:6, 1:4] = True
    maps = np.concatenate([gt, np.ones((1, 8, 6), bool)]).astype(np.float32)

    assert scores(RealPairs("some.npz", RGB, AUX, gt=gt), maps)["mae"] == 0


def test_embeddings_are_scored_by_search_across_cameras() -> None:
    """Two individuals before two cameras; the nearest, of the same camera, must not count."""
    pairs = RealPairs("x", RGB, AUX, pid=np.array([0, 0, 1, 1]), camid=np.array([0, 1, 0, 1]))
    right = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    swapped = np.array([[1, 0], [0, 1], [0.9, 0.1], [0.1, 0.9]], np.float32)

    assert scores(pairs, right) == {"rank_1": 1, "mean_ap": 1}
    # The first individual is found last of three, the second one second.
    mean_ap = pytest.approx((1 / 3 + 1 / 2) / 2)
    assert scores(pairs, swapped) == {"rank_1": 0, "mean_ap": mean_ap}


def test_without_truth_there_are_no_scores() -> None:
    pairs = RealPairs("x", RGB, AUX)

    assert scores(pairs, np.zeros((4, 8, 6), np.float32)) == {}
    assert scores(pairs, np.zeros((4, 3), np.float32)) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rgb": RGB.astype(np.float32)}, "rgb is float32"),
        ({"aux": AUX[:3]}, "aux is float32 "),
        ({"aux": AUX[..., 0]}, "aux is float32 "),
        ({"gt": np.zeros((4, 8, 6))}, "gt is float64"),
        ({"gt": np.zeros((5, 8, 6), bool)}, "gt is bool"),
        ({"gt": np.zeros((4, 8), bool)}, "gt is bool"),
        ({"gt": np.array(True)}, "gt is bool"),
        ({"pid": np.zeros(3, int)}, "pid is int64"),
        ({"rgb": RGB[:0], "aux": AUX[:0]}, "at least one row"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.npz"
    np.savez(path, **{"rgb": RGB, "aux": AUX, **change})

    with pytest.raises(ValueError, match=message):
        read_pairs(path, (8, 6))


@pytest.mark.parametrize("content", [b"no", b""])
def test_what_is_no_archive_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pairs.npz"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"pairs\.npz"):
        read_pairs(path, (8, 6))
