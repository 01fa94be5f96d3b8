"""The client that waits for its answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self, TypeVar

import httpx

from mutualformer_client import calls
from mutualformer_client.answers import Embeddings, Model, Saliency, Similarity
from mutualformer_client.errors import BadPicture
from mutualformer_client.exchange import Call, Sleep, exchange, http_options
from mutualformer_client.pictures import Pair, Picture

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class Client:
    """Asks one service; several threads may share it. Close it, or use it in `with`.

    Args:
        url: of the service.
        api_key: if the service wants one.
        timeout_s: for each request, waiting and asking again included; the service is told, and
            drops what would be late.
        concurrency: requests at a time, where a call needs several.
        transport: instead of the network, for tests.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        concurrency: int = 16,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.concurrency = concurrency
        self._http = httpx.Client(transport=transport, **http_options(url, api_key))

    def saliency(
        self, rgb: Picture, depth: Picture | None = None, **options: Unpack[calls.SaliencyOptions]
    ) -> Saliency:
        """The salient object of one registered pair; say how depth is written.

        Without depth only a model answers whose `modality_policy` is `substitute`.

        Raises:
            MutualFormerError: see `mutualformer_client.errors`.
            ValueError, OSError: a picture cannot be read or sent.
        """
        return self._ask(calls.saliency(rgb, depth, options))

    def saliency_many(
        self, pairs: Iterable[Pair], **options: Unpack[calls.SaliencyOptions]
    ) -> Iterator[Saliency | BadPicture]:
        """The answer to each pair, in order; a picture that cannot be used fails alone.

        Pairs are taken as answers are, `concurrency` ahead. Errors as in `saliency`, but for
        `BadPicture`, which comes in the place of its answer.
        """
        for answer in self._ask_many(calls.saliency_many(pairs, options)):
            try:
                yield answer.result()
            except BadPicture as problem:
                yield problem

    def embeddings(
        self, pairs: Iterable[Pair], **options: Unpack[calls.EmbeddingOptions]
    ) -> Embeddings:
        """One row for each pair, any number of them; of several errors the first is raised."""
        answers = self._ask_many(calls.embeddings(pairs, options))
        return calls.merge([answer.result() for answer in answers])

    def similarity(
        self,
        queries: Iterable[Pair],
        gallery: Iterable[Pair],
        **options: Unpack[calls.SimilarityOptions],
    ) -> Similarity:
        """The gallery as each query ranks it; at most 64 pairs in all.

        For more, take `embeddings`, keep them, and multiply.
        """
        return self._ask(calls.similarity(queries, gallery, options))

    def models(self) -> list[Model]:
        """What is served."""
        return self._ask(calls.models())

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, call: Call[T]) -> T:
        steps = exchange(call, self.timeout_s)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    time.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    response = self._http.request(**step.arguments())
                except httpx.RequestError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as end:
            answer: T = end.value
            return answer

    def _ask_many(self, asks: Iterable[calls.Ask[T]]) -> Iterator[Future[T]]:
        """The answers in order, some still to come; no more than `concurrency` ahead."""
        waiting: deque[Future[T]] = deque()
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="mutualformer") as pool:
            try:
                for ask in asks:
                    waiting.append(pool.submit(lambda ask: self._ask(ask()), ask))
                    if len(waiting) == self.concurrency:
                        yield waiting.popleft()
                while waiting:
                    yield waiting.popleft()
            finally:
                for answer in waiting:
                    answer.cancel()
