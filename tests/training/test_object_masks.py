from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.scenes import disc
from training.object_masks import Judgement, class_indices, propose, read_judgements


def overlap(mask: np.ndarray, gt: np.ndarray) -> float:
    """Intersection over union of two masks of 0 and 255."""
    a, b = mask > 127, gt > 127
    return float((a & b).sum() / (a | b).sum())


def test_the_outline_follows_the_object_where_both_networks_only_point_at_it() -> None:
    rgb, _, gt = disc(0, (96, 128))
    rows, columns = np.nonzero(gt)
    y, x = np.indices(gt.shape)
    blob = np.exp(-((y - rows.mean()) ** 2 + (x - columns.mean()) ** 2) / 400).astype(np.float32)

    mask = propose(rgb, blob, blob, Judgement("outline"))

    assert set(np.unique(mask)) == {0, 255}
    assert overlap(mask, gt) > 0.9
    assert overlap(np.where(blob > 0.5, 255, 0), gt) < 0.9


def test_a_box_finds_what_the_networks_missed() -> None:
    rgb, _, gt = disc(1, (96, 128))
    rows, columns = np.nonzero(gt)
    box = (
        columns.min() / 128 - 0.02,
        rows.min() / 96 - 0.02,
        (columns.max() + 1) / 128 + 0.02,
        (rows.max() + 1) / 96 + 0.02,
    )
    nothing = np.zeros(gt.shape, np.float32)

    mask = propose(rgb, nothing, nothing, Judgement("box", tuple(map(float, box))))  # type: ignore[arg-type]

    assert overlap(mask, gt) > 0.9


def test_the_teachers_map_is_cut_at_a_half() -> None:
    salient = np.array([[0.2, 0.6]], np.float32)

    mask = propose(
        np.zeros((1, 2, 3), np.uint8), np.zeros_like(salient), salient, Judgement("teacher")
    )

    assert mask.tolist() == [[0, 255]]


def test_judgements_are_read_by_stem(tmp_path: Path) -> None:
    file = tmp_path / "judgements.csv"
    file.write_text(
        "photo,choice,left,top,right,bottom\nn1_a,outline,,,,\nn2_b,box,0.1,0.2,0.5,0.9\n"
    )

    judgements = read_judgements(file)

    assert judgements["n1_a"].choice == "outline"
    assert judgements["n2_b"] == Judgement("box", (0.1, 0.2, 0.5, 0.9))


@pytest.mark.parametrize("line", ["n1_a,maybe,,,,", "n1_a,box,0.5,0.2,0.1,0.9", "n1_a,box,,,,"])
def test_a_judgement_that_does_not_fit_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "judgements.csv"
    file.write_text(f"photo,choice,left,top,right,bottom\n{line}\n")

    with pytest.raises(ValueError, match="n1_a"):
        read_judgements(file)


def test_photos_of_other_than_a_thousand_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="found 2"):
        class_indices([Path("n01_cat.jpg"), Path("n02_dog.jpg")])


def test_the_shipped_judgements_are_readable() -> None:
    judgements = read_judgements(Path("training/recipes/imagenet-objects.csv"))

    assert len(judgements) == 1000
    assert sum(each.choice != "none" for each in judgements.values()) > 400
