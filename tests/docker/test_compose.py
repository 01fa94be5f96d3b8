"""What the compose file and the Dockerfile promise; no engine needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.main import VERSION
from app.settings import Settings
from tests.docker.engine import COMPOSE_FILE, ROOT, has_compose

COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
APIS = {name: service for name, service in SERVICES.items() if name.startswith("api")}
SHUTDOWN_MARGIN_S = 5
"""The process ends itself 2 s after its grace time."""


def compose(*words: str, **variables: str) -> dict[str, Any]:
    """What Compose makes of the file, with these variables of the shell alone."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MUTUALFORMER_", "COMPOSE_", "API_", "BASE_IMAGE"))
    }
    done = subprocess.run(
        ["docker", "compose", "--project-directory", ROOT, *words, "config", "--format", "json"],
        env={**clean, **variables},
        check=True,
        capture_output=True,
    )
    return dict(json.loads(done.stdout))


needs_compose = pytest.mark.skipif(not has_compose(), reason="needs docker compose")


def test_every_setting_can_be_given_to_every_service() -> None:
    for service in APIS.values():
        for field in Settings.model_fields.keys() - {"runtime", "engines"}:  # an image has its own
            assert f"MUTUALFORMER_{field.upper()}" in service["environment"], field


@pytest.mark.parametrize("name", sorted(OURS))
def test_each_of_our_services_is_confined(name: str) -> None:
    service = OURS[name]

    assert service["init"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"]["max-size"]
    bundles = [mount for mount in service["volumes"] if "/bundles" in str(mount)]
    assert all(mount["read_only"] for mount in bundles)


@pytest.mark.parametrize("name", sorted(APIS))
def test_a_service_has_time_to_drain_and_is_limited_and_restarted(name: str) -> None:
    service = APIS[name]
    (grace,) = re.findall(r"\$\{API_STOP_GRACE:-(\d+)s\}", service["stop_grace_period"])

    assert int(grace) >= Settings.model_fields["shutdown_grace_s"].default + SHUTDOWN_MARGIN_S
    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"]
    assert service["pids_limit"]


def test_engines_are_built_before_the_service_that_loads_them_starts() -> None:
    dependency = SERVICES["api-tensorrt"]["depends_on"]["engines"]

    assert dependency["condition"] == "service_completed_successfully"
    assert "engines:/engines" in SERVICES["api-tensorrt"]["volumes"]
    assert "engines:/engines" in SERVICES["engines"]["volumes"]


def test_images_of_others_have_versions() -> None:
    for name in ("prometheus", "grafana"):
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_a_stage_is_built_for_each_target_and_the_cpu_is_the_default() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)

    assert {service["build"]["target"] for service in OURS.values()} <= set(stages)
    assert stages[-1] == "cpu"


def test_environments_come_from_locks_with_hashes() -> None:
    locks = set(re.findall(r"COPY (locks/\S+)", DOCKERFILE))

    assert locks == {f"locks/{name}.txt" for name in ("serve", "gpu", "tensorrt", "train")}
    for lock in locks:
        requirements = re.split(r"\n(?=\S)", (ROOT / lock).read_text())
        pinned = [one for one in requirements if not one.startswith("#")]
        assert pinned
        assert all("--hash=sha256:" in one for one in pinned)


def test_locks_agree_where_they_share_a_package() -> None:
    service = locked("serve")

    for name in ("gpu", "tensorrt"):
        other = locked(name)
        assert {key: other[key] for key in service if key != "onnxruntime"} == {
            key: version for key, version in service.items() if key != "onnxruntime"
        }
        assert other["onnxruntime-gpu"] == service["onnxruntime"]
    assert locked("train").items() <= locked("dev").items()


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, flags=re.MULTILINE))


def test_the_faulty_service_imports_nothing_that_the_image_lacks() -> None:
    lacking = locked("dev").keys() - locked("serve").keys()
    script = f"""
import sys
import tests.docker.faulty_service
modules = {{name.partition(".")[0].lower().replace("_", "-") for name in sys.modules}}
print(*sorted(modules & {lacking}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert done.stdout.split() == []


def test_the_image_is_labelled_with_the_version_of_the_service() -> None:
    assert f"ARG VERSION={VERSION}\n" in DOCKERFILE


def test_the_build_sees_nothing_but_what_images_are_made_of() -> None:
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE)
        for source in line.split()[:-1]
    }

    assert rules[0] == "*"
    for source in copied:
        assert (ROOT / source).exists(), source
        top = Path(source).parts[0]
        assert f"!{top}" in rules, source
        if top == "docker":
            assert f"!{source}" in rules, source


@needs_compose
@pytest.mark.parametrize(
    ("profile", "started"),
    [
        (None, {"api"}),
        ("gpu", {"api-gpu"}),
        ("tensorrt", {"api-tensorrt", "engines"}),
        ("monitoring", {"prometheus", "grafana"}),
        ("train", {"train"}),
    ],
)
def test_compose_takes_the_file_and_each_profile_starts_its_services(
    profile: str | None, started: set[str]
) -> None:
    words = ("--profile", profile) if profile else ()

    assert set(compose(*words)["services"]) == started


@needs_compose
def test_compose_passes_on_the_shells_settings_and_no_others(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    service = compose(
        MUTUALFORMER_MAX_BATCH="3", MUTUALFORMER_PORT="9000", MUTUALFORMER_API_KEYS_FILE=str(keys)
    )["services"]["api"]

    given = {key: value for key, value in service["environment"].items() if value is not None}
    assert given == {
        "MUTUALFORMER_HOST": "0.0.0.0",
        "MUTUALFORMER_PORT": "8000",
        "MUTUALFORMER_BUNDLES": "/bundles",
        "MUTUALFORMER_DEVICE": "cpu",
        "MUTUALFORMER_API_KEYS_FILE": "/run/secrets/api_keys",
        "MUTUALFORMER_MAX_BATCH": "3",
    }
    (port,) = service["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "9000", 8000)
