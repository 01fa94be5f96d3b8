"""Examine a re-identification data set: who is there, how often, and what is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

from training.data.reid_sets import (
    COLOURFUL,
    SUFFIXES,
    Crop,
    Layout,
    Trial,
    channels_differ,
    counts,
    find_train,
    find_trial,
    read_picture,
)
from training.data.triples import shown
from training.doctor import Examination, Level

Track = Callable[[Sequence[Crop]], Iterable[Crop]]
"""Passes crops on, perhaps showing how far they got."""

IDENTITIES = {"rgbn300": 300, "rgbnt100": 100, "rgbnt201": 201, "msvr310": 310}
"""Of training and test together, as the sets' papers say."""
PAIRS = {"rgbn300": 50125, "rgbnt201": 4787}
"""Of training and gallery together, where the authors state it."""


def guess_layout(root: Path) -> Layout:
    """The only layout that fits a folder.

    Raises:
        ValueError: none fits, or several; the message says what each lacks, or names them.
    """
    fitting: list[Layout] = []
    lacks = []
    for layout in get_args(Layout):
        try:
            find_train(root, layout)
            find_trial(root, layout)
        except (ValueError, OSError) as error:
            lacks.append(f"{layout}: {error}")
        else:
            fitting.append(layout)
    if fitting == ["rgbn300", "rgbnt100"]:  # the same but for a third panel and the count
        several = {crop.pid for crop in find_train(root, "rgbn300")}
        return "rgbn300" if len(several) > IDENTITIES["rgbnt100"] / 2 else "rgbnt100"
    if len(fitting) != 1:
        problem = f"several layouts fit: {', '.join(fitting)}" if fitting else "no layout fits"
        raise ValueError("\n".join((f"{root}: {problem}", *(() if fitting else lacks))))
    return fitting[0]


def examine_reid(root: Path, layout: Layout, track: Track = lambda crops: crops) -> Examination:
    """Open every crop of a data set.

    Reported are: identities, images and cameras of each part, against what the papers say;
    identities that are both trained on and searched for; identities with one picture or one
    camera, which teach or ask nothing; queries without a crop to find that counts; pairs that
    cannot be read or differ in size; near-infrared with colours and colour without; pictures that
    no part holds.

    Raises:
        ValueError: the folder is not laid out so.
    """
    train, trial = find_train(root, layout), find_trial(root, layout)
    report = Examination([("part", "identities", "images", "cameras")])
    parts = {"train": train, "query": trial.query}
    if trial.gallery is not trial.query:
        parts["gallery"] = trial.gallery
    for name, crops in parts.items():
        report.rows.append((name, *(str(n) for n in counts(crops).values())))
        _examine_crops(report, name, crops, track)
    if trial.simulated:
        report.say("warning", "all", "there is no near-infrared: it will be simulated from colour")
    _say_identities(report, layout, train, trial)
    _say_searches(report, trial)
    _say_unused(report, root, (*train, *trial.query, *trial.gallery))
    return report


def _examine_crops(report: Examination, name: str, crops: Sequence[Crop], track: Track) -> None:
    unread, unequal = [], []
    colourful = pale = opened = 0
    for crop in track(crops):
        stem = crop.rgb.path.name
        try:
            rgb = read_picture(crop.rgb)
            nir = read_picture(crop.nir) if crop.nir else None
        except (ValueError, SyntaxError) as error:
            unread.append(str(error))
            continue
        opened += 1
        pale += channels_differ(rgb) < 1
        if nir is not None:
            colourful += channels_differ(nir) > COLOURFUL
            if rgb.shape[:2] != nir.shape[:2]:
                unequal.append(stem)
    if unread:
        report.say("error", name, f"{len(unread)} of {len(crops)}: {shown(unread, 3)}")
    if unequal:
        text = f"colour and near-infrared differ in size in {len(unequal)} of {len(crops)}"
        report.say("warning", name, f"{text}: {shown(unequal)}")
    if opened and colourful > opened / 2:
        swapped = pale > opened / 2
        more = ": the two look swapped" if swapped else ""
        report.say("error", name, f"near-infrared has colours in {colourful} of {opened}{more}")
    elif opened and pale > opened / 2:
        report.say("warning", name, f"{pale} of {opened} colour pictures have no colour")


def _say_identities(
    report: Examination, layout: Layout, train: Sequence[Crop], trial: Trial
) -> None:
    trained, searched = ({crop.pid for crop in crops} for crops in (train, trial.gallery))
    both = sorted(trained & searched)
    if both:
        # Whoever has one folder alone uses it for training and for judging.
        same = {c.rgb for c in train} == {c.rgb for c in trial.gallery}
        text = f"{len(both)} identities are trained on and searched for: {shown(both)}"
        more = "; the folder has no parts for training and judging" if same else ""
        report.say("error", "train and gallery", text + more)
    total = len(trained | searched)
    if layout in IDENTITIES and total != IDENTITIES[layout]:
        text = f"{total} identities, but the set's paper says {IDENTITIES[layout]}"
        report.say("warning", "all", text)
    pairs = len({crop.rgb for crop in (*train, *trial.gallery)})
    if layout in PAIRS and pairs != PAIRS[layout]:
        text = f"{pairs} pairs to train on and to search in, but its authors say {PAIRS[layout]}"
        report.say("warning", "all", text)
    by_pid: dict[str, list[Crop]] = defaultdict(list)
    for crop in train:
        by_pid[crop.pid].append(crop)
    alone = sorted(pid for pid, crops in by_pid.items() if len(crops) == 1)
    if alone:
        text = f"{len(alone)} of {len(by_pid)} identities have one picture: {shown(alone)}"
        report.say("warning", "train", text)


def _say_searches(report: Examination, trial: Trial) -> None:
    """Queries that will be skipped, because the rule leaves nothing to find."""

    def place(crop: Crop) -> int:
        return crop.scene if trial.rule == "scene" else crop.camid

    places: dict[str, set[int]] = defaultdict(set)
    for crop in trial.gallery:
        places[crop.pid].add(place(crop))
    skipped = [crop.rgb.path.name for crop in trial.query if not places[crop.pid] - {place(crop)}]
    if skipped:
        level: Level = "error" if len(skipped) == len(trial.query) else "warning"
        text = f"{len(skipped)} of {len(trial.query)} have nothing to find in another {trial.rule}"
        report.say(level, "query", f"{text} and will be skipped: {shown(skipped)}")


def _say_unused(report: Examination, root: Path, crops: Sequence[Crop]) -> None:
    used = {picture.path for crop in crops for picture in (crop.rgb, crop.nir) if picture}
    others = sorted(
        path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path not in used
    )
    if others:
        where = sorted({str(path.parent.relative_to(root)) for path in others})
        report.say("note", "all", f"{len(others)} pictures are not used, in {shown(where)}")
