"""The command line, over a real ONNX graph."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import structlog
from PIL import Image
from typer.testing import CliRunner

from app.__main__ import cli
from tests.app.tiny import crops, embedded, encoded, noise, pair, ramp, write_bundle


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def run(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("MUTUALFORMER_BUNDLES", str(bundles))
    return CliRunner()


def test_check_passes_good_bundles(run: CliRunner) -> None:
    result = run.invoke(cli, ["check"])

    assert result.exit_code == 0
    assert "tiny@1: good on onnxruntime, cpu" in result.output


def test_check_covers_both_tasks(
    run: CliRunner, both_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUTUALFORMER_BUNDLES", str(both_bundles))

    result = run.invoke(cli, ["check"])

    assert result.exit_code == 0
    assert "tiny@1: good on onnxruntime, cpu" in result.output
    assert "tiny-reid@1: good on onnxruntime, cpu" in result.output


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("MUTUALFORMER_PORT", "99999", "MUTUALFORMER_PORT"),
        ("MUTUALFORMER_PROT", "8000", "MUTUALFORMER_PROT"),
        ("MUTUALFORMER_BUNDLES", "/nowhere", "/nowhere"),
        ("MUTUALFORMER_DEVICE", "cuda", "CUDAExecutionProvider"),
    ],
)
def test_check_fails_with_a_word_on_what_is_wrong(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, word: str
) -> None:
    monkeypatch.setenv(variable, value)

    result = run.invoke(cli, ["check"])

    assert result.exit_code == 1
    assert word in result.output


def test_predict_writes_what_it_was_asked_for(run: CliRunner, tmp_path: Path) -> None:
    rgb, depth, out = tmp_path / "rgb.png", tmp_path / "depth.png", tmp_path / "mask.png"
    rgb.write_bytes(encoded(noise()))
    depth.write_bytes(encoded(ramp()))

    result = run.invoke(
        cli, ["predict", "saliency", str(rgb), str(depth), "--out", str(out), "--output", "mask"]
    )

    assert result.exit_code == 0, result.output
    with Image.open(out) as mask:
        assert set(mask.tobytes()) == {0, 255}


def test_predict_answers_photos_alone_where_the_model_does_without_depth(
    run: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in "ab":
        (photos / f"{name}.png").write_bytes(encoded(noise()))
    words = ["predict", "saliency", str(photos), "--out", str(out)]

    refused = run.invoke(cli, words)
    write_bundle(tmp_path / "bundles" / "tiny", modality_policy="substitute")
    monkeypatch.setenv("MUTUALFORMER_BUNDLES", str(tmp_path / "bundles"))
    answered = run.invoke(cli, [*words, "--overwrite"])
    depth = tmp_path / "depth"
    shutil.copytree(photos, depth)
    others = run.invoke(cli, ["predict", "saliency", str(photos), str(depth), "--out", str(out)])

    assert (refused.exit_code, answered.exit_code) == (1, 0), answered.output
    assert "field 'depth' is missing" in refused.output
    assert "every photo is answered alone" in answered.output
    assert sorted(path.name for path in out.glob("*.png")) == ["a.png", "b.png"]
    assert others.exit_code == 1
    assert "was made with without=depth" in others.output


def test_predict_names_the_picture_at_fault(run: CliRunner, tmp_path: Path) -> None:
    rgb, out = tmp_path / "rgb.png", tmp_path / "map.png"
    rgb.write_bytes(encoded(noise()))

    result = run.invoke(cli, ["predict", "saliency", str(rgb), str(rgb), "--out", str(out)])

    assert result.exit_code == 1
    assert result.output.startswith("depth: ")
    assert not out.exists()


@pytest.fixture
def crop_files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "rgb.png", tmp_path / "nir.png"
    for path, picture in zip(paths, crops(0), strict=True):
        path.write_bytes(encoded(picture))
    return paths


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_predict_reid_writes_the_embedding(
    run: CliRunner,
    both_bundles: Path,
    crop_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    monkeypatch.setenv("MUTUALFORMER_BUNDLES", str(both_bundles))
    rgb, nir = crop_files
    out = rgb.with_name("answer.json")

    result = run.invoke(
        cli, ["predict", "reid", str(rgb), str(nir), "--out", str(out), "--encoding", encoding]
    )

    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    (found,) = report["embeddings"]
    if encoding == "base64":
        found = np.frombuffer(base64.b64decode(found), "<f4")
    assert report["model_id"] == "tiny-reid@1"
    np.testing.assert_allclose(found, embedded(crops(0))[0], atol=1e-6)  # float32 arithmetic


def test_predict_reid_names_the_picture_at_fault(
    run: CliRunner,
    both_bundles: Path,
    crop_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MUTUALFORMER_BUNDLES", str(both_bundles))
    rgb, _ = crop_files
    out = rgb.with_name("answer.json")

    result = run.invoke(cli, ["predict", "reid", str(rgb), str(rgb), "--out", str(out)])

    assert result.exit_code == 1
    assert result.output.startswith("nir: a colour picture is not near-infrared")
    assert not out.exists()


def test_predict_reid_without_its_bundle_says_so(
    run: CliRunner, crop_files: tuple[Path, Path]
) -> None:
    rgb, nir = crop_files

    result = run.invoke(
        cli, ["predict", "reid", str(rgb), str(nir), "--out", str(rgb.with_name("answer.json"))]
    )

    assert result.exit_code == 1
    assert "no bundle serves reid" in result.output


def start_server(bundles: Path, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--port", str(port)],
        env={**os.environ, "MUTUALFORMER_BUNDLES": str(bundles)},
        stderr=subprocess.PIPE,
    )


def test_serve_answers_until_it_is_told_to_stop(bundles: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with start_server(bundles, port) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                wait_until_ready(client)
                answer = client.post("/v1/saliency", files=pair())
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        finally:
            process.kill()

    assert answer.status_code == 200
    assert process.returncode == -signal.SIGTERM  # passed on once the server has closed


def wait_until_ready(client: httpx.Client) -> None:
    for _ in range(300):
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.ConnectError:
            pass
        time.sleep(0.1)
    raise TimeoutError("the server did not become ready in 30 s")


def test_serve_stops_at_once_when_a_bundle_is_bad(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny")
    (bundle.path / "model.onnx").write_bytes(b"not a graph")

    with start_server(tmp_path, 0) as process:
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()

    assert process.returncode == 1
    assert b"model.onnx: sha256 is" in errors


def test_a_port_in_use_is_the_one_thing_said(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("MUTUALFORMER_PORT", str(taken.getsockname()[1]))
        result = run.invoke(cli, ["serve"])

    assert result.exit_code == 1
    assert "cannot listen on 127.0.0.1" in result.output


def test_check_warns_of_a_port_in_use(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("MUTUALFORMER_PORT", str(taken.getsockname()[1]))
        in_use = run.invoke(cli, ["check"])
    free = run.invoke(cli, ["check"])

    assert (in_use.exit_code, free.exit_code) == (0, 0)  # it may be the service that is checked
    assert "cannot listen on 127.0.0.1" in in_use.output
    assert "cannot listen" not in free.output


def test_the_api_is_described_without_a_bundle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MUTUALFORMER_BUNDLES", str(tmp_path / "nowhere"))
    monkeypatch.setenv("MUTUALFORMER_METRICS", "false")

    as_json = CliRunner().invoke(cli, ["openapi"])
    as_markdown = CliRunner().invoke(cli, ["openapi", "--markdown"])

    assert {"/v1/saliency", "/metrics"} <= set(json.loads(as_json.output)["paths"])
    assert "### POST /v1/saliency\n" in as_markdown.output
