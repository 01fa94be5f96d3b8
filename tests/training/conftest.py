"""Small generated data sets: photos with a disc as their object, and RGB-D triples of discs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.scenes import disc, write_triple


@pytest.fixture(scope="session")
def photos_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos in two sets, one of which validation owns."""
    root = tmp_path_factory.mktemp("foregrounds")
    for index in range(12):
        folder = root / ("grabcut_bsds" if index % 3 == 0 else "toys")
        rgb, _, gt = disc(index, (72, 96))
        for name in ("rgb", "gt"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(folder / "rgb" / f"{index:02}.jpg", quality=95)
        Image.fromarray(gt).save(folder / "gt" / f"{index:02}.png")
    return root


@pytest.fixture(scope="session")
def backgrounds_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("backgrounds")
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "noise.jpg")
    return root


@pytest.fixture
def triples_root(tmp_path: Path) -> Path:
    for index in range(6):
        write_triple(tmp_path / "pack", f"{index:03}", index)
    return tmp_path / "pack"
