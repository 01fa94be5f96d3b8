"""Write a model's maps for whole folders, as other methods publish theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from model.preprocessing import DepthConvention
from model.runtimes.base import Runtime
from training.data.rgbd_sets import read_set, set_folders
from training.data.triples import Pair, find_partners, role_folders
from training.evaluate import predict
from training.metrics import quantised

Track = Callable[[Sequence[Pair]], Iterable[Pair]]
"""Passes pairs on, perhaps showing how far they got."""


def find_pairs(
    root: Path, given: Mapping[str, DepthConvention]
) -> dict[str, tuple[list[Pair], DepthConvention]]:
    """Pairs by set, with or without masks, and how each set writes depth.

    Args:
        root: `<root>/<set>/{rgb,depth}`, deeper, or `<root>/{rgb,depth}`, under any usual names.
        given: conventions by set name; without one, a set's masks tell it.

    Raises:
        ValueError: nothing fits, a picture has no partner, or a set without masks has no
            convention; the message names it.
    """
    folders = set_folders(root)
    if not folders:
        raise ValueError(f"{root} holds no pairs, nor do its subfolders")
    unknown = sorted(set(given) - set(folders))
    if unknown:
        raise ValueError(f"no set named {', '.join(unknown)}; found {', '.join(folders)}")
    found: dict[str, tuple[list[Pair], DepthConvention]] = {}
    for name, folder in folders.items():
        convention = given.get(name)
        if convention is None and not role_folders(folder, "gt"):
            raise ValueError(f"{name} has no masks to tell how depth is written: say it")
        if convention is None:
            triples = read_set(name, folder, None).triples
            convention = triples[0].convention
        pairs = [Pair(f["rgb"], f["depth"]) for f in find_partners(folder, ("rgb", "depth"))]
        found[name] = (pairs, convention)
    return found


def write_maps(
    runtime: Runtime,
    size: tuple[int, int],
    sets: Mapping[str, tuple[Sequence[Pair], DepthConvention]],
    out: Path,
    track: Track = lambda pairs: pairs,
) -> int:
    """Write `<out>/<set>/<stem>.png`, 8-bit grey of the photo's size; answer how many.

    `evaluate saliency --maps` scores them as it scores the model itself.

    Args:
        runtime: answers maps of `size`.
        size: (height, width) that the model takes, in pixels.
        sets: of `find_pairs`.
        out: folder to write to; a map that is there is replaced.
        track: told of every pair.
    """
    count = 0
    for name, (pairs, convention) in sets.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        for pair in track(pairs):
            values = quantised(predict(runtime, pair, convention, size))
            Image.fromarray(values).save(out / name / f"{pair.rgb.stem}.png")
            count += 1
    return count
