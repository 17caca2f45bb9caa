"""Questions on the case at hand: each point of the answer comes from an evidence of the case."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from knowledge.evidence import Fact, Kind
from knowledge.teaching.items import Item, Level, Point
from tools.base import Bench
from tools.concepts import LESION, LONG_AXIS, TUMOUR_TYPE, WHOLE_TUMOUR
from tools.recorded import record_fact
from tools.reporting.gathering import newest_study, on_images

WITHIN = 0.2
"""A size counts as right within this share of the outline's."""


@dataclass(frozen=True)
class CaseItem:
    """A question on the case with the facts that its answer stands on."""

    item: Item
    facts: list[Fact]


def case_items(bench: Bench, level: Level) -> list[CaseItem]:
    """Questions that the case's own evidence answers, easiest first."""
    case = bench.required_case
    study = newest_study(case)
    if study is None:
        return []
    found = on_images(bench, study, compare=False)
    facts = found.of("segment", "measure", "detect", "classify")
    return [*_seen(facts, study.handle, level), *_known(bench, level)]


def _seen(facts: list[Fact], study: str, level: Level) -> Iterator[CaseItem]:
    outlined = next((f for f in facts if f.code == WHOLE_TUMOUR and isinstance(f.value, dict) and f.value.get("side")), None)
    if outlined is not None and not outlined.value["crosses_midline"]:
        side = outlined.value["side"]
        yield _item("case_side", level, f"Look at study {study}. On which side does the lesion lie, and how do you tell?",
                    [Point(say=f"on the {side}", words=rf"\b{side}\b", weight=2), Point(say="by the patient's side: the picture's left is the patient's right",
                     words=r"\bpatient'?s?\b|\bradiological\b|\bconvention|\bmarker|\borientation|\bmirror")], [outlined])  # fmt: skip
    size = next((f for f in facts if f.code == LONG_AXIS and f.title == "Longest axial diameter"), None)
    if size is not None and isinstance(size.value, int | float):
        low, high = size.value * (1 - WITHIN), size.value * (1 + WITHIN)
        yield _item("case_size", level, f"Measure the lesion on study {study}: how long is it in the axial plane, and in which unit?",
                    [Point(say=f"between {low:.0f} and {high:.0f} mm", words=f"number:{low:.1f}:{high:.1f}:mm", weight=2),
                     Point(say="a unit (mm or cm)", words=r"\b(mm|cm|millimet|centimet)")], [size])  # fmt: skip
    count = next((f for f in facts if f.code == LESION and isinstance(f.value, dict) and "count" in f.value), None)
    if count is not None and count.value["count"]:
        number = int(count.value["count"])
        words = {1: r"\b(1|one|single|solitary)\b", 2: r"\b(2|two)\b", 3: r"\b(3|three)\b"}.get(number, rf"\b{number}\b")
        yield _item("case_count", level, f"How many separate lesions do you see on study {study}, and which entities does that number favour?",
                    [Point(say=f"{number}", words=words, weight=2),
                     Point(say="one lesion: primary tumour or single metastasis; several: metastases, abscesses, lymphoma",
                           words=r"\bmetasta\w+|\bprimary|\babscess|\blymphoma|\bglioma|\bglioblastoma")], [count])  # fmt: skip
    type_of = next((f for f in facts if f.code == TUMOUR_TYPE and isinstance(f.value, dict) and "label" in f.value), None)
    if type_of is not None:
        label = str(type_of.value["label"])
        words = {
            "glioma": r"\bglio(?:ma|blastoma)|\bastrocytoma|\boligodendroglioma",
            "pituitary": r"\bpituitar\w+|\badenoma",
        }.get(label, rf"\b{re.escape(label)}")
        yield _item("case_type", level, f"Which kind of tumour do you think of on study {study}, and what would settle it?",
                    [Point(say=f"{label} (the image classifier's most probable class, no diagnosis)", words=words, weight=2),
                     Point(say="tissue with molecular markers", words=r"\btissue|\bbiops\w+|\bhistolog\w+|\bresect\w+|\bmolecular|\bidh", weight=2)], [type_of])  # fmt: skip


def _known(bench: Bench, level: Level) -> Iterator[CaseItem]:
    case = bench.required_case
    markers = {i.name: i for i in case.items if re.search(r"\bidh|\bmgmt|1p|tert", i.name, re.I) and i.value is not None}
    if level != "student" and len(markers) >= 2:
        facts = [record_fact(i, case) for i in markers.values()]
        points = [Point(say=f"{i.name}: {i.value}", words=_as_words(i.name, str(i.value)), weight=2) for i in markers.values()]
        yield _item("case_markers", level, "Which molecular markers does this tumour need for its integrated diagnosis and treatment, and what do they show here?",
                    points, facts)  # fmt: skip


def _as_words(name: str, value: str) -> str:
    marker = re.search(r"idh|mgmt|1p|tert", name, re.I)
    found = {
        "wild-type": r"wild[- ]?type",
        "wildtype": r"wild[- ]?type",
        "methylated": r"(?<!un)methylated",
        "unmethylated": r"unmethylated",
        "mutant": r"mutant|mutat\w+",
    }
    return rf"{marker.group(0) if marker else re.escape(name)}\b?.{{0,40}}(?:{found.get(value.lower(), re.escape(value))})"


def _item(key: str, level: Level, ask: str, points: list[Point], facts: list[Fact]) -> CaseItem:
    kinds = {"measurement" if f.kind is Kind.MEASUREMENT else str(f.kind) for f in facts}
    return CaseItem(
        Item(
            key=key,
            level=level,
            topic="this case",
            ask=ask,
            points=points,
            explain="it stands below, with the picture.",
            source=f"This case: {', '.join(sorted(kinds))}.",
        ),
        facts,
    )
