"""Cards for an EHR (CDS Hooks 2.0) from what is stored: nothing is outlined or planned while a chart opens."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from knowledge.case import Case, open_case
from knowledge.evidence import Evidence, ImageRef, Kind, RuleRef
from knowledge.guidelines.rules.recist_1_1 import PROGRESSION_MM, PROGRESSION_PERCENT
from knowledge.records.followups import FollowUp, follow_ups, modalities_of
from knowledge.studies.which import body_part_of
from serving.house import House
from tools.base import Bench
from tools.concepts import LONG_AXIS
from tools.errors import ToolError
from tools.export.fhir import NOTE
from tools.registry import tool_types
from tools.urgent import urgent

Card = dict[str, Any]
SUMMARY = 139
"""Characters of a summary: below 140."""
_CONTRAST = re.compile(
    r"contrast|kontrast|contraste|gadol|\bkm\b|iodine|iohex|iopam|造影|增强|with and without|\bce-?(?:ct|mri?)\b|angiogra", re.I
)
_WITHOUT = re.compile(r"(?:without|no|ohne|sin|sans)\s+(?:iv |intravenous )?(?:contrast|kontrast|contraste)|不增强|平扫", re.I)


class Cards:
    """The cards of one patient."""

    def __init__(self, house: House, patient_id: str, root: str, today: date | None = None) -> None:
        self.house, self.root = house, root
        self.case: Case = open_case(house.archive, patient_id, None)
        self.today = today or datetime.now(UTC).date()

    def patient_view(self) -> list[Card]:
        """Emergencies that the newest report states, growth that no report tells of, follow-ups that are overdue."""
        return [*self._critical(), *self._growth(), *self._overdue()]

    def order_select(self, orders: Sequence[dict[str, Any]]) -> list[Card]:
        """For imaging that is being ordered: kidney function before contrast, the same imaging done lately, what was recommended instead."""
        cards: list[Card] = []
        for order in orders:
            words = ordered_words(order)
            modalities = modalities_of(words)
            if not modalities:
                continue
            part = body_part_of(words)
            cards += [*self._contrast(words, modalities), *self._duplicate(modalities, part), *self._rather(modalities, part)]
        return list({c["summary"]: c for c in cards}.values())

    # When a chart opens

    def _critical(self) -> Iterator[Card]:
        for fact in urgent(self.case):
            told = f'The newest report states: "{fact.statement}"' if '"' not in fact.statement else fact.statement
            yield self._card("critical", told, f"{fact.statement}\n\n{NOTE}", "The report")

    def _growth(self) -> Iterator[Card]:
        """Longest axis of one region on two dated studies: progression by RECIST 1.1's numbers, which no later report or signature tells of."""
        dates = {s.id: s.date for s in self.case.studies if s.date and len(s.date) == 10}
        sizes: dict[tuple[str, str], dict[str, Evidence]] = {}
        for fact in self.house.memory.of_patient(self.case.patient.id, Kind.MEASUREMENT):
            if (
                fact.code == LONG_AXIS
                and fact.unit == "mm"
                and isinstance(fact.source, ImageRef)
                and fact.source.study_id in dates
                and fact.source.mask
            ):
                sizes.setdefault((fact.title, fact.source.model), {})[fact.source.study_id] = fact
        for found in sizes.values():
            line = sorted(found.values(), key=lambda f: dates[f.source.study_id] or "")  # type: ignore[union-attr]
            if len(line) < 2:
                continue
            newest, nadir = line[-1], min(line[:-1], key=lambda f: float(f.value))
            more, then = float(newest.value) - float(nadir.value), dates[newest.source.study_id] or ""  # type: ignore[union-attr]
            if (
                not nadir.value
                or more < PROGRESSION_MM
                or 100 * more / float(nadir.value) < PROGRESSION_PERCENT
                or self._told(then)
            ):
                continue
            percent = 100 * more / float(nadir.value)
            told = f"Longest axis {nadir.value:g} to {newest.value:g} mm (+{percent:.0f} %) on {then}; no report of it is here"
            detail = (f"{nadir.statement}\n\n{newest.statement}\n\nBoth the +{PROGRESSION_PERCENT:g} % and the +{PROGRESSION_MM:g} mm of RECIST 1.1 "
                      f"(Eisenhauer 2009) are reached on these outlines; a reader has to check them. {NOTE}")  # fmt: skip
            yield self._card(
                "warning", told, detail, "RECIST 1.1 (Eisenhauer 2009)", "https://doi.org/10.1016/j.ejca.2008.10.026"
            )

    def _told(self, day: str) -> bool:
        """Whether somebody has reported on images of that day."""
        return any((r.date or "") >= day for r in self.case.reports)

    @cached_property
    def _follow_ups(self) -> list[FollowUp]:
        return follow_ups(self.case.reports, self.case.studies, self.today)

    def _overdue(self) -> Iterator[Card]:
        for one in self._follow_ups:
            if one.status == "overdue":
                what = "/".join(one.modalities) or "A follow-up"
                where = f" of the {one.body_part.lower()}" if one.body_part else ""
                told = f"{what}{where} was recommended by {one.due}; nothing here answers it"
                yield self._card("warning", told, self._quoted(one), f"Report of {one.report.date}")

    def _quoted(self, one: FollowUp) -> str:
        return f'The report of {one.report.date}: "{one.sentence.text}"{self._by_rule}\n\n{NOTE}'

    @cached_property
    def _by_rule(self) -> str:
        """What computed guidelines recommended for this patient, newest last."""
        facts = self.house.memory.of_patient(self.case.patient.id, Kind.RULE)
        told = [
            f"{f.title}: {f.value['recommendation']}"
            for f in facts
            if isinstance(f.value, dict) and f.value.get("recommendation")
        ]
        return f"\n\nComputed guideline: {told[-1]}" if told else ""

    # While something is ordered

    def _contrast(self, words: str, modalities: tuple[str, ...]) -> Iterator[Card]:
        if not _CONTRAST.search(words) or _WITHOUT.search(words) or not {"MR", "CT"} & set(modalities):
            return
        medium = "gadolinium" if "MR" in modalities else "iodinated"
        tool = tool_types()["apply_guideline"].bound(Bench(self.house.resources, self.case, today=lambda: self.today))
        try:
            reply = tool.reply({"guideline": "egfr_contrast", "facts": {"medium": medium}})
        except ToolError as error:
            yield self._card(
                "info",
                "Kidney function for contrast can't be told from the record",
                f"{error}. {error.hint}\n\n{NOTE}",
                "The record",
            )
            return
        for fact in reply.facts:
            if not isinstance(fact.source, RuleRef) or not isinstance(fact.value, dict):
                continue
            value = (fact.value.get("values") or {}).get("egfr_ml_min_1_73m2")
            if value is None:
                lacking = ", ".join(fact.source.missing) or "creatinine"
                yield self._card("warning", f"Contrast is ordered and kidney function isn't known ({lacking})", f"{fact.statement}\n\n{NOTE}", fact.source.document)  # fmt: skip
            else:
                poor = fact.value.get("category") not in ("iodinated: no prophylaxis",) and value < 45
                told = f"eGFR {value:g} mL/min/1.73 m²: {fact.value.get('category') or fact.value.get('recommendation') or 'see the guideline'}"
                yield self._card("warning" if poor else "info", told, f"{fact.statement}\n\n{NOTE}", fact.source.document)

    def _duplicate(self, modalities: tuple[str, ...], part: str) -> Iterator[Card]:
        days = self.house.settings.cds_duplicate_days
        since = (self.today - timedelta(days=days)).isoformat()
        for study in reversed(self.case.studies):
            same = set(modalities) & set(study.image_modalities)
            if same and (study.date or "") >= since and part and study.body_part == part:
                told = f"{'/'.join(sorted(same))} of the {part.lower()} was done on {study.date}"
                detail = f"{study.description or 'The study'} is in the archive ({study.date}). Told within {days} days, by this hospital's setting.\n\n{NOTE}"
                yield self._card("warning", told, detail, "The imaging archive")
                return

    def _rather(self, modalities: tuple[str, ...], part: str) -> Iterator[Card]:
        """An open recommendation for the same part that names another modality."""
        for one in self._follow_ups:
            if (
                one.status in ("due", "overdue")
                and one.modalities
                and part
                and one.body_part == part
                and not set(one.modalities) & set(modalities)
            ):
                told = f"{'/'.join(one.modalities)} was recommended for the {part.lower()}, not {'/'.join(modalities)}"
                yield self._card("info", told, self._quoted(one), f"Report of {one.report.date}")

    # A card

    def _card(self, indicator: str, summary: str, detail: str, source: str, url: str = "") -> Card:
        link = f"{self.root}/#{urlencode({'patient': self.case.patient.id})}"
        short = summary if len(summary) <= SUMMARY else summary[: SUMMARY - 1] + "…"
        return {"summary": short, "indicator": indicator, "detail": detail, "source": {"label": source, **({"url": url} if url else {})},
                "links": [{"label": "Ask about it in Consilium", "url": link, "type": "absolute"}]}  # fmt: skip


def ordered_words(order: dict[str, Any]) -> str:
    """What a draft order says it is for, in words."""
    found: list[str] = []

    def concept(value: Any) -> None:
        if isinstance(value, list):
            for one in value:
                concept(one)
        elif isinstance(value, dict):
            found.append(str(value.get("text") or ""))
            found.extend(str(c.get("display") or "") for c in value.get("coding") or [] if isinstance(c, dict))

    for name in ("code", "orderDetail", "bodySite", "category", "medicationCodeableConcept"):
        concept(order.get(name))
    found += [str(n.get("text") or "") for n in order.get("note") or [] if isinstance(n, dict)]
    return " ".join(f for f in found if f)[:2000]
