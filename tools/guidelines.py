"""`search_guidelines` and `apply_guideline`: what is written, with its page; what is a table, computed."""

import re
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, Kind, PassageRef, RuleRef
from knowledge.guidelines.corpus import CHECKED, Passage
from knowledge.guidelines.rules import RULES, rule
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import EGFR
from tools.patient_facts import facts_of_case


class SearchArguments(BaseModel):
    """What to look for in the guidelines."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(description="The clinical question.", min_length=1, max_length=2000)
    disease: str | None = Field(None, description="Only passages on this disease or organ (brain, lung, liver, breast …).")
    facts: dict[str, Any] = Field(default_factory=dict, description="Known facts (age_years, kps …): passages for other patients "
                                  "are left out.")  # fmt: skip
    limit: int = Field(4, ge=1, le=10)


class SearchGuidelines(CaseTool):
    """Guideline passages by meaning and words."""

    name: str = "search_guidelines"
    description: str = (
        "Search dated guideline passages (Chroma); gives passages with document, version, section and how far checked."
    )
    args_schema: type[BaseModel] = SearchArguments
    asks: ClassVar[list[str]] = [
        "What do guidelines recommend after surgery?", "Which treatment is standard?", "What is the recommended follow-up?",
        "What does the guideline say about contrast?", "First line options?", "How is response assessed?",
        "When is radiosurgery recommended?", "What does WHO 2021 say?", "What would you usually offer?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(case=False)
    gives: ClassVar[list[Kind]] = [Kind.GUIDELINE]
    card: ClassVar[Card] = Card(
        intended_use="Finds passages of the corpus in the box.", accuracy="Tests on questions of the sample case.",
        limits="A first corpus in our own words; each passage says how far its facts were checked.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.05, memory_mb=300)

    def answer(self, arguments: SearchArguments) -> Reply:
        hits = self.bench.resources.guidelines.search(arguments.query, arguments.limit, arguments.disease, arguments.facts)
        if not hits:
            missing = Missing(what="a guideline passage", why="the corpus holds none on this", would_change="it could be cited")
            return Reply(text="The corpus holds no passage on this.", missing=[missing])
        facts = [_passage_fact(h.passage) for h in hits]
        return Reply(text="\n".join(f.statement for f in facts), facts=facts)


def _passage_fact(passage: Passage) -> Fact:
    strength = f" [{passage.strength}]" if passage.strength else ""
    doubt = "" if passage.checked == "source" else f" ({CHECKED[passage.checked]})"
    statement = f"{passage.text}{strength}{doubt}"
    source = PassageRef(document=passage.document, version=passage.version, date=passage.date, section=passage.section,
                        page=passage.page, passage_id=passage.id)  # fmt: skip
    return Fact(kind=Kind.GUIDELINE, title=f"{passage.document}: {passage.section}", statement=statement, value=passage.text,
                source=source)  # fmt: skip


class ApplyArguments(BaseModel):
    """Which rule, and the facts that aren't in the record."""

    model_config = ConfigDict(extra="forbid")
    guideline: str = Field(description=f"One of {', '.join(RULES)}.")
    facts: dict[str, Any] = Field(default_factory=dict, description="Facts by name, as the rule's schema has them; what the "
                                  "record holds is filled in.")  # fmt: skip


class ApplyGuideline(CaseTool):
    """Computed guidelines."""

    name: str = "apply_guideline"
    description: str = "Compute a guideline that is a table (GBM first line, WHO glioma, eGFR for contrast, RANO, RECIST, Fleischner, doubling time)."
    args_schema: type[BaseModel] = ApplyArguments
    asks: ClassVar[list[str]] = [
        "Is her kidney function good enough for gadolinium?", "What is the eGFR?", "Which response category is this by RANO?",
        "RECIST response?", "What do guidelines recommend for a 58-year-old with KPS 90?", "Fleischner follow-up for a 7 mm nodule?",
        "What is the doubling time?", "What is the WHO integrated diagnosis?", "Can she have contrast?", "Which treatment after surgery?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(case=False)
    gives: ClassVar[list[Kind]] = [Kind.RULE]
    card: ClassVar[Card] = Card(
        intended_use="Categories and numbers by published tables.", accuracy="All worked cases of the rules in the box pass (tests).",
        limits="A rule whose facts await a check says so; options, never orders.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.01)

    def answer(self, arguments: ApplyArguments) -> Reply:
        chosen = rule(arguments.guideline)
        known = facts_of_case(self.bench.case, chosen) if self.bench.case is not None else {}
        inputs = {**known, **arguments.facts}
        differing = [n for n, v in arguments.facts.items() if n in known and known[n] != v]
        conflicts = [f"The question gives {_spoken(n, arguments.facts[n], chosen.spec['facts'][n])}, the record "
                     f"{_spoken(n, known[n], chosen.spec['facts'][n])}; the question's value was used." for n in differing]  # fmt: skip
        outcome = chosen.apply(inputs)
        title = chosen.spec["title"]
        spoken = ", ".join(_spoken(n, v, chosen.spec["facts"][n]) for n, v in inputs.items())
        numbers = ", ".join(
            f"{_quantity(n)} {v:g} {chosen.spec['values'][n]['unit'].replace('m2', ' m²')}" for n, v in outcome.values.items()
        )
        if outcome.refusal:
            statement = f"{title} does not apply: {outcome.refusal}."
        elif outcome.category is None and not outcome.values:
            statement = f"{title} gives no category yet; missing: {', '.join(outcome.missing)}. {outcome.recommendation}".strip()
        else:
            head = f"{outcome.category}" if outcome.category else numbers
            tail = f" ({numbers})" if outcome.category and numbers else ""
            statement = f"By {title} ({spoken}): {head}{tail}. {outcome.recommendation}".strip()
        statement = " ".join([statement, *conflicts])
        if not chosen.checked:
            statement += " (This rule's facts await a check against the source.)"
        value = {"category": outcome.category, "recommendation": outcome.recommendation, "values": outcome.values,
                 "checked": chosen.checked}  # fmt: skip
        source = RuleRef(rule=chosen.name, document=f"{chosen.document} ({chosen.spec['version']})", section=chosen.section,
                         inputs=inputs, missing=outcome.missing)  # fmt: skip
        fact = Fact(kind=Kind.RULE, title=title, statement=statement, value=value, source=source,
                    code=EGFR if chosen.name == "egfr_contrast" else None)  # fmt: skip
        meanings = chosen.spec["facts"]
        missing = [Missing(what=n.replace("_", " "), why=meanings[n]["meaning"], would_change=f"the result of: {title}")
                   for n in outcome.missing]  # fmt: skip
        return Reply(text=statement, facts=[fact], missing=missing, conflicts=conflicts)


_NAMES = {"kps": "KPS", "idh_status": "IDH", "mgmt_status": "MGMT", "creatinine_umol_l": "creatinine", "age_years": "age"}


def _spoken(name: str, value: Any, spec: dict[str, Any]) -> str:
    """A fact in words: age 58 years, KPS 90, creatinine 71 µmol/L."""
    shown = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).replace("_", " ")
    unit = f" {spec['unit'].replace('umol', 'µmol')}" if spec.get("unit") and spec["unit"] != "1" else ""
    plain = re.sub(r"_(mm2|mm3|mm|ml|umol_l|years|days)$", "", name).replace("_", " ")
    return f"{_NAMES.get(name) or plain} {shown}{unit}"


def _quantity(name: str) -> str:
    return {"egfr_ml_min_1_73m2": "eGFR"}.get(name, name.rsplit("_", 1)[0].replace("_", " "))
