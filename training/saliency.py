"""The saliency task: data, loss and validation for the training loop."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from model.checkpoint import Checkpoint, save_checkpoint, source_commit
from model.saliency import SaliencyNet
from training.data.foregrounds import HeldOutDepth, Photo, SimulatedDepth, find_photos
from training.data.rgbd_sets import keep_named, read_set, set_folders
from training.data.sample import (
    Batch,
    Draw,
    Modality,
    Steps,
    collate,
    drop_modalities,
    loader,
    without_modality,
)
from training.data.triple_samples import HeldOutTriples, TrainTriples
from training.data.triples import Triple
from training.initial import load_initial_weights
from training.losses import saliency_loss
from training.metrics import SaliencyScores
from training.recipe import DataRecipe, SaliencyRecipe

log = logging.getLogger(__name__)


class SaliencyTask:
    """RGB-D saliency as the loop sees it; see `training.task.Task`.

    Raises:
        ValueError: the data or the initial weights do not fit the recipe.
    """

    forward_method = "logits"

    def __init__(self, recipe: SaliencyRecipe) -> None:
        self.recipe = recipe
        self.config = recipe.network_config()
        torch.manual_seed(recipe.seed)
        network = SaliencyNet(self.config)
        load_initial_weights(network, recipe)
        # Channels-last: depthwise convolutions and this input layout run faster in it.
        self.network: nn.Module = network.to(memory_format=torch.channels_last)
        self.train_set, self.val_set = _sets(recipe)
        self.facts: dict[str, Any] = {
            "train": len(self.train_set.items),
            "validation": len(self.val_set),
            "depth": _conventions(self.train_set.items),
        }

    def loader(self, start: int, stop: int, rank: int, world_size: int) -> DataLoader[Batch]:
        """Batches of steps `start` to `stop`: pictures and masks, see `Batch`."""
        recipe = self.recipe
        steps = Steps(start, stop, recipe.batch_size, rank, world_size, recipe.accumulate)
        # Processes wait for each other, so all batches of a step have one size.
        self.train_set.draw = replace(self.train_set.draw, batch_size=steps.samples_per_step)
        return loader(self.train_set, steps, collate, recipe.workers)

    def loss(self, network: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar: structure loss and focal supervision; and its parts, for the log."""
        rgb, aux = drop_modalities(batch.rgb, batch.aux, self.recipe.drop_aux, self.recipe.drop_rgb)
        logits = network.logits(rgb, aux)
        return saliency_loss(
            logits,
            batch.gt,
            self.config.decoder,
            bce=self.recipe.bce,
            focal_weight=self.recipe.focal_weight,
            smoothing=self.recipe.smoothing,
        )

    @torch.no_grad()
    def validate(self, network: nn.Module, gone: Modality | None = None) -> dict[str, float]:
        """S-measure and MAE on held-out samples, without `gone`; `score` is S - MAE."""
        device = next(network.parameters()).device
        scores = SaliencyScores()
        for first in range(0, len(self.val_set), 16):
            samples = [self.val_set[i] for i in range(first, min(first + 16, len(self.val_set)))]
            batch = collate(samples)
            with torch.autocast(
                device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16-mixed"
            ):
                rgb, aux = without_modality(batch.rgb.to(device), batch.aux.to(device), gone)
                pred = network(rgb, aux)
            for one, gt in zip(pred.float().cpu().numpy(), batch.gt.numpy(), strict=True):
                scores.add(one, gt[0] > 0.5)
        results = scores.results()
        return {**results, "score": results["s_measure"] - results["mae"]}

    def save(self, path: Path, network: nn.Module, metrics: dict[str, float]) -> None:
        """Write a checkpoint of `network`."""
        checkpoint = Checkpoint(
            config=self.config,
            state=network.state_dict(),
            recipe=self.recipe.to_dict(),
            metrics=metrics,
            commit=source_commit(),
            licence=self.recipe.licence,
        )
        save_checkpoint(path, checkpoint)


def _sets(
    recipe: SaliencyRecipe,
) -> tuple[SimulatedDepth | TrainTriples, HeldOutDepth | HeldOutTriples]:
    data, size = recipe.data, recipe.network_config().input_size
    draw = Draw(recipe.sizes, recipe.batch_size, recipe.seed)
    if data.source == "foregrounds":
        photos = [photo for root in data.roots for photo in find_photos(root)]
        backgrounds = sorted(data.backgrounds.glob("*.jpg")) if data.backgrounds else []
        train = [photo for photo in photos if not photo.held_out]
        held_out = [photo for photo in photos if photo.held_out]
        return SimulatedDepth(train, backgrounds, draw, data.shares), HeldOutDepth(
            held_out, size=size
        )
    train_triples, val_triples = training_triples(data)
    return (
        TrainTriples(train_triples, draw, data.cache),
        HeldOutTriples(val_triples, size=size),
    )


def _conventions(items: Sequence[Photo | Triple]) -> dict[str, int]:
    """How many samples write depth in each way."""
    return dict(
        Counter(item.convention if isinstance(item, Triple) else "simulated" for item in items)
    )


def training_triples(data: DataRecipe) -> tuple[list[Triple], list[Triple]]:
    """What `triples` recipes train and validate on; no triple is in both.

    Raises:
        ValueError: a folder, the list of names or the count does not fit; the message names it.
    """
    given = None if data.depth_convention == "auto" else data.depth_convention

    def triples_below(root: Path) -> list[Triple]:
        folders = set_folders(root)
        if not folders:
            raise ValueError(f"{root} holds no triples, nor do its subfolders")
        sets = [read_set(name, folder, given) for name, folder in folders.items()]
        for one in sets:
            log.info("%s: %d triples, depth is %s", one.name, len(one.triples), one.evidence)
        return [triple for one in sets for triple in one.triples]

    triples = [triple for root in data.roots for triple in triples_below(root)]
    if data.names:
        triples = keep_named(triples, data.names)
    if data.expected is not None and len(triples) != data.expected:
        raise ValueError(f"expected {data.expected} triples to train on, found {len(triples)}")
    if data.val_root:
        return triples, triples_below(data.val_root)
    train = [triple for triple in triples if not triple.held_out]
    held_out = [triple for triple in triples if triple.held_out]
    if not held_out:  # by chance, of a few
        train, held_out = train[:-1], train[-1:]
    if not train:
        raise ValueError("there is nothing to train on but what validation holds out")
    return train, held_out
