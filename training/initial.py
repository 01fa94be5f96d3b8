"""What a network starts from: an ImageNet classifier's weights in its trunks, or a checkpoint."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoint import load_checkpoint
from training.recipe import Recipe, differences

log = logging.getLogger(__name__)


def load_initial_weights(network: nn.Module, recipe: Recipe) -> None:
    """Load what `trunk_weights`, `pretrained` and `start_from` name.

    What a checkpoint cannot know starts anew: classifiers of other identities, and stand-ins if it
    was trained without.

    Raises:
        ValueError: the weights do not fit the network.
    """
    parts: Any = network
    for trunk in (parts.trunk_rgb, parts.trunk_aux):
        if recipe.trunk_weights:
            trunk.load_weights(recipe.trunk_weights)
        elif recipe.pretrained:
            trunk.load_pretrained(parts.config.backbone)
    if recipe.start_from is None:
        return
    before = network.state_dict()
    checkpoint = load_checkpoint(recipe.start_from)
    state = _blended(checkpoint.state, before, recipe.trunk_blend)
    new = {
        name: value
        for name, value in before.items()
        if (name.startswith("stand_in") and name not in state)
        or ("classifier" in name and name in state and value.shape != state[name].shape)
    }
    try:
        network.load_state_dict(state | new)
    except RuntimeError as error:
        changes = differences(checkpoint.config.to_dict(), parts.config.to_dict())
        raise ValueError(
            f"{recipe.start_from} does not fit the network: {'; '.join(changes) or error}"
        ) from error
    if new:
        log.info("starting anew: %s", ", ".join(new))


def _blended(
    state: dict[str, Tensor], before: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    """`state`, with its trunks moved towards those in `before` by `share`."""
    return {
        name: torch.lerp(value, before[name], share)
        if share and name.startswith("trunk") and value.is_floating_point()
        else value
        for name, value in state.items()
    }
