"""One registered pair of colour and depth in, its saliency out; see `app.predictor`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from app.answers import MEDIA_TYPES, describe, encode
from app.errors import NotDepth, Place
from app.images import DEPTH, Limits, Upload, decode_pair, decode_rgb, upscale
from app.predictor import Answer, Predictor
from app.schemas import SaliencyOptions
from app.telemetry import StageTimes
from model.preprocessing import prepare_depth, prepare_rgb


@dataclass(frozen=True)
class PreparedPair:
    """A pair as the network takes it; the pictures themselves are gone, for they are large."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    aux: NDArray[np.float32]
    """(H, W, 1) in [0, 1]."""
    size: tuple[int, int]
    """(width, height) of the upright colour picture."""
    warnings: list[str]


class SaliencyPredictor(Predictor):
    """Serves one saliency bundle."""

    task: ClassVar[Literal["saliency", "reid"]] = "saliency"

    async def saliency(
        self, rgb: bytes, depth: bytes, options: SaliencyOptions, times: StageTimes
    ) -> Answer:
        """Answer the saliency of one pair of encoded pictures.

        Raises:
            BadPicture: a picture cannot be used.
            InferenceFailed: the runtime failed.
        """
        pair = await self._in_decode_thread(
            partial(self._prepare, rgb, depth, options, self._request_limits(), times), times
        )
        row = await self._infer(pair.rgb, pair.aux, times)
        return await self._in_encode_thread(
            partial(self._encode, row, rgb, pair.size, pair.warnings, options, times)
        )

    def _prepare(
        self,
        rgb: bytes,
        depth: bytes,
        options: SaliencyOptions,
        limits: Limits,
        times: StageTimes,
    ) -> PreparedPair:
        place = Place("depth")
        with times.stage("decode"):
            pair = decode_pair(
                Upload(rgb, Place("rgb")),
                Upload(depth, place),
                DEPTH,
                limits,
                resize=options.resize,
            )
        with times.stage("preprocess"):
            size = self.bundle.manifest.input_size
            if options.depth_convention == "metric" and not np.greater(pair.aux, 0).any():
                raise NotDepth("no value is above 0, and metric depth reads 0 as missing", place)
            aux = prepare_depth(pair.aux, options.depth_convention, size)
            warnings = list(pair.warnings)
            if aux.min() == aux.max():
                warnings.append("depth is constant")
            return PreparedPair(prepare_rgb(pair.rgb, size), aux, pair.rgb.size, warnings)

    def _encode(
        self,
        saliency: NDArray[np.float32],
        rgb: bytes,
        size: tuple[int, int],
        warnings: list[str],
        options: SaliencyOptions,
        times: StageTimes,
    ) -> Answer:
        timings_ms = times.milliseconds()
        with times.stage("encode"):
            if options.size == "original":
                saliency = upscale(saliency, size)
            model_id = self.bundle.manifest.model_id
            if options.output == "json":
                report = describe(
                    saliency,
                    model_id=model_id,
                    depth_convention=options.depth_convention,
                    threshold=options.threshold,
                    warnings=warnings,
                    timings_ms=timings_ms,
                )
                body = report.model_dump_json().encode()
            else:
                # Decoded again where it is drawn on; kept, it would wait in the queue.
                drawn_on = options.output in ("cutout", "overlay")
                picture = decode_rgb(Upload(rgb, Place("rgb")), self._limits) if drawn_on else None
                body = encode(options.output, saliency, picture, options.threshold)
            return Answer(body, MEDIA_TYPES[options.output], model_id, warnings)
