"""BentoML, as its guide to adaptive batching has it: one service batches behind another.

A batchable method takes one parameter, so a pair is one array of bytes: three of colour and the
four of its float32 partner for each pixel.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import ContentType

from benchmarks.others.work import BATCH, TIMEOUT_S, WORKERS, Pictures, Work, number

TRAFFIC = {"timeout": TIMEOUT_S}
MAX_LATENCY_MS = 2000
"""Its batcher may hold back the last requests of a load for so long."""


@bentoml.service(traffic=TRAFFIC, workers=number(WORKERS))
class Network:
    """Runs batches."""

    def __init__(self) -> None:
        self._work = Work()

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True, max_batch_size=number(BATCH), max_latency_ms=MAX_LATENCY_MS
    )
    def run(self, pairs: np.ndarray) -> np.ndarray:
        """(B, H, W, 7) to (B, H, W)."""
        aux = np.ascontiguousarray(pairs[..., 3:]).view(np.float32)
        return self._work.run(np.ascontiguousarray(pairs[..., :3]), aux)


@bentoml.service(traffic=TRAFFIC)
class Saliency:
    """One pair in, one PNG out."""

    network: Any = bentoml.depends(Network)

    def __init__(self) -> None:
        self._pictures = Pictures()

    @bentoml.api(route="/v1/saliency")  # type: ignore[untyped-decorator]
    async def saliency(self, rgb: Path, depth: Path) -> Annotated[bytes, ContentType("image/png")]:
        """A form to a PNG."""
        pair = await asyncio.to_thread(
            lambda: self._pictures.prepare(rgb.read_bytes(), depth.read_bytes())
        )
        packed = np.concatenate([pair.rgb, pair.aux.view(np.uint8)], axis=-1)
        rows = await self.network.to_async.run(packed[None])
        return await asyncio.to_thread(self._pictures.encode, rows[0], pair.size)
