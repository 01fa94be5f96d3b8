"""Which files make pairs: two files, two folders or two patterns, matched by name."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RGB_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
GREY_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg"})


class NoPairs(Exception):  # noqa: N818 - named for what happened
    """The files named do not make pairs; the message says which and why."""


@dataclass(frozen=True)
class FilePair:
    """Two pictures of one scene, or a photo alone, and where the answer goes."""

    rgb: Path
    aux: Path | None
    out: Path

    @property
    def pictures(self) -> tuple[Path, ...]:
        """What there is of both."""
        return (self.rgb,) if self.aux is None else (self.rgb, self.aux)


@dataclass(frozen=True)
class Matched:
    """Every pair that was found, by name, and what has no partner."""

    pairs: list[FilePair]
    alone: list[Path]


def match(
    rgb: str, aux: str | None, role: str, suffixes: frozenset[str], out: Path, kind: str
) -> Matched:
    """Pair the files of two sources.

    Files are partners if their names agree but for the suffix, below the folder or the fixed
    part of the pattern. A name may carry its role: `a/rgb/1.jpg` goes with `a/depth/1.png`, and
    `vase_rgb.jpg` with `vase_depth.png`. Two single files are partners whatever their names.

    Args:
        rgb: a file, a folder, searched to the bottom, or a pattern with `*`, `**`, `?` or `[]`.
        aux: likewise, of their partners; none: photos are to be answered alone.
        role: what a name may call the partner, e.g. `depth`.
        suffixes: of partners; other files in a folder are passed over.
        out: the folder of the answers, which keep the names and the order of folders.
        kind: suffix of the answers.

    Raises:
        NoPairs: nothing is there, names are not unique, or an answer would replace a picture.
    """
    colours = _named(rgb, "rgb", RGB_SUFFIXES, out)
    if aux is None:
        pairs = [
            FilePair(path, None, out / f"{name}{kind}") for name, path in sorted(colours.items())
        ]
        check_targets(pairs)
        return Matched(pairs, [])
    partners = _named(aux, role, suffixes, out)
    if Path(rgb).is_file() and Path(aux).is_file():
        partners = dict(zip(colours, partners.values(), strict=True))
    pairs = [
        FilePair(path, partners[name], out / f"{name}{kind}")
        for name, path in sorted(colours.items())
        if name in partners
    ]
    alone = [path for name, path in sorted(colours.items()) if name not in partners]
    alone += [path for name, path in sorted(partners.items()) if name not in colours]
    if not pairs:
        raise NoPairs(
            f"no picture of {rgb} has a partner in {aux}: names must agree, like those of "
            f"{_example(colours)} and {_example(partners)} do not"
        )
    check_targets(pairs)
    return Matched(pairs, alone)


def check_targets(pairs: Sequence[FilePair]) -> None:
    """Raise `NoPairs` if an answer would replace one of the pictures."""
    sources = {path.resolve() for pair in pairs for path in pair.pictures}
    for pair in pairs:
        if pair.out.resolve() in sources:
            raise NoPairs(f"{pair.out} is one of the pictures themselves")


def _named(source: str, role: str, suffixes: frozenset[str], out: Path) -> dict[str, Path]:
    """The files of one source by the name that partners share."""
    path = Path(source).expanduser()
    if path.is_file():
        root, files = path.parent, [path]
    elif path.is_dir():
        root = path
        files = [file for file in path.rglob("*") if file.suffix.lower() in suffixes]
    elif glob.has_magic(source):
        root = _fixed_part(path)
        files = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - Path.glob takes no absolute pattern
    else:
        raise NoPairs(f"{source}: no such file or folder")
    answers = out.resolve()
    if answers == root.resolve():
        raise NoPairs(f"{out} is a folder of pictures; give another one for the answers")
    found: dict[str, Path] = {}
    for file in sorted(files):
        below = file.relative_to(root)
        hidden = any(part.startswith(".") for part in below.parts)
        if hidden or not file.is_file() or answers in file.resolve().parents:
            continue
        name = _shared_name(below, role)
        if name in found:
            raise NoPairs(f"{found[name]} and {file} have the same name, {name}")
        found[name] = file
    if not found:
        raise NoPairs(f"{source}: no {'picture' if path.is_dir() else 'file'} there")
    return found


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first wildcard."""
    while glob.has_magic(str(pattern)):
        pattern = pattern.parent
    return pattern


def _shared_name(path: Path, role: str) -> str:
    """A path without its suffix and without the words that say which of the two it is."""
    stem = path.stem
    for mark in (f"_{role}", f"-{role}"):
        if stem.lower().endswith(mark) and len(stem) > len(mark):
            stem = stem[: -len(mark)]
            break
    folders = [part for part in path.parts[:-1] if part.lower() != role]
    return "/".join([*folders, stem])


def _example(files: dict[str, Path]) -> str:
    return next(iter(files.values())).name
