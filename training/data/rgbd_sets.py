"""The public RGB-D saliency sets by name, and sets of triples wherever they lie below a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.preprocessing import DepthConvention
from training.data.polarity import detect_polarity
from training.data.triples import (
    ALIASES,
    SUFFIXES,
    Triple,
    find_triples,
    read_depth,
    role_folders,
    shown,
    size_of,
)

DEEPEST = 3
"""Folders below the root in which sets are looked for, e.g. `RGBD_for_test/NJU2K`."""


class KnownSet(NamedTuple):
    """A public set: how packs name its folder, and how many triples a part of it has."""

    title: str
    aliases: tuple[str, ...]
    """Lower case, letters and digits alone."""
    train: tuple[int, ...]
    test: tuple[int, ...]
    """Each count that is in use; several where lists differ."""


KNOWN_SETS = (
    KnownSet("NJU2K", ("nju2k", "njud", "nju2000", "njuds2000"), (1485, 1400), (500, 485)),
    KnownSet("NLPR", ("nlpr", "rgbd1000"), (700,), (300,)),
    KnownSet("DUT-RGBD", ("dutrgbd", "dut", "dutlfdepth", "dutlfd", "dutlfv2"), (800,), (400,)),
    KnownSet("SIP", ("sip",), (), (929,)),
    KnownSet("STERE", ("stere", "stereo", "stere1000", "stereo1000", "ssb", "ssb1000",
                       "stere797", "stereo797"), (), (1000, 797)),
    KnownSet("LFSD", ("lfsd",), (), (100,)),
    KnownSet("RGBD135", ("rgbd135", "des", "cheng"), (), (135,)),
    KnownSet("SSD", ("ssd", "ssd80", "ssd100"), (), (80,)),
    KnownSet("ReDWeb-S", ("redwebs", "redweb"), (2179,), (1000,)),
)  # fmt: skip
"""The sets of the field's tables. Counts: the authors' pages and the lists of CAVER and DMRA."""
TRAINING_LISTS = {
    2185: "NJU2K 1485 + NLPR 700",
    2985: "NJU2K 1485 + NLPR 700 + DUT-RGBD 800",
}
"""Counts of the training lists in use, and what they are made of."""
# Words of a folder's name that say nothing of its set.
_PARTS = ("train", "training", "trainset", "traindata", "test", "testing", "testset", "testdata")


@dataclass(frozen=True)
class TripleSet:
    """A named folder of triples and how it writes depth."""

    name: str
    triples: Sequence[Triple]
    evidence: str = "as given"
    """Why its depth is read as it is."""

    @property
    def title(self) -> str:
        """The name of the public set that it is, or its own."""
        known = known_set(self.name)
        return known.title if known else self.name


def known_set(name: str) -> KnownSet | None:
    """The public set that a folder's name, or a path of names, stands for."""
    for part in reversed(Path(name).parts):
        words = re.findall(r"[a-z0-9]+", part.lower())
        named = [word for word in words if word not in _PARTS]
        spellings = {"".join(words), "".join(named), *named}
        for known in KNOWN_SETS:
            if spellings & set(known.aliases):
                return known
    return None


def is_training_part(name: str) -> bool | None:
    """Whether a path of names says that it is for training; none where it says nothing."""
    for part in reversed(Path(name).parts):
        found = re.search(r"(train|test)", part.lower())
        if found:
            return found[0] == "train"
    return None


def set_folders(root: Path) -> dict[str, Path]:
    """Folders in or below `root` that have one for colour, depth or masks, by relative path.

    `root` itself is named by its last name. Incomplete ones are answered too.

    Raises:
        ValueError: `root` is no folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")

    def walk(folder: Path, depth: int) -> list[Path]:
        if any(role_folders(folder, role) for role in ALIASES):
            return [folder]
        if depth == DEEPEST:
            return []
        children = sorted(child for child in folder.iterdir() if child.is_dir())
        return [found for child in children for found in walk(child, depth + 1)]

    return {
        folder.relative_to(root).as_posix() if folder != root else root.resolve().name: folder
        for folder in walk(root, 0)
    }


def find_sets(root: Path, given: Mapping[str, DepthConvention] | None = None) -> list[TripleSet]:
    """Every set in or below `root`, with the way that each writes depth.

    Args:
        root: `<root>/<set>/{rgb,depth,gt}`, deeper, or `<root>/{rgb,depth,gt}`, under any usual
            names.
        given: conventions by set name; the others are told from their depth and masks.

    Raises:
        ValueError: nothing fits, a set is incomplete, its pictures differ in size or look swapped,
            `given` names no set, or a set's depth says nothing clear; the message names it.
    """
    folders = set_folders(root)
    if not folders:
        raise ValueError(
            f"{root} holds no triples, nor do its subfolders: expected one folder each for "
            + ", ".join(f"{role} ({', '.join(names)})" for role, names in ALIASES.items())
        )
    given = given or {}
    unknown = sorted(set(given) - set(folders))
    if unknown:
        raise ValueError(f"no set named {', '.join(unknown)}; found {', '.join(folders)}")
    return [read_set(name, folder, given.get(name)) for name, folder in folders.items()]


def read_set(name: str, folder: Path, convention: DepthConvention | None) -> TripleSet:
    """One set; errors as in `find_sets`."""
    triples = find_triples(folder)
    _refuse_unfit(name, triples)
    evidence = "as given"
    if convention is None:
        polarity = detect_polarity(triples)
        convention, evidence = polarity.convention, str(polarity)
        if convention is None:
            raise ValueError(f"{name}: say how depth is written, it is {evidence}")
    return TripleSet(name, [replace(t, convention=convention) for t in triples], evidence)


def _refuse_unfit(name: str, triples: Sequence[Triple]) -> None:
    """What would not fail by itself, but teach or score nonsense; the doctor says more."""
    unequal = [t.rgb.stem for t in triples if len({size_of(p) for p in (t.rgb, t.depth, t.gt)}) > 1]
    if unequal:
        raise ValueError(
            f"{name}: colour, depth and mask differ in size in {len(unequal)} of {len(triples)}: "
            + shown(unequal)
        )
    some = triples[:: max(len(triples) // 16, 1)]
    depths = [read_depth(triple.depth) for triple in some]
    if sum(len(np.unique(depth)) == 2 for depth in depths) > len(some) / 2:
        raise ValueError(
            f"{name}: depth is black and white; its folder and that of the masks look swapped"
        )


def stray_pictures(root: Path) -> list[Path]:
    """Pictures below `root` that are in no set's folders for colour, depth or masks."""
    used = {
        child
        for folder in set_folders(root).values()
        for role in ALIASES
        for child in role_folders(folder, role)
    }
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and path.parent not in used
    )


def keep_named(triples: Sequence[Triple], names: Path) -> list[Triple]:
    """The triples that a list names, one a line, by stem or by any last part of the path.

    `000001_left`, `000001_left.jpg` and `NJU2K/RGB/000001_left.jpg` all name one. Only the first
    word of a line counts; empty lines and those with `#` first do not.

    Raises:
        ValueError: a line names none, or several.
    """
    by_stem: dict[str, list[Triple]] = {}
    for triple in triples:
        by_stem.setdefault(triple.rgb.stem, []).append(triple)
    kept: list[Triple] = []
    missing: list[str] = []
    doubled: list[str] = []
    for line in names.read_text().splitlines():
        word = line.split()[0] if line.split() else "#"
        if word.startswith("#"):
            continue
        path = Path(word)
        stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
        found = [t for t in by_stem.get(stem, ()) if _ends(t.rgb, path.parts[:-1])]
        if len(found) == 1:
            kept += found
        else:
            (doubled if found else missing).append(word)
    for words, problem in ((missing, "name no triple"), (doubled, "name several")):
        if words:
            raise ValueError(f"{names}: {len(words)} lines {problem}: {shown(words)}")
    return kept


def _ends(rgb: Path, folders: tuple[str, ...]) -> bool:
    """Whether the names in `folders` occur among the parents of a picture, in this order."""
    parents = iter(rgb.parts[:-1])
    return all(name in parents for name in folders)
