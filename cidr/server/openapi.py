"""The description of the interface that /openapi.json serves, in OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from cidr.formats import CONTENT_TYPES, FORMATS
from jlogd.version import VERSION


def document() -> dict[str, Any]:
    """The description."""
    query = _parameter("q", "The query, as on the command line.", required=True)
    form = _parameter("format", "Of the answer; without it what Accept names, or json.", choices=FORMATS)
    return {
        "openapi": "3.1.0",
        "info": {"title": "cidr", "version": VERSION, "description": "Counts by address block."},
        "security": [{"token": []}, {"password": []}, {}],
        "paths": {
            "/v1/query": {
                "get": _operation("Ask a query.", [query, form], _answers(), "askGet"),
                "post": {
                    **_operation("Ask a query, of up to 1 MiB.", [], _answers(), "ask"),
                    "requestBody": {"required": True, "content": _json("#/components/schemas/Query")},
                },
            },
            "/v1/series": {
                "get": _operation("The series there are.", [], _json("#/components/schemas/Series"), "series")
            },
            "/v1/complete": {
                "get": _operation(
                    "What may follow the beginning of a query.",
                    [_parameter("text", "The beginning.")],
                    _json("#/components/schemas/Completions"),
                    "complete",
                )
            },
            "/v1/heatmap": {
                "get": _operation(
                    "An address block as a picture.",
                    [
                        _parameter("block", "Such as 10.0.0.0/8.", required=True),
                        _parameter("series", "A series or union(A, B).", required=True),
                        _parameter("time", 'A clause, such as "on 20080424".'),
                        _parameter("detail", "Bits below the block, an even number."),
                        _parameter("format", "Of the picture.", choices=("png", "svg")),
                    ],
                    {"image/png": {}, "image/svg+xml": {}},
                    "heatmap",
                )
            },
            "/healthz": {"get": _operation("Whether the server answers.", [], {"text/plain": {}}, "health")},
            "/metrics": {"get": _operation("Numbers for Prometheus.", [], {"text/plain": {}}, "metrics")},
            "/openapi.json": {"get": _operation("This description.", [], {"application/json": {}}, "openapi")},
        },
        "components": {"schemas": _schemas(), "securitySchemes": _security()},
    }


def _operation(summary: str, parameters: list[dict[str, Any]], content: dict[str, Any], name: str) -> dict[str, Any]:
    errors = {
        code: {"description": text, "content": _json("#/components/schemas/Failure")}
        for code, text in {
            "400": "The query is wrong, and where.",
            "401": "A token is needed.",
            "403": "The token may not see that.",
            "413": "The request or the answer is over a limit.",
            "500": "It failed.",
            "503": "Too many queries wait; see Retry-After.",
            "504": "The query took too long.",
        }.items()
    }
    found = {"200": {"description": "The answer.", "content": content}, **errors}
    return {"operationId": name, "summary": summary, "parameters": parameters, "responses": found}


def _parameter(name: str, text: str, required: bool = False, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if choices:
        schema["enum"] = list(choices)
    return {"name": name, "in": "query", "description": text, "required": required, "schema": schema}


def _answers() -> dict[str, Any]:
    found: dict[str, Any] = {kind.partition(";")[0]: {} for kind in CONTENT_TYPES.values()}
    return found | _json("#/components/schemas/Answer")


def _json(reference: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": reference}}}


def _security() -> dict[str, Any]:
    return {
        "token": {"type": "http", "scheme": "bearer"},
        "password": {"type": "http", "scheme": "basic", "description": "The token as the password, with any name."},
    }


def _schemas() -> dict[str, Any]:
    text, whole, number = {"type": "string"}, {"type": "integer"}, {"type": "number"}
    span = {"type": "array", "items": {"type": "string", "format": "date-time"}, "minItems": 2, "maxItems": 2}
    coverage = {
        "start": text,
        "end": text,
        "covered_seconds": whole,
        "fraction": number,
        "missing": {"type": "array", "items": span},
        "cut": {"type": "array", "items": span},
        "pending": {"type": "array", "items": span},
    }
    failure = {
        "code": text,
        "message": text,
        "start": whole,
        "end": whole,
        "expected": {"type": "array", "items": text},
        "nearest": text,
    }
    answer = {
        "kind": {"enum": ["rows", "plan", "series", "cache"]},
        "query": text,
        "zone": text,
        "exact": {"type": "boolean"},
        "matched": whole,
        "digest": text,
        "coverage": {"type": "object", "properties": coverage},
        "work": {"type": "object", "properties": {"segments": whole, "read": whole, "milliseconds": number}},
        "notes": {"type": "array", "items": text},
        "columns": {"type": "array", "items": {"type": "object"}},
        "rows": {"type": "array", "items": {"type": "object", "properties": {"cidr": text, "time": text}}},
    }
    completion = {"type": "object", "properties": {"text": text, "replaced": whole}}
    return {
        "Query": _object({"query": text, "format": {"enum": list(FORMATS)}}, ["query"]),
        "Answer": _object(answer, ["kind", "query", "zone"]),
        "Series": _object({"series": {"type": "array", "items": {"type": "object"}}}, ["series"]),
        "Completions": _object({"completions": {"type": "array", "items": completion}}, ["completions"]),
        "Failure": _object({"error": _object(failure, ["code", "message"])}, ["error"]),
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}
