from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.main import create_app
from app.settings import Settings
from mutualformer_client import AsyncClient, BadPicture, Client, Embeddings, Model, Saliency
from mutualformer_client.answers import Similarity
from tests.app.tiny import echo, write_bundle

Handler = Callable[[httpx.Request], httpx.Response]


class Both:
    """One face for both clients, so that each test runs on each."""

    def __init__(self, client: Client | AsyncClient, portal: BlockingPortal) -> None:
        self.client = client
        self._portal = portal

    def saliency(self, *args: Any, **options: Any) -> Saliency:
        answer: Saliency = self._call("saliency", *args, **options)
        return answer

    def embeddings(self, *args: Any, **options: Any) -> Embeddings:
        answer: Embeddings = self._call("embeddings", *args, **options)
        return answer

    def similarity(self, *args: Any, **options: Any) -> Similarity:
        answer: Similarity = self._call("similarity", *args, **options)
        return answer

    def models(self) -> list[Model]:
        answer: list[Model] = self._call("models")
        return answer

    def saliency_many(self, pairs: Iterable[Any], **options: Any) -> list[Saliency | BadPicture]:
        if isinstance(self.client, Client):
            return list(self.client.saliency_many(pairs, **options))
        answers = self.client.saliency_many(pairs, **options)

        async def collect() -> list[Saliency | BadPicture]:
            return [answer async for answer in answers]

        return self._portal.call(collect)

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        method = getattr(self.client, name)
        if isinstance(self.client, Client):
            return method(*args, **options)
        return self._portal.call(lambda: method(*args, **options))


class AsgiTransport(httpx.BaseTransport):
    """Lets the client that waits talk to an application in this process."""

    def __init__(self, transport: httpx.ASGITransport, portal: BlockingPortal) -> None:
        self._transport = transport
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def handle() -> httpx.Response:
            # Read and wrapped again: the two kinds of stream do not mix.
            request.stream = httpx.ByteStream(request.read())
            response = await self._transport.handle_async_request(request)
            content = await response.aread()
            return httpx.Response(response.status_code, headers=response.headers, content=content)

        return self._portal.call(handle)


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="session")
def service(
    tmp_path_factory: pytest.TempPathFactory, portal: BlockingPortal
) -> Iterator[httpx.ASGITransport]:
    """The application, over bundles of both tasks."""
    folder: Path = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "tiny")
    write_bundle(folder / "tiny-reid", task="reid")
    app = create_app(
        Settings(bundles=folder), make_runtime=lambda bundle, _: echo(bundle.manifest.task)
    )
    with portal.wrap_async_context_manager(app.router.lifespan_context(app)):
        portal.call(app.state.service.settled.wait)
        yield httpx.ASGITransport(app, raise_app_exceptions=False)


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(kind: str, service: httpx.ASGITransport, portal: BlockingPortal) -> Iterator[Both]:
    """Either client of the application."""
    with ExitStack() as stack:
        if kind == "sync":
            waiting = Client("http://test", transport=AsgiTransport(service, portal))
            yield Both(stack.enter_context(waiting), portal)
        else:
            awaiting = AsyncClient("http://test", transport=service)
            yield Both(stack.enter_context(portal.wrap_async_context_manager(awaiting)), portal)


@pytest.fixture
def answered_by(kind: str, portal: BlockingPortal) -> Callable[..., Any]:
    """Either client of a service that a function pretends to be."""

    @contextmanager
    def make(handler: Handler, **options: Any) -> Iterator[Both]:
        transport = httpx.MockTransport(handler)
        if kind == "sync":
            with Client("http://test", transport=transport, **options) as waiting:
                yield Both(waiting, portal)
        else:
            awaiting = AsyncClient("http://test", transport=transport, **options)
            with portal.wrap_async_context_manager(awaiting):
                yield Both(awaiting, portal)

    return make
