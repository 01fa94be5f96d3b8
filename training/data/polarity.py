"""How a pack writes depth, told from where its objects stand: before what is around them.

Packs of one data set differ in polarity, so it is found out for each, and shown with its evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.preprocessing import DepthConvention
from training.data.triples import Triple, read_depth, read_gt

SIDE = 128
"""Pictures are compared at this height and width, in pixels."""
RING = 25
"""Side of the square that grows an object into its surroundings, in those pixels."""
CLEAR = 0.1
"""Differences below this vote for neither polarity."""
MANY = 10
"""From this number of votes on, a large minority means that the set is mixed."""
MINORITY = 0.3


@dataclass(frozen=True)
class Polarity:
    """The votes of a set's triples."""

    near_bright: int
    near_dark: int
    unclear: int
    difference: float
    """Mean over the triples of `brighter_object`."""
    deep: bool
    """Whether depth has more than 8 bits."""
    holes: bool
    """Whether depth has zeros, which a camera that measures distance writes where it is blind."""

    @property
    def mixed(self) -> bool:
        """Whether so many triples disagree that no one convention can be right for all."""
        votes = self.near_bright + self.near_dark
        return votes >= MANY and min(self.near_bright, self.near_dark) > MINORITY * votes

    @property
    def convention(self) -> DepthConvention | None:
        """What the votes say; none where they are mixed, even, or all unclear."""
        if self.mixed or self.near_bright == self.near_dark:
            return None
        if self.near_bright > self.near_dark:
            return "near_bright"
        return "metric" if self.deep and self.holes else "near_dark"

    def __str__(self) -> str:
        """The verdict and its evidence."""
        verdict = self.convention or ("mixed" if self.mixed else "undecided")
        return (
            f"{verdict}: the object is brighter than what is around it in {self.near_bright}, "
            f"darker in {self.near_dark}, neither in {self.unclear} (by {self.difference:+.2f} of "
            f"the range on average); {'16 bits or more' if self.deep else '8 bits'}"
            f"{', with zeros' if self.holes else ''}"
        )


def brighter_object(depth: NDArray[Any], gt: NDArray[np.bool_]) -> float:
    """How much brighter depth is on the object than in a ring around it, in [-1, 1].

    Brightness is a pixel's rank in its picture, so curves and outliers do not matter.

    Args:
        depth: (H, W) as it is written; any size.
        gt: bool (H, W), the object; any size.

    Returns:
        0 also where there is no object, no ring, or no depth.
    """
    values = np.nan_to_num(depth.astype(np.float32), posinf=0, neginf=0)
    small = cv2.resize(values, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(gt.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 0.5
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((RING, RING), np.uint8)) > 0
    ring = grown & ~mask
    if not mask.any() or not ring.any():
        return 0.0
    levels, ranks = np.unique(small, return_inverse=True)
    shares = np.cumsum(np.bincount(ranks.ravel(), minlength=len(levels))) / small.size
    rank = shares[ranks].reshape(small.shape)
    return float(rank[mask].mean() - rank[ring].mean())


def count_votes(differences: Sequence[float], *, deep: bool, holes: bool) -> Polarity:
    """Count what `brighter_object` answered for each triple."""
    values = np.asarray(differences)
    bright, dark = int((values > CLEAR).sum()), int((values < -CLEAR).sum())
    mean = float(values.mean()) if values.size else 0.0
    return Polarity(bright, dark, len(values) - bright - dark, mean, deep, holes)


def detect_polarity(triples: Sequence[Triple], most: int = 200) -> Polarity:
    """Read up to `most` triples, evenly spaced, and count what they say."""
    step = max(len(triples) // most, 1)
    differences, deep, holes = [], False, False
    for triple in triples[::step]:
        depth = read_depth(triple.depth)
        differences.append(brighter_object(depth, read_gt(triple.gt)))
        deep |= depth.dtype.itemsize > 1
        holes |= bool((depth == 0).any())
    return count_votes(differences, deep=deep, holes=holes)
