"""Command line of training: `python -m training --help`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

import typer
import yaml
from rich.console import Console
from rich.progress import track

from model.preprocessing import DepthConvention

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


evaluate = typer.Typer(no_args_is_help=True, help="Judge a model on labelled data.")
app.add_typer(evaluate, name="evaluate")
pairs = typer.Typer(no_args_is_help=True, help="Write real pairs that an export is judged on.")
app.add_typer(pairs, name="pairs")


NearBright = Annotated[
    list[str] | None, typer.Option(help="Set in which bright is near; may be repeated.")
]
NearDark = Annotated[
    list[str] | None, typer.Option(help="Set in which dark is near; may be repeated.")
]
MetricDepth = Annotated[
    list[str] | None,
    typer.Option("--metric", help="Set whose depth is distance, 0 missing; may be repeated."),
]


Flip = Annotated[bool, typer.Option(help="Average with the answers of mirror images.")]
MultiScale = Annotated[
    bool, typer.Option(help="Average over 0.75, 1 and 1.25 of the size; checkpoints alone.")
]
LAYOUTS = "rgbn300, rgbnt100, rgbnt201, msvr310, folders or vehicles."

doctor = typer.Typer(no_args_is_help=True, help="Examine a data set before training on it.")
app.add_typer(doctor, name="doctor")


synthesise = typer.Typer(no_args_is_help=True, help="Render a data set; needs no download.")
app.add_typer(synthesise, name="synthesise")


@app.callback()
def main() -> None:
    """Train and evaluate MutualFormer networks."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


@app.command()
def train(
    recipe: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="Recipe file, see training/recipes/."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of this run.")],
    resume: Annotated[bool, typer.Option(help="Continue the run in that folder.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Replace a field, e.g. --set steps=100 or --set config.fusion=ca."
        ),
    ] = None,
) -> None:
    """Train one network; Ctrl-C saves the state, --resume continues it exactly."""
    from training.loop import Interrupted, fit
    from training.recipe import Recipe, ReIDRecipe
    from training.reid import ReIDTask
    from training.saliency import SaliencyTask

    try:
        chosen = Recipe.load(recipe, **_parse(changes or []))
        task = ReIDTask(chosen) if isinstance(chosen, ReIDRecipe) else SaliencyTask(chosen)
        results = fit(task, chosen, out, resume=resume)
    except Interrupted as stop:
        typer.echo(f"{stop}. Continue with --resume.", err=True)
        raise typer.Exit(130) from stop
    except (ValueError, OSError, FloatingPointError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    for name, value in results.items():
        typer.echo(f"{name:28} {value:.4f}")


@app.command("ablate")
def ablate_command(
    recipe: Annotated[Path, typer.Argument(help="Recipe file that is varied.")],
    grid: Annotated[Path, typer.Option(help="Seeds and variants, see training/ablations/.")],
    out: Annotated[Path, typer.Option(help="Folder of all runs and of the report.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field in all variants.")
    ] = None,
    conditions: Annotated[
        bool, typer.Option(help="Judge every run without each modality, too.")
    ] = False,
) -> None:
    """Train every variant with every seed, and tabulate means, spreads and differences.

    Ctrl-C saves the state; the same command goes on.
    """
    from training.ablate import Grid, ablate, tables
    from training.loop import Interrupted
    from training.recipe import Recipe

    try:
        given = _parse(changes or [])
        task = Recipe.load(recipe, **given).task
        results = ablate(recipe, Grid.load(grid), out, given, conditions=conditions)
    except Interrupted as stop:
        typer.echo(f"{stop}. The same command goes on.", err=True)
        raise typer.Exit(130) from stop
    except (ValueError, OSError, FloatingPointError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(tables(results, task))
    typer.echo(f"table, every run and plot: {out}")


@app.command("average")
def average_command(
    checkpoints: Annotated[list[Path], typer.Argument(help="Of runs that started from another.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")],
) -> None:
    """Average the weights of several runs into one checkpoint."""
    from model.checkpoint import average_checkpoints, load_checkpoint, save_checkpoint

    try:
        save_checkpoint(out, average_checkpoints([load_checkpoint(path) for path in checkpoints]))
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@app.command("label-objects")
def label_objects_command(
    photos: Annotated[Path, typer.Argument(help="Folder of ImageNet photos, one a class or more.")],
    classifier: Annotated[Path, typer.Option(help="timm weights of the trunk's classifier.")],
    teacher: Annotated[Path, typer.Option(help="A saliency bundle or checkpoint.")],
    out: Annotated[Path, typer.Option(help="Gets objects/{rgb,gt} and scenes/.")],
    judgements: Annotated[
        Path, typer.Option(help="Which proposal was chosen by eye for each photo.")
    ] = Path("training/recipes/imagenet-objects.csv"),
    preset: Annotated[str, typer.Option(help="Whose trunk.")] = "saliency-compact",
) -> None:
    """Make masks for photos of which only the class is known, as one more set to train on."""
    from model.config import SaliencyConfig
    from training.evaluate import open_model
    from training.object_masks import Classifier, read_judgements, write_objects

    try:
        chosen = read_judgements(judgements)
        network = Classifier(classifier, SaliencyConfig.preset(preset))
        paths = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".png"))
        labelled = write_objects(paths, chosen, network, open_model(teacher), out)
        counts = Counter(track(labelled, total=len(chosen)))
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    for choice, count in sorted(counts.items()):
        typer.echo(f"{choice:8} {count}")


@evaluate.command("saliency")
def evaluate_saliency_command(
    data: Annotated[Path, typer.Option(help="Folder of rgb/ depth/ gt/, or of such folders.")],
    out: Annotated[Path, typer.Option(help="Folder for scores, tables, curves and sheets.")],
    model: Annotated[
        Path | None, typer.Argument(help="A checkpoint (.safetensors) or a bundle's folder.")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="Folder of maps of any method, <set>/<stem>.png, in place of a model."),
    ] = None,
    conditions: Annotated[
        bool, typer.Option(help="Also without depth, and without colour.")
    ] = False,
    flip: Flip = False,
    multi_scale: MultiScale = False,
    name: Annotated[
        str | None, typer.Option(help="Of the model or method in the tables.", show_default="file")
    ] = None,
    near_bright: NearBright = None,
    near_dark: NearDark = None,
    metric: MetricDepth = None,
) -> None:
    """Print S-measure, max F, max E and MAE per set.

    Written are scores.json, images.csv, curves, a sheet of pictures and of the worst of each set,
    and, if public sets are among them, tables beside published numbers.
    """
    from training.data.rgbd_sets import find_sets
    from training.evaluate import (
        answers_in,
        answers_of,
        evaluate_saliency,
        evaluate_without,
        open_model,
        parameters_m,
        table,
        write_scores,
    )
    from training.report import compare, latex, markdown, write_curves, write_images
    from training.tta import averaged

    try:
        if (model is None) == (maps is None) or (maps and (conditions or flip or multi_scale)):
            raise ValueError("expected a model, or --maps without options that need one")
        sets = find_sets(data, _conventions(near_bright, near_dark, metric))
        for one in sets:
            typer.echo(f"{one.name}: {len(one.triples)} triples, depth is {one.evidence}")
        worse: dict[str, dict[str, float]] = {}
        if model:
            runtime, size = open_model(model)
            runtime = averaged(runtime, model, "saliency", flip=flip, multi_scale=multi_scale)
            report, images = evaluate_saliency(answers_of(runtime, size), sets, out)
            if conditions:
                worse = evaluate_without(runtime, sets, size)
        else:
            assert maps  # noqa: S101 - checked above
            report, images = evaluate_saliency(answers_in(maps, sets), sets, out)
        write_scores({**report, **worse}, out)
        write_images(images, out / "images.csv")
        write_curves(images, out)
        source = model or maps
        assert source  # noqa: S101 - checked above
        params_m = parameters_m(model) if model else None
        comparison = compare(report, sets, name or source.resolve().stem, params_m)
        if comparison:
            (out / "table.md").write_text(markdown(comparison))
            (out / "table.tex").write_text(latex(comparison))
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(table({**report, **worse}))
    typer.echo(f"\nscores, tables, curves and figure sheets: {out}")


@app.command("predict")
def predict_command(
    model: Annotated[
        Path, typer.Argument(help="A checkpoint (.safetensors) or a bundle's folder.")
    ],
    data: Annotated[Path, typer.Argument(help="Folder of rgb/ and depth/, or of such folders.")],
    out: Annotated[Path, typer.Option(help="Gets <set>/<stem>.png.")],
    near_bright: NearBright = None,
    near_dark: NearDark = None,
    metric: MetricDepth = None,
) -> None:
    """Write a map for every pair, 8-bit and of the photo's size; masks are not needed."""
    from training.evaluate import open_model
    from training.predict import find_pairs, write_maps

    try:
        runtime, size = open_model(model)
        sets = find_pairs(data, _conventions(near_bright, near_dark, metric))
        for name, (pairs, convention) in sets.items():
            typer.echo(f"{name}: {len(pairs)} pairs, depth is {convention}")
        count = write_maps(runtime, size, sets, out, _watched)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{count} maps: {out}")


@evaluate.command("reid")
def evaluate_reid_command(
    model: Annotated[
        Path, typer.Argument(help="A checkpoint (.safetensors) or a bundle's folder.")
    ],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    layout: Annotated[str, typer.Option(help=LAYOUTS)],
    out: Annotated[Path, typer.Option(help="Folder for scores.json and the figure sheet.")],
    conditions: Annotated[
        bool, typer.Option(help="Also with dark colour, without NIR, without colour.")
    ] = False,
    rerank: Annotated[bool, typer.Option(help="Also after k-reciprocal re-ranking.")] = False,
    flip: Flip = False,
    multi_scale: MultiScale = False,
) -> None:
    """Print mAP, rank 1, 5, 10 and mINP; write them and a sheet of queries with their top ten."""
    from training.data.reid_sets import find_trial
    from training.evaluate import open_model
    from training.evaluate_reid import describe, evaluate_reid, reid_table
    from training.tta import averaged

    try:
        runtime, size = open_model(model, "reid")
        runtime = averaged(runtime, model, "reid", flip=flip, multi_scale=multi_scale)
        trial = find_trial(data, layout)  # type: ignore[arg-type] # it names the layouts it knows
        typer.echo(describe(trial))
        report = evaluate_reid(
            runtime, trial, data.name, size, out, conditions=conditions, rerank=rerank
        )
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(reid_table(report))
    typer.echo(f"\nscores and figure sheet: {out}")


@pairs.command("saliency")
def saliency_pairs_command(
    data: Annotated[Path, typer.Option(help="Folder of rgb/ depth/ gt/, or of such folders.")],
    size: Annotated[tuple[int, int], typer.Option(help="Height and width in pixels.")],
    out: Annotated[Path, typer.Option(help="The archive, .npz.")],
    near_dark: Annotated[
        list[str] | None,
        typer.Option(help="Set, or pattern of unlabelled stems, where dark is near; repeatable."),
    ] = None,
    unlabelled: Annotated[
        list[Path] | None, typer.Option(help="Folder of rgb/ depth/ without masks; repeatable.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of unlabelled stems of metric depth; repeatable."),
    ] = None,
) -> None:
    """Triples, and pairs without masks, as `python -m export --judge` reads them."""
    from training.data.rgbd_sets import find_sets, set_folders
    from training.pairs import Conventions, write_saliency_pairs

    try:
        names = set_folders(data)
        dark = near_dark or []
        conventions: Conventions = [
            *((stem, "near_dark") for stem in dark if stem not in names),
            *((stem, "metric") for stem in metric or []),
        ]
        given = _conventions(None, [name for name in dark if name in names], None)
        sets = find_sets(data, {**dict.fromkeys(names, "near_bright"), **given})
        count = write_saliency_pairs(sets, unlabelled or [], conventions, size, out)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{count} pairs in {out}")


@pairs.command("reid")
def reid_pairs_command(
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    layout: Annotated[
        str, typer.Option(help="rgbn300, rgbnt100, rgbnt201, msvr310, folders or vehicles.")
    ],
    size: Annotated[tuple[int, int], typer.Option(help="Height and width in pixels.")],
    out: Annotated[Path, typer.Option(help="The archive, .npz.")],
) -> None:
    """Query and gallery crops as `python -m export --judge` reads them."""
    from training.data.reid_sets import find_trial
    from training.pairs import write_reid_pairs

    try:
        trial = find_trial(data, layout)  # type: ignore[arg-type] # it names the layouts it knows
        count = write_reid_pairs(trial, size, out)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{count} pairs in {out}")


@pairs.command("scenes")
def scene_pairs_command(
    data: Annotated[Path, typer.Option(help="Folder of *_rgb.jpg and *_nir.jpg, aligned.")],
    size: Annotated[tuple[int, int], typer.Option(help="Height and width in pixels.")],
    out: Annotated[Path, typer.Option(help="The archive, .npz.")],
) -> None:
    """Scenes in colour and near-infrared, for embeddings; nobody knows who is on them."""
    from training.pairs import write_scene_pairs

    try:
        count = write_scene_pairs(data, size, out)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{count} pairs in {out}")


@doctor.command("saliency")
def doctor_saliency_command(
    data: Annotated[Path, typer.Argument(help="Folder of rgb/ depth/ gt/, or of such folders.")],
) -> None:
    """Open every triple, and print what was found and what is wrong; exit status 1 says errors."""
    from training.doctor import examine_saliency

    try:
        report = examine_saliency(data, _watched)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(str(report))
    if not report.good:
        raise typer.Exit(1)


@doctor.command("reid")
def doctor_reid_command(
    data: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    layout: Annotated[
        str | None, typer.Option(help=LAYOUTS, show_default="the only one that fits")
    ] = None,
) -> None:
    """Open every crop, and print what was found and what is wrong; exit status 1 says errors."""
    from training.doctor_reid import examine_reid, guess_layout

    try:
        chosen = layout or guess_layout(data)
        typer.echo(f"layout: {chosen}")
        report = examine_reid(
            data,
            chosen,  # type: ignore[arg-type] # it names the layouts it knows
            _watched,
        )
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(str(report))
    if not report.good:
        raise typer.Exit(1)


@synthesise.command("saliency")
def synthesise_saliency_command(
    out: Annotated[Path, typer.Option(help="Gets {train,test}/{rgb,depth,gt}.")],
    train: Annotated[int, typer.Option(min=1, help="Triples to train on.")] = 400,
    test: Annotated[int, typer.Option(min=1, help="Others, to judge on.")] = 100,
    side: Annotated[int, typer.Option(min=32, help="Height and width in pixels.")] = 160,
    seed: Annotated[int, typer.Option(min=0, help="Of all scenes.")] = 0,
) -> None:
    """Render tables with things on them, their depth, and a mask of the one that is meant."""
    from training.data.synthetic import write_scenes

    _render(write_scenes(out, train, test, side, seed), train + test, out)


@synthesise.command("reid")
def synthesise_reid_command(
    out: Annotated[Path, typer.Option(help="Gets {train,query,gallery}/{rgb,nir}.")],
    train: Annotated[int, typer.Option(min=1, help="Vehicles to train on.")] = 60,
    test: Annotated[int, typer.Option(min=1, help="Others, to search for.")] = 30,
    side: Annotated[int, typer.Option(min=32, help="Height and width in pixels.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Of all vehicles.")] = 0,
) -> None:
    """Render vehicles in colour and near-infrared before four cameras, twice each."""
    from training.data.synthetic import CAMERAS, write_vehicles

    _render(write_vehicles(out, train, test, side, seed), 2 * CAMERAS * (train + test), out)


def _render(stems: Iterable[str], total: int, out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        typer.echo(f"error: {out} is not empty", err=True)
        raise typer.Exit(2)
    console = Console(stderr=True)
    shown = track(
        stems, total=total, console=console, transient=True, disable=not console.is_terminal
    )
    count = sum(1 for _ in shown)
    typer.echo(f"{count} rendered: {out}")


@app.command("fit-nir")
def fit_nir_command(
    scenes: Annotated[
        Path, typer.Argument(help="Folder of aligned pairs, see training/fit_nir.py.")
    ],
    out: Annotated[
        Path, typer.Option(help="File to write; the one in training/data/ is what training reads.")
    ] = Path("training/data/nir_simulator.npz"),
) -> None:
    """Fit the near-infrared simulator; print what it and a cubic explain of held-out scenes."""
    from training.fit_nir import fit_cubic, fit_nir, judge, read_scenes

    try:
        found = read_scenes(scenes)
        seen = [scene for scene in found if not scene.held_out]
        held_out = [scene for scene in found if scene.held_out]
        fit = fit_nir(seen)
        report = judge(held_out, fit, fit_cubic(seen))
        fit.save(out)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"fitted to {len(seen)} scenes, judged on {len(held_out)} others; R^2:")
    for name, value in report.items():
        typer.echo(f"{name:28} {value:.4f}")


def _conventions(
    near_bright: list[str] | None, near_dark: list[str] | None, metric: list[str] | None
) -> dict[str, DepthConvention]:
    """Set name -> convention, of those that the user gives."""
    given: dict[str, DepthConvention] = {}
    choices: tuple[tuple[DepthConvention, list[str] | None], ...] = (
        ("near_bright", near_bright),
        ("near_dark", near_dark),
        ("metric", metric),
    )
    for convention, names in choices:
        for name in names or []:
            if name in given:
                raise ValueError(f"{name} is said to be both {given[name]} and {convention}")
            given[name] = convention
    return given


def _watched(items: Sequence[T]) -> Iterable[T]:
    """Pass items on, with a bar where someone watches."""
    console = Console(stderr=True)
    return track(items, console=console, transient=True, disable=not console.is_terminal)


def _parse(changes: Sequence[str]) -> dict[str, object]:
    """`["config.alpha=0.3"]` -> `{"config.alpha": 0.3}`."""
    pairs = [change.partition("=") for change in changes]
    unequal = [key for key, sign, _ in pairs if not sign]
    if unequal:
        raise ValueError(f"expected name=value after --set, got {', '.join(unequal)}")
    return {key: _value(text) for key, _, text in pairs}


def _value(text: str) -> object:
    value = yaml.safe_load(text)
    if isinstance(value, str):
        with suppress(ValueError):  # YAML takes 1e-3 for a word
            return float(value)
    return value


if __name__ == "__main__":
    app()
