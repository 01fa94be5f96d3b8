from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import BundleError, find_bundles, load_canary, open_bundle, seal_bundle
from tests.app.tiny import DIM, SIDE, manifest_fields, write_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny").path


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sealed_bundle_opens_with_what_it_was_sealed_with(folder: Path) -> None:
    bundle = open_bundle(folder)

    assert bundle.manifest.model_id == "tiny@1"
    assert bundle.manifest.input_size == (SIDE, SIDE)
    assert set(bundle.manifest.files) == {"model.onnx", "canary.npz", "parity.json", "README.md"}
    assert bundle.parity == {"onnx": {"max_abs_error": 0.0}}
    assert bundle.model_path == folder / "model.onnx"


@pytest.mark.parametrize("name", ["model.onnx", "canary.npz", "parity.json", "README.md"])
def test_an_altered_file_is_named(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"\n")

    with pytest.raises(BundleError, match=rf"{name}: sha256 is"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["model.onnx", "canary.npz", "parity.json", "README.md"])
def test_a_missing_file_is_named_even_without_verification(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(BundleError, match=rf"{name}: missing"):
        open_bundle(folder, verify=False)


def test_a_file_that_leads_outside_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").rename(tmp_path / "README.md")
    (folder / "README.md").symlink_to(tmp_path / "README.md")

    with pytest.raises(BundleError, match="leads outside"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "weights/a.bin", ".."])
def test_a_path_in_the_list_of_files_is_refused(folder: Path, name: str) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    change_manifest(folder, files={**files, name: "0" * 64})

    with pytest.raises(BundleError, match="not the plain name"):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"colour": "blue"}, "colour"),
        ({"task": "segmentation"}, "task"),
        ({"format_version": 2}, "format_version"),
        ({"input_size": [64]}, "input_size"),
        ({"input_size": [0, 64]}, "input_size"),
        ({"name": "../tiny"}, "name"),
        ({"files": {}}, "model.onnx"),
        ({"preprocessing": {"preprocess_id": "saliency-99"}}, "preprocess_id"),
        ({"task": "reid"}, "output is 'saliency', but reid has 'embedding'"),
        ({"preprocessing": {"preprocess_id": "reid-1"}}, "preprocess_id is 'reid-1'"),
        ({"preprocessing": {"aux": "full_range"}}, "aux is 'full_range'"),
        ({"dim": 5}, "dim is 5"),
    ],
)
def test_a_manifest_is_read_strictly(folder: Path, changes: dict[str, Any], word: str) -> None:
    change_manifest(folder, **changes)

    with pytest.raises(BundleError, match=word):
        open_bundle(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(tmp_path)


def test_a_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")

    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(folder)


def test_sealing_needs_every_file(folder: Path) -> None:
    (folder / "parity.json").unlink()

    with pytest.raises(BundleError, match=r"parity\.json: missing"):
        seal_bundle(folder, **manifest_fields())


def test_a_refused_seal_leaves_the_old_manifest(folder: Path) -> None:
    with pytest.raises(BundleError, match="task"):
        seal_bundle(folder, **manifest_fields(task="none"))

    assert open_bundle(folder).manifest.task == "saliency"
    assert not list(folder.glob(".*"))


def test_sealing_again_takes_new_files_in(folder: Path) -> None:
    (folder / "figure.png").write_bytes(b"pixels")

    bundle = seal_bundle(folder, **manifest_fields(version="2"))

    assert "figure.png" in bundle.manifest.files
    assert open_bundle(folder).manifest.model_id == "tiny@2"


def test_every_bundle_of_a_folder_is_found_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_bundle(tmp_path / name)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes").mkdir()

    assert [bundle.manifest.name for bundle in find_bundles(tmp_path)] == ["a", "b"]
    assert [bundle.manifest.name for bundle in find_bundles(tmp_path / "a")] == ["a"]


def test_two_bundles_of_one_name_are_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", version="1")
    write_bundle(tmp_path / "b", version="2").path.rename(tmp_path / "c")
    seal_bundle(tmp_path / "c", **manifest_fields(name="a"))

    with pytest.raises(BundleError, match="named 'a' too"):
        find_bundles(tmp_path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        find_bundles(tmp_path / "none")


def test_the_canary_has_the_shapes_of_the_graph(folder: Path) -> None:
    rgb, aux, expected = load_canary(open_bundle(folder))

    assert (rgb.dtype, rgb.shape) == (np.dtype(np.uint8), (2, SIDE, SIDE, 3))
    assert (aux.dtype, aux.shape) == (np.dtype(np.float32), (2, SIDE, SIDE, 1))
    assert (expected.dtype, expected.shape) == (np.dtype(np.float32), (2, SIDE, SIDE))


def test_a_bundle_of_embeddings_says_how_wide_they_are(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "vectors", task="reid")

    assert bundle.manifest.dim == DIM
    assert bundle.manifest.preprocessing.preprocess_id == "reid-1"
    assert load_canary(bundle)[2].shape == (2, DIM)


def test_embeddings_without_a_width_are_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "vectors", task="reid").path
    change_manifest(folder, dim=None)

    with pytest.raises(BundleError, match="dim is None"):
        open_bundle(folder)


def test_a_canary_of_another_width_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "vectors", task="reid").path
    change_manifest(folder, dim=DIM + 1)

    with pytest.raises(BundleError, match="expected is"):
        load_canary(open_bundle(folder))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"rgb": np.zeros((2, SIDE, SIDE, 3))}, "rgb is float64"),
        ({"aux": np.zeros((1, SIDE, SIDE, 1), np.float32)}, "aux is"),
        ({"expected": np.zeros((0, SIDE, SIDE), np.float32)}, "expected is"),
        ({"expected": np.zeros((2, 5), np.float32)}, "expected is"),
        ({"expected": np.array([None, None])}, "allow_pickle"),
    ],
)
def test_a_canary_of_other_arrays_is_refused(
    folder: Path, changes: dict[str, Any], word: str
) -> None:
    with np.load(folder / "canary.npz") as arrays:
        canary = {**arrays, **changes}
    np.savez(folder / "canary.npz", **canary)
    bundle = seal_bundle(folder, **manifest_fields())

    with pytest.raises(BundleError, match=word):
        load_canary(bundle)
