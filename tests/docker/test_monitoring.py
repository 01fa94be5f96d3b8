"""What Prometheus and Grafana are given; neither is needed, promtool is used if it is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from app.admission import Admission, AdmissionLimits
from app.metrics import Metrics
from tests.docker.engine import COMPOSE_FILE, ROOT

DOCKER = ROOT / "docker"
PROMETHEUS = DOCKER / "prometheus.yml"
DASHBOARD: dict[str, Any] = json.loads(
    (DOCKER / "grafana" / "dashboards" / "service.json").read_text()
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
WIDTH = 24
"""Columns of Grafana's grid."""


def source() -> dict[str, Any]:
    path = DOCKER / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    (only,) = yaml.safe_load(path.read_text())["datasources"]
    return dict(only)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_promtool_takes_the_configuration_of_prometheus() -> None:
    subprocess.run(
        ["promtool", "check", "config", "--syntax-only", PROMETHEUS],
        check=True,
        capture_output=True,
    )


def test_prometheus_asks_the_port_and_the_name_that_every_service_has() -> None:
    (job,) = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    (lookup,) = job["dns_sd_configs"]
    services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]

    for name in ("api", "api-gpu", "api-tensorrt"):
        assert services[name]["networks"]["default"]["aliases"] == lookup["names"]
        assert services[name]["environment"]["MUTUALFORMER_PORT"] == str(lookup["port"])
    assert all(f'job="{job["job_name"]}"' in query for query in QUERIES)


def test_every_metric_and_label_in_a_panel_is_one_that_the_service_has() -> None:
    metrics = Metrics()
    metrics.observe(Admission(AdmissionLimits(1, 1, 1), metrics.rejected))
    text = metrics.text(ready=True).decode()
    known = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, flags=re.MULTILINE))
    used = set(re.findall(r"\b((?:mutualformer|process)_\w+)", " ".join(QUERIES)))

    assert len(used) > 10
    for name in used:
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in known or known.get(family) == "histogram", name


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    wanted = {"type": "prometheus", "uid": source()["uid"]}

    for panel in PANELS:
        assert panel["datasource"] == wanted
        assert all(target["datasource"] == wanted for target in panel["targets"])
    (variable,) = DASHBOARD["templating"]["list"]
    assert variable["datasource"] == wanted
    assert set(re.findall(r"\$(\w+)", " ".join(QUERIES))) == {
        variable["name"],
        "__rate_interval",
    }


def test_panels_are_told_apart_described_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["type"] in {"stat", "timeseries", "table"}
        assert panel["title"]
        assert panel["description"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= WIDTH
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & taken
        taken |= cells


def test_grafana_finds_the_files_where_compose_puts_them() -> None:
    grafana = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["grafana"]
    mounts = dict(volume.split(":")[1::-1] for volume in grafana["volumes"])
    provider = DOCKER / "grafana" / "provisioning" / "dashboards" / "service.yml"
    (provided,) = yaml.safe_load(provider.read_text())["providers"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert mounts["/etc/grafana/provisioning"] == "./docker/grafana/provisioning"
    assert mounts[provided["options"]["path"]] == "./docker/grafana/dashboards"
    assert home == f"{provided['options']['path']}/service.json"
