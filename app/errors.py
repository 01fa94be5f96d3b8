"""What can go wrong in a request, as one tree; `app.problems` renders it, nothing here knows HTTP.

ServiceError
├── BadRequest 422 invalid_request       parameters, form fields
├── BadPicture 422
│   ├── UnreadablePicture                not a picture, damaged
│   ├── UnsupportedPicture               a format or pixel mode that is not taken
│   ├── MultipleFrames                   animations, multi-page files
│   ├── PictureTooSmall
│   ├── PictureTooLarge 413              too many pixels
│   ├── NotDepth                         colour, one bit, transparent, no valid pixel
│   ├── NotNearInfrared                  colour, one bit, transparent, floats
│   └── PairMismatch                     the two pictures differ in size
├── RequestTooLarge 413
├── UnknownModel 404
├── ModelMismatch 409                    another model than the one that was expected
├── Overloaded 429                       says when to come again
│   └── RateLimited                      one client asks too often
├── DeadlineExceeded 504
├── Unauthorized 401                     no key, or an unknown one
├── NotReady 503
├── InferenceFailed 500
└── StorageFailed 507                    a large upload finds no room on disk
"""

# ruff: noqa: N818 - each class is named for what happened; `ServiceError` says that it is an error

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Place:
    """Where in a request a picture is."""

    field: str
    """The form field."""
    index: int | None = None
    """Counted from 0 among the pictures of that field; none where it takes only one."""

    def __str__(self) -> str:
        return self.field if self.index is None else f"{self.field}[{self.index}]"


class ServiceError(Exception):
    """An error that its caller may read.

    Args:
        detail: one sentence on this occurrence: what was received, what is expected.
        field: the form field or parameter at fault.
        index: which of that field's pictures, counted from 0.
    """

    status: ClassVar[int] = 500
    """HTTP status."""
    code: ClassVar[str] = "internal_error"
    """Stable name for programs."""
    title: ClassVar[str] = "Internal error"
    """The same for every occurrence."""

    def __init__(self, detail: str, *, field: str | None = None, index: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.index = index


class BadRequest(ServiceError):
    """A parameter or form field is missing, unknown or out of range."""

    status = 422
    code = "invalid_request"
    title = "Invalid request"


class BadPicture(ServiceError):
    """A picture that cannot be used; always says which."""

    status = 422
    code = "bad_picture"
    title = "Unusable picture"

    def __init__(self, detail: str, place: Place) -> None:
        if place.index is not None:
            detail = f"{place}: {detail}"
        super().__init__(detail, field=place.field, index=place.index)


class UnreadablePicture(BadPicture):
    """The bytes are no picture, or a damaged one."""

    code = "unreadable_picture"
    title = "Unreadable picture"


class UnsupportedPicture(BadPicture):
    """A readable picture of a format or pixel mode that this field does not take."""

    code = "unsupported_picture"
    title = "Unsupported kind of picture"


class MultipleFrames(BadPicture):
    """An animation or a multi-page file."""

    code = "multiple_frames"
    title = "More than one frame"


class PictureTooSmall(BadPicture):
    """A side is below the minimum."""

    code = "picture_too_small"
    title = "Picture too small"


class PictureTooLarge(BadPicture):
    """More pixels than are allowed."""

    status = 413
    code = "picture_too_large"
    title = "Picture too large"


class NotDepth(BadPicture):
    """A picture in the depth field that does not hold depth."""

    code = "not_depth"
    title = "Not a depth map"


class NotNearInfrared(BadPicture):
    """A picture in the near-infrared field that does not hold near-infrared."""

    code = "not_near_infrared"
    title = "Not a near-infrared picture"


class PairMismatch(BadPicture):
    """The two pictures of a pair differ in size."""

    code = "pair_mismatch"
    title = "The pictures do not make a pair"


class RequestTooLarge(ServiceError):
    """The body has more bytes than are allowed."""

    status = 413
    code = "request_too_large"
    title = "Request too large"


class UnknownModel(ServiceError):
    """No bundle of that name serves this task."""

    status = 404
    code = "unknown_model"
    title = "Unknown model"


class ModelMismatch(ServiceError):
    """The model that would answer is not the one that the request expects."""

    status = 409
    code = "model_mismatch"
    title = "Another model than expected"


class Overloaded(ServiceError):
    """More work than may wait.

    Args:
        retry_after_s: when there should be room again, in whole seconds.
    """

    status = 429
    code = "overloaded"
    title = "Overloaded"

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    """One client sends more requests than it may."""

    code = "rate_limited"
    title = "Too many requests"


class Unauthorized(ServiceError):
    """The request carries no API key, or one that is not listed."""

    status = 401
    code = "unauthorized"
    title = "An API key is needed"


class DeadlineExceeded(ServiceError):
    """The answer would come too late to be of use."""

    status = 504
    code = "deadline_exceeded"
    title = "Deadline exceeded"


class NotReady(ServiceError):
    """Starting, draining, or faulty."""

    status = 503
    code = "not_ready"
    title = "Not ready"


class InferenceFailed(ServiceError):
    """The runtime failed on this request."""

    code = "inference_failed"
    title = "Inference failed"


class StorageFailed(ServiceError):
    """There is no room for a large upload, or no folder for temporary files."""

    status = 507
    code = "storage_failed"
    title = "Storage failed"
