"""The API in words: what its OpenAPI begins with, and `docs/api.md`, which is made from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from app.errors import ServiceError

ABOUT = """\
**Pictures.** Photos may be JPEG, PNG, WebP, BMP or TIFF. Depth is one grey channel of 8 or 16
bits in PNG, TIFF (floats too), BMP or JPEG, or a 2-D `.npy` array of integers or floats, where
NaN and infinity are missing. Near-infrared is one grey channel of 8 or 16 bits in PNG, TIFF, BMP
or JPEG, divided by its full range. Each picture is turned upright by its own EXIF orientation
before the two are paired, and so is the answer.

**Depth conventions.** `near_bright` and `near_dark` are stretched over the values that occur;
`metric` is a distance in any unit, and its 0 is missing. Nothing in a depth map tells which end
is near, so send the right one.

**Tensors.** `/v2` is the [Open Inference
Protocol](https://github.com/kserve/open-inference-protocol), version 2. It takes `rgb` uint8 (B,
H, W, 3) and `aux` float32 (B, H, W, 1) in [0, 1], B up to 64, as JSON or as raw bytes behind
JSON, whose length `Inference-Header-Content-Length` then says, and answers `saliency` (B, H, W)
or `embedding` (B, D) likewise.

**Refusals.** Every refusal of a well-formed HTTP request is `application/problem+json` ([RFC
9457](https://www.rfc-editor.org/rfc/rfc9457)) with a stable `code` and, where one is at fault,
the `field` and, of several pictures, the `index`, counted from 0. 429 and 503 carry
`Retry-After`.

**Warnings.** A pair that can be answered but looks odd is answered, with warnings in `X-Warnings`
and in JSON: likely swapped pictures, a constant or saturated channel, mostly missing depth,
millimetres that are read as brightness, one EXIF orientation of two.
A request without `depth` or `nir` is refused, unless the bundle's manifest says
`"modality_policy": "substitute"`: then zeros stand in, as in training, and `X-Substituted`, the
JSON and `/metrics` say so.

**Headers.** Every answer carries `X-Request-Id` (yours, if you sent one) and `Server-Timing`:
milliseconds per stage, and the size of the batch; an inferred one also `X-Model-Id`, a map
`X-Depth-Convention`. `X-Request-Timeout-Ms` lowers the time that a request may take. Where there
are API keys, send `Authorization: Bearer KEY`.
"""


def markdown(openapi: Mapping[str, Any]) -> str:
    """The whole reference: introduction, a section for each path, errors, bodies."""
    schemas: dict[str, Any] = openapi["components"]["schemas"]
    parts = [
        "# API",
        "<!-- Made by `python -m app openapi --markdown`; change what the application says. -->",
        openapi["info"]["description"].strip(),
        "## Paths",
    ]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parts += [f"### {method.upper()} {path}", *_operation(operation, schemas)]
    parts += [
        "## Refusals",
        _table(("status", "`code`", "what happened"), sorted(_refusals())),
        "## Bodies",
    ]
    for name, schema in schemas.items():
        if not name.startswith("Body_"):
            parts += [f"### {name}", *_body(schema)]
    return "\n\n".join(parts) + "\n"


def _operation(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    yield operation.get("description", operation["summary"]).strip()
    parameters = [
        (
            f"`{one['name']}` ({one['in']})",
            _type(one["schema"]),
            _default(one["schema"]) or ("required" if one.get("required") else ""),
            one.get("description", ""),
        )
        for one in operation.get("parameters", ())
    ]
    if parameters:
        yield _table(("parameter", "values", "default", "meaning"), parameters)
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        form = schemas.get(schema.get("$ref", "").rpartition("/")[2])
        if kind == "multipart/form-data" and form:
            required = form.get("required", ())
            rows = [
                (f"`{name}`", _files(field), "yes" if name in required else "",
                 field.get("description", ""))
                for name, field in form["properties"].items()
            ]  # fmt: skip
            yield _table(("file", "how many", "required", "content"), rows)
        else:
            yield f"Takes `{kind}`: {_type(schema)}."
            yield from _body(schema)
    answers = []
    for status, response in operation["responses"].items():
        if int(status) < HTTPStatus.BAD_REQUEST:
            kinds = [
                f"`{kind}`" + (f": {shown}" if (shown := _type(one.get("schema", {}))) else "")
                for kind, one in response.get("content", {}).items()
            ]
            answers.append(f"Answers {status}: {'; '.join(kinds) or 'nothing'}.")
            if headers := response.get("headers"):
                answers.append(f"Headers: {', '.join(f'`{name}`' for name in headers)}.")
    refused = [status for status in operation["responses"] if int(status) >= 400]
    if refused:
        answers.append(f"Refuses with {', '.join(refused)} and a [Problem](#problem).")
    yield " ".join(answers)


def _body(schema: Mapping[str, Any]) -> Iterator[str]:
    if "description" in schema:
        yield schema["description"].strip()
    rows = [
        (f"`{name}`", _type(field), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    if rows:
        yield _table(("key", "value", "meaning"), rows)


def _refusals() -> Iterator[tuple[str, str, str]]:
    kinds = [ServiceError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind is not ServiceError:
            first = (kind.__doc__ or "").strip().partition("\n")[0]
            yield str(kind.status), f"`{kind.code}`", first
    yield "400", "`malformed_request`", "The body is no form, or cannot be read as one."
    yield "404", "`not_found`", "There is no such path."
    yield "405", "`method_not_allowed`", "The path takes another method."
    yield "500", "`internal_error`", "Something unforeseen, logged under the request's id."


def _files(field: Mapping[str, Any]) -> str:
    kinds = [field, *field.get("anyOf", ())]
    return "several" if any(kind.get("type") == "array" for kind in kinds) else "one"


def _type(schema: Mapping[str, Any]) -> str:
    """The values that a schema takes, in a few words; bodies are linked."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(_type, schema["anyOf"]))))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    kind = schema.get("type", "")
    if kind == "array":
        items = schema.get("prefixItems")
        inner = ", ".join(map(_type, items)) if items else _type(schema.get("items", {}))
        return f"list of {inner}" if inner else "list"
    if kind == "object":
        value = schema.get("additionalProperties")
        values = _type(value) if isinstance(value, dict) else ""
        return f"object of {values}" if values else "object"
    bounds = [
        f"{words} {schema[key]:g}"
        for key, words in (("minimum", "from"), ("maximum", "to"), ("exclusiveMinimum", "above"))
        if key in schema
    ]
    return " ".join([kind, *bounds]) if kind != "string" or "contentMediaType" not in schema else ""


def _default(schema: Mapping[str, Any]) -> str:
    value = schema.get("default")
    return "" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(
        "|".join(["", *(f" {cell} " if cell else " " for cell in line), ""]) for line in cells
    )
