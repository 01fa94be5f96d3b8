"""A saliency task whose batch norms keep their statistics, so that batches can be split.

    python -m tests.training.steady_norms RECIPE OUT

trains it to the recipe's end, with as many processes as the recipe says.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training.loop import fit
from training.recipe import Recipe, SaliencyRecipe
from training.saliency import SaliencyTask


class SteadyNorms(SaliencyTask):
    """The mean of a batch's loss is then the mean over its parts'."""

    def loss(self, network: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return super().loss(network, batch)


if __name__ == "__main__":
    recipe = Recipe.load(Path(sys.argv[1]))
    assert isinstance(recipe, SaliencyRecipe)
    fit(SteadyNorms(recipe), recipe, Path(sys.argv[2]))
