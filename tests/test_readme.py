from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.recipe import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    re.sub(r"\\\n\s*", "", block)
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
]
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The shipped bundles, served as `make serve` serves them, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve"],
        cwd=ROOT,
        env={**os.environ, "MUTUALFORMER_PORT": str(port)},
        stdout=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _ready(address):
            assert process.poll() is None, "the service stopped"
            assert time.monotonic() < deadline, "the service did not become ready"
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def curl(pattern: str, address: str, folder: Path) -> None:
    """Run the README's curl command that matches, as pasted, but for port and output folder."""
    lines = [line for block in COMMANDS for line in block.splitlines() if line.startswith("curl")]
    (line,) = (line for line in lines if re.search(pattern, line))
    line = line.replace(ADDRESS, address).replace("-o ", f"-o {folder}/")
    subprocess.run(line, shell=True, cwd=ROOT, check=True, capture_output=True)


def overlap(found: NDArray[np.bool_], name: str) -> float:
    with Image.open(ROOT / "examples" / "gt" / f"{name}.png") as image:
        gt = np.asarray(image) > 128
    assert found.shape == gt.shape
    return float((found & gt).sum() / (found | gt).sum())


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


@needs_curl
def test_the_first_curl_answers_a_map_of_the_vase(address: str, tmp_path: Path) -> None:
    curl("vase_rgb", address, tmp_path)

    with Image.open(tmp_path / "map.png") as image:
        assert image.format == "PNG"
        assert overlap(np.asarray(image) > 127, "vase") > 0.9


@needs_curl
def test_the_second_curl_cuts_the_cone_out(address: str, tmp_path: Path) -> None:
    curl("cone_rgb", address, tmp_path)

    with Image.open(tmp_path / "cutout.png") as image:
        assert image.mode == "RGBA"
        assert overlap(np.asarray(image)[..., 3] > 127, "cone") > 0.9


@needs_curl
def test_the_third_curl_answers_json_about_the_mug(address: str, tmp_path: Path) -> None:
    curl("mug_rgb", address, tmp_path)
    report = json.loads((tmp_path / "mug.json").read_text())

    height, width = report["rle"]["size"]
    counts = report["rle"]["counts"]
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    mask = runs.reshape(width, height).T
    # Parts of the boxes beside it are kept, too.
    assert overlap(mask, "mug") > 0.5
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = report["bounding_box"]
    assert (box["x"], box["y"]) == (columns[0], rows[0])
    assert (box["width"], box["height"]) == (np.ptp(columns) + 1, np.ptp(rows) + 1)


@needs_curl
def test_predicting_without_a_server_answers_the_same(address: str, tmp_path: Path) -> None:
    lines = [line for block in COMMANDS for line in block.splitlines()]
    (line,) = (line for line in lines if "predict saliency examples/" in line)
    words = line.replace("map.png", str(tmp_path / "alone.png")).split()
    subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True)
    curl("vase_rgb", address, tmp_path)

    assert (tmp_path / "alone.png").read_bytes() == (tmp_path / "map.png").read_bytes()


@needs_curl
def test_the_embedding_curl_answers_what_predicting_without_a_server_does(
    address: str, tmp_path: Path
) -> None:
    curl("reid/embeddings", address, tmp_path)
    lines = [line for block in COMMANDS for line in block.splitlines()]
    (line,) = (line for line in lines if "predict reid examples/" in line)
    words = line.replace("alone.json", str(tmp_path / "alone.json")).split()
    subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True)

    served, alone = (
        json.loads((tmp_path / name).read_text()) for name in ("embedding.json", "alone.json")
    )

    assert served["embeddings"] == alone["embeddings"]
    assert np.linalg.norm(served["embeddings"][0]) == pytest.approx(1, abs=1e-6)


@needs_curl
def test_the_similarity_curl_finds_the_van_again(address: str, tmp_path: Path) -> None:
    curl("reid/similarity", address, tmp_path)

    (ranking,) = json.loads((tmp_path / "ranks.json").read_text())["queries"]

    assert [match["gallery"] for match in ranking["matches"]] == [1, 0]


@needs_curl
def test_the_python_client_answers_as_curl_does(address: str, tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    snippet = snippet.replace(ADDRESS, address).replace('"examples/', f'"{ROOT}/examples/')
    printed = subprocess.run(
        [sys.executable, "-c", snippet.replace('"vase.png"', f'"{tmp_path}/vase.png"')],
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    curl("vase_rgb", address, tmp_path)

    with Image.open(tmp_path / "vase.png") as found, Image.open(tmp_path / "map.png") as expected:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert printed.startswith("saliency-compact@")
    assert printed.count("Box(") == 3


def test_each_command_over_folders_works_as_pasted(tmp_path: Path) -> None:
    (block,) = (block for block in COMMANDS if "models list" in block)
    outputs = []
    for line in block.splitlines():
        assert line.startswith(".venv/serve/bin/python ")
        line = line.replace(".venv/serve/bin/python", sys.executable)
        line = line.replace("--out embeddings", f"--out {tmp_path}/out")
        done = subprocess.run(line, shell=True, cwd=ROOT, check=True, capture_output=True)
        outputs.append(done.stdout.decode())

    assert json.loads(outputs[0])["written"] == 4
    assert len(list((tmp_path / "out").glob("*.json"))) == 4
    assert "saliency-compact@" in outputs[1]
    assert "good on onnxruntime" in outputs[2]


@pytest.mark.parametrize(
    ("bundle", "keys", "rows"),
    [
        (
            "saliency-compact",
            ("s_measure", "max_f", "max_e", "mae"),
            {
                "DUT-RGBD | 3": "dut_rgbd",
                "NJU2K | 5": "nju2k",
                "RGBD135 | 2": "rgbd135",
                "all ten | 10": "all",
                "all ten, no depth | 10": "all, no depth",
                "all ten, no colour | 10": "all, no colour",
            },
        ),
        (
            "reid-compact",
            ("mean_ap", "rank1", "rank5"),
            {
                "both pictures": "val, simulated NIR",
                "dark colour": "val, dark RGB, simulated NIR",
                "no near-infrared": "val, no NIR, simulated NIR",
                "no colour": "val, no RGB, simulated NIR",
            },
        ),
    ],
)
def test_the_results_are_those_of_the_bundle_that_ships(
    bundle: str, keys: tuple[str, ...], rows: dict[str, str]
) -> None:
    manifest = json.loads((ROOT / "bundles" / bundle / "manifest.json").read_text())

    for label, row in rows.items():
        cells = (f"{manifest['metrics'][row][key]:.3f}".removeprefix("0") for key in keys)
        assert f"| {label} | {' | '.join(cells)} |" in README
    assert f"`{bundle}` {manifest['version']} (" in README


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "recipes").glob("*.yaml")))
def test_every_recipe_loads(path: Path) -> None:
    Recipe.load(path).network_config()


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    assert any(block.strip() == "make test" for block in COMMANDS)
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()
