"""Ray Serve, as its guide to dynamic batching has it: `@serve.batch` in one deployment.

Pictures are decoded and answers encoded in threads beside its event loop, and enough requests are
let in to fill two batches of each replica: the default of 5 would starve the batcher.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import numpy as np
import ray
from fastapi import Request, Response
from numpy.typing import NDArray
from ray import serve

from benchmarks.others.work import (
    BATCH,
    BUNDLE,
    CLIENTS,
    DELAY_S,
    PATH,
    PORT,
    THREADS,
    WORKERS,
    Prepared,
    Work,
    number,
)


@serve.deployment(max_ongoing_requests=CLIENTS)
class Saliency:
    """One pair in, one PNG out."""

    def __init__(self) -> None:
        self._work = Work()

    @serve.batch(max_batch_size=number(BATCH), batch_wait_timeout_s=DELAY_S)  # type: ignore[untyped-decorator]
    async def infer(self, pairs: list[Prepared]) -> list[NDArray[np.float32]]:
        """Run the network."""
        rgb, aux = (np.stack([pair[part] for pair in pairs]) for part in (0, 1))
        return list(await asyncio.to_thread(self._work.run, rgb, aux))

    async def __call__(self, request: Request) -> Response:
        """A form to a PNG."""
        form: Any = await request.form()
        files = await form["rgb"].read(), await form["depth"].read()
        pair = await asyncio.to_thread(self._work.prepare, *files)
        row = await self.infer(pair)
        return Response(
            await asyncio.to_thread(self._work.encode, row, pair.size), media_type="image/png"
        )


if __name__ == "__main__":
    variables = {name: os.environ[name] for name in (BUNDLE, THREADS, BATCH)}
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": variables},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": number(PORT)})
    replicas = Saliency.options(num_replicas=number(WORKERS))  # type: ignore[attr-defined]
    serve.run(replicas.bind(), route_prefix=PATH)
    signal.pause()  # until a signal ends it; Ray brings its own handlers
