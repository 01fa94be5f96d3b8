"""Fit the near-infrared simulator to real pairs, and say how well it does on new scenes."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from training.data.nir_simulator import NirFit, nir_features

PIXELS = 3000
"""Drawn of each scene."""
POOR = 0.2
"""Correlation of `alignment.json` below which a pair is left out: seven of the 212."""


@dataclass(frozen=True)
class Scene:
    """Pixels of one pair."""

    name: str
    features: NDArray[np.float32]
    """(F, PIXELS), of `nir_features`; red, green and blue come first."""
    nir: NDArray[np.float32]
    """(PIXELS,) in [0, 1]."""

    @property
    def held_out(self) -> bool:
        """Whether it is left out of the fit: a fifth, by a hash of the name."""
        return hashlib.sha256(self.name.encode()).digest()[0] < 51


def read_scenes(root: Path) -> list[Scene]:
    """Draw valid pixels of every pair that is aligned well.

    Args:
        root: folder of `<scene>_{rgb.jpg,nir.jpg,valid.png}` and `alignment.json`.

    Raises:
        ValueError: the folder holds no such pairs.
    """
    if not (root / "alignment.json").is_file():
        raise ValueError(f"{root} holds no alignment.json")
    alignment = json.loads((root / "alignment.json").read_text())
    poor = {
        f"{kind}_{number}"
        for kind, entries in alignment.items()
        for number, correlation, _ in entries
        if correlation < POOR
    }
    scenes = []
    for path in sorted(root.glob("*_rgb.jpg")):
        name = path.name.removesuffix("_rgb.jpg")
        if name in poor:
            continue
        rgb, nir, valid = (
            np.asarray(Image.open(root / f"{name}_{end}"))
            for end in ("rgb.jpg", "nir.jpg", "valid.png")
        )
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        drawn = np.random.default_rng(seed).choice(np.flatnonzero(valid.ravel() > 127), PIXELS)
        features = nir_features(rgb)
        scenes.append(
            Scene(
                name,
                features.reshape(len(features), -1)[:, drawn],
                nir.ravel()[drawn].astype(np.float32) / 255,
            )
        )
    if not scenes:
        raise ValueError(f"{root} holds no *_rgb.jpg")
    return scenes


def fit_nir(scenes: list[Scene], *, hidden: int = 32, steps: int = 600, seed: int = 0) -> NirFit:
    """Least squares by a small network; noise on its input and few steps keep it from the scenes.

    Args:
        scenes: what to fit to.
        hidden: width of both hidden layers.
        steps: updates of 4096 pixels.
        seed: of the start and the draws.
    """
    features = torch.from_numpy(np.concatenate([scene.features.T for scene in scenes]))
    nir = torch.from_numpy(np.concatenate([scene.nir for scene in scenes]))
    mean, std = features.mean(0), features.std(0) + 1e-3
    features = (features - mean) / std
    torch.manual_seed(seed)
    layers = [
        nn.Linear(features.shape[1], hidden),
        nn.Linear(hidden, hidden),
        nn.Linear(hidden, 1),
    ]
    network = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    for _ in range(steps):
        drawn = torch.randint(len(features), (4096,))
        x = features[drawn]
        pred = network(x + 0.15 * torch.randn_like(x))[:, 0]
        optimiser.zero_grad()
        F.mse_loss(pred, nir[drawn]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    weights = [layer.weight.detach() for layer in layers]
    biases = [layer.bias.detach() for layer in layers]
    biases[0] = biases[0] - weights[0] @ (mean / std)
    weights[0] = weights[0] / std
    return NirFit(
        tuple(weight.numpy() for weight in weights), tuple(bias.numpy()[:, None] for bias in biases)
    )


def fit_cubic(scenes: list[Scene]) -> NDArray[np.float64]:
    """What there is to beat: a least-squares cubic in red, green and blue; coefficients, (20,)."""
    features = np.concatenate([cubic_terms(scene.features) for scene in scenes])
    nir = np.concatenate([scene.nir for scene in scenes])
    coefficients: NDArray[np.float64] = np.linalg.lstsq(features, nir, rcond=None)[0]
    return coefficients


def cubic_terms(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """The 20 monomials up to the third degree of the first three rows: (F, N) -> (N, 20)."""
    rgb = features[:3].T.astype(np.float64)
    terms = [np.ones(len(rgb))]
    for degree in (1, 2, 3):
        for factors in itertools.combinations_with_replacement(range(3), degree):
            terms.append(np.prod(rgb[:, factors], axis=1))
    return np.stack(terms, axis=1)


def explained(pred: NDArray[np.floating], nir: NDArray[np.float32]) -> float:
    """Share of the variance of (PIXELS,) values that their prediction explains, R^2, at most 1."""
    return float(1 - np.square(pred - nir).sum() / np.square(nir - nir.mean()).sum())


def judge(scenes: list[Scene], fit: NirFit, cubic: NDArray[np.float64]) -> dict[str, float]:
    """R^2 over all pixels of `scenes`, and the median over scenes; `cubic` is `fit_cubic`'s."""
    nir = np.concatenate([scene.nir for scene in scenes])
    report = {}
    preds: dict[str, list[NDArray[Any]]] = {
        "cubic": [cubic_terms(scene.features) @ cubic for scene in scenes],
        "simulator": [fit(scene.features) for scene in scenes],
    }
    for name, pred in preds.items():
        report[f"{name}_r2"] = explained(np.concatenate(pred), nir)
        each = [explained(one, scene.nir) for one, scene in zip(pred, scenes, strict=True)]
        report[f"{name}_r2_median_scene"] = float(np.median(each))
    return report
