"""The re-identification task: data, loss and validation for the training loop."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from model.checkpoint import Checkpoint, save_checkpoint, source_commit
from model.reid import ReIDNet
from training.data.reid_samples import (
    IdentityDraw,
    ReIDBatch,
    TrainCrops,
    collate_crops,
    prepare_pair,
    with_labels,
)
from training.data.reid_sets import Rule, counts, find_train, refuse_swapped, split_identities
from training.data.sample import (
    Draw,
    Modality,
    Steps,
    drop_modalities,
    loader,
    without_modality,
)
from training.initial import load_initial_weights
from training.losses import BatchHardTriplet, reid_loss
from training.metrics import reid_scores, search
from training.recipe import ReIDRecipe

log = logging.getLogger(__name__)


class ReIDTask:
    """RGB-NIR re-identification as the loop sees it; see `training.task.Task`.

    Raises:
        ValueError: the data or the initial weights do not fit the recipe.
    """

    forward_method = "parts"

    def __init__(self, recipe: ReIDRecipe) -> None:
        self.recipe = recipe
        data = recipe.data
        train, self.val_crops = split_identities(
            find_train(data.roots[0], data.source), data.val_share
        )
        refuse_swapped(train)
        self.rule: Rule = "scene" if data.source == "msvr310" else "camera"
        for name, crops in (("train", train), ("validation", self.val_crops)):
            log.info("%s: %s", name, ", ".join(f"{n} {what}" for what, n in counts(crops).items()))
        self.facts: dict[str, Any] = {
            "train": counts(train),
            "validation": counts(self.val_crops),
            "near_infrared": "simulated" if any(crop.nir is None for crop in train) else "real",
        }
        config = recipe.network_config()
        height, width = config.input_size
        if config.trunk == "vit" and recipe.sizes != (height,):
            raise ValueError(f"a vit trunk takes sizes [{height}] alone, got {list(recipe.sizes)}")
        self.train_set = TrainCrops(
            train,
            IdentityDraw(recipe.batch_size, recipe.instances, recipe.seed),
            Draw(recipe.sizes, recipe.batch_size, recipe.seed, width / height),
            synchronous=data.synchronous,
        )
        if config.num_cameras and config.num_cameras != len(self.train_set.cameras):
            raise ValueError(
                f"num_cameras is {config.num_cameras}, the data has {len(self.train_set.cameras)}"
            )
        self.config = replace(config, num_classes=len(self.train_set.by_identity))
        self.triplet = BatchHardTriplet(recipe.triplet)
        torch.manual_seed(recipe.seed)
        network = ReIDNet(self.config)
        load_initial_weights(network, recipe)
        # Channels-last: depthwise convolutions and this input layout run faster in it.
        self.network: nn.Module = network.to(memory_format=torch.channels_last)

    def loader(self, start: int, stop: int, rank: int, world_size: int) -> DataLoader[ReIDBatch]:
        """Batches of steps `start` to `stop`: uint8 and float32 pictures, see `ReIDBatch`."""
        recipe = self.recipe
        steps = Steps(start, stop, recipe.batch_size, rank, world_size, recipe.accumulate)
        # Processes wait for each other, so all batches of a step have one size.
        self.train_set.draw = replace(self.train_set.draw, batch_size=steps.samples_per_step)
        return loader(self.train_set, steps, collate_crops, recipe.workers)

    def loss(self, network: Any, batch: ReIDBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar: cross-entropy and triplet loss of every part; and each of them, for the log."""
        camera = batch.camera if self.config.num_cameras else None
        rgb, aux = drop_modalities(batch.rgb, batch.aux, self.recipe.drop_aux, self.recipe.drop_rgb)
        return reid_loss(
            network.parts(rgb, aux, camera),
            batch.identity,
            self.triplet,
            smoothing=self.recipe.smoothing,
            triplet_weight=self.recipe.triplet_weight,
        )

    @torch.no_grad()
    def validate(self, network: nn.Module, gone: Modality | None = None) -> dict[str, float]:
        """Search held-out identities among themselves, without `gone`.

        `score` is the mean of mAP and rank 1.
        """
        device = next(network.parameters()).device
        values = []
        for first in range(0, len(self.val_crops), 16):
            pairs = [
                prepare_pair(crop, self.config.input_size)
                for crop in self.val_crops[first : first + 16]
            ]
            rgb, aux = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*pairs, strict=True))
            rgb, aux = without_modality(rgb, aux, gone)
            with torch.autocast(
                device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16-mixed"
            ):
                values.append(network(rgb.to(device), aux.to(device)).float().cpu().numpy())
        (embedded,) = with_labels((np.concatenate(values), self.val_crops))
        results = reid_scores(search(embedded, embedded, self.rule))
        return {**results, "score": (results["mean_ap"] + results["rank1"]) / 2}

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
