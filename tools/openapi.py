"""Tools of an HTTP service that describes itself by OpenAPI 3: each operation is one (see `tools.joining`).

GET reads; every other method waits for a person's confirmation. Nothing is followed to another host, and no proxy is used.
"""

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx
import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from tools.base import CaseTool, Reply
from tools.errors import Cancelled, Failed, TryAgain
from tools.joining import MOST_TEXT, SECONDS, Suspicious, gathered, joined_tool, quoted

log = logging.getLogger("consilium.tools.http")
MOST_SPEC = 4 * 2**20
"""Bytes of a description."""
MOST_NODES = 50_000
"""Values of a description once its references are put in place."""


class Service(BaseModel):
    """An HTTP service: its OpenAPI description (a file or a URL), where it answers, and what lets us in."""

    model_config = ConfigDict(extra="forbid")
    spec: str = Field(description="File or URL of the OpenAPI 3 description, JSON or YAML.")
    url: str | None = Field(None, description="Base URL; left out: the description's first server.")
    bearer: SecretStr | None = Field(None, description="Sent as Authorization: Bearer.")


def joined(services: Mapping[str, Service], suspicious: Suspicious) -> list[type[CaseTool]]:
    """Every operation of every service that can be read, named service_operation."""

    def tools_of(name: str, service: Service) -> list[type[CaseTool]]:
        spec = _read(service)
        base, resolved = _base(service, spec), _Resolver(spec)
        return [_made(name, service, base, resolved, *one, suspicious) for one in _operations(spec, resolved)]

    return gathered("HTTP service", services, tools_of)


def _client() -> httpx.Client:
    return httpx.Client(timeout=SECONDS, trust_env=False, follow_redirects=False)


def _read(service: Service) -> dict[str, Any]:
    if re.match(r"https?://", service.spec):
        with _client() as client:
            reply = client.get(service.spec, headers=_headers(service))
            reply.raise_for_status()
            data = reply.content
    else:
        data = Path(service.spec).read_bytes()
    if len(data) > MOST_SPEC:
        raise ValueError(f"its description is larger than {MOST_SPEC >> 20} MiB")
    spec = yaml.safe_load(data)
    if not isinstance(spec, dict) or not str(spec.get("openapi", "")).startswith("3."):
        raise ValueError("its description isn't OpenAPI 3")
    return spec


def _base(service: Service, spec: dict[str, Any]) -> str:
    servers = spec.get("servers") or [{}]
    base = service.url or str(servers[0].get("url", ""))
    if not urlsplit(base).netloc and re.match(r"https?://", service.spec):
        base = urljoin(service.spec, base or "/")
    if not re.match(r"https?://[^/]", base):
        raise ValueError("it names no server: give `url`")
    return base.rstrip("/")


def _headers(service: Service) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.bearer.get_secret_value()}"} if service.bearer else {}


class _Resolver:
    """Puts the references of a description in place. Raises ValueError where that makes it far larger than it is."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self._left = spec, MOST_NODES

    def __call__(self, node: Any, inside: frozenset[str] = frozenset()) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"its references unfold to more than {MOST_NODES} values")
        if isinstance(node, list):
            return [self(n, inside) for n in node]
        if not isinstance(node, dict):
            return node
        if isinstance(reference := node.get("$ref"), str):
            if reference in inside or not reference.startswith("#/"):
                return {}  # a schema inside itself, or in another file: anything fits
            target: Any = self.spec
            for part in reference.removeprefix("#/").split("/"):
                target = target[part.replace("~1", "/").replace("~0", "~")]
            return self(target, inside | {reference})
        return {k: self(v, inside) for k, v in node.items()}


def _operations(spec: dict[str, Any], resolved: _Resolver) -> Iterator[tuple[str, str, dict[str, Any], list[dict[str, Any]]]]:
    """(method, path, operation, its parameters)."""
    for path, item in spec.get("paths", {}).items():
        item = resolved(item)
        for method in ("get", "post", "put", "patch", "delete"):
            if isinstance(operation := item.get(method), dict):
                own = [*item.get("parameters", []), *operation.get("parameters", [])]
                yield method, str(path), operation, [p for p in own if p.get("in") in ("path", "query")]


def _made(name: str, service: Service, base: str, resolved: _Resolver, method: str, path: str, operation: dict[str, Any],
          parameters: list[dict[str, Any]], suspicious: Suspicious) -> type[CaseTool]:  # fmt: skip
    properties = {p["name"]: {**p.get("schema", {}), "description": p.get("description", "")} for p in parameters}
    required = [p["name"] for p in parameters if p.get("required")]
    body = operation.get("requestBody", {})
    content = body.get("content", {}).get("application/json", {}).get("schema")
    if content is not None:
        properties["body"] = content
        required += ["body"] if body.get("required") else []
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    own = str(operation.get("operationId") or f"{method} {path}")
    said = str(operation.get("summary") or operation.get("description") or own)
    places = {p["name"]: p["in"] for p in parameters}
    return joined_tool("HTTP service", name, own, said, schema, method == "get", suspicious,
                       partial(_answered, name, own, method, base + path, places, _headers(service)))  # fmt: skip


def _answered(service: str, name: str, method: str, url: str, places: dict[str, str], headers: dict[str, str],
              tool: CaseTool, arguments: dict[str, Any]) -> Reply:  # fmt: skip
    for key, where in places.items():
        if where == "path" and key in arguments:
            url = url.replace(f"{{{key}}}", quote(str(arguments[key]), safe=""))
    query = {k: v for k, v in arguments.items() if places.get(k) == "query" and v is not None}
    try:
        with (
            _client() as client,
            client.stream(method.upper(), url, params=query, json=arguments.get("body"), headers=headers) as reply,
        ):
            data, until = bytearray(), time.monotonic() + SECONDS
            for chunk in reply.iter_bytes():
                data += chunk
                if tool.bench.cancelled():
                    raise Cancelled("it was stopped", "ask again")
                if len(data) > MOST_SPEC or time.monotonic() > until:
                    raise Failed(f"the service {service} answers with more than can be taken", "narrow the question")
            status, media = reply.status_code, reply.headers.get("content-type", "")
    except httpx.HTTPError as error:
        log.warning("the HTTP service %s failed with %s", service, type(error).__name__)
        raise Failed(f"the service {service} can't be reached or failed", "see whether it runs") from error
    text = data.decode("utf-8", "replace")
    if 400 <= status < 500:
        raise TryAgain(f"{name} refused ({status}): {text[:300]}", "mend the arguments")
    if status >= 300:
        raise Failed(f"the service {service} answers {status}", "see its log")
    try:
        value = json.loads(text) if "json" in media else text[:MOST_TEXT]
    except ValueError:
        value = text[:MOST_TEXT]
    return quoted("HTTP", service, name, text[:MOST_TEXT], value)
