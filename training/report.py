"""What an evaluation leaves to be read: tables beside published numbers, curves, scores per image.

Published numbers are transcriptions, in `data/published.csv`; `SOURCES` says of what.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from training.data.rgbd_sets import KNOWN_SETS, TripleSet, is_training_part, known_set
from training.evaluate import Score, file_name
from training.metrics import THRESHOLDS, SaliencyScores

PUBLISHED = Path(__file__).parent / "data" / "published.csv"
SOURCES = {
    "table 1": "as printed in Table 1 of MutualFormer, IJCV 2024, which does not say which STERE",
    "CAVER": "CAVER, TIP 2023, trained on 2985 images, but for E, which is not always max E",
    "DFormer": "DFormer, ICLR 2024",
    "GL-DMNet": "GL-DMNet, TMM 2025",
    "Samba": "Samba, CVPR 2025, which prints no MAE",
}
"""Where a row of the published table was read. One network scores up to .007 apart in max F between
papers: compare only what one evaluator scored."""
MEASURES = {"s_measure": "S", "max_f": "max F", "max_e": "max E", "mae": "MAE"}
"""Rows of the table within a set; of the last, less is better."""


class Published(NamedTuple):
    """What one method scored on one set, as its source prints it."""

    method: str
    params_m: str
    set: str
    scores: dict[str, float]
    """Of `MEASURES`, those that are printed."""
    source: str


@cache
def published() -> tuple[Published, ...]:
    """All rows, in the order of the file."""
    with PUBLISHED.open(newline="") as file:
        return tuple(
            Published(
                row["method"],
                row["params_m"],
                row["set"],
                {key: float(row[key]) for key in MEASURES if row[key]},
                row["source"],
            )
            for row in csv.DictReader(file)
        )


class Comparison(NamedTuple):
    """Scores of several methods on the public sets."""

    methods: tuple[str, ...]
    """The one that was evaluated last."""
    cells: dict[tuple[str, str, str], float]
    """By set's title, measure and method."""
    params_m: dict[str, str]
    partial: frozenset[str]
    """Sets of which other images, or not all, were evaluated; there the last method is never the
    best."""
    notes: tuple[str, ...]
    """What a reader must know to compare."""


def compare(
    report: Mapping[str, Mapping[str, float]],
    sets: Sequence[TripleSet],
    name: str,
    params_m: float | None = None,
) -> Comparison | None:
    """Put what was evaluated beside the published; none where no set is a public one.

    Args:
        report: of `evaluate_saliency`.
        sets: what it is about.
        name: of the model or method.
        params_m: its parameters in millions, if known.
    """
    own = {
        one.title: report[one.name]
        for one in sets
        if known_set(one.name) and not is_training_part(one.name)
    }
    rows = [row for row in published() if row.set in own]
    if not own:
        return None
    methods = tuple(dict.fromkeys(row.method for row in rows))
    mine = name if name not in methods else f"{name} (here)"
    cells = {(row.set, key, row.method): x for row in rows for key, x in row.scores.items()}
    for title, scores in own.items():
        cells |= {(title, key, mine): scores[key] for key in MEASURES}
    params = {row.method: row.params_m for row in rows}
    if params_m is not None:
        params[mine] = f"{params_m:.2f}"
    notes, partial = [], set()
    for known in KNOWN_SETS:
        images = own.get(known.title, {}).get("images")
        if images is not None and images not in known.test:
            partial.add(known.title)
            counts = " or ".join(map(str, known.test))
            notes.append(f"{known.title}: {images:.0f} images here, {counts} in the other columns.")
    by_source: dict[str, list[str]] = {}
    for row in rows:
        methods_there = by_source.setdefault(row.source, [])
        if row.method not in methods_there:
            methods_there.append(row.method)
    notes += [f"{', '.join(them)}: {SOURCES[source]}." for source, them in by_source.items()]
    return Comparison((*methods, mine), cells, params, frozenset(partial), tuple(notes))


def _rows(comparison: Comparison) -> list[tuple[str, str, list[tuple[str, bool]]]]:
    """Set, measure, and each method's number with whether it is the best; sets in usual order."""
    rows = []
    for known in KNOWN_SETS:
        for key, measure in MEASURES.items():
            values = [
                comparison.cells.get((known.title, key, method)) for method in comparison.methods
            ]
            judged = values[:-1] if known.title in comparison.partial else values
            there = [round(value, 3) for value in judged if value is not None]
            if any(value is not None for value in values):
                best = (min if key == "mae" else max)(there, default=None)
                cells = [
                    ("-", False)
                    if value is None
                    else (_short(value), position < len(judged) and round(value, 3) == best)
                    for position, value in enumerate(values)
                ]
                rows.append((known.title, measure, cells))
    return rows


def markdown(comparison: Comparison) -> str:
    """The table in Markdown: a row for each set and measure, a column for each method."""
    lines = [
        f"| set | | {' | '.join(comparison.methods)} |",
        f"|---|---|{'---|' * len(comparison.methods)}",
    ]
    for title, measure, cells in _rows(comparison):
        shown = (f"**{cell}**" if best else cell for cell, best in cells)
        lines.append(f"| {title} | {measure} | {' | '.join(shown)} |")
    params = (comparison.params_m.get(method) or "-" for method in comparison.methods)
    lines.append(f"| parameters (M) | | {' | '.join(params)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in comparison.notes)]) + "\n"


def latex(comparison: Comparison) -> str:
    """The table in LaTeX; needs the packages booktabs and multirow."""
    heads = " & ".join(_escape(method) for method in comparison.methods)
    lines = [
        r"\begin{tabular}{ll" + "c" * len(comparison.methods) + "}",
        r"\toprule",
        rf"Set & & {heads} \\",
    ]
    symbols = {"S": r"$S_m\uparrow$", "max F": r"$F_{max}\uparrow$",
               "max E": r"$E_{max}\uparrow$", "MAE": r"MAE$\downarrow$"}  # fmt: skip
    before = ""
    for title, measure, cells in _rows(comparison):
        lines += [r"\midrule"] if title != before else []
        first = rf"\multirow{{4}}{{*}}{{{_escape(title)}}}" if title != before else ""
        shown = " & ".join(rf"\textbf{{{cell}}}" if best else cell for cell, best in cells)
        lines.append(rf"{first} & {symbols[measure]} & {shown} \\")
        before = title
    params = " & ".join(comparison.params_m.get(m) or "-" for m in comparison.methods)
    lines += [r"\midrule", rf"Parameters (M) & & {params} \\", r"\bottomrule", r"\end{tabular}"]
    notes = [f"% {note}" for note in comparison.notes]
    return "\n".join([r"% needs \usepackage{booktabs,multirow}", *notes, *lines]) + "\n"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _escape(text: str) -> str:
    return text.replace("_", r"\_").replace("&", r"\&").replace("%", r"\%")


def write_images(scores: Sequence[Score], path: Path) -> None:
    """Write a line of CSV for each image: set, image, S, its own max F and max E, MAE."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("set", "image", *MEASURES))
        for each in scores:
            results = each.scores.results()
            writer.writerow((each.set_name, each.name, *(f"{results[k]:.6f}" for k in MEASURES)))


def write_curves(scores: Sequence[Score], out: Path) -> None:
    """Draw precision against recall, and F-measure against the threshold, a line for each set.

    Writes `curves.png`, and the numbers as `<set>_curves.csv`.
    """
    plt = plots()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for name in dict.fromkeys(each.set_name for each in scores):
        curves = SaliencyScores(e.scores for e in scores if e.set_name == name).curves()
        left.plot(curves["recall"], curves["precision"], label=name)
        right.plot(np.arange(THRESHOLDS), curves["f"], label=name)
        with (out / f"{file_name(name)}_curves.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("threshold", *curves))
            for threshold, values in enumerate(zip(*curves.values(), strict=True)):
                writer.writerow((threshold, *(f"{value:.6f}" for value in values)))
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    right.set(xlabel="threshold", ylabel="F-measure", xlim=(0, 255), ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(loc="lower left")
    figure.savefig(out / "curves.png", dpi=120)
    plt.close(figure)


def plots() -> Any:
    """Matplotlib without a display; slow to import, so only where something is drawn."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    return plt
