"""From an understanding to tool calls, round by round: what is wanted, minus what was done, after what it needs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.planner.arguments import arguments
from agent.planner.chains import NODULE, ORDER, RESPONSE, comparable, has_images, ordered, producers, several_dates
from agent.planner.cues import CHART, LOBE, MARKER, STAGES
from agent.planner.understand import NEAR, SIMILAR, Understanding, imaged
from knowledge.guidelines.adding import DISEASES
from knowledge.guidelines.rules import RULES


@dataclass(frozen=True)
class Call:
    """A tool call to be."""

    tool: str
    arguments: dict[str, Any]


Abstention = str
"""Why the built-in planner abstains: a key of the phrase catalogues."""

TOOL_OF = {
    "size": ["segment", "measure"],
    "count": ["detect"],
    "texture": ["segment", "radiomics"],
    "look": ["look"],
    "see": ["list_studies", "segment", "measure"],
    "where": ["segment"],
    "finding": ["retrieve_reports"],
    "type": ["classify"],
    "cancer": ["classify"],
    "report": ["retrieve_reports"],
    "summary": ["list_studies", "retrieve_reports", "patient_record"],
    "metadata": ["explain_image_metadata"],
    "privacy": ["list_studies", "explain_image_metadata"],
    "list": ["list_studies"],
    "drawn": ["read_annotations"],
    "draft": ["detect", "segment", "measure", "draft_report"],
    "check": ["detect", "segment", "measure", "check_report"],
    "similar": ["segment", "radiomics", "find_similar_cases"],
    "quiz": ["education_quiz"],
    "differential": ["differential_diagnosis"],
    "signs": ["imaging_signs"],
    "followups": ["follow_up"],
    "urgent": ["retrieve_reports"],
    "indication": ["retrieve_reports"],
}
MARGIN = 0.05
"""An installed tool is called where the question is as like its own examples as another tool's, within this cosine."""
_ABOUT_A_CASE = {*TOOL_OF, "growth", "course", "record", "planning", "advised"}
ON_PIXELS = {"detect", "segment", "classify", "measure", "compare_studies", "radiomics", "look"}
"""Tools that need an image."""
OF_KNOWLEDGE = {"differential", "signs", "quiz"}
"""Intents that the knowledge base answers in general, without a case."""
OWN_WORK = {"draft": "draft_report", "check": "check_report", "similar": "find_similar_cases", "quiz": "education_quiz"}
"""Intents that one tool alone serves: where it isn't offered, the answer says so."""


def refusal(asked: Understanding, case: dict[str, Any] | None) -> Abstention | None:
    """Why no tool is called at all, if so."""
    if "hostile" in asked.intents:
        return None if quoted_order(asked, case) else "out_of_scope"
    if "help" in asked.intents and not set(asked.intents) - {"help", "explain"}:
        return "help"
    if "outside" in asked.intents:
        return "out_of_scope"
    if set(asked.intents) == {"trials"}:
        return "no_register"
    if "by_hand" in asked.intents and not set(asked.intents) & {"draft", "check", "list", "order", "guideline"}:
        return "by_hand"
    if "order" in asked.intents and not (set(asked.intents) & OWN_WORK.keys() or _is_question(asked.english)):
        return "order"
    if (
        not (asked.intents or asked.rules or asked.premise or asked.organ or asked.absent)
        and max(asked.tools.values(), default=0.0) < NEAR
    ):
        return "out_of_scope"
    wants_case = set(asked.intents) & _ABOUT_A_CASE
    if case is None and wants_case and not (set(asked.intents) & {"guideline", "contrast", *OF_KNOWLEDGE} or asked.rules):
        return "no_case"
    return None


def _is_question(english: str) -> bool:
    return bool(
        re.match(
            r"(can|could|should|may) (i|we|she|he|they)\b|(is|are|what|which|when|how|why|does|do) (?!many mg)", english, re.I
        )
    ) and not re.search(r"\bwhat dose\b|\bexact dose\b|\bdose (should|shall)\b", english, re.I)


def quoted_order(asked: Understanding, case: dict[str, Any] | None) -> bool:
    """True where the asker wants an instruction followed that stands in a document of the case: it is shown, and not followed."""
    return (
        case is not None
        and bool(case.get("reports"))
        and bool(re.search(r"\breport|\bdicom|\bdocument|\bletter|\bpdf\b|\bnote", asked.english, re.I))
        and bool(re.search(r"\bfollow|\bobey|\bdo (what|as)|\bsays?\b", asked.english, re.I))
    )


def wanted(asked: Understanding, case: dict[str, Any] | None, tools: Sequence[dict[str, Any]], found: bool) -> list[Call]:
    """Every call that the question needs, in order. `found`: a premise in doubt was confirmed by the record or reports."""
    offered = [t["name"] for t in tools]
    special = _special(asked, case, found)
    calls = special if special is not None else _all_calls(asked, case, tools)
    unique = {(c.tool, str(c.arguments)): c for c in calls if c.tool in offered}
    return list(unique.values())


def _special(asked: Understanding, case: dict[str, Any] | None, found: bool) -> list[Call] | None:
    """Questions that are settled before anything else: an order in a document, a premise in doubt, something the case lacks."""
    if "hostile" in asked.intents:
        return [Call("retrieve_reports", {"query": asked.subject[:2000]})]
    if asked.premise and not found:
        return [Call("patient_record", {"topics": [asked.premise, *_disease(asked.premise)]}),
                Call("retrieve_reports", {"query": asked.premise})]  # fmt: skip
    if len(asked.readings) > 1:
        return []
    if asked.organ or asked.absent or asked.ask_back:
        return [Call("list_studies", {})]
    if undefined_here(asked, case):
        return [Call("explain_image_metadata", arguments("explain_image_metadata", asked))]
    if "planning" in asked.intents and case is not None and not asked.rules and "draft" not in asked.intents:
        calls = [Call("patient_record", {"topics": [], "for_treatment_of": "this"})]
        return calls + _rules(asked, case) if "guideline" in asked.intents else calls
    if "followups" in asked.intents and not asked.rules:
        return [Call("follow_up", {})]
    if "advised" in asked.intents and "report" in asked.intents:
        query = {"query": asked.subject[:2000], "recommendations": True}
        return [Call("retrieve_reports", {**query, **({"last": True} if asked.last else {})})]
    return None


def undefined_here(asked: Understanding, case: dict[str, Any] | None) -> bool:
    """True for Hounsfield units of images that have none."""
    images = imaged(case)
    return bool(images and re.search(r"\bhounsfield|\bhu\b", asked.english, re.I)) and not any(
        {"CT", "PT"} & set(s["modality"]) for s in images
    )


def _all_calls(asked: Understanding, case: dict[str, Any] | None, tools: Sequence[dict[str, Any]]) -> list[Call]:
    names = _names(asked, case)
    rules = _rules(asked, case)
    for call in rules if not _bare_guideline(asked) else []:
        brings = (
            producers(call.arguments["guideline"], asked, case, call.arguments["facts"]) if "course" not in asked.intents else []
        )
        names += [b for b in brings if "report" not in asked.intents or b in ("retrieve_reports", "patient_record")]
    if set(asked.intents) & {"guideline", "contrast"} and not asked.counterfactual:
        if "guideline" in asked.intents or re.search(r"gadolin|contrast|iodin|safe|nsf", asked.english, re.I):
            names.append("search_guidelines")
        if case and case.get("records") and "contrast" not in asked.intents and not _bare_guideline(asked):
            names.append("patient_record")
    calls: list[Call] = []
    for name in ordered(names):
        calls += _calls(name, asked, case)
    calls = [c for c in calls if c.tool != "search_guidelines"] + rules + [c for c in calls if c.tool == "search_guidelines"]
    joined = _third_parties(asked, tools, {c.tool for c in calls})
    if calls or joined:
        return _after_needs([*calls, *joined], asked, tools)
    general = ("search_guidelines", "apply_guideline", "differential_diagnosis", "imaging_signs")
    own = set(OWN_WORK.values())  # work of its own is done where it is asked for in words, never for likeness
    scored = {t: s for t, s in asked.tools.items() if t not in own and (case is not None or t in general)}
    best = sorted(((s, t) for t, s in scored.items() if s >= SIMILAR), reverse=True)[:2]
    best = best or sorted(((s, t) for t, s in scored.items() if s >= NEAR), reverse=True)[:1]
    return _after_needs([Call(t, arguments(t, asked)) for _, t in best if t != "apply_guideline"], asked, tools)


def _names(asked: Understanding, case: dict[str, Any] | None) -> list[str]:
    """Tools of the intents; what a narrower reading makes needless is left out."""
    intents = set(asked.intents)
    if intents & OWN_WORK.keys():
        intents -= {"report", "finding", "growth", "type", "metadata"}
        if "draft" in intents and "summary" not in intents and re.search(r"\bboard\b|\bsummary\b", asked.english, re.I):
            intents.add("summary")
    if (
        intents & {"count", "size", "growth", "see", "where", "type", "record", "guideline", "metadata", "contrast"}
        or asked.rules
    ):
        intents.discard("finding")
    if "followups" in intents:
        intents -= {"guideline", "report", "growth", "advised", "list"}
    if "signs" in intents:
        intents -= {"finding", "see", "count"}
    if intents & {"report"}:
        intents -= {"count", "finding", "see"} if "draft" not in intents else set()
    if "who_cns_2021_glioma" in asked.rules or (asked.rules and not intents & {"cancer"}):
        intents -= {"type", "where"} if not re.search(r"\bwhere\b", asked.english, re.I) else {"type"}
    if asked.rules and not asked.counterfactual:
        intents -= {"see"}
    if "metadata" in intents and asked.values_of:
        intents = (intents - {"metadata"}) | {"size"}
    if (
        "record" in intents
        and "growth" in intents
        and not re.search(r"\btumou?r|\blesion|\bnodule|\bmass\b|\bscan|\bmri?\b|\bct\b|\bvolume", asked.english, re.I)
    ):
        intents.discard("growth")  # a value of the record over time
    if "indication" in intents:
        intents -= {"guideline", "explain", "finding", "record"}
    if "urgent" in intents:
        intents -= {"finding", "type"}
    if "record" in intents:
        intents -= _no_images(asked.english)
    if "privacy" in intents:
        intents -= {"finding", "type", "list"}
    if "list" in intents:
        intents -= {"growth", "finding", "count"}
    if asked.counterfactual:
        intents -= {"size", "growth", "record", "guideline", "count", "finding"}
    found = [t for i in asked.intents if i in intents for t in TOOL_OF.get(i, [])]
    found += [t for i in intents - set(asked.intents) for t in TOOL_OF.get(i, [])]
    if "where" in intents and (case or {}).get("reports") and re.search(LOBE, asked.english, re.I):
        found.append("retrieve_reports")  # the outline tells halves and thirds; a lobe is named by who looked
    if "count" in intents and (re.search(r"\bmets?\b|metasta", asked.english, re.I) or "size" in intents):
        found += ["segment", "measure"]
    if "cancer" in intents and any({"CT", "MR"} & set(s["modality"]) for s in imaged(case)):
        found += ["detect", "segment", "measure"]
    if "course" in intents:
        found += ["compare_studies"] if several_dates(case) else ["list_studies"]
        intents.discard("growth")
    if "growth" in intents and not asked.rules:
        found += ["list_studies", "segment", "measure", "compare_studies"] if several_dates(case) else ["list_studies"]
    found += _record_names(asked, case, intents)
    if case is not None and not has_images(case) and set(found) & ON_PIXELS:
        found = [t for t in found if t not in ON_PIXELS] or ["list_studies"]
    if "draft" in intents and "summary" in intents and case is not None:
        found += ["search_guidelines", "segment"]
    return found


def _no_images(english: str) -> set[str]:
    """Intents that a question on the record has by its words alone: any abnormal labs? list the results; which diagnoses are known?"""
    if re.search(
        r"\b(mri?s?|cts?|pet|ultrasound|images?|imaging|scans?|stud(y|ies)|series|tumou?rs?|lesions?|mass(es)?|nodules?)\b",
        english,
        re.I,
    ):
        return set()
    known = {"type", "differential"} if re.search(r"\bdiagnos[ei]s\b|\bproblem list\b", english, re.I) else set()
    values = (
        {"see", "list", "finding"} if re.search(rf"\blabs?\b|\blaborator|\bblood\b|\bvalues?\b|{CHART}", english, re.I) else set()
    )
    return known | values


def _bare_guideline(asked: Understanding) -> bool:
    """True for a question on what guidelines say in general, about nobody."""
    general = re.search(
        r"\baccording to (the )?\w+ guideline|\b(what )?do(es)? (the )?(who|acr|easl|aasld|eano|nccn|esmo|astro|fleischner|bts|eau|aua|iaslc)\b",
        asked.english,
        re.I,
    )
    return bool(general) and not re.search(r"\b(her|him|his|this|she|he|our|the patient)\b", asked.english, re.I)


def _record_names(asked: Understanding, case: dict[str, Any] | None, intents: set[str]) -> list[str]:
    if "contrast" in intents:
        return ["patient_record"]
    if "record" not in intents:
        return []
    marker = re.search(rf"{MARKER}|\b(mutations?|molecular|genetics?)\b", asked.english, re.I)
    found = [] if "report" in intents and not marker else ["patient_record"]
    if asked.rules and case is not None and not case.get("records") and asked.facts:
        found = []
    if marker and case is not None and not asked.rules:
        recorded = re.search(marker.group(0), " ".join(case.get("records", [])), re.I)
        reports = case.get("reports", [])
        from_tissue = r"patholog|molecul|histolog|ngs|biops|gene"
        if (reports and not recorded) or any(
            re.search(from_tissue, f"{r.get('title') or ''} {r.get('kind') or ''}", re.I) for r in reports
        ):
            found.append("retrieve_reports")
        if (
            not (recorded or reports)
            and has_images(case)
            and re.search(r"idh|mgmt|1p|tert|atrx|h3", marker.group(0), re.I)
            and "guideline" not in intents
        ):
            found.append("classify")
    return found


def _third_parties(asked: Understanding, tools: Sequence[dict[str, Any]], planned: set[str]) -> list[Call]:
    """Tools that the planner knows by their statement alone, where the question is like what they say they're asked for."""
    known = {t for names in TOOL_OF.values() for t in names} | set(ORDER)
    least = max(
        SIMILAR, max(asked.tools.values(), default=0.0) - MARGIN
    )  # a question that is another tool's own isn't taken from it
    found = []
    for tool in tools:
        name = tool["name"]
        if name in known or name in planned or asked.tools.get(name, 0.0) < least:
            continue
        fields = tool.get("parameters", {}).get("properties", {})
        needed = set(tool.get("parameters", {}).get("required", []))
        filled: dict[str, Any] = {}
        for field in fields:
            if field in ("query", "question", "text", "q") and fields[field].get("type") == "string":
                filled[field] = asked.english[:500]
            elif field == "study" and asked.handle and asked.handle.startswith("S"):
                filled[field] = asked.handle.split(".")[0]
            elif field in asked.facts:
                filled[field] = asked.facts[field]
        if needed <= set(filled):
            found.append(Call(name, filled))
    return found


def _after_needs(calls: Sequence[Call], asked: Understanding, tools: Sequence[dict[str, Any]]) -> list[Call]:
    """The calls with what their tools come after put before them, as the tools state it (`needs.after`)."""
    after = {t["name"]: t.get("needs", {}).get("after", []) for t in tools}
    done: list[Call] = []

    def add(call: Call, depth: int = 0) -> None:
        for earlier in after.get(call.tool, []) if depth < 4 else []:
            if earlier not in {c.tool for c in [*done, *calls]}:
                add(Call(earlier, {k: v for k, v in call.arguments.items() if k in ("study", "target", "at")}), depth + 1)
        done.append(call)

    for call in calls:
        add(call)
    return done


def _calls(name: str, asked: Understanding, case: dict[str, Any] | None) -> list[Call]:
    """The calls of one tool: one for each study where change over time is asked for, otherwise one."""
    changes = "growth" in asked.intents or set(asked.rules) & RESPONSE
    handles = list(dict.fromkeys(x.split(".")[0] for x in asked.handles if x.startswith("S"))) or comparable(case)
    if name == "measure" and changes and len(handles) > 1:
        target = {"target": asked.target} if asked.target else {}
        return [Call(name, {"study": h, **target}) for h in handles]
    if name == "compare_studies":
        return [Call(name, {"studies": _compared(asked, case, handles), **({"target": asked.target} if asked.target else {})})]
    return [Call(name, arguments(name, asked, case))]


def _compared(asked: Understanding, case: dict[str, Any] | None, handles: list[str]) -> list[str]:
    """The studies to compare: those named; with one named by its month, that and the newest; otherwise all that can be."""
    if asked.month:
        there = [str(s["handle"]) for s in imaged(case) if asked.month in str(s.get("date") or "") and s["handle"] in handles]
        if there and handles[-1] not in there:
            return [*there[-1:], handles[-1]]
    return handles


def response_rule(case: dict[str, Any] | None) -> str:
    """The response criteria that fit the case: by its words, then by the body part of its newest images."""
    words = _case_words(case)
    if re.search(r"lymphom", words, re.I):
        return "lugano_2014_ct"
    if re.search(r"hepatocellular|\bhcc\b", words, re.I):
        return "mrecist"
    newest = max(imaged(case), key=lambda s: str(s.get("date") or ""), default={})
    return "rano_2_0" if "BRAIN" in str(newest.get("body_part") or "") else "recist_1_1"


def _rules(asked: Understanding, case: dict[str, Any] | None) -> list[Call]:
    if _bare_guideline(asked) and not asked.facts:
        return []  # what a document says is asked for, not what it means for somebody
    names = list(asked.rules)
    records = " ".join((case or {}).get("records", [])).lower()
    if "contrast" in asked.intents:
        names.append("egfr_contrast")
    if "course" in asked.intents and several_dates(case) and not set(names) & RESPONSE:
        names.append(response_rule(case))
    glioblastoma = {"mgmt_status", "kps"} & set(asked.facts) or "glioblastoma" in f"{asked.english.lower()} {records}"
    marker = re.search(r"\bmgmt\b", asked.english, re.I)
    if "guideline" in asked.intents and (glioblastoma or marker) and not asked.rules and "contrast" not in asked.intents:
        names.append("gbm_mgmt_stupp")
    elif (
        "guideline" in asked.intents
        and not names
        and re.search(r"nsclc|lung|adenocarcinoma", _case_words(case), re.I)
        and re.search(r"\bfirst[\s-]line|\boptions?\b|\btreat|\btherap|\bstart\b|\bpembro|\bosimert", asked.english, re.I)
        and re.search(
            r"pd-?l1|egfr|alk|kras|ngs|nsclc|non-small|adenocarcinoma",
            " ".join([records, *(f"{r.get('title') or ''} {r.get('kind') or ''}" for r in (case or {}).get("reports", []))]),
            re.I,
        )
    ):
        names.append("nsclc_first_line")
    elif "draft" in asked.intents and "summary" in {*asked.intents, *_board(asked)} and not names:
        organ = next((d for d, p in DISEASES.items() if re.search(p, f"{asked.english} {_case_words(case)}", re.I)), None)
        if organ in STAGES:
            names.append(STAGES[organ])
    return [
        Call("apply_guideline", {"guideline": n, "facts": _fitting(asked.facts, RULES[n].spec["facts"])})
        for n in dict.fromkeys(names)
    ]


def _board(asked: Understanding) -> set[str]:
    return {"summary"} if re.search(r"\bboard\b|\bstage\b", asked.english, re.I) else set()


def _case_words(case: dict[str, Any] | None) -> str:
    known = case or {}
    return " ".join(
        [
            *known.get("records", []),
            *(f"{s.get('body_part') or ''} {s.get('description') or ''}" for s in known.get("studies", [])),
        ]
    ).replace("CHEST", "lung")


def _fitting(facts: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What the question states, as far as this rule takes it: rules name the same thing with values of their own."""
    found = {}
    for name, value in facts.items():
        spec = known.get(name)
        if spec is None:
            continue
        if name == "sex" and "F" in spec["values"]:
            value = {"female": "F", "male": "M"}.get(value, value)
        if spec["type"] == "enum" and value not in spec["values"]:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not spec.get("minimum", value) <= value <= spec.get("maximum", value):
            continue
        found[name] = value
    return found


_AXES = (("Longest axial diameter", "long_axis_mm"), ("Perpendicular diameter", "short_axis_mm"))
_ONE_AXIS = {"brock_full", "brock_full_no_spiculation", "mayo_swensen_1997", "va_gould_2007"}


@dataclass(frozen=True)
class Given:
    """An evidence as the planner reads it: number and title, and the study that its tool was asked for."""

    tool: str
    number: str
    title: str


def linked(calls: Sequence[Call], done: Sequence[Call], given: Sequence[Given]) -> list[Call]:
    """The calls; a rule on sizes comes after what is measured, and takes its sizes from that evidence by number."""
    waits = [t for t in ("measure", "compare_studies") if any(c.tool == t for c in calls)]
    if not waits:
        return list(calls)
    ran = set(waits) <= {d.tool for d in done}
    kept = []
    for call in calls:
        rule = call.arguments.get("guideline", "")
        if call.tool != "apply_guideline" or rule not in NODULE | {"volume_doubling_time"}:
            kept.append(call)
        elif ran:
            fits = _doubling(given) if rule == "volume_doubling_time" else _nodule(rule, given)
            fits = {n: e for n, e in fits.items() if n not in call.arguments["facts"]}
            kept.append(Call(call.tool, {**call.arguments, **({"evidence": fits} if fits else {})}))
    return kept


def _nodule(rule: str, given: Sequence[Given]) -> dict[str, str]:
    found = {name: g.number for title, name in _AXES for g in given if g.tool == "measure" and g.title.startswith(title)}
    if rule in _ONE_AXIS:
        return {"nodule_diameter_mm": found["long_axis_mm"]} if "long_axis_mm" in found else {}
    return found if rule == "fleischner_2017" else {}


def _doubling(given: Sequence[Given]) -> dict[str, str]:
    """Both volumes and the interval, of the first and the last study that was measured."""
    volumes = [g.number for g in given if g.tool == "measure" and g.title.startswith("Volume") and " of the " not in g.title]
    spans = [g.number for g in given if g.tool == "compare_studies" and g.title.startswith("Interval")]
    if len(volumes) < 2 or not spans:
        return {}
    return {"volume_1_mm3": volumes[0], "volume_2_mm3": volumes[-1], "interval_days": spans[-1]}


def _disease(premise: str) -> list[str]:
    words = premise.lower().split()
    return ["metastases"] if words[-1].startswith("met") else words[:1]


def due(calls: Sequence[Call], done: Sequence[Call], after: dict[str, list[str]]) -> list[Call]:
    """The calls of this round: not yet done, and what they come after is done or not wanted."""
    names = {c.tool for c in calls}
    finished = {c.tool for c in done}
    left = [c for c in calls if (c.tool, c.arguments) not in [(d.tool, d.arguments) for d in done]]
    return [c for c in left if all(a in finished or a not in names for a in after.get(c.tool, []))]
