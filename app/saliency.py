"""One registered pair of colour and depth in, its saliency out; see `app.predictor`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from app.answers import MEDIA_TYPES, describe, encode
from app.doubts import doubt_aux, doubt_convention, doubt_order, doubt_rgb, doubt_valid
from app.errors import NotDepth, Place
from app.images import DEPTH, Limits, Upload, decode_pair, decode_rgb, upscale
from app.predictor import Answer, Predictor
from app.schemas import SaliencyOptions
from app.telemetry import StageTimes
from model.preprocessing import normalise_depth, prepare_rgb, resize_valid


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
    substituted: Literal["depth"] | None = None


class SaliencyPredictor(Predictor):
    """Serves one saliency bundle."""

    task: ClassVar[Literal["saliency", "reid"]] = "saliency"

    async def saliency(
        self, rgb: bytes, depth: bytes | None, options: SaliencyOptions, times: StageTimes
    ) -> Answer:
        """Answer the saliency of one pair of encoded pictures.

        Raises:
            BadPicture: a picture cannot be used.
            BadRequest: there is no depth, and the bundle does not do without.
            InferenceFailed: the runtime failed.
        """
        pair = await self._in_decode_thread(
            partial(self._prepare, rgb, depth, options, self._request_limits(), times), times
        )
        row = await self._infer(pair.rgb, pair.aux, times)
        return await self._in_encode_thread(partial(self._encode, row, rgb, pair, options, times))

    def _prepare(
        self,
        rgb: bytes,
        depth: bytes | None,
        options: SaliencyOptions,
        limits: Limits,
        times: StageTimes,
    ) -> PreparedPair:
        colour, place = Upload(rgb, Place("rgb")), Place("depth")
        size = self.bundle.manifest.input_size
        if depth is None:
            aux = self.stand_in("depth")
            with times.stage("decode"):
                picture = decode_rgb(colour, limits)
            with times.stage("preprocess"):
                prepared = prepare_rgb(picture, size)
                doubts = doubt_rgb(prepared, colour.place)
            return PreparedPair(prepared, aux, picture.size, doubts, "depth")
        with times.stage("decode"):
            pair = decode_pair(colour, Upload(depth, place), DEPTH, limits, resize=options.resize)
        with times.stage("preprocess"):
            if options.depth_convention == "metric" and not np.greater(pair.aux, 0).any():
                raise NotDepth("no value is above 0, and metric depth reads 0 as missing", place)
            near, valid = normalise_depth(pair.aux, options.depth_convention)
            aux = resize_valid(near, valid, size)[..., None]
            prepared = prepare_rgb(pair.rgb, size)
            doubts = [
                *doubt_rgb(prepared, colour.place),
                *doubt_aux(aux, place),
                *doubt_convention(pair.aux, options.depth_convention, place),
                *doubt_valid(np.count_nonzero(valid) / valid.size, place),
                *doubt_order(prepared, aux),
            ]
            return PreparedPair(prepared, aux, pair.rgb.size, pair.warnings + doubts)

    def _encode(
        self,
        saliency: NDArray[np.float32],
        rgb: bytes,
        pair: PreparedPair,
        options: SaliencyOptions,
        times: StageTimes,
    ) -> Answer:
        timings_ms = times.milliseconds()
        with times.stage("encode"):
            if options.size == "original":
                saliency = upscale(saliency, pair.size)
            model_id = self.bundle.manifest.model_id
            if options.output == "json":
                report = describe(
                    saliency,
                    model_id=model_id,
                    depth_convention=options.depth_convention,
                    threshold=options.threshold,
                    substituted=pair.substituted,
                    warnings=pair.warnings,
                    timings_ms=timings_ms,
                )
                body = report.model_dump_json().encode()
            else:
                # Decoded again where it is drawn on; kept, it would wait in the queue.
                drawn_on = options.output in ("cutout", "overlay")
                picture = decode_rgb(Upload(rgb, Place("rgb")), self._limits) if drawn_on else None
                body = encode(options.output, saliency, picture, options.threshold)
            media_type = MEDIA_TYPES[options.output]
            return Answer(body, media_type, model_id, pair.warnings, pair.substituted)
