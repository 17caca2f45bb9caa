"""What the FHIR routes share: the media type, resources as responses, OperationOutcomes."""

import json
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from fastapi import Request, Response

from serving.api.deps import root_of
from serving.errors import Problem

Resource = dict[str, Any]
MEDIA = "application/fhir+json"
ROOT = "/fhir"


def check_accept(request: Request) -> None:
    """Raises 406 where neither FHIR's JSON nor JSON would do, in `_format` or Accept."""
    wanted = request.query_params.get("_format") or request.headers.get("accept") or "*/*"
    if not any(w in wanted.lower() for w in ("json", "*/*", "application/*")):
        raise Problem(406, "NotAcceptable", "resources are given as JSON", f"accept {MEDIA}")


def answer(resource: Resource, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A resource, with its version as ETag."""
    meta = resource.get("meta") or {}
    told = dict(headers or {})
    if meta.get("versionId"):
        told["ETag"] = f'W/"{meta["versionId"]}"'
    if meta.get("lastUpdated"):
        told["Last-Modified"] = http_date(meta["lastUpdated"])
    return Response(json.dumps(resource, ensure_ascii=False).encode(), status, told, f"{MEDIA}; charset=utf-8")


def http_date(instant: str) -> str:
    """An instant as HTTP writes it."""
    return format_datetime(datetime.fromisoformat(instant.replace("Z", "+00:00")), usegmt=True)


def base_of(request: Request) -> str:
    """Where FHIR is found."""
    return root_of(request) + ROOT
