from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from model.checkpoint import Checkpoint, load_checkpoint
from tests.training.test_loop import TINY
from training.__main__ import app
from training.ablate import WHOLE, Grid, ablate, folder_name, spread, summarise, write_report
from training.loop import Interrupted, fit
from training.recipe import Recipe

GRIDS = sorted((Path(__file__).parents[2] / "training" / "ablations").glob("*.yaml"))
RECIPES = Path(__file__).parents[2] / "training" / "recipes"


@pytest.fixture
def recipe(photos_root: Path, tmp_path: Path) -> Path:
    """Two steps of two samples."""
    values = {
        "data": {"source": "foregrounds", "roots": [str(photos_root)]},
        "config": {**TINY, "drop_path": 0.0},
        "sizes": [32],
        "batch_size": 2,
        "steps": 2,
        "warmup_steps": 1,
        "validate_every": 2,
        "save_every": 2,
        "workers": 0,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def write_grid(folder: Path, **values: Any) -> Path:
    grid = {"seeds": [0, 1], "variants": {"cda": None, "ca + cda": {"config.fusion": "ca_cda"}}}
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**grid, **values}, sort_keys=False))
    return path


def test_every_variant_is_trained_with_every_seed_and_tabulated(
    recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["ablate", str(recipe), "--grid", str(write_grid(tmp_path)), "--out", str(out)]

    first = CliRunner().invoke(app, command)

    assert first.exit_code == 0, first.output
    runs = [out / variant / f"seed{seed}" for variant in ("cda", "ca-cda") for seed in (0, 1)]
    for run in runs:
        assert (run / "last.safetensors").is_file()
        assert not (run / "state.pt").exists()
    written = [yaml.safe_load((run / "recipe.yaml").read_text()) for run in runs]
    trained = {(each["config"].get("fusion", "cda"), each["seed"]) for each in written}
    assert trained == {("cda", 0), ("cda", 1), ("ca_cda", 0), ("ca_cda", 1)}
    table = (out / "ablation.md").read_text()
    assert table in first.output
    assert table.splitlines()[2].startswith("| cda | 2 | 0.")
    assert len((out / "ablation.csv").read_text().splitlines()) == 5
    with Image.open(out / "ablation.png") as image:
        assert image.width > 1000


def test_finished_runs_are_not_repeated_and_other_recipes_are_refused(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid.load(write_grid(tmp_path, seeds=[3]))
    results = ablate(recipe, grid, tmp_path / "out")
    monkeypatch.setattr("training.ablate.fit", None)

    again = ablate(recipe, grid, tmp_path / "out")

    assert again == results
    with pytest.raises(ValueError, match=r"holds a run of another recipe.* lr was "):
        ablate(recipe, grid, tmp_path / "out", {"lr": 0.5})


def test_an_interrupted_ablation_leaves_the_table_of_the_seeds_that_are_complete(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(task: Any, chosen: Any, run: Path, **options: Any) -> dict[str, float]:
        if run == tmp_path / "out" / "ca-cda" / "seed1":
            raise Interrupted("stopped")
        return fit(task, chosen, run, **options)

    monkeypatch.setattr("training.ablate.fit", interrupted)
    with pytest.raises(Interrupted):
        ablate(recipe, Grid.load(write_grid(tmp_path)), tmp_path / "out")

    rows = (tmp_path / "out" / "ablation.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1:3] for row in rows] == [["cda", "0"], ["ca + cda", "0"]]


def test_runs_are_judged_without_each_modality_where_that_is_asked(
    recipe: Path, tmp_path: Path
) -> None:
    grid, out = Grid.load(write_grid(tmp_path, seeds=[0])), tmp_path / "out"
    enough = {"steps": 12, "lr": 0.02, "ema_decay": 0.1, "validate_every": 12, "batch_size": 4}
    whole = ablate(recipe, grid, out, enough)

    judged = ablate(recipe, grid, out, enough, conditions=True)  # of the runs that are there

    assert list(judged) == ["both modalities", "no depth", "no colour"]
    assert judged[WHOLE] == whole[WHOLE]
    scores = [judged[condition]["cda"][0]["score"] for condition in judged]
    assert len(set(scores)) == 3
    text = (out / "ablation.md").read_text()
    assert text.count("| cda | 1 | ") == 3
    assert "## no depth\n\n| variant" in text
    assert len((out / "ablation.csv").read_text().splitlines()) == 7
    assert (out / "ablation-no-depth.png").is_file()


def test_variants_differ_by_what_they_say_alone(recipe: Path, tmp_path: Path) -> None:
    grid = Grid((0,), {"cda": {}, "again": {"config.fusion": "cda"}, "ca": {"config.fusion": "ca"}})

    results = ablate(recipe, grid, tmp_path)[WHOLE]

    assert results["cda"] == results["again"]
    cda, again, ca = (
        load_checkpoint(tmp_path / variant / "seed0" / "last.safetensors")
        for variant in grid.variants
    )
    assert [each.config.fusion for each in (cda, again, ca)] == ["cda", "cda", "ca"]

    def differ(one: Checkpoint, other: Checkpoint) -> bool:
        return any(not torch.equal(value, other.state[key]) for key, value in one.state.items())

    assert not differ(cda, again)
    assert differ(cda, ca)


def test_a_variant_that_does_not_fit_is_refused_before_anything_is_trained(
    recipe: Path, tmp_path: Path
) -> None:
    for changes, message in (
        ({"config.wings": 2}, "wings"),
        ({"processes": 2}, "set processes to 1"),
    ):
        grid = Grid((0,), {"cda": {}, "other": changes})
        with pytest.raises(ValueError, match=message):
            ablate(recipe, grid, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": []}, "whole numbers as seeds, and two variants"),
        ({"seeds": ["a"]}, "whole numbers as seeds, and two variants"),
        ({"variants": {"one": {}}}, "whole numbers as seeds, and two variants"),
        ({"variants": {"a b": {}, "a-b": {}}}, "differ in punctuation alone"),
        ({"more": 1}, "expected `seeds` and `variants`, nothing else"),
    ],
)
def test_a_grid_that_is_none_is_refused(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Grid.load(write_grid(tmp_path, **values))


def scores(value: float) -> dict[str, float]:
    return dict.fromkeys(("s_measure", "max_f", "max_e", "mae", "score"), value)


def test_differences_are_taken_seed_by_seed(tmp_path: Path) -> None:
    results = {
        "first": {0: scores(0.1), 1: scores(0.5), 2: scores(0.9)},
        "second": {0: scores(0.2), 1: scores(0.6), 2: scores(0.85)},
    }

    table = summarise(results, "saliency").splitlines()

    differences = np.array([0.1, 0.1, -0.05])
    assert table[2].endswith("| 0.5000 ± 0.4000 |  |  |")
    expected = f"{differences.mean():+.4f} ± {differences.std(ddof=1):.4f}"
    assert table[3].endswith(f"| {expected} | 2 of 3 |")
    write_report({WHOLE: results}, "saliency", tmp_path)
    row = (tmp_path / "ablation.csv").read_text().splitlines()[4]
    assert row.startswith("both modalities,second,0,0.2")
    assert spread([0.5]) == "0.5000"
    assert folder_name("strides 8, 16") == "strides-8-16"


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_shipped_grid_fits_the_shipped_recipes(path: Path) -> None:
    grid = Grid.load(path)

    for name in ("ablation-scenes", "ablation-photos"):
        recipes = [
            Recipe.load(RECIPES / f"{name}.yaml", **changes) for changes in grid.variants.values()
        ]
        assert len({str(each.network_config()) + str(each) for each in recipes}) == len(recipes)
