"""Tools of other programs (an MCP server, an HTTP service) as tools of this house: what they say of themselves and what they answer is data.

One that its program doesn't call read-only waits for a person's confirmation. Each gets only what the plan gives it.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

import jsonschema
from pydantic import BaseModel, ConfigDict, create_model, model_validator

from knowledge.evidence import Fact, Kind, RecordRef
from tools.base import Card, CaseTool, Cost, Effect, Needs, Reply

log = logging.getLogger("consilium.tools.joining")
P = TypeVar("P")
MOST_TOOLS, MOST_WORDS, MOST_TEXT = 64, 400, 8000
"""Tools of a program; characters of a description, and of an answer."""
SECONDS = 30.0
"""For one call, and for a program's list of tools."""
Suspicious = Callable[[str], bool]
"""True for words that address a model: they aren't handed on."""
Call = Callable[[CaseTool, dict[str, Any]], Reply]


def gathered(kind: str, programs: Mapping[str, P], tools_of: Callable[[str, P], list[type[CaseTool]]]) -> list[type[CaseTool]]:
    """The tools of every program that answers; one that doesn't takes nothing else with it."""
    found: list[type[CaseTool]] = []
    for name, program in programs.items():
        try:
            found += tools_of(name, program)[:MOST_TOOLS]
        except Exception as error:  # noqa: BLE001 (another's program: whatever is wrong with it stays there)
            log.warning("the %s %s can't be asked for its tools (%s): it is left out", kind, name, type(error).__name__)
    return found


def joined_tool(
    kind: str, program: str, tool: str, said: str, schema: dict[str, Any], reads: bool, suspicious: Suspicious, call: Call
) -> type[CaseTool]:
    """A tool of the program `program` (of `kind`: an MCP server, an HTTP service), named program_tool. `call` does the work."""
    plain, schema = _plain(tool), {"additionalProperties": False, **schema}
    words = re.sub(r"\s+", " ", said or plain).strip()[:MOST_WORDS]
    words = f"{plain.replace('_', ' ')} (its own words read like an order and were left out)" if suspicious(words) else words

    class Joined(CaseTool):
        """A tool of another program."""

        name: str = f"{_plain(program)}_{plain}"[:60]
        description: str = f"Of the {kind} {program}: {words}"
        args_schema: Any = _arguments(schema, suspicious)
        asks: ClassVar[list[str]] = [words.split(". ")[0]]
        needs: ClassVar[Needs] = Needs(case=False)
        gives: ClassVar[list[Kind]] = [Kind.RECORD]
        card: ClassVar[Card] = Card(
            intended_use=f"As the {kind} {program} says; nothing of it was checked here.", accuracy="unknown",
            limits="Another program's answer: taken as data, shown with its source.", licence="its maker's", version="unknown",
        )  # fmt: skip
        cost: ClassVar[Cost] = Cost(seconds=5)
        effect: ClassVar[Effect] = Effect.READ if reads else Effect.WRITE
        network: ClassVar[bool] = True
        deterministic: ClassVar[bool] = False
        example: ClassVar[dict[str, Any]] = _example(schema)

        def answer(self, arguments: Any) -> Reply:
            return call(self, arguments.model_dump(exclude_unset=True))

    Joined.__name__ = f"{_plain(program)}_{plain}"[:60]
    return Joined


def quoted(origin: str, program: str, tool: str, text: str, value: Any) -> Reply:
    """A program's answer as evidence: word for word, with its source (`origin`: MCP, HTTP)."""
    shown = text or json.dumps(value, ensure_ascii=False)
    statement = f'{program} answers to {tool.replace("_", " ")}: "{_short(shown[:MOST_TEXT])}".'
    source = RecordRef(resource=f"{origin}/{program}", path=tool, date=datetime.now(UTC).date().isoformat())
    return Reply(
        text=statement,
        facts=[Fact(kind=Kind.RECORD, title=f"{program}: {tool}", statement=statement, value=value, source=source)],
    )


def _example(schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments that fit: the schema's own examples where it has some, else plain values of the required ones."""
    plain: dict[str, Any] = {"string": "example", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
    found = {}
    for name, told in schema.get("properties", {}).items():
        given = next((told[k] for k in ("example", "default", "const") if k in told), None)
        given = given if given is not None else next((told[k][0] for k in ("examples", "enum") if told.get(k)), None)
        if given is not None or name in schema.get("required", []):
            found[name] = given if given is not None else plain.get(str(told.get("type")), "example")
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _short(text: str, most: int = 600) -> str:
    plain = re.sub(r"\s+", " ", text).strip()
    return plain if len(plain) <= most else f"{plain[:most]}…"


def _arguments(schema: dict[str, Any], suspicious: Suspicious) -> type[BaseModel]:
    """Arguments by a JSON schema of the program's."""
    cleaned: dict[str, Any] = _cleaned(schema, suspicious)

    class Checked(BaseModel):
        model_config = ConfigDict(extra="allow")

        @model_validator(mode="before")
        @classmethod
        def _fit(cls, value: Any) -> Any:
            if isinstance(value, dict):  # LangChain sends what was left out as None
                value = {k: v for k, v in value.items() if v is not None or k in schema.get("required", [])}
            try:
                jsonschema.validate(value, schema)
            except jsonschema.ValidationError as error:
                raise ValueError(f"{error.json_path}: {error.message[:200]}") from error
            return value

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return cleaned

    # LangChain hands on only arguments that the model names.
    names = {
        n: (Any, None)
        for n in schema.get("properties", {})
        if n.isidentifier() and not n.startswith("_") and not hasattr(BaseModel, n)
    }
    return create_model("Arguments", __base__=Checked, **names)  # type: ignore[call-overload,no-any-return]


def _cleaned(node: Any, suspicious: Suspicious) -> Any:
    """A schema whose descriptions address no model."""
    if isinstance(node, list):
        return [_cleaned(n, suspicious) for n in node]
    if not isinstance(node, dict):
        return node
    return {
        k: _cleaned(v, suspicious) for k, v in node.items() if not (k == "description" and isinstance(v, str) and suspicious(v))
    }
