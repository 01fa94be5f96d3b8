"""Losses of both tasks."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from model.config import Decoder
from model.reid import PARTS, ReIDParts
from model.saliency import SaliencyLogits

Bce = Literal["weighted", "published"]
Triplet = Literal["soft_margin", "hard"]

LEVEL_WEIGHTS: dict[Decoder, tuple[float, ...]] = {
    # F3Net's: both rounds, then the levels.
    "cascaded": (0.5, 0.5, 0.5, 0.25, 0.125, 0.0625),
    "light": (1.0, 0.5, 0.25, 0.125),
}
"""Weight of each of `SaliencyLogits.maps` in the loss, most important map first."""


def boundary_weight(gt: Tensor, window: int = 31, strength: float = 5.0) -> Tensor:
    """F3Net's pixel weight `1 + strength * |mean around the pixel - gt|`, large at outlines.

    Args:
        gt: (B, 1, H, W) in [0, 1].
        window: side of the averaged square in pixels, odd.
        strength: largest addition to 1.

    Returns:
        (B, 1, H, W), at least 1. Source: F3Net, AAAI 2020; the mean is taken along rows and then
        columns, which is the same and thirty times cheaper.
    """
    pad = window // 2
    mean = F.avg_pool2d(gt, (window, 1), stride=1, padding=(pad, 0))
    mean = F.avg_pool2d(mean, (1, window), stride=1, padding=(0, pad))
    return 1 + strength * (mean - gt).abs()


def structure_loss(
    logits: Tensor, gt: Tensor, weight: Tensor, bce: Bce = "weighted", smoothing: float = 0.0
) -> Tensor:
    """F3Net's loss: weighted binary cross-entropy plus weighted intersection over union.

    Departure: F3Net's code asks for `reduce='none'`, which its torch takes for `True`, so the
    published numbers were trained with a plain mean. `bce="published"` does that;
    `bce="weighted"` is the loss as meant.

    Args:
        logits: (B, 1, H, W).
        gt: (B, 1, H, W) in [0, 1].
        weight: (B, 1, H, W), from `boundary_weight`.
        bce: which cross-entropy.
        smoothing: of the cross-entropy's targets, in [0, 1): 0 and 1 become half of it and the
            rest, so that logits stay moderate where the answer is sure.

    Returns:
        Scalar, the mean over the batch.
    """
    target = gt * (1 - smoothing) + smoothing / 2
    if bce == "weighted":
        per_pixel = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        cross_entropy = (weight * per_pixel).sum((2, 3)) / weight.sum((2, 3))
    else:
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
    pred = logits.sigmoid()
    inter = (pred * gt * weight).sum((2, 3))
    union = ((pred + gt) * weight).sum((2, 3))
    iou = 1 - (inter + 1) / (union - inter + 1)
    return (cross_entropy + iou).mean()


def focal_loss(logits: Tensor, gt: Tensor, gamma: float = 2.0) -> Tensor:
    """Cross-entropy that fades where the prediction is right already (Lin et al., ICCV 2017).

    Args:
        logits: (B, 1, H, W).
        gt: (B, 1, H, W) in [0, 1]; values between are shares of a coarse cell.
        gamma: how fast it fades.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, gt, reduction="none")
    error = (logits.sigmoid() - gt).abs()
    return (error**gamma * cross_entropy).mean()


def saliency_loss(
    logits: SaliencyLogits,
    gt: Tensor,
    decoder: Decoder,
    *,
    bce: Bce = "weighted",
    focal_weight: float = 0.5,
    smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Structure loss on the fused maps plus focal supervision of each stream.

    Each map is compared at its own resolution, with `gt` averaged to it; only the answer is
    compared at full resolution. Reconstruction: the paper names focal supervision of the
    feature extractors and gives no formula or weight.

    Args:
        logits: of `SaliencyNet.logits`.
        gt: (B, 1, H, W), 0 or 1.
        decoder: whose maps they are.
        bce: see `structure_loss`.
        smoothing: see `structure_loss`.
        focal_weight: weight of the streams' supervision, averaged over levels.

    Returns:
        The total, and its parts for the log.
    """
    pyramid = _Pyramid(gt, boundary_weight(gt))
    answer, *others = (x.float() for x in logits.maps)
    full = F.interpolate(answer, size=gt.shape[-2:], mode="bilinear", align_corners=False)
    weights = LEVEL_WEIGHTS[decoder]
    fused = weights[0] * structure_loss(full, *pyramid.at(full), bce, smoothing)
    for weight, x in zip(weights[1:], others, strict=True):
        fused = fused + weight * structure_loss(x, *pyramid.at(x), bce, smoothing)
    streams = torch.stack(
        [focal_loss(x.float(), pyramid.at(x)[0]) for x in (*logits.rgb, *logits.aux)]
    ).mean()
    total = fused + focal_weight * streams
    return total, {"fused": fused.detach(), "streams": streams.detach()}


class _Pyramid:
    """Mask and weight at every resolution asked for, each averaged once."""

    def __init__(self, gt: Tensor, weight: Tensor) -> None:
        self.maps: dict[tuple[int, int], tuple[Tensor, Tensor]] = {
            (gt.shape[-2], gt.shape[-1]): (gt, weight)
        }
        self.full = (gt, weight)

    def at(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        size = (logits.shape[-2], logits.shape[-1])
        if size not in self.maps:
            gt, weight = (F.adaptive_avg_pool2d(x, size) for x in self.full)
            self.maps[size] = gt, weight
        return self.maps[size]


class BatchHardTriplet:
    """Triplet loss of each sample with its farthest positive and its nearest negative.

    Distances are Euclidean, of the features as they are (Hermans et al., "In Defense of the Triplet
    Loss", 2017). `soft_margin` is log(1 + exp(d_ap - d_an)), `hard` is max(0, d_ap - d_an + 0.3);
    the mean is over all samples.
    """

    def __init__(self, kind: Triplet) -> None:
        distance = LpDistance(normalize_embeddings=False)
        self._miner = BatchHardMiner(distance=distance)
        self._loss = TripletMarginLoss(
            margin=0.0 if kind == "soft_margin" else 0.3,
            smooth_loss=kind == "soft_margin",
            distance=distance,
            reducer=MeanReducer(),
        )

    def __call__(self, features: Tensor, identity: Tensor) -> Tensor:
        """Scalar for features (B, C) of `identity` int64 (B,)."""
        loss: Tensor = self._loss(features, identity, self._miner(features, identity))
        return loss


def reid_loss(
    parts: ReIDParts,
    identity: Tensor,
    triplet: BatchHardTriplet,
    *,
    smoothing: float = 0.0,
    triplet_weight: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on each part's logits plus triplet loss on its feature, averaged over parts.

    Args:
        parts: of `ReIDNet.parts`.
        identity: class of each sample, int64 (B,).
        triplet: which triplet loss.
        smoothing: of the cross-entropy's targets, in [0, 1).
        triplet_weight: of the triplet loss beside the cross-entropy.

    Returns:
        The total, and its parts for the log.
    """
    entropies = [
        F.cross_entropy(logits.float(), identity, label_smoothing=smoothing)
        for logits in parts.logits
    ]
    triplets = [triplet(feature.float(), identity) for feature in parts.features]
    entropy, metric = torch.stack(entropies).mean(), torch.stack(triplets).mean()
    right = (parts.logits[0].argmax(dim=1) == identity).float().mean()
    names = [*PARTS, *(f"group{i}" for i in range(1, len(triplets) - len(PARTS) + 1))]
    log = {f"triplet_{name}": value.detach() for name, value in zip(names, triplets, strict=True)}
    log |= {"entropy": entropy.detach(), "triplet": metric.detach(), "accuracy": right}
    return entropy + triplet_weight * metric, log
