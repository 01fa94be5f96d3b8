"""Examine a data set before anyone spends GPU hours on it: what is there, and what is wrong.

Every file is opened. An error would stop training or make its numbers wrong, a warning deserves a
look, and nothing is passed over in silence.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.polarity import CLEAR, Polarity, brighter_object, count_votes
from training.data.rgbd_sets import (
    TRAINING_LISTS,
    is_training_part,
    known_set,
    set_folders,
    stray_pictures,
)
from training.data.triples import (
    ALIASES,
    SUFFIXES,
    Role,
    Triple,
    find_triples,
    read_depth,
    role_folders,
    shown,
)

Level = Literal["error", "warning", "note"]
Track = Callable[[Sequence[Triple]], Iterable[Triple]]
"""Passes triples on, perhaps showing how far they got."""

MOST = 0.5
"""Share of a set's files from which on they are said to be of the wrong kind."""
GREY = 0.05
"""Share of pixels between black and white from which on a mask has more than soft edges."""


COLOURED = "depth is a colour picture"
UNCLEAN = "the mask is not black and white, only above 128 counts"


class Finding(NamedTuple):
    """One thing to say about a data set."""

    level: Level
    where: str
    """Name of the set or part."""
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.text}"


@dataclass
class Examination:
    """What was found in a folder."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    """A heading, then a line for each set or part."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether there is no error."""
        return not any(finding.level == "error" for finding in self.findings)

    def say(self, level: Level, where: str, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, where, text))

    def __str__(self) -> str:
        """A Markdown table of what was found, then the findings, worst first."""
        head, *rows = self.rows
        lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
        levels: tuple[Level, ...] = ("error", "warning", "note")
        lines += [str(each) for level in levels for each in self.findings if each.level == level]
        counts = {level: sum(each.level == level for each in self.findings) for level in levels}
        verdict = "good to train and judge on" if self.good else "not fit to train or judge on"
        lines.append(
            f"{verdict}: {counts['error']} errors, {counts['warning']} warnings, "
            f"{counts['note']} notes"
        )
        return "\n".join(lines)


def examine_saliency(root: Path, track: Track = lambda triples: triples) -> Examination:
    """Open every triple below `root`.

    Reported are: sets found, by the name of the public set where it is one, with their count
    against the expected; folders that lack colour, depth or masks; files without partners; files
    that cannot be read; sizes that differ; masks that are not black and white, empty or inverted;
    folders that look swapped; how depth is written, and whether triples disagree; pictures that
    are in several sets, or in none.

    Raises:
        ValueError: `root` is no folder, or holds no set at all.
    """
    folders = set_folders(root)
    if not folders:
        raise ValueError(
            f"{root} holds no sets: expected folders named "
            + ", ".join("/".join(names[:2]) for names in ALIASES.values())
        )
    report = Examination([("set", "known as", "triples", "expected", "depth")])
    owners: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for name, folder in folders.items():
        _examine_set(report, name, folder, track, owners)
    _say_shared(report, owners)
    stray = stray_pictures(root)
    if stray:
        where = sorted({str(path.parent.relative_to(root)) for path in stray})
        report.say("warning", "all", f"{len(stray)} pictures are in no set, in {shown(where)}")
    return report


def _examine_set(
    report: Examination,
    name: str,
    folder: Path,
    track: Track,
    owners: dict[str, list[tuple[str, Path]]],
) -> None:
    known = known_set(name)
    title = known.title if known else "-"
    _say_ignored(report, name, folder)
    try:
        triples = find_triples(folder)
    except ValueError as error:
        report.say("error", name, str(error))
        report.rows.append((name, title, "none that are whole", _expected(name), "-"))
        return
    problems = _Problems()
    differences: dict[str, float] = {}
    deep = holes = False
    for triple in track(triples):
        owners[hashlib.sha256(triple.rgb.read_bytes()).hexdigest()].append((name, triple.rgb))
        depth = problems.examine(triple)
        if depth is not None:
            stem = triple.rgb.stem
            differences[stem] = problems.difference
            deep |= depth.dtype.itemsize > 1
            holes |= bool((depth == 0).any())
    problems.say(report, name, len(triples))
    polarity = count_votes(list(differences.values()), deep=deep, holes=holes)
    _say_polarity(report, name, polarity, differences)
    _say_count(report, name, len(triples))
    verdict = polarity.convention or ("mixed" if polarity.mixed else "undecided")
    report.rows.append((name, title, str(len(triples)), _expected(name), verdict))


class _Problems:
    """What is wrong with the triples of a set, by kind."""

    def __init__(self) -> None:
        self.stems: dict[tuple[Level, str], list[str]] = defaultdict(list)
        self.grey_photos = self.black_and_white_depth = self.opened = 0
        self.difference = 0.0
        """Of the last triple that could be judged."""

    def examine(self, triple: Triple) -> NDArray[Any] | None:
        """Look at one triple; its depth as written, (H, W), if its polarity can be told."""
        stem = triple.rgb.stem
        arrays: dict[Role, NDArray[Any]] = {}
        for role, read in (("rgb", _colour), ("depth", read_depth), ("gt", _grey)):
            path = getattr(triple, role)
            try:
                arrays[role] = read(path)  # type: ignore[index] # of literals above
            except (OSError, ValueError, SyntaxError) as error:
                colour = role == "depth" and "colour picture" in str(error)
                kind = COLOURED if colour else f"{role} cannot be read"
                self._note("error", kind, stem)
        if len(arrays) < 3:
            return None
        self.opened += 1
        rgb, depth, gt = arrays["rgb"], arrays["depth"], arrays["gt"]
        self.grey_photos += bool((rgb == rgb[..., :1]).all())
        self.black_and_white_depth += len(np.unique(depth)) <= 2 and bool(depth.any())
        if not rgb.shape[:2] == depth.shape == gt.shape:
            self._note("error", "colour, depth and mask differ in size", stem)
            return None
        self._examine_mask(gt, stem)
        if depth.ndim == 2 and depth.size and np.ptp(np.nan_to_num(depth)) == 0:
            self._note("warning", "depth is constant", stem)
        self.difference = brighter_object(depth, gt > 128)
        return depth

    def _examine_mask(self, gt: NDArray[np.uint8], stem: str) -> None:
        if not gt.any():
            self._note("warning", "the mask is empty", stem)
        elif gt.max() <= 128:
            self._note("error", "the mask has no value above 128 (written with 0 and 1?)", stem)
        elif ((gt > 16) & (gt < 239)).mean() > GREY:
            self._note("warning", UNCLEAN, stem)
        else:
            border = np.concatenate((gt[0], gt[-1], gt[:, 0], gt[:, -1])) > 128
            if border.mean() > 0.8 and (gt > 128).mean() > 0.5:
                self._note("warning", "the mask covers the border (inverted?)", stem)

    def _note(self, level: Level, kind: str, stem: str) -> None:
        self.stems[level, kind].append(stem)

    def say(self, report: Examination, name: str, count: int) -> None:
        """Report every kind, and folders that look swapped."""
        for (level, kind), stems in self.stems.items():
            report.say(level, name, f"{kind} in {len(stems)} of {count}: {shown(stems)}")
        coloured = len(self.stems.get(("error", COLOURED), ()))
        unclean = len(self.stems.get(("warning", UNCLEAN), ()))
        if coloured > MOST * count:
            report.say("error", name, "the folders of colour and depth look swapped")
        elif self.opened and self.black_and_white_depth > MOST * self.opened:
            text = "depth is black and white"
            swapped = unclean > MOST * self.opened
            text += ": its folder and that of the masks look swapped" if swapped else ""
            report.say("error", name, text)
        elif self.opened and self.grey_photos == self.opened:
            report.say("warning", name, "no photo has colour")


def _colour(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _grey(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _say_polarity(
    report: Examination, name: str, polarity: Polarity, differences: dict[str, float]
) -> None:
    if polarity.convention is None and differences:
        level: Level = "error" if polarity.mixed else "warning"
        text = f"depth is {polarity}"
        if polarity.mixed:
            sign = 1 if polarity.near_bright < polarity.near_dark else -1
            few = [stem for stem, value in differences.items() if value * sign > CLEAR]
            text += f"; the fewer are {shown(few, 10)}"
        report.say(level, name, f"{text}; say how it is written, or split the set")
    elif differences:
        report.say("note", name, f"depth is {polarity}")


def _say_count(report: Examination, name: str, count: int) -> None:
    known, training = known_set(name), is_training_part(name)
    if count in TRAINING_LISTS and (training or not known):
        report.say("note", name, f"{count} triples are {TRAINING_LISTS[count]}")
    elif known and count not in _counts(name):
        report.say(
            "warning", name, f"{count} triples, but {known.title} has {_expected(name)} in papers"
        )


def _counts(name: str) -> tuple[int, ...]:
    known, training = known_set(name), is_training_part(name)
    if not known:
        return ()
    if training is None:
        whole = tuple(a + b for a, b in zip(known.train, known.test, strict=False))
        return known.test + known.train + whole
    return known.train if training else known.test


def _expected(name: str) -> str:
    return " or ".join(map(str, _counts(name))) or "-"


def _say_ignored(report: Examination, name: str, folder: Path) -> None:
    """Name what lies in a set's folders and is no picture."""
    for role in ALIASES:
        for child in role_folders(folder, role):
            others = [
                path.name
                for path in sorted(child.iterdir())
                if path.is_dir() or path.suffix.lower() not in SUFFIXES
            ]
            if others:
                text = f"{len(others)} entries of {child.name} are no pictures: {shown(others)}"
                report.say("warning", name, text)


def _say_shared(report: Examination, owners: dict[str, list[tuple[str, Path]]]) -> None:
    """Name photos, equal byte for byte, that occur twice: training on what is judged on."""
    shared: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for places in owners.values():
        if len(places) > 1:
            names = tuple(sorted({name for name, _ in places}))
            shared[names].append(places[0][1].stem)
    for names, stems in shared.items():
        parts = {is_training_part(name) for name in names}
        level: Level = "error" if {True, False} <= parts else "warning"
        text = f"{len(stems)} photos occur more than once: {shown(stems)}"
        report.say(level, " and ".join(names), text)
