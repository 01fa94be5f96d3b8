"""The CPU image under Docker Compose: from a clean checkout to answers, stops and restarts."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.keys import new_key
from tests.docker.conftest import MakeStack
from tests.docker.engine import ROOT, Stack, docker, free_port, inspect, running, wait_for
from tests.docker.load import EXAMPLES, LOST, REFUSED, load, reid_form, saliency_form

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

SERVICE_PIDS = """
import os, pathlib, signal, sys
for process in pathlib.Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_bytes().split(b"\\0")
    if process.name != "1" and b"-m" in words and b"serve" in words:
        os.kill(int(process.name), getattr(signal, sys.argv[1]))
"""
"""Signals the service itself, not the init before it."""

QUICK_CHECKS = {"interval": "1s", "timeout": "2s", "retries": 2, "start_period": "60s"}


def signal_service(stack: Stack, name: str) -> None:
    docker("exec", stack.container(), "python3", "-c", SERVICE_PIDS, name)


def container_address(stack: Stack) -> str:
    """Past Docker's port proxy, which takes connections that nothing behind it takes."""
    (network,) = inspect(stack.container())["NetworkSettings"]["Networks"].values()
    return f"http://{network['IPAddress']}:8000"


def test_compose_up_in_a_clean_checkout_leads_to_a_served_map(base: str, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout
    with subprocess.Popen(["tar", "-x"], cwd=checkout, stdin=subprocess.PIPE) as unpack:
        packing = ["tar", "-c", "--null", "--files-from=-"]
        subprocess.run(packing, cwd=ROOT, input=names, stdout=unpack.stdin, check=True)
    assert base

    with running(Stack("mutualformer-checkout", folder=checkout)) as stack:
        stack.up("--build")
        answer = httpx.post(f"{stack.address}/v1/saliency", files=saliency_form(), timeout=60)
        vector = httpx.post(
            f"{stack.address}/v1/reid/embeddings", files=reid_form(), timeout=60
        ).json()["embeddings"][0]

    with (
        Image.open(io.BytesIO(answer.content)) as found,
        Image.open(EXAMPLES / "gt" / "vase.png") as truth,
    ):
        ours, theirs = np.asarray(found) > 127, np.asarray(truth) > 127
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.8
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_it_is_confined(stack: MakeStack) -> None:
    service = stack()
    service.up()
    script = """
        id -u
        grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status
        touch /tmp/x && echo tmp
        for folder in / /srv/mutualformer /opt/venv /bundles /run /var/tmp; do
            touch $folder/x 2>/dev/null && echo "wrote $folder"
        done
        tr '\\0' ' ' </proc/1/cmdline
    """

    said = docker("exec", service.container(), "sh", "-c", script).split("\n")

    assert said[0] == "10001"
    assert [line.split()[1] for line in said[1:4]] == ["0" * 16, "0" * 16, "1"]
    assert said[4] == "tmp"
    assert said[5].startswith("/sbin/docker-init -- python3 -m app")
    host = inspect(service.container())["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["Memory"] == 4 * 2**30
    assert host["PidsLimit"] == 512


def test_health_goes_from_starting_to_healthy_and_follows_the_service(
    stack: MakeStack, override: Callable[..., Path]
) -> None:
    service = stack({}, override(healthcheck=QUICK_CHECKS))
    service.run("up", "--detach")

    assert service.health() == "starting"
    wait_for(lambda: service.health() == "healthy", 60, "it becomes healthy")
    assert service.ready()
    signal_service(service, "SIGSTOP")
    wait_for(lambda: service.health() == "unhealthy", 30, "a service that hangs is unhealthy")
    signal_service(service, "SIGCONT")
    wait_for(lambda: service.health() == "healthy", 30, "it is healthy again")
    assert service.restarts() == 0


def test_it_is_healthy_at_another_host_and_port(
    stack: MakeStack, override: Callable[..., Path]
) -> None:
    service = stack({"MUTUALFORMER_HOST": "127.0.0.2"})
    service.up()
    before, first_port = service.container(), service.settings["MUTUALFORMER_PORT"]
    service.settings["MUTUALFORMER_PORT"] = str(free_port())
    service.up()

    assert service.container() != before
    assert service.ready()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.2:{first_port}/readyz")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{service.settings['MUTUALFORMER_PORT']}/readyz")
    inner = override(
        environment={"MUTUALFORMER_HOST": "127.0.0.3", "MUTUALFORMER_PORT": "9123"},
        healthcheck=QUICK_CHECKS,
    )
    service.overrides = (inner,)
    service.up()  # waits until Docker's own probe says that it is healthy
    probe = "import http.client as h; c = h.HTTPConnection('127.0.0.3', 9123); "
    probe += "c.request('GET', '/readyz'); print(c.getresponse().status)"
    assert docker("exec", service.container(), "python3", "-c", probe) == "200"


def test_stopping_under_load_answers_all_that_was_accepted(stack: MakeStack) -> None:
    service = stack()
    service.up()

    with load(container_address(service), clients=6) as seen:
        wait_for(lambda: seen.outcomes[200] > 12, 60, "there is load")
        began = time.monotonic()
        service.run("stop")
        took_s = time.monotonic() - began
        time.sleep(0.5)

    assert seen.outcomes[LOST] == 0, seen.outcomes
    assert set(seen.outcomes) <= {200, 503, 429, REFUSED}
    assert seen.outcomes[503] > 0  # who came while it drained was told to go elsewhere
    assert took_s < 60
    state = service.state()
    assert state["ExitCode"] in (0, 143)  # its own end, or the signal that it was sent
    assert not state["OOMKilled"]


def test_without_an_init_it_drains_as_well(image: str) -> None:
    mounted = f"{ROOT / 'bundles'}:/bundles:ro"
    name = docker("run", "--detach", "--read-only", "--tmpfs=/tmp", "--volume", mounted, image)
    try:
        address = f"http://{inspect(name)['NetworkSettings']['IPAddress']}:8000"
        wait_for(lambda: inspect(name)["State"]["Health"]["Status"] == "healthy", 90, "healthy")
        with load(address) as seen:
            wait_for(lambda: seen.outcomes[200] > 4, 60, "there is load")
            docker("stop", "--time", "60", name)
        assert seen.outcomes[LOST] == 0, seen.outcomes
        assert inspect(name)["State"]["ExitCode"] in (0, 143)
    finally:
        docker("rm", "--force", name)


def test_a_service_that_is_killed_in_the_middle_of_requests_comes_back(stack: MakeStack) -> None:
    service = stack()
    service.up()

    with load(service.address) as seen:
        wait_for(lambda: seen.outcomes[200] > 4, 60, "there is load")
        signal_service(service, "SIGKILL")
        wait_for(lambda: service.restarts() == 1, 30, "the engine starts it again")
        wait_for(service.ready, 60, "it is ready again")
        answered = seen.outcomes[200]
        wait_for(lambda: seen.outcomes[200] > answered, 60, "it answers again")

    assert service.restarts() == 1


def test_logs_are_json_and_show_the_settings(stack: MakeStack) -> None:
    service = stack({"MUTUALFORMER_MAX_BATCH": "3"})
    service.up()

    lines = [json.loads(line) for line in service.logs().splitlines() if line]

    (settings,) = [line for line in lines if line["message"] == "settings"]
    assert settings["max_batch"] == 3
    assert settings["host"] == "0.0.0.0"


def test_api_keys_come_from_a_secret(stack: MakeStack, tmp_path: Path) -> None:
    key, line = new_key("someone")
    keys = tmp_path / "keys"
    keys.write_text(line)
    service = stack({"MUTUALFORMER_API_KEYS_FILE": str(keys)})
    service.up()  # healthy: probes need no key
    url = f"{service.address}/v1/saliency"

    def ask(sent: str | None) -> int:
        headers = {"Authorization": f"Bearer {sent}"} if sent else {}
        return httpx.post(url, files=saliency_form(), headers=headers, timeout=60).status_code

    assert [ask(key), ask(None), ask(key[::-1])] == [200, 401, 401]
    shown = json.dumps(inspect(service.container()))
    assert key not in service.logs() + shown
    assert line not in service.logs() + shown


def test_a_key_file_that_its_user_cannot_read_ends_the_start_with_the_reason(
    stack: MakeStack, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(new_key("someone")[1])
    keys.chmod(0o600)
    service = stack({"MUTUALFORMER_API_KEYS_FILE": str(keys)})
    service.run("up", "--detach")

    wait_for(lambda: service.restarts() >= 1, 60, "it is tried again")

    assert "Permission denied: '/run/secrets/api_keys'" in service.logs()
    assert service.health() != "healthy"
