"""The checkpoint that ships, to be trained on: it is the one the bundle was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from model.bundle import load_canary, open_bundle
from model.checkpoint import load_checkpoint
from model.config import SaliencyConfig
from training.recipe import Recipe, SaliencyRecipe
from training.saliency import SaliencyTask

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "saliency-compact.safetensors"


def test_the_checkpoint_answers_as_the_bundle_does() -> None:
    bundle = open_bundle(ROOT / "bundles" / "saliency-compact")
    checkpoint = load_checkpoint(CHECKPOINT)
    rgb, aux, expected = load_canary(bundle)

    with torch.inference_mode():
        answer = checkpoint.build()(torch.from_numpy(rgb), torch.from_numpy(aux)).numpy()

    assert checkpoint.config == SaliencyConfig.from_dict(bundle.manifest.config)
    rounding = bundle.parity["steps"][1]
    assert rounding["step"] == "float16_weights"
    np.testing.assert_allclose(answer, expected, atol=2 * rounding["max_abs_error"])


def test_a_run_on_ones_own_pictures_starts_from_the_checkpoint(photos_root: Path) -> None:
    recipe = Recipe.load(
        ROOT / "training" / "recipes" / "saliency-triples.yaml",
        **{
            "start_from": CHECKPOINT,
            "config.stand_in": True,
            "data.source": "foregrounds",
            "data.roots": [str(photos_root)],
        },
    )
    assert isinstance(recipe, SaliencyRecipe)

    state = SaliencyTask(recipe).network.state_dict()

    for name, value in load_checkpoint(CHECKPOINT).state.items():
        assert torch.equal(value, state[name]), name
