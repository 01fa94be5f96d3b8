"""Two replicas behind nginx, and Prometheus: what docker/ configures, really run."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.keys import new_key
from tests.docker.conftest import MakeStack
from tests.docker.engine import ROOT, Stack, docker, free_port, wait_for
from tests.docker.load import load, reid_form

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "service.json"


@contextmanager
def nginx(folder: Path, port: int, replicas: list[str]) -> Iterator[str]:
    """The example, but for its ports and without its limit of requests; yields its address."""
    text = (ROOT / "docker" / "nginx.conf").read_text()
    for old, new in zip(("8001", "8002"), replicas, strict=True):
        text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}")
    text = text.replace("rate=10r/s", "rate=1000r/s")
    path = folder / "nginx.conf"
    path.write_text(f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n{text}")
    folder.chmod(0o755)
    process = subprocess.Popen(["nginx", "-p", folder, "-e", folder / "error.log", "-c", path])
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: process.poll() is None and _answers(address), 30, "nginx answers")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_replacing_one_replica_after_the_other_loses_no_request(
    stack: MakeStack, tmp_path: Path
) -> None:
    replicas = [stack(), stack()]
    for replica in replicas:
        replica.up()
    ports = [replica.settings["MUTUALFORMER_PORT"] for replica in replicas]
    before = [replica.container() for replica in replicas]

    with nginx(tmp_path, free_port(), ports) as address, load(address, clients=3) as seen:
        wait_for(lambda: seen.outcomes[200] > 6, 60, "there is load")
        for replica in replicas:
            replica.up("--force-recreate")
        answered = seen.outcomes[200]
        wait_for(lambda: seen.outcomes[200] > answered + 3, 60, "there is still load")
        hidden = httpx.get(f"{address}/metrics").status_code
        too_large = httpx.post(f"{address}/v1/saliency", content=b"0" * (33 * 2**20), timeout=60)

    assert set(seen.outcomes) == {200}, seen.outcomes
    assert all(replica.container() != old for replica, old in zip(replicas, before, strict=True))
    assert hidden == 404
    assert too_large.status_code == 413


def panel_queries() -> list[tuple[str, str]]:
    """Title and query of every panel, with Grafana's variables replaced as it would."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        (
            panel["title"],
            target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m"),
        )
        for panel in panels
        for target in panel["targets"]
    ]


@pytest.fixture
def prometheus_image(base: str, tmp_path: Path) -> Path:
    """A compose file with Debian's Prometheus in place of the one that cannot be pulled here."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("needs Debian's prometheus")
    folder = tmp_path / "prometheus"
    folder.mkdir()
    shutil.copy(binary, folder / "prometheus")
    (folder / "Dockerfile").write_text(
        f"FROM {base}\n"
        "COPY prometheus /bin/prometheus\n"
        "RUN install -d -o 65534 -g 65534 /prometheus\n"
        'ENTRYPOINT ["/bin/prometheus"]\n'
    )
    image = "mutualformer-test-prometheus"
    docker("build", "--quiet", "--tag", image, str(folder))
    changes = tmp_path / "override.yml"
    changes.write_text(json.dumps({"services": {"prometheus": {"image": image}}}))
    return changes


class Prometheus:
    """Asks the Prometheus of a stack."""

    def __init__(self, stack: Stack) -> None:
        self._url = f"http://127.0.0.1:{stack.settings['PROMETHEUS_PORT']}/api/v1"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that it answers now."""
        answer = httpx.get(f"{self._url}/query", params={"query": expression}, timeout=30)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"]["result"])

    def values(self, expression: str) -> list[float]:
        """Their values."""
        return [float(series["value"][1]) for series in self.query(expression)]


def test_prometheus_finds_a_service_without_keys(stack: MakeStack, prometheus_image: Path) -> None:
    service = stack({"PROMETHEUS_PORT": str(free_port())}, prometheus_image)
    service.up("api", "prometheus")
    prometheus = Prometheus(service)

    wait_for(lambda: prometheus.values("mutualformer_ready") == [1], 90, "it reads the metrics")


def test_prometheus_has_data_for_every_panel_of_the_dashboard(
    stack: MakeStack, prometheus_image: Path, tmp_path: Path
) -> None:
    ours, lines = new_key("prometheus")
    (tmp_path / "key").write_text(ours)
    (tmp_path / "keys").write_text(lines)
    service = stack(
        {
            "PROMETHEUS_PORT": str(free_port()),
            "MUTUALFORMER_API_KEYS_FILE": str(tmp_path / "keys"),
            "METRICS_KEY_FILE": str(tmp_path / "key"),
            "MUTUALFORMER_MAX_QUEUE": "3",
        },
        prometheus_image,
    )
    service.up("api", "prometheus")
    prometheus = Prometheus(service)
    headers = {"Authorization": f"Bearer {ours}"}

    with load(service.address, clients=6, headers=headers) as seen:
        crops = f"{service.address}/v1/reid/embeddings"
        statuses = [
            httpx.post(crops, files=reid_form(), headers=headers, timeout=60).status_code
            for _ in range(20)
        ]
        wait_for(lambda: prometheus.values("mutualformer_ready") == [1], 90, "it reads the metrics")
        runs = "sum(rate(mutualformer_run_seconds_count[1m]))"
        wait_for(lambda: prometheus.values(runs), 90, "it has read them twice")
        time.sleep(15)
        results = {
            (title, expression): prometheus.query(expression)
            for title, expression in panel_queries()
        }

    empty = [
        key
        for key, series in results.items()
        if not series or all(one["value"][1] == "NaN" for one in series)
    ]
    assert not empty
    assert 200 in statuses
    assert seen.outcomes[429] > 0
    shown = {title: series for (title, _), series in results.items()}
    assert float(shown["Ready replicas"][0]["value"][1]) == 1
    assert float(shown["Answers"][0]["value"][1]) > 0
    assert {series["metric"]["model"] for series in shown["Models"]} == {
        "saliency-compact",
        "reid-compact",
    }
