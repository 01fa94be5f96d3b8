"""Triples as training samples without end, and as they are for validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from model.preprocessing import prepare_depth, prepare_rgb
from training.data.augment import joint_crop, photometric
from training.data.decoded import decode, decode_once
from training.data.sample import Draw, Sample
from training.data.triples import Triple, picture, read_depth, read_gt


class TrainTriples:
    """Training samples without end: sample i is a pure function of (seed, i).

    Args:
        triples: visited in an order shuffled anew each epoch.
        draw: sizes, batches and seed.
        cache: folder of decoded triples; none: they are decoded every time.
    """

    def __init__(self, triples: Sequence[Triple], draw: Draw, cache: Path | None = None) -> None:
        self.items = list(triples)
        self.draw = draw
        self.cache = cache

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the endless sequence."""
        triple = self.items[self.draw.shuffled(index, len(self.items))]
        rgb, near, gt = decode_once(triple, self.cache) if self.cache else decode(triple)
        rng = self.draw.rng(index)
        rgb, near, gt = joint_crop((rgb, near, gt), gt, self.draw.size(index), rng)
        return Sample(photometric(rgb, rng), near[..., None], (gt > 127).astype(np.float32))


class HeldOutTriples:
    """Validation triples as they are, resized.

    Args:
        triples: the held-out triples.
        size: (height, width) in pixels.
    """

    def __init__(self, triples: Sequence[Triple], *, size: tuple[int, int]) -> None:
        self.triples = list(triples)
        self.size = size

    def __len__(self) -> int:
        return len(self.triples)

    def __getitem__(self, index: int) -> Sample:
        """Triple `index`."""
        triple = self.triples[index]
        with picture(triple.rgb) as image:
            rgb = prepare_rgb(image, self.size)
        aux = prepare_depth(read_depth(triple.depth), triple.convention, self.size)
        gt = read_gt(triple.gt).astype(np.float32)
        height, width = self.size
        gt = cv2.resize(gt, (width, height), interpolation=cv2.INTER_AREA)
        return Sample(rgb, aux, (gt > 0.5).astype(np.float32))
