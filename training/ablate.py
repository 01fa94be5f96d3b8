"""Ablations: one recipe in several variants over several seeds, and a table of what it changes.

A grid is a YAML file of `seeds` and `variants`; each variant is a name with changes to the recipe,
and the first is what the others are compared with, seed by seed. Scores are of the averaged weights
after the last step, not of the best validation: choosing would favour whoever varies more.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from model.checkpoint import load_checkpoint
from model.config import Task
from training.data.sample import Modality
from training.loop import fit
from training.recipe import Recipe, ReIDRecipe, SaliencyRecipe, differences
from training.reid import ReIDTask
from training.report import plots
from training.saliency import SaliencyTask

log = logging.getLogger(__name__)

MEASURES: dict[Task, dict[str, str]] = {
    "saliency": {"s_measure": "S", "max_f": "max F", "max_e": "max E", "mae": "MAE"},
    "reid": {"mean_ap": "mAP", "rank1": "rank 1", "minp": "mINP"},
}
"""What is tabulated; `score`, which is to be maximised, is compared."""

WHOLE = "both modalities"
CONDITIONS: dict[Task, dict[str, Modality]] = {
    "saliency": {"no depth": "aux", "no colour": "rgb"},
    "reid": {"no NIR": "aux", "no RGB": "rgb"},
}
"""What can be taken away from all samples that a run is judged on, besides `WHOLE`."""


@dataclass(frozen=True)
class Grid:
    """What is varied."""

    seeds: tuple[int, ...]
    variants: dict[str, dict[str, Any]]
    """Changes to the recipe by variant, as `Recipe.load` takes them."""

    @staticmethod
    def load(path: Path) -> Grid:
        """Read a YAML file.

        Raises:
            ValueError: it has other keys, no seed, fewer than two variants, two of one folder.
        """
        values = yaml.safe_load(path.read_text())
        if not isinstance(values, dict) or set(values) != {"seeds", "variants"}:
            raise ValueError(f"{path}: expected `seeds` and `variants`, nothing else")
        seeds = tuple(values["seeds"])
        variants = {str(name): dict(to or {}) for name, to in values["variants"].items()}
        if not seeds or not all(isinstance(seed, int) for seed in seeds) or len(variants) < 2:
            raise ValueError(f"{path}: expected whole numbers as seeds, and two variants or more")
        if len({folder_name(name) for name in variants}) < len(variants):
            raise ValueError(f"{path}: names of variants differ in punctuation alone")
        return Grid(seeds, variants)


Results = dict[str, dict[int, dict[str, float]]]
"""Scores by variant and seed, of one condition."""


def ablate(
    recipe: Path,
    grid: Grid,
    out: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    conditions: bool = False,
) -> dict[str, Results]:
    """Train every variant with every seed, into `<out>/<variant>/seed<n>/`.

    Runs that are finished are not repeated, and one that was stopped is resumed, so the same call
    goes on after an interruption. The report is written anew after each seed.

    Args:
        recipe: what is varied.
        grid: how.
        out: folder of the runs.
        changes: to the recipe in all variants.
        conditions: judge every run without each modality, too.

    Returns:
        Results by condition: `WHOLE`, and those of `CONDITIONS` if they are asked for.

    Raises:
        ValueError: a variant does not fit the recipe, before anything is trained; or runs in `out`
            come from another recipe; or several devices would be used at once.
    """
    chosen = {
        (name, seed): Recipe.load(recipe, **{**(changes or {}), **to, "seed": seed})
        for name, to in grid.variants.items()
        for seed in grid.seeds
    }
    if torch.cuda.device_count() > 1 or any(each.processes > 1 for each in chosen.values()):
        raise ValueError("runs follow each other in one process: set processes to 1, show one GPU")
    (task,) = {each.task for each in chosen.values()}
    judged = [WHOLE, *(CONDITIONS[task] if conditions else ())]
    results: dict[str, Results] = {
        condition: {name: {} for name in grid.variants} for condition in judged
    }
    # Seeds outside: a table can be made, and means something, after each.
    for seed in grid.seeds:
        for name in grid.variants:
            run = out / folder_name(name) / f"seed{seed}"
            log.info("%s, seed %d", name, seed)
            for condition, scores in _finished(run, chosen[name, seed], conditions).items():
                results[condition][name][seed] = scores
        write_report(results, task, out)
    return results


def folder_name(variant: str) -> str:
    """A variant's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", variant).strip("-")


def _finished(
    run: Path, recipe: SaliencyRecipe | ReIDRecipe, conditions: bool
) -> dict[str, dict[str, float]]:
    """Scores of a run by condition, trained if need be."""
    log_file = run / "log.jsonl"
    lines = log_file.read_text().splitlines() if log_file.is_file() else []
    last = json.loads(lines[-1]) if lines else {"step": 0}
    finished = last["step"] == recipe.steps
    if finished:
        written = yaml.safe_load((run / "recipe.yaml").read_text())
        if changes := differences(written, recipe.to_dict()):
            raise ValueError(
                f"{run} holds a run of another recipe; choose another folder: {'; '.join(changes)}"
            )
    if not finished or conditions:
        task = ReIDTask(recipe) if isinstance(recipe, ReIDRecipe) else SaliencyTask(recipe)
    if not finished:
        last = fit(task, recipe, run, resume=(run / "state.pt").is_file())
    # Only weights and scores of a finished run are of use: its state takes four times as much.
    (run / "state.pt").unlink(missing_ok=True)
    scores = {WHOLE: last}
    if conditions:
        network = load_checkpoint(run / "last.safetensors").build()
        for condition, gone in CONDITIONS[recipe.task].items():
            scores[condition] = task.validate(network, gone)
    columns = (*MEASURES[recipe.task], "score")
    return {
        condition: {name: float(values[name]) for name in columns}
        for condition, values in scores.items()
    }


def summarise(results: Results, task: Task) -> str:
    """A Markdown table: mean and standard deviation over seeds, and the difference from the first.

    A difference is of `score`, taken seed by seed, so that what a seed does to all variants does
    not count; with it stands how many seeds it is above 0 for. Read it against its spread.
    """
    score = "S - MAE" if task == "saliency" else "(mAP + rank 1) / 2"
    first = next(iter(results))
    heads = [*MEASURES[task].values(), score, f"difference from {first}", "better in"]
    lines = [f"| variant | runs | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    for name, runs in results.items():
        cells = [
            spread([scores[key] for scores in runs.values()]) for key in (*MEASURES[task], "score")
        ]
        differences = _differences(results, name)
        if name == first or not differences:
            cells += ["", ""]
        else:
            better = sum(value > 0 for value in differences)
            cells += [spread(differences, signed=True), f"{better} of {len(differences)}"]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _differences(results: Results, name: str) -> list[float]:
    first = next(iter(results.values()))
    return [
        scores["score"] - first[seed]["score"]
        for seed, scores in results[name].items()
        if seed in first
    ]


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and standard deviation (of a sample) of some values; of one value, it alone."""
    mean = f"{np.mean(values):+.4f}" if signed else f"{np.mean(values):.4f}"
    return f"{mean} ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else mean


def tables(results: Mapping[str, Results], task: Task) -> str:
    """A table for each condition; one alone needs no heading."""
    if len(results) == 1:
        return summarise(results[WHOLE], task)
    return "\n".join(f"## {name}\n\n{summarise(each, task)}" for name, each in results.items())


def write_report(results: Mapping[str, Results], task: Task, out: Path) -> None:
    """Write `ablation.md`, `ablation.csv` with every run, and `ablation.png`.

    Each condition has a table, and a picture that is named after it.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "ablation.md").write_text(tables(results, task))
    with (out / "ablation.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        columns = (*MEASURES[task], "score")
        writer.writerow(("condition", "variant", "seed", *columns))
        for condition, of_condition in results.items():
            for name, runs in of_condition.items():
                for seed, scores in runs.items():
                    values = (f"{scores[key]:.6f}" for key in columns)
                    writer.writerow((condition, name, seed, *values))
    for condition, of_condition in results.items():
        suffix = "" if condition == WHOLE else f"-{folder_name(condition)}"
        _plot(of_condition, task, out / f"ablation{suffix}.png")


def _plot(results: Results, task: Task, path: Path) -> None:
    """A line of dots for each variant, one a seed, with their mean; and the paired differences."""
    plt = plots()
    names = list(results)
    height = 1.2 + 0.32 * len(names)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, height), sharey=True, layout="constrained"
    )
    scores = {name: [each["score"] for each in runs.values()] for name, runs in results.items()}
    differences = {name: _differences(results, name) for name in names}
    for axes, values in ((left, scores), (right, differences)):
        for row, name in enumerate(names):
            axes.plot(values[name], [row] * len(values[name]), "o", alpha=0.6, color="C0")
            axes.plot([np.mean(values[name])], [row], "|", color="black", markersize=14)
        axes.grid(alpha=0.3)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel("S - MAE" if task == "saliency" else "(mAP + rank 1) / 2")
    right.axvline(0, color="black", linewidth=0.8)
    right.locator_params(axis="x", nbins=6)
    right.set_xlabel(f"difference from {names[0]}, seed by seed")
    figure.savefig(path, dpi=120)
    plt.close(figure)
