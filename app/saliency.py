"""One registered pair of colour and depth in, its saliency out; see `app.predictor`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.answers import MEDIA_TYPES, describe, encode
from app.errors import NotDepth, Place
from app.images import DEPTH, Upload, decode_pair, upscale
from app.predictor import Answer, Predictor
from app.schemas import SaliencyOptions
from app.telemetry import StageTimes
from model.preprocessing import prepare_depth, prepare_rgb


@dataclass(frozen=True)
class PreparedPair:
    """A pair as the network takes it, and the picture that the answer is drawn on."""

    picture: Image.Image
    rgb: NDArray[np.uint8]
    """(1, H, W, 3)."""
    aux: NDArray[np.float32]
    """(1, H, W, 1) in [0, 1]."""
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
        return await self._answer(
            partial(self._prepare, rgb, depth, options, times),
            partial(self._encode, options, times),
            times,
        )

    def _prepare(
        self, rgb: bytes, depth: bytes, options: SaliencyOptions, times: StageTimes
    ) -> PreparedPair:
        place = Place("depth")
        with times.stage("decode"):
            pair = decode_pair(
                Upload(rgb, Place("rgb")),
                Upload(depth, place),
                DEPTH,
                self._limits,
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
            return PreparedPair(pair.rgb, prepare_rgb(pair.rgb, size)[None], aux[None], warnings)

    def _encode(
        self,
        options: SaliencyOptions,
        times: StageTimes,
        rows: NDArray[np.float32],
        pair: PreparedPair,
    ) -> Answer:
        (saliency,) = rows
        timings_ms = times.milliseconds()
        with times.stage("encode"):
            if options.size == "original":
                saliency = upscale(saliency, pair.picture.size)
            model_id = self.bundle.manifest.model_id
            if options.output == "json":
                report = describe(
                    saliency,
                    model_id=model_id,
                    depth_convention=options.depth_convention,
                    threshold=options.threshold,
                    warnings=pair.warnings,
                    timings_ms=timings_ms,
                )
                body = report.model_dump_json().encode()
            else:
                body = encode(options.output, saliency, pair.picture, options.threshold)
            return Answer(body, MEDIA_TYPES[options.output], model_id, pair.warnings)
