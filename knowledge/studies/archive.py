"""The archive: takes files in, keeps originals, answers with studies, records and volumes."""

import threading
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from knowledge.database import engine_of
from knowledge.errors import NotFound, Refused
from knowledge.evidence import Frozen
from knowledge.records.model import Record, RecordItem, Report
from knowledge.studies import dicom, intake, nifti, picture, store
from knowledge.studies.keeper import Keeper, instances_of
from knowledge.studies.model import Geometry, Patient, Series, Study, StudySource
from knowledge.studies.store import (
    InstanceRow,
    ItemRow,
    Objects,
    PatientRow,
    ReportRow,
    SeriesRow,
    StudyRow,
)
from knowledge.studies.unpack import Incoming
from knowledge.studies.volume import Volume


class Rejected(Frozen):
    """A file that wasn't taken, and why."""

    file: str
    reason: str


class Import(Frozen):
    """What one upload brought."""

    studies: list[Study] = Field(default_factory=list)
    records: list[Record] = Field(default_factory=list)
    rejected: list[Rejected] = Field(default_factory=list)

    @property
    def patient_ids(self) -> set[str]:
        return {s.patient_id for s in self.studies} | {r.patient_id for r in self.records}


class Archive:
    """Studies and records under `root`: `archive.db` (or another database `url`), `objects/`, `derived/`."""

    def __init__(self, root: Path, url: str | None = None) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.engine = engine_of(url or f"sqlite:///{root / 'archive.db'}", store.Base)
        self.objects = Objects(root / "objects")
        self._writing = threading.Lock()

    # Taking in

    def add(self, files: Iterable[Incoming], hints: intake.Hints | None = None) -> Import:
        """Read and keep `files`. Each is taken whole or refused with its reason; the same file twice changes nothing."""
        hints = hints or intake.Hints()
        parsed: list[intake.Parsed] = []
        rejected: list[Rejected] = []
        for file in files:
            try:
                if file.refusal:
                    raise Refused(file.refusal)
                parsed.append(intake.read(file.name, file.data, hints))
            except Refused as refusal:
                reason = f"{refusal}: {refusal.hint}" if refusal.hint else str(refusal)
                rejected.append(Rejected(file=file.name, reason=reason))
        with self._writing, Session(self.engine) as session, session.begin():
            keeper = Keeper(session, self.objects, hints, parsed)
            for one in parsed:
                try:
                    with session.begin_nested():
                        keeper.keep(one)
                except Refused as refusal:
                    rejected.append(Rejected(file=one.name, reason=f"{refusal}: {refusal.hint}"))
            keeper.settle()
            studies, records = keeper.studies, keeper.records
        return Import(studies=[self.study(s) for s in studies], records=list(records.values()), rejected=rejected)

    def delete(self, study_id: str) -> None:
        """Delete a study with its originals and everything derived from its series."""
        with self._writing, Session(self.engine) as session, session.begin():
            if session.get(StudyRow, study_id) is None:
                raise NotFound(f"there is no study {study_id}", "list the studies")
            series = session.scalars(select(SeriesRow.id).where(SeriesRow.study_id == study_id)).all()
            mine = InstanceRow.series_id.in_(series)
            hashes = set(session.scalars(select(InstanceRow.sha256).where(mine)))
            session.execute(delete(InstanceRow).where(mine))
            session.execute(delete(SeriesRow).where(SeriesRow.study_id == study_id))
            session.execute(delete(StudyRow).where(StudyRow.id == study_id))
            hashes -= set(session.scalars(select(InstanceRow.sha256).where(InstanceRow.sha256.in_(hashes))))
        for sha256 in hashes:
            self.objects.drop(sha256)
        for one in series:
            for file in self.derived(one).glob("*"):
                file.unlink()

    # Giving back

    def patient_ids(self) -> list[str]:
        with Session(self.engine) as session:
            return list(session.scalars(select(PatientRow.id).order_by(PatientRow.id)))

    def patient(self, patient_id: str) -> Patient:
        with Session(self.engine) as session:
            row = session.get(PatientRow, patient_id)
            if row is None:
                raise NotFound("there is no such patient in the archive", "list the studies")
            return Patient(id=row.id, birth_date=row.birth_date, sex=row.sex)

    def studies(self, patient_id: str | None = None) -> list[Study]:
        with Session(self.engine) as session:
            query = select(StudyRow).order_by(StudyRow.patient_id, StudyRow.number)
            if patient_id is not None:
                query = query.where(StudyRow.patient_id == patient_id)
            return [_study(session, row) for row in session.scalars(query)]

    def study(self, study_id: str) -> Study:
        with Session(self.engine) as session:
            row = session.get(StudyRow, study_id)
            if row is None:
                raise NotFound(f"there is no study {study_id}", "list the studies")
            return _study(session, row)

    def volume(self, series_id: str) -> Volume:
        """The voxels of a series in their source grid."""
        with Session(self.engine) as session:
            series = session.get(SeriesRow, series_id)
            if series is None:
                raise NotFound(f"there is no series {series_id}", "show the study")
            rows = instances_of(session, series_id)
            files = [self.objects.get(r.sha256) for r in rows]
            if series.format == "NIfTI":
                return nifti.volume_of(files[0])
            if series.format == "picture":
                return picture.picture_of(files[0])
            return dicom.load(files, dicom.stack([r.place for r in rows]), [r.sop_uid for r in rows])

    def derived(self, series_id: str) -> Path:
        """The folder of what was made from a series (masks)."""
        if "/" in series_id or ".." in series_id:
            raise NotFound("there is no such series", "show the study")
        return self.root / "derived" / series_id

    def reports(self, patient_id: str) -> list[Report]:
        with Session(self.engine) as session:
            rows = session.scalars(select(ReportRow).where(ReportRow.patient_id == patient_id).order_by(ReportRow.number))
            return [_report(r) for r in rows]

    def report(self, report_id: str) -> Report:
        with Session(self.engine) as session:
            row = session.get(ReportRow, report_id)
            if row is None:
                raise NotFound(f"there is no report {report_id}", "list the patient's records")
            return _report(row)

    def items(self, patient_id: str) -> list[RecordItem]:
        """The patient's structured values, newest first."""
        with Session(self.engine) as session:
            rows = session.scalars(select(ItemRow).where(ItemRow.patient_id == patient_id))
            items = [RecordItem.model_validate(r.data) for r in rows]
        return sorted(items, key=lambda i: (i.date or "", i.id), reverse=True)


def _report(row: ReportRow) -> Report:
    return Report(id=row.id, handle=f"R{row.number}", patient_id=row.patient_id, title=row.title, date=row.date,
                  text=row.text, note=row.note)  # fmt: skip


def _study(session: Session, row: StudyRow) -> Study:
    rows = session.scalars(select(SeriesRow).where(SeriesRow.study_id == row.id).order_by(SeriesRow.number)).all()
    counts = {r.id: session.scalar(select(func.count()).where(InstanceRow.series_id == r.id)) or 0 for r in rows}
    # FLAIR is a brain (or spine) technique: a NIfTI study that names no body part but has FLAIR is taken as brain.
    neuro = row.format == "NIfTI" and any(r.sequence == "FLAIR" for r in rows) and not any(r.body_part for r in rows)
    series = [
        Series(
            id=r.id, handle=f"S{row.number}.{r.number}", series_uid=r.uid, modality=r.modality,
            description=r.description, sequence=r.sequence, body_part=r.body_part or ("BRAIN" if neuro else ""),
            instances=counts[r.id], shape=r.layout.get("shape", []), spacing_mm=r.layout.get("spacing_mm"),
            geometry=Geometry.WARNING if r.layout.get("warnings") else Geometry.OK,
            warnings=r.layout.get("warnings", []), header=r.header,
        )
        for r in rows
    ]  # fmt: skip
    parts = list(dict.fromkeys(s.body_part for s in series if s.body_part))
    names = [s.sequence or s.description for s in series if s.modality != "SEG"]
    return Study(
        id=row.id, handle=f"S{row.number}", patient_id=row.patient_id, study_instance_uid=row.uid, date=row.date,
        description=row.description or ", ".join(names[:8]), modalities=list(dict.fromkeys(s.modality for s in series)),
        body_part="/".join(parts), series=series,
        source=StudySource(format=row.format, files=sum(counts.values())), note=row.note,
    )  # fmt: skip
