"""`apply_guideline`: guidelines that are tables, computed from facts that each say where they come from."""

import re
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, Kind, Origin, RuleRef
from knowledge.guidelines.rules import RULES, Outcome, Rule
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import EGFR
from tools.considerations import RULES_OF_TREATMENT, considered
from tools.errors import NotApplicable, TryAgain
from tools.patient_facts import facts_of_case, from_evidence, origin_of
from tools.response import SUMS, assess
from tools.response import Known as FromElsewhere


class ApplyArguments(BaseModel):
    """Which rule, and the facts that aren't in the record."""

    model_config = ConfigDict(extra="forbid")
    guideline: str = Field(description=f"One of {', '.join(RULES)}, or a rule of the hospital's own.")
    facts: dict[str, Any] = Field(default_factory=dict, description="Facts by name, as the rule's schema has them; what the record "
                                  "and the reports hold is filled in.")  # fmt: skip
    evidence: dict[str, str] = Field(default_factory=dict, description="Facts whose value an evidence of this conversation gives: name of "
                                     "the fact and number of the evidence (E3); units are converted.")  # fmt: skip


class ApplyGuideline(CaseTool):
    """Computed guidelines."""

    name: str = "apply_guideline"
    description: str = (
        "Compute a guideline that is a table: nodule follow-up and risk (Fleischner, Lung-RADS, Brock, Mayo), LI-RADS, BI-RADS, PI-RADS, "
        "TI-RADS, O-RADS, Bosniak, response (RECIST, iRECIST, mRECIST, RANO, Lugano), TNM, WHO glioma, GBM and NSCLC first line, BCLC, "
        "Child-Pugh, ALBI, brain metastases (ASTRO, GPA), eGFR for contrast, doubling time. Response rules measure the outlined lesions of the "
        "case's dated studies themselves where no sums are given, and make a worksheet."
    )
    args_schema: type[BaseModel] = ApplyArguments
    asks: ClassVar[list[str]] = [
        "Is her kidney function good enough for gadolinium?", "What is the eGFR?", "Which response category is this by RANO?",
        "RECIST response?", "What do guidelines recommend for a 58-year-old with KPS 90?", "Fleischner follow-up for a 7 mm nodule?",
        "What is the doubling time?", "What is the WHO integrated diagnosis?", "Can she have contrast?", "Which treatment after surgery?",
        "Which Lung-RADS category?", "LI-RADS of this observation?", "Which BI-RADS management?", "PI-RADS overall category?",
        "Does this thyroid nodule need a biopsy?", "Bosniak class of this cyst?", "What stage is this cancer (TNM)?", "Child-Pugh class?",
        "BCLC stage?", "How likely is this nodule malignant (Brock)?", "Is radiosurgery an option for three brain metastases?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(case=False)
    gives: ClassVar[list[Kind]] = [Kind.RULE, Kind.RECORD, Kind.REPORT, Kind.MEASUREMENT, Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="Categories and numbers by published tables.", accuracy="All 148 worked cases of the rules in the box pass (tests).",
        limits="A rule whose facts await a check says so; options, never orders.", version="2",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.01)

    @classmethod
    def described(cls) -> dict[str, Any]:
        """With each rule's typed inputs, as the rule has them."""
        return {**super().described(), "rules": _every_input()}

    def answer(self, arguments: ApplyArguments) -> Reply:
        chosen = self.bench.resources.rules.rule(arguments.guideline)
        known = facts_of_case(self.bench.case, chosen) if self.bench.case is not None else {}
        inputs = {n: k.value for n, k in known.items()}
        origins = {n: k.origin for n, k in known.items()}
        conflicts = [k.conflict for k in known.values() if k.conflict]
        specs = chosen.spec["facts"]
        given = self._linked(arguments.evidence, specs)
        for name, (value, origin) in {**given, **{n: (v, Origin(kind="question")) for n, v in arguments.facts.items()}}.items():
            if name in inputs and inputs[name] != value and name in specs:
                conflicts.append(f"The {_from(origin)} gives {spoken(name, value, specs[name])}, the {_from(origins[name])} "
                                 f"{spoken(name, inputs[name], specs[name])}; the {_from(origin)}'s value was used.")  # fmt: skip
            inputs[name], origins[name] = value, origin
        unmeasured: list[Missing] = []
        if chosen.name in SUMS and self.bench.case is not None and not {*given, *arguments.facts} & SUMS[chosen.name]:
            try:
                elsewhere = {n: FromElsewhere(v, origins[n]) for n, v in inputs.items() if n not in SUMS[chosen.name]}
                return assess(self.bench, chosen, elsewhere)
            except NotApplicable as error:
                unmeasured = [
                    Missing(
                        what="the lesions' own sizes over time",
                        why=str(error),
                        would_change=f"{error.hint}: sums and category would follow",
                    )
                ]
        _drop_alternatives(inputs, origins, {*given, *arguments.facts}, chosen)
        outcome = chosen.apply(inputs)
        statement = " ".join([_statement(chosen, outcome, inputs), *conflicts])
        if not chosen.checked:
            statement += " (This rule's facts await a check against the source.)"
        value = {"category": outcome.category, "recommendation": outcome.recommendation, "values": outcome.values,
                 "checked": chosen.checked}  # fmt: skip
        source = RuleRef(rule=chosen.name, document=f"{chosen.document} ({chosen.spec['version']})", section=chosen.section,
                         inputs=inputs, missing=outcome.missing, origins=origins, would_change=outcome.would_change)  # fmt: skip
        fact = Fact(kind=Kind.RULE, title=chosen.spec["title"], statement=statement, value=value, source=source,
                    code=EGFR if chosen.name == "egfr_contrast" else None)  # fmt: skip
        stands_on = [k.fact for n, k in known.items() if k.fact is not None and origins.get(n) == k.origin]
        weighed: list[Fact] = []
        unknown: list[Missing] = []
        if self.bench.case is not None and chosen.name in RULES_OF_TREATMENT and not outcome.refusal:
            weighed, grounds, unknown = considered(self.bench.case, chosen.name, outcome.recommendation, inputs)
            stands_on = [*stands_on, *grounds]
        text = "\n".join([statement, *(f.statement for f in weighed)])
        return Reply(
            text=text,
            facts=[fact, *weighed, *_once(stands_on)],
            missing=[*_lacking(chosen, outcome), *unknown, *unmeasured],
            conflicts=conflicts,
        )

    def _linked(self, evidence: dict[str, str], specs: dict[str, Any]) -> dict[str, tuple[Any, Origin]]:
        """Values of numbered evidence, in the units of the facts. Raises TryAgain where a number or a unit doesn't fit."""
        found = {}
        for name, number in evidence.items():
            one = self.bench.evidence(number)
            if one is None:
                raise TryAgain(
                    f"there is no evidence {number!r} in this conversation", "name one that exists, or give the fact itself"
                )
            if name not in specs:
                raise TryAgain(f"the rule knows no fact {name!r}", f"its facts are {sorted(specs)}")
            value = from_evidence(one, specs[name])
            if value is None:
                raise TryAgain(f"{number} gives no value that fits {name} ({specs[name].get('unit') or specs[name]['type']})",
                               "take another evidence, or give the fact itself")  # fmt: skip
            found[name] = (value, origin_of(one))
        return found


@cache
def _every_input() -> dict[str, Any]:
    """The inputs of the rules in the box."""
    return {n: inputs_of(r) for n, r in RULES.items()}


def inputs_of(rule: Rule) -> dict[str, Any]:
    """What a rule is, needs and gives, typed."""
    spec = rule.spec
    return {"title": spec["title"], "version": spec["version"], "document": rule.document, "section": rule.section, "checked": rule.checked,
            "facts": spec["facts"], "one_of": spec.get("one_of", []), "categories": spec.get("categories", []),
            "values": spec.get("values", {})}  # fmt: skip


def _drop_alternatives(inputs: dict[str, Any], origins: dict[str, Origin], given: set[str], rule: Rule) -> None:
    """What was asked with replaces what the case says in another form (a size in place of two axes)."""
    for group in rule.spec.get("one_of", []):
        if any(set(choice) <= given for choice in group):
            for name in {n for choice in group for n in choice} - given:
                inputs.pop(name, None)
                origins.pop(name, None)


def _from(origin: Origin) -> str:
    return {"question": "question", "patient": "record", "measurement": "measurement"}.get(origin.kind, origin.kind)


def _once(facts: list[Fact]) -> list[Fact]:
    return list({(f.kind, f.statement): f for f in facts}.values())


def _statement(rule: Rule, outcome: Outcome, inputs: dict[str, Any]) -> str:
    title, specs = rule.spec["title"], rule.spec["facts"]
    shown = ", ".join(spoken(n, v, specs[n]) for n, v in inputs.items())
    numbers = ", ".join(f"{_quantity(n)} {v:g}{_unit(rule.spec['values'][n]['unit'])}" for n, v in outcome.values.items())
    if outcome.refusal:
        return f"{title} does not apply: {outcome.refusal}."
    if outcome.category is None and not outcome.values:
        lacking = f"; missing: {', '.join(m.replace('_', ' ') for m in outcome.missing)}" if outcome.missing else ""
        return f"{title} gives no category yet{lacking}. {outcome.recommendation}".strip()
    head = f"{outcome.category}" if outcome.category else numbers
    tail = f" ({numbers})" if outcome.category and numbers else ""
    version = "" if rule.spec["version"] in title else f", {rule.spec['version']}"
    return f"By {title}{version} ({shown}): {head}{tail}. {outcome.recommendation}".strip()


def _lacking(rule: Rule, outcome: Outcome) -> list[Missing]:
    specs, title = rule.spec["facts"], rule.spec["title"]
    return [Missing(what=n.replace("_", " "), why=specs[n]["meaning"],
                    would_change=outcome.would_change.get(n) or f"the result of: {title}") for n in outcome.missing]  # fmt: skip


_NAMES = {"kps": "KPS", "idh_status": "IDH", "mgmt_status": "MGMT", "creatinine_umol_l": "creatinine", "age_years": "age", "ecog_ps": "ECOG",
          "psa_ng_ml": "PSA", "inr": "INR", "aphe": "arterial hyperenhancement", "dwi_score": "DWI", "t2w_score": "T2W"}  # fmt: skip


def _unit(unit: str | None) -> str:
    return "" if unit in (None, "1") else f" {unit.replace('umol', 'µmol').replace('m2', ' m²')}"


def spoken(name: str, value: Any, spec: dict[str, Any]) -> str:
    """A fact in words: age 58 years, KPS 90, creatinine 71 µmol/L."""
    if isinstance(value, bool):
        shown = "yes" if value else "no"
    elif isinstance(value, list):
        shown = ", ".join(str(v).replace("_", " ") for v in value) or "none"
    else:
        shown = f"{value:g}" if isinstance(value, int | float) else str(value).replace("_", " ")
    unit = f" {spec['unit'].replace('umol', 'µmol')}" if spec.get("unit") and spec["unit"] != "1" else ""
    plain = re.sub(r"_(mm2|mm3|mm|ml|umol_l|mg_dl|g_dl|g_l|ng_ml|years|days|percent)$", "", name).replace("_", " ")
    return f"{_NAMES.get(name) or plain} {shown}{unit}"


def _quantity(name: str) -> str:
    return {"egfr_ml_min_1_73m2": "eGFR", "albi_score": "ALBI score", "gpa_score": "GPA score", "points": "points", "psa_density": "PSA density",
            "probability": "probability"}.get(name, name.rsplit("_", 1)[0].replace("_", " "))  # fmt: skip
