from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from httpx import ASGITransport, AsyncClient

from app.main import create_app
from app.service import MakeRuntime
from app.settings import Settings
from tests.app.tiny import echo, write_bundle


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MUTUALFORMER_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "tiny")
    return folder


@pytest.fixture(scope="session")
def both_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    write_bundle(folder / "tiny")
    write_bundle(folder / "tiny-reid", task="reid")
    return folder


class Serve(Protocol):
    """Starts a service in this process; see the fixture `serve`."""

    def __call__(
        self, *, make_runtime: MakeRuntime = ..., wait: bool = True, **settings: Any
    ) -> AbstractAsyncContextManager[AsyncClient]: ...


@pytest.fixture
def serve(bundles: Path) -> Serve:
    @asynccontextmanager
    async def start(
        *,
        make_runtime: MakeRuntime = lambda bundle, _settings: echo(bundle.manifest.task),
        wait: bool = True,
        **settings: Any,
    ) -> AsyncIterator[AsyncClient]:
        app = create_app(Settings(**{"bundles": bundles, **settings}), make_runtime=make_runtime)
        transport = ASGITransport(app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app):
            if wait:
                await app.state.service.settled.wait()
            async with AsyncClient(transport=transport, base_url="http://test") as client:
                yield client

    return start


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[AsyncClient]:
    async with serve() as started:
        yield started
