"""The CPU image: what is in it, and what is not."""

from __future__ import annotations

import json

import pytest

from app.main import VERSION
from tests.docker.engine import docker, inspect

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

MOST_ABOVE_BASE_BYTES = 350e6


def inside(image: str, script: str, user: str = "10001:10001") -> list[str]:
    """The lines that a shell script prints in a container of its own."""
    words = ("run", "--rm", "--user", user, "--entrypoint", "sh", image, "-c", script)
    return docker(*words).splitlines()


def test_it_is_less_than_350_mb_above_its_base(image: str, base: str) -> None:
    added = inspect(image, "image")["Size"] - inspect(base, "image")["Size"]

    assert 0 < added < MOST_ABOVE_BASE_BYTES


def test_it_holds_nothing_that_the_service_does_not_need(image: str, base: str) -> None:
    programs = "for name in pip gcc cc c++ make git curl uv; do command -v $name; done; true"

    found = inside(image, "find /opt/venv /srv /root /home -xdev", user="root")

    assert set(inside(image, programs)) <= set(inside(base, programs))
    assert "/srv/mutualformer/app/main.py" in found
    top = {path.split("/")[3] for path in found if path.startswith("/srv/mutualformer/")}
    assert top == {"LICENSE", "__pycache__", "app", "healthcheck.py", "model"}
    packages = {path.split("/")[6] for path in found if "/site-packages/" in path}
    assert not packages & {"torch", "torchvision", "timm", "onnx", "pip", "setuptools", "pytest"}
    names = {path.rpartition("/")[2] for path in found}
    assert not names & {"tests", "test", ".cache", ".git", "bundles", "conftest.py"}


def test_its_code_is_compiled_because_it_cannot_be_written(image: str) -> None:
    found = set(inside(image, "find /srv -xdev"))
    sources = [path for path in found if path.endswith(".py")]
    compiled = {path.partition(".cpython")[0] for path in found if path.endswith(".pyc")}

    assert sources
    for path in sources:
        folder, _, name = path.rpartition("/")
        assert f"{folder}/__pycache__/{name.removesuffix('.py')}" in compiled


def test_it_runs_as_a_fixed_user_that_owns_none_of_its_files(image: str) -> None:
    assert inspect(image, "image")["Config"]["User"] == "10001:10001"
    owned = "find /opt /srv /etc -user 10001 -o -group 10001"
    assert inside(image, owned, user="root") == []


def test_its_labels_say_what_it_is(image: str) -> None:
    labels = inspect(image, "image")["Config"]["Labels"]

    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_its_bill_of_materials_lists_python_and_debian_packages(image: str) -> None:
    path = inspect(image, "image")["Config"]["Labels"]["io.mutualformer.sbom"]
    bill = json.loads("\n".join(inside(image, f"cat {path}")))
    count = "find /opt/venv/lib/python3*/site-packages -name '*.dist-info' | wc -l"

    purls = [component["purl"] for component in bill["components"]]

    assert bill["bomFormat"] == "CycloneDX"
    assert len(purls) == len(set(purls))
    python = [purl for purl in purls if purl.startswith("pkg:pypi/")]
    assert any(purl.startswith("pkg:pypi/onnxruntime@") for purl in python)
    assert len(python) == int(inside(image, count)[0])
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in purls)


def test_it_reports_to_nobody(image: str) -> None:
    script = "HOME=/tmp/home python3 -c 'import onnxruntime'; find /tmp -name '*onnxruntime*'"

    assert inside(image, f"mkdir /tmp/home && {script}") == []
    assert "/tmp/home" not in inside(image, f"export ORT_DISABLE_TELEMETRY=; {script}")


def test_its_command_line_checks_settings_and_bundles(image: str) -> None:
    without_bundles = docker("run", "--rm", "--read-only", image, "check", check=False)

    assert "port = 8000" in without_bundles
    assert "/bundles: no such folder" in without_bundles
