"""What goes wrong around a container: each time a reason in the log and the right health."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.service import FAULTY_EXIT_CODE
from tests.app.faulty_server import POISON
from tests.app.tiny import encoded, noise, pair
from tests.docker.conftest import MakeStack
from tests.docker.engine import ROOT, Stack, docker, wait_for
from tests.docker.load import saliency_form, write_tiny_bundle

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def exit_codes(stack: Stack) -> list[int]:
    """Of every time that its container ended, by the engine's own record."""
    ended = ("--filter", f"container={stack.container()}", "--filter", "event=die")
    attribute = '{{index .Actor.Attributes "exitCode"}}'
    lines = docker("events", "--since=30m", "--until=0s", *ended, "--format", attribute)
    return [int(line) for line in lines.split()]


def empty(folder: Path) -> str:
    folder.mkdir()
    return "no bundle in this folder"


def corrupt(folder: Path) -> str:
    shutil.copytree(ROOT / "bundles", folder)
    model = folder / "saliency-compact" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    return "/bundles/saliency-compact/model.onnx: sha256 is"


def unreadable(folder: Path) -> str:
    shutil.copytree(ROOT / "bundles", folder)
    (folder / "saliency-compact" / "model.onnx").chmod(0o600)
    return "Permission denied: '/bundles/saliency-compact/model.onnx'"


def one_closed(folder: Path) -> str:
    shutil.copytree(ROOT / "bundles", folder)
    (folder / "saliency-compact").chmod(0o700)
    return "Permission denied: '/bundles/saliency-compact/manifest.json'"


def closed(folder: Path) -> str:
    shutil.copytree(ROOT / "bundles", folder)
    folder.chmod(0o700)
    return "Permission denied: '/bundles"


@pytest.mark.parametrize("spoil", [empty, corrupt, unreadable, one_closed, closed])
def test_bad_bundles_end_each_start_with_the_reason(
    stack: MakeStack, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    reason = spoil(tmp_path / "bundles")
    service = stack({"MUTUALFORMER_BUNDLES": str(tmp_path / "bundles")})
    service.run("up", "--detach")

    wait_for(lambda: service.restarts() >= 2, 60, "it is tried again")
    logs = service.logs()
    told = [line for line in logs.splitlines() if line.startswith("start-up failed: ")]

    assert len(told) >= 2
    assert all(reason in line for line in told)
    assert "Traceback" not in logs
    assert service.health() != "healthy"
    assert set(exit_codes(service)) == {1}


def test_a_folder_of_bundles_that_is_not_there_is_said_before_anything_starts(
    stack: MakeStack, tmp_path: Path
) -> None:
    service = stack({"MUTUALFORMER_BUNDLES": str(tmp_path / "missing")})

    said = service.run("up", "--detach", check=False)

    assert "bind source path does not exist" in said
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("fault", ["raise", "nan", "hang"])
def test_a_network_that_fails_for_good_restarts_the_container(
    stack: MakeStack, override: Callable[..., Path], tmp_path: Path, fault: str
) -> None:
    write_tiny_bundle(tmp_path / "bundles")
    faulty = override(
        entrypoint=["python3", "-m", "tests.docker.faulty_service", fault],
        command=[],
        volumes=[f"{ROOT / 'tests'}:/srv/mutualformer/tests:ro"],
    )
    service = stack(
        {"MUTUALFORMER_BUNDLES": str(tmp_path / "bundles"), "MUTUALFORMER_MAX_RUN_S": "2"}, faulty
    )
    service.up()
    url = f"{service.address}/v1/saliency"
    poison = pair(encoded(np.full((64, 64, 3), POISON, np.uint8)))

    good = httpx.post(url, files=pair(), timeout=60)
    bad = httpx.post(url, files=poison, timeout=60)
    wait_for(lambda: service.restarts() == 1, 60, "the engine starts it again")
    wait_for(service.ready, 60, "it is ready again")
    good_again = httpx.post(url, files=pair(), timeout=60)

    assert [good.status_code, bad.status_code, good_again.status_code] == [200, 500, 200]
    assert exit_codes(service) == [FAULTY_EXIT_CODE]
    assert "canary failed" in service.logs()


def test_a_full_disk_fails_large_uploads_alone(stack: MakeStack) -> None:
    service = stack({"API_TMP": "64k"})
    service.up()
    url = f"{service.address}/v1/saliency"
    large = encoded(noise(1200, 1200))

    failed = httpx.post(url, files=pair(large, large), timeout=60)
    small = httpx.post(url, files=saliency_form(), timeout=60)

    assert failed.status_code == 507
    assert failed.json()["code"] == "storage_failed"
    assert small.status_code == 200
    assert service.ready()
    assert "No space left on device" in service.logs()
    assert service.restarts() == 0


def test_a_service_out_of_memory_is_started_again(stack: MakeStack) -> None:
    service = stack({"API_MEMORY": "96m"})
    service.run("up", "--detach")

    wait_for(lambda: service.restarts() >= 1, 90, "the engine starts it again")
    # Its record counts in whole seconds, and omits the one that has not passed.
    wait_for(lambda: 137 in exit_codes(service), 10, "the engine's record says killed")
