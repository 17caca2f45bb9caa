"""Write one upload into the archive's tables: whose files they are, which study they belong to, how series stack."""

import hashlib

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from knowledge.errors import Refused
from knowledge.records.fhir import FhirRecord
from knowledge.records.model import Record
from knowledge.studies import dicom, intake
from knowledge.studies.model import Patient
from knowledge.studies.store import BundleRow, InstanceRow, ItemRow, Objects, PatientRow, ReportRow, SeriesRow, StudyRow
from knowledge.studies.volume import Volume

_EMPTY = np.zeros((1, 1, 1))


def short(prefix: str, *parts: str) -> str:
    """A stable short name made from `parts`."""
    return f"{prefix}_{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


def instances_of(session: Session, series_id: str) -> list[InstanceRow]:
    """The instances of a series, in the order that `dicom.stack` counts them in."""
    query = select(InstanceRow).where(InstanceRow.series_id == series_id).order_by(InstanceRow.sop_uid)
    return list(session.scalars(query))


class Keeper:
    """One upload being written: decides whose files they are, and which study they belong to."""

    def __init__(self, session: Session, objects: Objects, hints: intake.Hints, parsed: list[intake.Parsed]) -> None:
        self.session, self.objects, self.hints = session, objects, hints
        self.studies: dict[str, None] = {}
        self.records: dict[str, Record] = {}
        named = hints.patient_id or self._only_patient(parsed) or self._known(parsed)
        digest = short("", *sorted(p.sha256 for p in parsed))
        self.patient_id = named or f"P{digest}"  # nobody named a patient: this upload is one of its own
        nameless = {p.instance.study_uid for p in parsed if p.instance and not p.instance.patient.id}
        self.one_nameless = len(nameless) == 1  # several nameless studies may be of several people: they stay apart
        self.batch = hints.study_date or digest

    def _only_patient(self, parsed: list[intake.Parsed]) -> str | None:
        named = {p.instance.patient.id for p in parsed if p.instance} | {p.record.patient.id for p in parsed if p.record}
        named.discard("")
        return named.pop() if len(named) == 1 else None

    def _known(self, parsed: list[intake.Parsed]) -> str | None:
        """The patient whom the archive already has one of these files for."""
        for one in parsed:
            row = self.session.scalar(select(InstanceRow).where(InstanceRow.sha256 == one.sha256)) if one.grid else None
            if row is not None:
                series = self.session.get_one(SeriesRow, row.series_id)
                return self.session.get_one(StudyRow, series.study_id).patient_id
        return None

    def keep(self, one: intake.Parsed) -> None:
        if one.instance:
            self._keep_instance(one, one.instance)
        elif one.grid:
            self._keep_grid(one, one.grid)
        elif one.record:
            self._keep_record(one, one.record)
        elif one.text:
            self._keep_text(self.patient_id, one.text.title, one.text.date, one.text.text, one.text.note)

    def _patient(self, patient: Patient) -> str:
        row = self.session.get(PatientRow, patient.id)
        if row is None:
            self.session.add(PatientRow(id=patient.id, birth_date=patient.birth_date, sex=patient.sex))
            self.session.flush()
        else:
            row.birth_date = row.birth_date or patient.birth_date
            row.sex = row.sex or patient.sex
        return patient.id

    def _keep_instance(self, one: intake.Parsed, instance: dicom.Instance) -> None:
        name = instance.patient.id or self.hints.patient_id
        name = name or (self.patient_id if self.one_nameless else short("anon", instance.study_uid))
        patient_id = self._patient(instance.patient.model_copy(update={"id": name}))
        old = self.session.get(InstanceRow, instance.sop_instance_uid)
        if old is not None and old.sha256 != one.sha256:
            raise Refused("another file with the same SOP Instance UID but other content is here", "keep one of the two")
        study = self._study(instance.study_uid, patient_id, instance.study_date, instance.study_description, "DICOM")
        if study.patient_id != patient_id:
            raise Refused("its study belongs to another patient in the archive", "correct the PatientID")
        series = self._series(study, instance.series_uid, "DICOM", instance)
        if old is None:
            self.objects.put(one.data)
            self.session.add(InstanceRow(sop_uid=instance.sop_instance_uid, series_id=series.id, sha256=one.sha256,
                                         name=one.name, place=instance.place))  # fmt: skip
            series.settled = False

    def _keep_grid(self, one: intake.Parsed, grid: intake.Grid) -> None:
        patient_id = self._patient(Patient(id=self.patient_id))
        uid = dicom.made_uid(patient_id, one.sha256)
        old = self.session.scalar(select(SeriesRow).where(SeriesRow.uid == uid))
        if old is not None:
            self.studies[old.study_id] = None
            return
        kind = "picture" if grid.format == "picture" else "NIfTI"
        study_uid = dicom.made_uid(patient_id, self.batch, kind)
        study = self._study(study_uid, patient_id, self.hints.study_date, "", kind)
        series = self._series(study, uid, kind, grid)
        series.layout, series.settled = grid.layout, True
        self.objects.put(one.data)
        self.session.add(InstanceRow(sop_uid=uid + ".1", series_id=series.id, sha256=one.sha256, name=one.name, place={}))

    def _study(self, uid: str, patient_id: str, date: str | None, description: str, format: str) -> StudyRow:
        study_id = short("st", uid)
        row = self.session.get(StudyRow, study_id)
        if row is None:
            row = StudyRow(id=study_id, patient_id=patient_id, uid=uid, date=date, description=description,
                           number=self._next(StudyRow, StudyRow.patient_id == patient_id), format=format,
                           note="")  # fmt: skip
            self.session.add(row)
            self.session.flush()
        self.studies[study_id] = None
        return row

    def _series(self, study: StudyRow, uid: str, format: str, like: dicom.Instance | intake.Grid) -> SeriesRow:
        row = self.session.scalar(select(SeriesRow).where(SeriesRow.uid == uid))
        if row is None:
            description = like.series_description if isinstance(like, dicom.Instance) else like.description
            number = self._next(SeriesRow, SeriesRow.study_id == study.id)
            row = SeriesRow(id=short("se", uid), study_id=study.id, number=number, uid=uid, format=format,
                            modality=like.modality, description=description, sequence=like.sequence,
                            body_part=like.body_part, header=like.header, layout={}, settled=False)  # fmt: skip
            self.session.add(row)
            self.session.flush()
        elif row.study_id != study.id:
            raise Refused("its series belongs to another study in the archive", "correct the SeriesInstanceUID")
        return row

    def _next(self, table: type[StudyRow] | type[SeriesRow] | type[ReportRow], mine: object) -> int:
        return (self.session.scalar(select(func.max(table.number)).where(mine)) or 0) + 1  # type: ignore[arg-type]

    def _keep_record(self, one: intake.Parsed, record: FhirRecord) -> None:
        name = self.hints.patient_id or self._by_identifier(record.identifiers) or record.patient.id or self.patient_id
        patient_id = self._patient(record.patient.model_copy(update={"id": name}))
        sha = self.objects.put(one.data)
        bundle_id = short("rc", patient_id, sha)
        if self.session.get(BundleRow, bundle_id) is None:
            self.session.add(BundleRow(id=bundle_id, patient_id=patient_id, title=one.name, sha256=sha,
                                       items=len(record.items), note=""))  # fmt: skip
            self.session.flush()
            for item in record.items:
                data = item.model_copy(update={"patient_id": patient_id, "id": short("ri", patient_id, item.id)})
                if self.session.get(ItemRow, data.id) is None:
                    self.session.add(ItemRow(id=data.id, patient_id=patient_id, bundle_id=bundle_id,
                                             data=data.model_dump(mode="json")))  # fmt: skip
                    self.session.flush()
        for title, date, text in record.texts:
            self._keep_text(patient_id, title, date, text, "")
        self.records[bundle_id] = Record(id=bundle_id, kind="fhir", title=one.name, date=None, patient_id=patient_id,
                                         items=len(record.items))  # fmt: skip

    def _by_identifier(self, identifiers: list[str]) -> str | None:
        return next((i for i in identifiers if self.session.get(PatientRow, i) is not None), None)

    def _keep_text(self, patient_id: str, title: str, date: str | None, text: str, note: str) -> None:
        patient_id = self._patient(Patient(id=patient_id))
        sha = self.objects.put(text.encode())
        report_id = short("rp", patient_id, sha)
        if self.session.get(ReportRow, report_id) is None:
            number = self._next(ReportRow, ReportRow.patient_id == patient_id)
            self.session.add(ReportRow(id=report_id, patient_id=patient_id, number=number, title=title, date=date,
                                       text=text, sha256=sha, note=note))  # fmt: skip
            self.session.flush()
        self.records[report_id] = Record(id=report_id, kind="report", title=title, date=date, patient_id=patient_id)

    def settle(self) -> None:
        """Work out the layout of each DICOM series that got instances."""
        for series in self.session.scalars(select(SeriesRow).where(SeriesRow.settled.is_(False))):
            rows = instances_of(self.session, series.id)
            if not rows:
                continue
            stack = dicom.stack([r.place for r in rows])
            spacing = None
            if stack.affine is not None:
                spacing = [round(s, 4) for s in Volume(_EMPTY, stack.affine).spacing_mm]
            warnings = list(stack.warnings)
            if not all(r.place["uids"] for r in rows):
                warnings.append("UIDs are missing in the files: instances were grouped by description and size")
            if any(r.place["localizer"] for r in rows):
                warnings.append("a localizer: not meant for measuring")
            series.layout = {"shape": list(stack.shape), "spacing_mm": spacing, "warnings": warnings}
            series.settled = True
