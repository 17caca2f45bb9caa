"""Answer: statements with the evidence that each stands on, the plan, what is missing, and what made it."""

from typing import Any, Literal

from pydantic import Field

from knowledge.evidence import Evidence, Frozen
from tools.base import Made, Missing


class Statement(Frozen):
    """One sentence and the evidence that it stands on."""

    text: str
    evidence: list[str] = Field(min_length=1)


class PlanStep(Frozen):
    """One tool call as it went."""

    tool: str
    arguments: dict[str, Any]
    status: Literal["ok", "not_applicable", "failed", "refused"]
    seconds: float
    evidence: list[str] = Field(default_factory=list)
    message: str | None = None
    made: Made | None = None
    """What the tool made that a person goes on with (a draft, a check, a question)."""


class Conflict(Frozen):
    """Two sources that disagree."""

    statements: list[str]
    evidence: list[str]


class LeftOut(Frozen):
    """A sentence that its evidence did not carry."""

    text: str
    reason: str


class Pending(Frozen):
    """A call that changes something and waits for a person."""

    tool: str
    arguments: dict[str, Any]


class PlannerRef(Frozen):
    """What planned: the built-in planner or a language model."""

    kind: Literal["builtin", "llm"]
    model: str


class Provenance(Frozen):
    """What made an answer."""

    planner: PlannerRef
    prompts: str
    tools: dict[str, str]
    corpus: str
    software: str


class Answer(Frozen):
    """What a question gets."""

    id: str
    conversation_id: str
    text: str
    statements: list[Statement]
    evidence: list[Evidence]
    plan: list[PlanStep]
    missing: list[Missing]
    conflicts: list[Conflict] = Field(default_factory=list)
    left_out: list[LeftOut] = Field(default_factory=list)
    abstained: bool
    language: str = "en"
    lead: str = ""
    """What stands before the statements and claims nothing of the patient: why it abstains, which limit was met, what it asks back."""
    urgent: list[str] = Field(default_factory=list)
    """Evidence of emergencies, whose statements stand first."""
    confirm: list[Pending] = Field(default_factory=list)
    """What waits for a person's confirmation before it is done."""
    provenance: Provenance


class Draft(Frozen):
    """What a planner writes before it is checked."""

    statements: list[Statement] = Field(default_factory=list, max_length=24)
    missing: list[Missing] = Field(default_factory=list, max_length=12)
    abstained: bool = False
    lead: str = ""
    """One sentence without a medical claim, in the question's language (why it abstains)."""
    asks_back: bool = False
    """True where the lead is a question back to the asker."""


def draft_schema(evidence_ids: list[str]) -> dict[str, Any]:
    """The JSON schema of a Draft whose citations can only be ids that exist. Bounded, so that a weak model ends."""
    text = {"type": "string", "minLength": 1, "maxLength": 600}
    statement = {
        "type": "object",
        "properties": {
            "text": text,
            "evidence": {"type": "array", "items": {"type": "string", "enum": evidence_ids}, "minItems": 1, "maxItems": 6},
        },
        "required": ["text", "evidence"],
        "additionalProperties": False,
    }
    short = {"type": "string", "maxLength": 300}
    missing = {
        "type": "object",
        "properties": {"what": short, "why": short, "would_change": short},
        "required": ["what", "why", "would_change"],
        "additionalProperties": False,
    }
    properties: dict[str, Any] = {
        "missing": {"type": "array", "items": missing, "maxItems": 6},
        "abstained": {"type": "boolean"},
        "lead": {"type": "string", "maxLength": 300},
    }
    if evidence_ids:
        properties = {"statements": {"type": "array", "items": statement, "maxItems": 12}, **properties}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def choice_schema(evidence_ids: list[str]) -> dict[str, Any]:
    """The JSON schema of a choice of evidence, for a model that is too weak to write: ids that exist, told in their own sentences."""
    properties: dict[str, Any] = {"abstained": {"type": "boolean"}}
    if evidence_ids:
        properties["evidence"] = {"type": "array", "items": {"type": "string", "enum": evidence_ids}, "maxItems": 12}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
