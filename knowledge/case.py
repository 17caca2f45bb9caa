"""Case: what one conversation may see. A set of studies of one patient, and that patient's records, by handle."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from knowledge.errors import MixedPatients, NotFound
from knowledge.evidence import Frozen
from knowledge.records.model import RecordItem, Report
from knowledge.studies.archive import Archive
from knowledge.studies.model import Patient, Series, Study
from knowledge.studies.volume import Volume


class Handle(Frozen):
    """A name that the conversation uses: S1 a study, S1.2 a series, R1 a report, RECORD the structured record."""

    handle: str
    kind: str
    title: str
    date: str | None


@dataclass(frozen=True)
class Case:
    """The view that a tool gets. It reaches nothing outside this patient's studies and records."""

    archive: Archive
    patient: Patient
    study_ids: tuple[str, ...] | None = None
    """None: all studies of the patient, also those that come later."""

    @cached_property
    def studies(self) -> list[Study]:
        mine = self.archive.studies(self.patient.id, headers=True)
        return [s for s in mine if self.study_ids is None or s.id in self.study_ids]

    @cached_property
    def reports(self) -> list[Report]:
        """Oldest first; undated ones first of all."""
        return sorted(self.archive.reports(self.patient.id), key=lambda r: r.date or "")

    @cached_property
    def items(self) -> list[RecordItem]:
        """Structured values, newest first."""
        return self.archive.items(self.patient.id)

    @property
    def age_years(self) -> int | None:
        """Completed years at the patient's newest dated study, report or value; None when it isn't known."""
        dates = [d for d in [*(s.date for s in self.studies), *(r.date for r in self.reports),
                             *(i.date for i in self.items)] if d and len(d) == 10]  # fmt: skip
        if not self.patient.birth_date or len(self.patient.birth_date) != 10 or not dates:
            return None
        born, then = date.fromisoformat(self.patient.birth_date), date.fromisoformat(max(dates))
        return then.year - born.year - ((then.month, then.day) < (born.month, born.day))

    def study(self, handle: str) -> Study:
        """The study with this handle. Raises NotFound: the handle isn't of this case."""
        for study in self.studies:
            if handle in (study.handle, study.id):
                return study
        raise NotFound(f"{handle!r} is no study of this case", f"use one of {[s.handle for s in self.studies]}")

    def series(self, handle: str) -> tuple[Study, Series]:
        """The series with this handle, and its study."""
        for study in self.studies:
            for series in study.series:
                if handle in (series.handle, series.id):
                    return study, series
        known = [q.handle for s in self.studies for q in s.series]
        raise NotFound(f"{handle!r} is no series of this case", f"use one of {known}")

    def volume(self, series: Series) -> Volume:
        """The voxels of a series of this case."""
        self.series(series.handle)
        return self.archive.volume(series.id)

    def derived(self, series: Series) -> Path:
        """The folder for what is made from a series of this case."""
        self.series(series.handle)
        return self.archive.derived(series.id)

    def handles(self) -> list[Handle]:
        """Every handle of the case."""
        found = []
        for study in self.studies:
            found.append(Handle(handle=study.handle, kind="study", title=study.description, date=study.date))
            for series in study.series:
                title = f"{series.modality} {series.sequence or series.description}".strip()
                found.append(Handle(handle=series.handle, kind="series", title=title, date=study.date))
        found += [Handle(handle=r.handle, kind="report", title=r.title, date=r.date) for r in self.reports]
        if self.items:
            newest = max((i.date for i in self.items if i.date), default=None)
            found.append(Handle(handle="RECORD", kind="record", title=f"{len(self.items)} values", date=newest))
        return found

    def inventory(self) -> dict[str, Any]:
        """What a model is told of the case: no name, no identifier, no birth date."""
        return {
            "patient": {"age": self.age_years, "sex": self.patient.sex},
            "studies": [
                {
                    "handle": s.handle, "date": s.date, "modality": s.image_modalities, "body_part": s.body_part,
                    "description": s.description,
                    "series": [{"handle": q.handle, "modality": q.modality, "sequence": q.sequence,
                                "description": q.description, "shape": q.shape, "geometry": q.geometry}
                               for q in s.series],
                }
                for s in self.studies
            ],
            "reports": [{"handle": r.handle, "title": r.title, "kind": kind_of(r), "date": r.date} for r in self.reports],
            "records": sorted({i.name for i in self.items}),
        }  # fmt: skip


_KINDS = re.compile(
    r"\b(patholog\w*|histolog\w*|cytolog\w*|ngs|molecular|genetic\w*|pet(?:-ct)?|mri?|ct|ultraso\w+|sonogra\w+|mammogra\w*|radiograph\w*|x-?ray|x-ray|"
    r"thyroid|breast|liver|hepatolog\w*|chest|thorax|brain|head|prostate|kidney|renal|abdom\w+|pelvi\w+|spine|schilddrüs\w*|tiroid\w*|thyroïd\w*|甲状腺|"
    r"letter|discharge|operat\w+|endoscop\w+|sheet|arztbrief|pathologie\w*|lettre|carta|brief|befund|biops\w*|病理)\b", re.I)  # fmt: skip
HEAD = 160
"""Characters of a report in which it says what it is."""


def kind_of(report: Report) -> str:
    """What sort of report it is, in the words of its own heading; nothing else of that heading (it may name the patient)."""
    return " ".join(dict.fromkeys(w.lower() for w in _KINDS.findall(f"{report.title} {report.text[:HEAD]}")))


def open_case(archive: Archive, patient_id: str | None = None, study_ids: Sequence[str] | None = None) -> Case:
    """The case of a patient, or of some studies. Raises NotFound and MixedPatients."""
    if study_ids:
        owners = {archive.study(s).patient_id for s in study_ids}
        if len(owners) > 1:
            raise MixedPatients("these studies belong to different patients", "open one conversation for each patient")
        if patient_id is not None and owners != {patient_id}:
            raise MixedPatients("the studies aren't this patient's", "name the studies or the patient, not both")
        return Case(archive, archive.patient(owners.pop()), tuple(study_ids))
    if patient_id is None:
        raise NotFound("no patient and no study was named", "name patient_id or study_ids")
    return Case(archive, archive.patient(patient_id))
