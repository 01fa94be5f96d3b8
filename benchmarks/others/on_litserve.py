"""LitServe, as its guide to batching has it: the worker decodes, batches, predicts and encodes."""

from collections.abc import Sequence

import litserve as ls
import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray

from benchmarks.others.work import (
    BATCH,
    DELAY_S,
    PATH,
    PORT,
    TIMEOUT_S,
    WORKERS,
    Prepared,
    Work,
    number,
)

Row = tuple[NDArray[np.float32], tuple[int, int]]


class Saliency(ls.LitAPI):  # type: ignore[misc]  # it ships no types
    """One pair in, one PNG out."""

    def setup(self, device: str) -> None:  # noqa: ARG002  # its signature
        """Load the bundle."""
        self._work = Work()

    def decode_request(self, request: Request) -> Prepared:
        """A form to arrays."""
        return self._work.prepare(request["rgb"].file.read(), request["depth"].file.read())

    def batch(self, inputs: Sequence[Prepared]) -> Sequence[Prepared]:
        """Left to `predict`, which needs each size."""
        return inputs

    def predict(self, x: Sequence[Prepared] | Prepared) -> list[Row] | Row:
        """Run the network; without batches it gets a single pair."""
        if isinstance(x, Prepared):
            return self._work.run(x.rgb[None], x.aux[None])[0], x.size
        rows = self._work.run(
            np.stack([pair.rgb for pair in x]), np.stack([pair.aux for pair in x])
        )
        return [(row, pair.size) for row, pair in zip(rows, x, strict=True)]

    def unbatch(self, output: list[Row]) -> list[Row]:
        """One for each request already."""
        return output

    def encode_response(self, output: Row) -> Response:
        """A row to a PNG."""
        return Response(self._work.encode(*output), media_type="image/png")


if __name__ == "__main__":
    api = Saliency(max_batch_size=number(BATCH), batch_timeout=DELAY_S, api_path=PATH)
    server = ls.LitServer(
        api, accelerator="cpu", workers_per_device=number(WORKERS), timeout=TIMEOUT_S
    )
    server.run(host="127.0.0.1", port=number(PORT), generate_client_file=False, log_level="warning")
