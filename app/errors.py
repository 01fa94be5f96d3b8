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
│   └── PairMismatch                     the two pictures differ in size
├── RequestTooLarge 413
├── UnknownModel 404
├── Overloaded 429                       says when to come again
├── DeadlineExceeded 504
├── NotReady 503
└── InferenceFailed 500
"""

# ruff: noqa: N818 - each class is named for what happened; `ServiceError` says that it is an error

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """An error that its caller may read.

    Args:
        detail: one sentence on this occurrence: what was received, what is expected.
        field: the form field or parameter at fault.
    """

    status: ClassVar[int] = 500
    """HTTP status."""
    code: ClassVar[str] = "internal_error"
    """Stable name for programs."""
    title: ClassVar[str] = "Internal error"
    """The same for every occurrence."""

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class BadRequest(ServiceError):
    """A parameter or form field is missing, unknown or out of range."""

    status = 422
    code = "invalid_request"
    title = "Invalid request"


class BadPicture(ServiceError):
    """A picture that cannot be used; always names its field."""

    status = 422
    code = "bad_picture"
    title = "Unusable picture"

    def __init__(self, detail: str, *, field: str) -> None:
        super().__init__(detail, field=field)


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
