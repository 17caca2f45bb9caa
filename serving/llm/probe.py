"""What a language model's server can do, found by trying."""

import base64
import json
import struct
import time
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from agent.planner.able import Able
from knowledge.language import language_of

MOST_IMAGES = 8
LANGUAGES = {"en": "Say in one English sentence what a lung nodule is.", "de": "Sage in einem deutschen Satz, was ein Lungenrundherd ist.",
             "es": "Di en una frase en español qué es un nódulo pulmonar.", "fr": "Dis en une phrase en français ce qu'est un nodule pulmonaire.",
             "zh": "请用一句中文说明什么是肺结节。"}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Look up a series.", "strict": True, "parameters": {
    "type": "object", "properties": {"series": {"enum": ["S1.1", "S1.2"]}, "why": {"type": "string", "pattern": "^[^<]{0,20}$"}},
    "required": ["series"], "additionalProperties": False}}}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"evidence": {"type": "array", "items": {"enum": ["E1", "E2"]}, "minItems": 1, "maxItems": 2}},
          "required": ["evidence"], "additionalProperties": False}  # fmt: skip


class NoServer(Exception):
    """No OpenAI-compatible server answers there."""


@dataclass
class Probe:
    """What was found. Times in seconds; `reasons`: why something can't be done, in the server's words (cut)."""

    url: str
    models: list[str]
    model: str
    version: str | None = None
    context: int | None = None
    tools: bool = False
    arguments_hold: bool = False
    schema: bool = False
    images: int = 0
    languages: list[str] = field(default_factory=list)
    first_token_s: float | None = None
    tokens_per_s: float | None = None
    cache_seen: bool | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def able(self) -> Able:
        """As the agent takes it."""
        return Able(self.tools, self.schema, self.images, self.context)

    def rows(self) -> list[tuple[str, str, str]]:
        """Table: what, found, what it means for the agent."""
        return [
            ("model", f"{self.model}{f' (vLLM {self.version})' if self.version else ''}", f"served: {', '.join(self.models)}"),
            ("context", f"{self.context} tokens" if self.context else "not told", "" if (self.context or 32768) >= 16384 else "short: long conversations are refused"),
            ("tools", _yes(self.tools), "calls as tool calls" if self.tools else f"plans are asked for under a JSON schema ({self.reasons.get('tools', '')})"),
            ("arguments under their schema", _yes(self.arguments_hold), "" if self.arguments_hold or not self.tools else "start vLLM with --tool-strict-level parameter"),
            ("JSON schema", _yes(self.schema), "citations can only be ids that exist" if self.schema else f"told in words, checked after ({self.reasons.get('schema', '')})"),
            ("pictures", str(self.images), "key slices reach the model" if self.images else f"no `look` ({self.reasons.get('images', '')})"),
            ("languages", ", ".join(self.languages) or "none kept", "answers in the language of the question" if len(self.languages) == 5 else "other languages aren't kept"),
            ("first token", f"{self.first_token_s:.2f} s" if self.first_token_s is not None else "-", ""),
            ("speed", f"{self.tokens_per_s:.0f} tokens/s" if self.tokens_per_s else "-", "one stream"),
            ("prefix cache", {True: "yes", False: "no", None: "not told"}[self.cache_seen], "" if self.cache_seen else "vLLM: --enable-prompt-tokens-details tells"),
        ]  # fmt: skip

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def _yes(found: bool) -> str:
    return "yes" if found else "no"


class _Client:
    def __init__(self, url: str, key: str | None, seconds: float) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(timeout=seconds, headers=headers, trust_env=False)

    def models(self) -> list[dict[str, Any]]:
        try:
            return list(self.http.get(f"{self.url}/models").raise_for_status().json()["data"])
        except (httpx.HTTPError, KeyError, ValueError, TypeError) as error:
            raise NoServer(type(error).__name__) from error

    def ask(self, model: str, content: Any, most: int = 64, **more: Any) -> tuple[dict[str, Any] | None, str]:
        """The reply's first choice with its usage, or None and why."""
        body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": most, "temperature": 0, **more}
        try:
            reply = self.http.post(f"{self.url}/chat/completions", json=body)
            if reply.status_code != 200:
                return None, _reason(reply)
            told = reply.json()
            return {**told["choices"][0], "usage": told.get("usage") or {}}, ""
        except (httpx.HTTPError, KeyError, ValueError, IndexError, TypeError) as error:
            return None, type(error).__name__

    def first_token(self, model: str, text: str) -> float | None:
        """Seconds to the first event that carries a token."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 8,
            "temperature": 0,
            "stream": True,
        }
        begun = time.perf_counter()
        try:
            with self.http.stream("POST", f"{self.url}/chat/completions", json=body) as reply:
                for line in reply.iter_lines():
                    if line.startswith("data:") and '"error"' in line[:40]:
                        return None
                    if line.startswith("data:") and ('"content":"' in line.replace('": "', '":"') or "reasoning" in line):
                        return time.perf_counter() - begun
        except httpx.HTTPError:
            return None
        return None


def _reason(reply: httpx.Response) -> str:
    try:
        told = reply.json()
        said = told.get("message") or (told.get("error") or {}).get("message") or ""
    except (ValueError, AttributeError):
        said = ""
    return f"HTTP {reply.status_code}{': ' + ' '.join(str(said).split())[:90] if said else ''}"


def quick(url: str, model: str, key: str | None = None, seconds: float = 30) -> Able:
    """What the agent has to know before it asks: tools, schema, pictures, context. Raises NoServer."""
    client = _Client(url, key, seconds)
    told = next((m for m in client.models() if m.get("id") == model), None)
    if told is None:
        raise NoServer(f"{model!r} isn't served there")
    found = Probe(url, [], model, context=told.get("max_model_len"))
    _try_tools(client, found)
    _try_schema(client, found)
    found.images = _images(client, found, (4, 1))
    return found.able


def probe(url: str, model: str | None = None, key: str | None = None, seconds: float = 120) -> Probe:
    """Everything that can be tried. Raises NoServer."""
    client = _Client(url, key, seconds)
    served = client.models()
    names = [str(m.get("id")) for m in served]
    if model is not None and model not in names:
        raise NoServer(f"{model!r} isn't served there; {', '.join(names)} are")
    chosen = next(m for m in served if model in (None, m.get("id")))
    found = Probe(url, names, str(chosen.get("id")), context=chosen.get("max_model_len"))
    try:
        found.version = client.http.get(client.url.removesuffix("/v1") + "/version").json().get("version")
    except (httpx.HTTPError, ValueError, AttributeError):
        found.version = None
    _try_tools(client, found)
    _try_schema(client, found)
    found.images = _images(client, found, (MOST_IMAGES, 6, 4, 2, 1))
    for language, text in LANGUAGES.items():
        reply, _ = client.ask(found.model, text, 80)
        said = str(((reply or {}).get("message") or {}).get("content") or "")
        if len(said) > 10 and language_of(said) == language:
            found.languages.append(language)
    _time(client, found)
    return found


def _try_tools(client: _Client, found: Probe) -> None:
    auto, why = client.ask(found.model, "Look up series S1.2.", 48, tools=[TOOL], tool_choice="auto")
    found.tools = auto is not None
    if auto is None:
        found.reasons["tools"] = why
        return
    named = {"type": "function", "function": {"name": "look_up"}}
    made, _ = client.ask(found.model, "Look up series S1.2.", 96, tools=[TOOL], tool_choice=named)
    try:
        calls = (made or {})["message"]["tool_calls"]
        found.arguments_hold = bool(calls) and all(
            json.loads(c["function"]["arguments"])["series"] in ("S1.1", "S1.2") for c in calls
        )
    except (KeyError, TypeError, ValueError):
        found.arguments_hold = False


def _try_schema(client: _Client, found: Probe) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    reply, why = client.ask(found.model, "Which evidence? Reply in JSON.", 64, response_format=wanted)
    try:
        said = json.loads((reply or {})["message"]["content"])
        found.schema = set(said) == {"evidence"} and set(said["evidence"]) <= {"E1", "E2"} and bool(said["evidence"])
    except (KeyError, TypeError, ValueError):
        found.schema = False
    if not found.schema:
        found.reasons["schema"] = why or "the reply wasn't under it"


def _images(client: _Client, found: Probe, tries: tuple[int, ...]) -> int:
    url = f"data:image/png;base64,{base64.b64encode(grey_png(56, 128)).decode()}"
    for many in tries:
        content = [
            {"type": "text", "text": "What do the pictures show?"},
            *({"type": "image_url", "image_url": {"url": url}} for _ in range(many)),
        ]
        reply, why = client.ask(found.model, content, 4)
        if reply is not None:
            return many
        found.reasons["images"] = why
    return 0


def grey_png(side: int, level: int) -> bytes:
    """A grey square as PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([level]) * side for _ in range(side))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def _time(client: _Client, found: Probe) -> None:
    long = "A patient's case, told at length so that the prompt is worth keeping. " * 40
    begun = time.perf_counter()
    reply, _ = client.ask(found.model, long + "Tell it again.", 64)
    spent = time.perf_counter() - begun
    if reply is not None and (made := reply["usage"].get("completion_tokens")):
        found.tokens_per_s = made / spent
    found.first_token_s = client.first_token(found.model, "Say hello.")
    again, _ = client.ask(found.model, long + "Tell it again.", 4)
    details = ((again or {}).get("usage") or {}).get("prompt_tokens_details")
    found.cache_seen = None if details is None else bool(details.get("cached_tokens"))
