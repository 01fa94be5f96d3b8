from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.checkpoint import Checkpoint, save_checkpoint
from tests.training.test_missing_modality import reid_net, saliency_net
from tests.training.test_reid import TINY_VIT
from training.tta import SCALES, Averaged, averaged


class Leftmost:
    """A map that is 1 in the left half whatever comes in; or how bright left and right are."""

    name, device = "leftmost", "cpu"

    def __init__(self, task: str) -> None:
        self.task = task
        self.sizes: list[tuple[int, int]] = []

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        B, h, w, _ = rgb.shape
        self.sizes.append((h, w))
        assert aux.shape == (B, h, w, 1)
        if self.task == "reid":
            left, right = (
                x.mean(axis=(1, 2, 3)) for x in (rgb[:, :, : w // 2], rgb[:, :, w // 2 :])
            )
            return np.stack((left, right), axis=1).astype(np.float32)
        answer = np.zeros((B, h, w), np.float32)
        answer[:, :, : w // 2] = 1
        return answer

    def close(self) -> None: ...


def pictures() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rgb = np.zeros((2, 128, 128, 3), np.uint8)
    rgb[:, :, :64] = 240
    return rgb, np.zeros((2, 128, 128, 1), np.float32)


def test_maps_of_mirror_images_are_mirrored_back() -> None:
    runtime = Averaged(Leftmost("saliency"), "saliency", flip=True)

    answer = runtime.run(*pictures())

    assert answer.shape == (2, 128, 128)
    assert (answer == 0.5).all()  # left of one is right of the other


def test_embeddings_of_mirror_images_are_averaged_to_unit_length() -> None:
    runtime = Averaged(Leftmost("reid"), "reid", flip=True)

    answer = runtime.run(*pictures())

    np.testing.assert_allclose(answer, np.full((2, 2), 0.5**0.5), rtol=1e-6)


def test_scales_are_multiples_of_32_and_maps_come_back_at_full_size() -> None:
    inner = Leftmost("saliency")

    answer = Averaged(inner, "saliency", flip=False, scales=SCALES).run(*pictures())

    assert inner.sizes == [(96, 96), (128, 128), (160, 160)]
    assert answer.shape == (2, 128, 128)
    assert answer[:, :, :62].min() > 0.99
    assert answer[:, :, 66:].max() < 0.01


def test_a_model_of_one_size_is_not_asked_for_several(tmp_path: Path) -> None:
    vit, cnn = reid_net(**TINY_VIT), saliency_net()
    for name, network in (("vit", vit), ("cnn", cnn)):
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(path, Checkpoint(network.config, network.state_dict()))
    runtime = Leftmost("reid")

    for model in (tmp_path / "vit.safetensors", tmp_path):
        with pytest.raises(ValueError, match="takes one size"):
            averaged(runtime, model, "reid", flip=True, multi_scale=True)
    several = averaged(
        runtime, tmp_path / "cnn.safetensors", "saliency", flip=False, multi_scale=True
    )
    assert isinstance(several, Averaged)
    assert several.scales == SCALES
    assert averaged(runtime, tmp_path, "reid", flip=False, multi_scale=False) is runtime
