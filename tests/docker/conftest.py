from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker.engine import Stack, base_image, has_compose, running, running_engine

MakeStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of the base image; there is an engine."""
    assert has_compose(), "needs Docker with Compose; see tests/docker/engine.py"
    folder = tmp_path_factory.mktemp("engine")
    with running_engine(folder), pytest.MonkeyPatch.context() as environment:
        name = base_image(folder)
        environment.setenv("BASE_IMAGE", name)
        yield name


@pytest.fixture(scope="session")
def image(base: str) -> str:
    """The CPU image of this checkout, on `base`."""
    assert base
    Stack("mutualformer-build").run("build", "api")
    return "mutualformer-serve:cpu"


@pytest.fixture
def override(tmp_path: Path) -> Callable[..., Path]:
    """Writes a compose file that changes the service `api`."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "override.yml"
        path.write_text(json.dumps({"services": {"api": changes}}))
        return path

    return write


@pytest.fixture
def stack(image: str) -> Iterator[MakeStack]:
    """Makes one stack that is gone after the test."""
    assert image
    made: list[Stack] = []

    def make(settings: dict[str, str] | None = None, *overrides: Path) -> Stack:
        made.append(Stack(f"mutualformer-test-{len(made)}", settings, overrides))
        return made[-1]

    yield make
    for one in made:
        with running(one):
            pass
