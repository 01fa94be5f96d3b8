from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import training
from training.__main__ import app
from training.recipe import (
    DataRecipe,
    Recipe,
    ReIDDataRecipe,
    ReIDRecipe,
    SaliencyRecipe,
)

RECIPES = sorted((Path(training.__file__).parent / "recipes").glob("*.yaml"))


def write(folder: Path, **values: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({"data": {"source": "triples", "roots": ["data", "more"]}, **values})
    )
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_describes_a_network(path: Path) -> None:
    recipe = Recipe.load(path)

    assert recipe.network_config().name == recipe.preset
    assert all(side % 32 == 0 for side in recipe.sizes)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_survives_yaml_and_json(path: Path) -> None:
    recipe = Recipe.load(path)

    assert Recipe.from_dict(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_paths_and_lists_take_their_types(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path, sizes=[64, 96], trunk_weights="weights.safetensors"))

    assert recipe.data == DataRecipe(source="triples", roots=(Path("data"), Path("more")))
    assert recipe.sizes == (64, 96)
    assert recipe.trunk_weights == Path("weights.safetensors")
    assert recipe.start_from is None


def test_changes_replace_the_files_fields(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path, steps=10, batch_size=4), steps=20)

    assert (recipe.steps, recipe.batch_size) == (20, 4)


def test_changes_reach_into_sections(tmp_path: Path) -> None:
    path = write(tmp_path, config={"alpha": 0.5, "fusion": "ca"})

    recipe = Recipe.load(path, **{"config.alpha": 0.3, "data.roots": ["other"]})

    assert recipe.config == {"alpha": 0.3, "fusion": "ca"}
    assert recipe.data.roots == (Path("other"),)
    assert recipe.data.source == "triples"


def test_the_network_is_the_preset_with_changes(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path, config={"input_size": [64, 96], "fusion": "ca"}))

    config = recipe.network_config()

    assert config.backbone == "mobilenetv2_100"
    assert (config.input_size, config.fusion) == ((64, 96), "ca")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stpes": 10}, "unknown recipe keys: stpes"),
        (
            {"data": {"source": "triples", "roots": ["x"], "rot": "y"}},
            "unknown recipe keys: data.rot",
        ),
        ({"data": "folder"}, "expected a `data` section"),
        ({"config": {"wings": 2}}, "wings"),
        ({"steps": "many"}, "steps: expected int, got 'many'"),
        ({"steps": 10.5}, "steps: expected int, got 10.5"),
        ({"lr": "fast"}, "lr: expected a number, got 'fast'"),
        ({"lr": True}, "lr: expected float, got True"),
        ({"pretrained": "yes"}, "pretrained: expected bool, got 'yes'"),
        ({"sizes": 224}, "sizes: expected a list, got 224"),
        ({"sizes": ["big"]}, "sizes: expected int, got 'big'"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"drop_aux": 1}, r"drop_aux must lie in \[0, 1\), got 1.0"),
        ({"preset": "saliency-huge"}, "saliency-huge"),
    ],
)
def test_a_misspelt_key_is_named(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, **values)

    with pytest.raises(ValueError, match=message):
        Recipe.load(path)


def test_numbers_that_yaml_takes_for_words_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {source: triples, roots: [x]}\nlr: 1e-3\nclip_norm: 2\n")

    recipe = Recipe.load(path)

    assert (recipe.lr, recipe.clip_norm) == (0.001, 2.0)


def test_the_command_names_a_change_that_it_does_not_know(tmp_path: Path) -> None:
    path = write(tmp_path)
    runner = CliRunner()
    command = ["train", str(path), "--out", str(tmp_path / "run"), "--set"]

    for change, message in (
        ("config.wings=2", "unknown configuration keys: wings"),
        ("data.rot=2", "unknown recipe keys: data.rot"),
        ("steps.more=1", "steps: expected int, got {'more': 1}"),
        ("steps", "expected name=value after --set, got steps"),
        ("lr=1e-3", "data is not a folder"),
        ("config.alpha=1e-1", "data is not a folder"),
    ):
        result = runner.invoke(app, [*command, change])
        assert result.exit_code == 2
        assert message in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bce": "published"}, "unknown recipe keys: bce"),
        ({"preset": "saliency-compact"}, "data.source must be one of foregrounds, triples"),
        ({"data": {"source": "market", "roots": ["x"]}}, "data.source must be one of rgbn300, "),
        ({"data": {"source": "folders", "roots": ["x", "y"]}}, "one data set, got 2"),
        (
            {"data": {"source": "folders", "roots": ["x"], "backgrounds": "y"}},
            "keys: data.backgrounds",
        ),
        ({"triplet": "soft"}, "triplet must be one of soft_margin, hard, got 'soft'"),
        ({"batch_size": 10, "instances": 4}, "instances must divide batch_size"),
        ({"pretrained": True, "trunk_weights": "x"}, "exclude each other"),
    ],
)
def test_what_does_not_belong_to_re_identification_is_named(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = {"source": "folders", "roots": ["data"]}
    path = write(tmp_path, **{"preset": "reid-compact", "data": data, **values})

    with pytest.raises(ValueError, match=message):
        Recipe.load(path)


def test_the_preset_decides_the_task(tmp_path: Path) -> None:
    data = {"source": "rgbnt201", "roots": ["data"], "synchronous": False}

    recipe = Recipe.load(write(tmp_path, preset="reid-vit-base", data=data))

    assert isinstance(recipe, ReIDRecipe)
    assert recipe.data == ReIDDataRecipe("rgbnt201", (Path("data"),), synchronous=False)
    assert recipe.network_config().backbone == "vit_base_patch16_224"
    assert isinstance(Recipe.load(write(tmp_path)), SaliencyRecipe)


@pytest.mark.parametrize("content", ["", "- a\n- b\n"])
def test_a_file_that_is_no_recipe_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)

    with pytest.raises(ValueError, match=r"recipe\.yaml: expected a mapping"):
        Recipe.load(path)
