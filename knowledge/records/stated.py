"""Facts for rules that reports state in words: each with the span it was read from. Negated and uncertain words give none."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from knowledge.records.model import Report
from knowledge.records.reading import certainty_of, read
from knowledge.records.reports import Sentence, cut

Value = Callable[[re.Match[str]], Any]


@dataclass(frozen=True)
class Stated:
    """A fact as a report states it."""

    name: str
    value: Any
    report: Report
    sentence: Sentence


def _number(group: int = 1) -> Value:
    return lambda match: int(match.group(group))


_BIRADS = re.compile(r"\b(?:bi-?rads|acr)\s*(?:category|kategorie|cat\.?)?\s*[:=]?\s*(0|1|2|3|4a|4b|4c|5|6)\b", re.I)
# Fact -> (pattern, value) in order; a pattern whose words are denied gives nothing, unless the value stands for the denial itself.
_WORDS: dict[str, list[tuple[str, Any]]] = {
    "kps": [(r"\b(?:kps|karnofsky)[^.\d]{0,30}(\d{2,3})\b", _number())],
    "ecog_ps": [(r"\becog[^.\d]{0,25}([0-4])\b", _number())],
    "idh_status": [(r"\bidh[^.;]{0,40}\b(?:wild[- ]?type|wildtyp|wt|type sauvage|野生型)", "wildtype"), (r"\bidh[- ]?(?:1|2|1/2)?[^.;]{0,20}(?:mutant|mutated|mutiert|r132|mutación|突变型)", "mutant")],
    "mgmt_status": [(r"\bmgmt[^.;]{0,40}(?:unmethylated|not methylated|nicht methyliert|unmethyliert|non méthylé|no metilado|未甲基化)", "unmethylated"),
                    (r"\bmgmt[^.;]{0,40}(?:methylated|methyliert|méthylé|metilado|甲基化)", "methylated")],
    "deauville_score": [(r"\bdeauville[^.\d]{0,15}([1-5])\b", _number())],
    "dwi_score": [(r"\bdwi(?:/adc)?(?: score)?\s*[:=]?\s*([1-5])(?:\s*/\s*5)?\b", _number())],
    "t2w_score": [(r"\bt2w?(?: score)\s*[:=]?\s*([1-5])(?:\s*/\s*5)?\b", _number())],
    "zone": [(r"\bperipheral zone|periphere(?:n)? zone|zone périphérique|zona periférica|外周带", "peripheral"), (r"\btransition(?:al)? zone|transitionalzone|zone de transition|zona de transición|移行带", "transition")],
    "emphysema": [(r"\bemphysem|\bemphysèm|\benfisem|肺气肿", True)],
    "spiculation": [(r"\bspiculat|\bspikul|\bspicul|\bespicul|毛刺", True)],
    "upper_lobe": [(r"\b(?:right|left) upper lobe|\b[rl]ul\b|oberlappen|lobe supérieur|lóbulo superior|上叶", True)],
    "nodule_type": [(r"\bpart[- ]?solid|subsolid mit solid|部分实性", "part_solid"), (r"\bground[- ]?glass|\bggn\b|milchglas|verre dépoli|vidrio deslustrado|磨玻璃", "ground_glass"),
                    (r"\bsolid(?:e[rsn]?)?\b|\bsólido|\bsolide\b|实性", "solid")],
    "tert_promoter_mutation": [(r"\btert[^.;]{0,30}(?:mutation|mutant|mutated|mutiert|mutación|突变)", True)],
    "at_risk_for_hcc": [(r"\bcirrhosis|\bzirrhose|\bcirrhose|\bcirrosis|肝硬化|\bchronic hepatitis b\b|\bchronische hepatitis b\b", True)],
    "enhancing_capsule": [(r"\benhancing capsule|capsule appearance", True)],
    "nonperipheral_washout": [(r"\bwash-?out\b", True)],
    "macrovascular_invasion": [(r"\b(?:portal vein|macrovascular) invasion|tumou?r in vein|pfortaderinvasion", True)],
}  # fmt: skip
_NODULE = re.compile(r"\bnodul|\bnódul|\brundherd|结节|\bopacity\b", re.I)
_LESION = re.compile(r"\bnodul|\bnódul|\brundherd|结节|\bmass\b|\blesion|\btumou?r|\bläsion|\braumforderung|肿块|占位", re.I)
_OF_NODULE = ("spiculation", "upper_lobe", "nodule_type")


def stated(name: str, reports: Sequence[Report], wanted: dict[str, Any]) -> Stated | None:
    """What the newest report that speaks of it states for the fact `name` (its typed form: `wanted`); None where none does or two differ."""
    for report in sorted(reports, key=lambda r: r.date or "", reverse=True):
        found = list(_in_report(name, report, wanted))
        if found:
            return found[0] if len({str(f.value) for f in found}) == 1 else None
    return None


def _in_report(name: str, report: Report, wanted: dict[str, Any]) -> Iterator[Stated]:
    for sentence in cut(report.text):
        if sentence.part in ("TECHNIQUE", "INDICATION", "COMPARISON") and name not in ("kps", "ecog_ps"):
            continue
        if name in _OF_NODULE and not _NODULE.search(sentence.text):
            continue
        value: Any
        if name in ("size_mm", "long_axis_mm", "short_axis_mm", "nodule_diameter_mm", "max_nodule_mm", "max_diameter_mm"):
            value = _size(name, sentence)
        elif name == "assessment_category":
            match = _BIRADS.search(sentence.text)
            value = match.group(1).upper() if match else None
        else:
            value = _worded(name, sentence)
        if value is not None and _fits(value, wanted):
            yield Stated(name, value, report, sentence)


def _worded(name: str, sentence: Sentence) -> Any:
    for pattern, value in _WORDS.get(name, []):
        match = re.search(pattern, sentence.text, re.I)
        if match is None:
            continue
        denied = certainty_of(sentence.text, match.start(), match.end()) != "affirmed"
        if denied and not (isinstance(value, str) and value in ("unmethylated", "wildtype")):
            return False if value is True and certainty_of(sentence.text, match.start(), match.end()) == "negated" else None
        return value(match) if callable(value) else value
    return None


def _size(name: str, sentence: Sentence) -> float | None:
    """The one lesion's size in a sentence that speaks of one; sizes of earlier examinations don't count."""
    if not _LESION.search(sentence.text) or read(sentence.text).certainty == "negated":
        return None
    now = [s for s in read(sentence.text).sizes if s.mm and not s.prior]
    if len(now) != 1:
        return None
    axes = now[0].mm
    if name == "short_axis_mm":
        return axes[1] if len(axes) > 1 else None
    if name == "size_mm":
        return round((axes[0] + axes[1]) / 2, 2) if len(axes) > 1 else axes[0]
    return axes[0]


def _fits(value: Any, wanted: dict[str, Any]) -> bool:
    kind = wanted.get("type")
    if kind == "enum":
        return value in wanted["values"]
    if kind == "boolean":
        return isinstance(value, bool)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and wanted.get("minimum", value) <= value <= wanted.get("maximum", value)
