"""Means and ends: which tools bring the facts that a rule still lacks."""

import re
from collections.abc import Sequence
from typing import Any

from agent.planner.cues import RULE_CUES, STAGES
from agent.planner.understand import Understanding, imaged
from knowledge.guidelines.rules import RULES
from tools.patient_facts import recordable

RESPONSE = {"rano_2_0", "recist_1_1", "irecist", "mrecist", "lugano_2014_pet", "lugano_2014_ct", "volume_doubling_time"}
"""Rules on change between examinations."""
NODULE = {"fleischner_2017", "lung_rads_2022", "brock_full", "brock_full_no_spiculation", "mayo_swensen_1997", "va_gould_2007"}
"""Rules on a nodule that a detector can find and that can be measured in the case's images."""
_SIZE_UNITS = {"mm", "mm2", "mm3", "mL", "cm3", "HU"}


def producers(name: str, asked: Understanding, case: dict[str, Any] | None, facts: dict[str, Any]) -> list[str]:
    """Tools that bring what rule `name` lacks after what the question states, as far as the case has something to look at."""
    rule = RULES.get(name)
    if rule is None or case is None or asked.counterfactual or states_category(name, asked.english):
        return []
    spec = rule.spec["facts"]
    outcome = rule.apply(facts)
    unsettled = bool(outcome.missing) and outcome.category is None
    lacking = {n for n in spec if n not in facts}
    numbers = any(isinstance(v, int | float) and not isinstance(v, bool) for v in facts.values())
    told_change = (
        name in RESPONSE
        and len([n for n in facts if re.search(r"_(nadir|current|baseline)_|_[12]_|nadir_sum|current_sum", n)]) >= 2
    )
    images, several = has_images(case), several_dates(case)
    found: list[str] = []
    staged = name in STAGES.values()
    if images and not told_change:
        if several and (name in RESPONSE or "growth" in asked.intents):
            found += ["list_studies", "segment", "measure", "compare_studies"]
        elif name not in RESPONSE:
            if _required(spec, lacking, "_count") and not staged:
                found.append("detect")
            sized = any(s.get("unit") in _SIZE_UNITS for n, s in spec.items() if n in lacking or staged)
            if sized and "t_category" not in facts and (unsettled or staged or name in NODULE):
                found += ["detect", "segment", "measure"] if name in NODULE else ["segment", "measure"]
    if case.get("reports") and name != "egfr_contrast":
        found.append("retrieve_reports")
    names = " ".join(case.get("records", []))
    relevant = any(recordable(n, names) for n in lacking)
    if (case.get("records") and (relevant or (staged and re.search(r"pd-?l1|egfr|patholog|histolog|ngs|gene", names, re.I)))) or (
        unsettled
        and not numbers
        and not case.get("records")
        and not case.get("reports")
        and any(recordable(n, None) for n in lacking)
        and name not in NODULE
    ):
        found.append("patient_record")
    return list(dict.fromkeys(found))


def states_category(name: str, english: str) -> bool:
    """True where the question itself names a category of the rule (BCLC B): it asks what follows, not which one it is."""
    categories = [c for c in RULES[name].spec.get("categories", []) if isinstance(c, str) and len(c) <= 4]
    cue = RULE_CUES.get(name)
    if not categories or cue is None or name in ("bi_rads", "li_rads_2018", *STAGES.values()):
        return False
    codes = "|".join(sorted(map(re.escape, categories), key=len, reverse=True))
    return bool(re.search(rf"(?:{cue})(?: (?:stage|class|category|grade))?\W{{1,3}}(?:{codes})\b", english, re.I))


def _required(spec: dict[str, Any], lacking: set[str], ending: str) -> bool:
    return any(spec[n].get("required") for n in lacking if n.endswith(ending))


def has_images(case: dict[str, Any] | None) -> bool:
    """True where the case has something that shows a patient."""
    return bool(imaged(case))


def several_dates(case: dict[str, Any] | None) -> bool:
    """True where two studies, or one that says it holds several time points, show the same body part."""
    studies = imaged(case)
    parts = [s["body_part"] for s in studies]
    told = " ".join(str(s.get("description") or "") for s in studies)
    return any(parts.count(p) > 1 for p in parts) or bool(re.search(r"\b(before and after|baseline and|baseline, )", told, re.I))


def comparable(case: dict[str, Any] | None) -> list[str]:
    """Handles of the studies that show the newest study's body part, oldest first."""
    studies = imaged(case)
    groups = [[s for s in studies if s["body_part"] == t["body_part"]] for t in studies]
    best = max(groups, key=len, default=[])
    return [str(s["handle"]) for s in sorted(best, key=lambda s: str(s.get("date") or ""))]


def ordered(tools: Sequence[str]) -> list[str]:
    """Tools in the order of a plan: what is there, what is seen, what is written, what is computed, what is advised."""
    rank = {n: i for i, n in enumerate(ORDER)}
    return sorted(dict.fromkeys(tools), key=lambda t: rank.get(t, len(rank)))


ORDER = ["list_studies", "explain_image_metadata", "detect", "segment", "classify", "measure", "compare_studies", "radiomics", "look", "retrieve_reports",
         "patient_record", "apply_guideline", "differential_diagnosis", "imaging_signs", "follow_up", "search_guidelines", "draft_report", "check_report", "education_quiz"]  # fmt: skip
