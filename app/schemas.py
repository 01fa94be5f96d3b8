"""Request parameters and response bodies, as OpenAPI shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.bundle import Manifest
from model.preprocessing import DepthConvention

Output = Literal["map", "map16", "mask", "cutout", "overlay", "npy", "json"]
Size = Literal["original", "model"]
Encoding = Literal["float", "base64"]


class PairOptions(BaseModel):
    """Query parameters of every request that sends pictures; an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(default=None, description="Name of a bundle; see `/v1/models`.")
    resize: bool = Field(
        default=False,
        description="Take a pair whose pictures differ in size, if their aspect ratios agree "
        "within 2 %.",
    )


class SaliencyOptions(PairOptions):
    """Query parameters of `POST /v1/saliency`."""

    output: Output = Field(
        default="map",
        description="`map`: 8-bit grey PNG. `map16`: 16-bit grey PNG. `mask`: PNG of 0 and 255. "
        "`cutout`: RGBA PNG of the object. `overlay`: RGB PNG of the picture with the map in red. "
        "`npy`: float32 array. `json`: statistics, bounding box, run lengths and the map.",
    )
    size: Size = Field(
        default="original",
        description="`original`: as many pixels as the upright rgb picture. "
        "`model`: as the network sees it.",
    )
    threshold: float = Field(
        default=0.5,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Least saliency of the object in `mask` and `json`, and where the soft edge "
        "of `cutout` is half transparent.",
    )
    depth_convention: DepthConvention = Field(
        default="near_bright",
        description="How depth is written: bright is near, dark is near, or a distance with 0 "
        "where it is missing.",
    )


class ReIDOptions(PairOptions):
    """Query parameters of both re-identification requests."""

    expect_model: str | None = Field(
        default=None,
        description="The `model_id` that must answer, e.g. the one of stored embeddings; "
        "another is a 409.",
    )


class EmbeddingOptions(ReIDOptions):
    """Query parameters of `POST /v1/reid/embeddings`."""

    encoding: Encoding = Field(
        default="float",
        description="`float`: each embedding as a list of numbers. `base64`: as the bytes of "
        "little-endian float32.",
    )


class SimilarityOptions(ReIDOptions):
    """Query parameters of `POST /v1/reid/similarity`."""

    top_k: int | None = Field(
        default=None, ge=1, description="Most matches of a query; all of the gallery if unset."
    )


class PictureSize(BaseModel):
    """Pixels."""

    width: int
    height: int


class Box(BaseModel):
    """Smallest upright rectangle around the object, in pixels from the upper left corner."""

    x: int
    y: int
    width: int
    height: int


class RunLengths(BaseModel):
    """The mask as COCO writes it uncompressed: runs down the columns, the first one of zeros."""

    size: tuple[int, int] = Field(description="(height, width)")
    counts: list[int]


class SaliencyReport(BaseModel):
    """What `output=json` answers."""

    model_id: str = Field(description="`name@version` of the bundle.")
    depth_convention: DepthConvention
    threshold: float
    size: PictureSize = Field(description="Of the map, mask and box below.")
    mean: float = Field(description="Mean saliency, in [0, 1].")
    max: float = Field(description="Highest saliency, in [0, 1].")
    area: float = Field(description="Share of pixels at or above the threshold, in [0, 1].")
    bounding_box: Box | None = Field(description="Null when no pixel reaches the threshold.")
    rle: RunLengths
    map_png_base64: str = Field(description="The 8-bit grey PNG of `output=map`.")
    substituted: Literal["depth"] | None = Field(
        description="The picture that was not sent and for which zeros stood in; see a bundle's "
        "`modality_policy`."
    )
    warnings: list[str] = Field(description="What made this pair less useful than it could be.")
    timings_ms: dict[str, float] = Field(description="Stages before this answer was written.")


class EmbeddingReport(BaseModel):
    """What `POST /v1/reid/embeddings` answers."""

    model_id: str = Field(description="`name@version`; embeddings of two models do not compare.")
    preprocess_id: str = Field(description="How pictures were prepared.")
    dim: int = Field(description="Numbers in an embedding.")
    normalised: Literal[True] = Field(
        default=True, description="Every embedding has unit length: a dot product is a cosine."
    )
    modalities: list[Literal["rgb", "nir"]] = Field(
        description="What each embedding was made from; zeros stand in for what was not sent, if "
        "the bundle's `modality_policy` allows."
    )
    encoding: Encoding
    embeddings: list[list[float]] | list[str] = Field(
        description="One for each pair, in the order of the request; see `encoding`."
    )
    warnings: list[str] = Field(description="What made pairs less useful than they could be.")
    timings_ms: dict[str, float] = Field(
        description="Stages before this answer was written; batches of pairs add up."
    )


class Match(BaseModel):
    """One pair of the gallery, seen from a query."""

    gallery: int = Field(description="Which pair of the gallery, counted from 0.")
    similarity: float = Field(description="Cosine of the two embeddings, in [-1, 1].")


class QueryRanking(BaseModel):
    """The gallery as one query ranks it."""

    query: int = Field(description="Which query pair, counted from 0.")
    matches: list[Match] = Field(description="The most similar first.")


class SimilarityReport(BaseModel):
    """What `POST /v1/reid/similarity` answers."""

    model_id: str = Field(description="`name@version` of the bundle.")
    preprocess_id: str = Field(description="How pictures were prepared.")
    dim: int = Field(description="Numbers in the embeddings that were compared.")
    queries: list[QueryRanking] = Field(description="One for each query, in order.")
    warnings: list[str] = Field(description="What made pairs less useful than they could be.")
    timings_ms: dict[str, float] = Field(
        description="Stages before this answer was written; batches of pairs add up."
    )


class ModelReport(BaseModel):
    """One bundle and how it runs here."""

    name: str
    model_id: str = Field(description="`name@version`.")
    default: bool = Field(description="Whether it answers requests of its task that name no model.")
    runtime: str = Field(description="What runs it, e.g. `onnxruntime`.")
    device: str = Field(description="Where it really runs, e.g. `cpu` or `cuda:0`.")
    requested_device: str = Field(description="Where it was asked to run.")
    canary_max_error: float = Field(description="Largest error of the start-up self-test.")
    manifest: Manifest
    parity: dict[str, Any] = Field(description="Errors of each conversion step.")


class ModelList(BaseModel):
    """Every bundle being served."""

    models: list[ModelReport]


class Health(BaseModel):
    """A probe's answer while it is good."""

    status: Literal["live", "ready", "started"]


class ServerMetadata(BaseModel):
    """What answers at `/v2`."""

    name: str
    version: str
    extensions: list[str] = ["binary_tensor_data"]


class ServerLive(BaseModel):
    """The process answers."""

    live: Literal[True] = True


class ServerReady(BaseModel):
    """Every bundle would answer."""

    ready: Literal[True] = True


class ModelReady(BaseModel):
    """This bundle would answer."""

    name: str
    ready: Literal[True] = True


class TensorMetadata(BaseModel):
    """A tensor that a bundle takes or answers."""

    name: str
    datatype: Literal["UINT8", "FP32"]
    shape: list[int] = Field(description="-1 where any number of rows may be.")


class ModelMetadata(BaseModel):
    """A bundle, as the Open Inference Protocol describes it."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InputTensor(BaseModel):
    """One input of a request; raw bytes instead of `data` if `binary_data_size` says so."""

    name: str
    datatype: str
    shape: list[int] = Field(max_length=8)
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class WantedOutput(BaseModel):
    """An output that is asked for; raw if its parameter `binary_data` is true."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """Body of `POST /v2/models/{name}/infer`."""

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[InputTensor]
    outputs: list[WantedOutput] = []


class OutputTensor(BaseModel):
    """One output of an answer."""

    name: str
    datatype: Literal["FP32"]
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[float] | None = None


class InferResponse(BaseModel):
    """What `POST /v2/models/{name}/infer` answers."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class Problem(BaseModel):
    """RFC 9457."""

    type: str = Field(description="Identifies the kind of problem: `urn:mutualformer:` and `code`.")
    title: str
    status: int
    detail: str = Field(description="What was wrong this time, and what is expected.")
    code: str = Field(description="Stable name for programs.")
    field: str | None = Field(default=None, description="The form field or parameter at fault.")
    index: int | None = Field(
        default=None,
        description="Which picture of that field, counted from 0, if it takes several.",
    )
    error: str | None = Field(
        default=None, description="`detail` again, where the Open Inference Protocol wants it."
    )
    instance: str = Field(description="`urn:request:` and the `X-Request-Id` of this answer.")
