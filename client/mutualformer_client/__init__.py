"""A client of MutualFormer Serve; needs httpx, NumPy and Pillow, and nothing of the service.

`Client` waits for its answers, `AsyncClient` awaits them; both take and give the same things.
"""

from mutualformer_client.answers import (
    Box,
    Embeddings,
    Match,
    Model,
    Saliency,
    SaliencyReport,
    Similarity,
)
from mutualformer_client.async_client import AsyncClient
from mutualformer_client.calls import EmbeddingOptions, SaliencyOptions, SimilarityOptions
from mutualformer_client.client import Client
from mutualformer_client.errors import (
    BadPicture,
    BadRequest,
    DeadlineExceeded,
    MutualFormerError,
    NotReady,
    Overloaded,
    ServiceProblem,
    Unauthorized,
    UnexpectedAnswer,
    Unreachable,
)
from mutualformer_client.pictures import Pair, Picture

__all__ = [
    "AsyncClient",
    "BadPicture",
    "BadRequest",
    "Box",
    "Client",
    "DeadlineExceeded",
    "EmbeddingOptions",
    "Embeddings",
    "Match",
    "Model",
    "MutualFormerError",
    "NotReady",
    "Overloaded",
    "Pair",
    "Picture",
    "Saliency",
    "SaliencyOptions",
    "SaliencyReport",
    "ServiceProblem",
    "Similarity",
    "SimilarityOptions",
    "Unauthorized",
    "UnexpectedAnswer",
    "Unreachable",
]
