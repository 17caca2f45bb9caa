"""Rows of the archive as the rest of the house sees them: studies with their series, reports; and which originals rows name."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from knowledge.database import batches
from knowledge.errors import NotFound
from knowledge.records.model import Report
from knowledge.studies.model import Geometry, Series, Study, StudySource
from knowledge.studies.store import BundleRow, InstanceRow, ReportRow, SeriesRow, StudyRow


def study_row(session: Session, study_id: str) -> StudyRow:
    """The row of a study. Raises NotFound."""
    row = session.get(StudyRow, study_id)
    if row is None:
        raise NotFound(f"there is no study {study_id}", "list the studies")
    return row


def series_row(session: Session, series_id: str) -> SeriesRow:
    """The row of a series. Raises NotFound."""
    row = session.get(SeriesRow, series_id)
    if row is None:
        raise NotFound(f"there is no series {series_id}", "show the study")
    return row


def hashes_of(session: Session, study_id: str) -> list[str]:
    """The originals that a study's rows name."""
    found: set[str] = set()
    for column, owner in ((InstanceRow.sha256, InstanceRow.study_id), (InstanceRow.companion, InstanceRow.study_id),
                          (ReportRow.sha256, ReportRow.study_id), (BundleRow.sha256, BundleRow.study_id)):  # fmt: skip
        found |= {h for h in session.scalars(select(column).where(owner == study_id)) if h}
    return sorted(found)


def unnamed(session: Session, hashes: Sequence[str]) -> list[str]:
    """Those originals that no row names."""
    named: set[str] = set()
    for some in batches(hashes):
        for column in (InstanceRow.sha256, InstanceRow.companion, ReportRow.sha256, BundleRow.sha256):
            named |= {h for h in session.scalars(select(column).where(column.in_(some))) if h}
    return [h for h in hashes if h not in named]


def report_of(row: ReportRow) -> Report:
    """A report's row."""
    return Report(id=row.id, handle=f"R{row.number}", patient_id=row.patient_id, title=row.title, date=row.date,
                  text=row.text, note=row.note)  # fmt: skip


def studies_of(session: Session, rows: Sequence[StudyRow], headers: bool = False) -> list[Study]:
    """Studies with their series; `headers` too where they are asked for (they are large)."""
    mine: dict[str, list[SeriesRow]] = {r.id: [] for r in rows}
    ids = list(mine)
    for some in batches(ids):
        query = select(SeriesRow).where(SeriesRow.study_id.in_(some)).order_by(SeriesRow.number)
        for series in session.scalars(query.options(undefer(SeriesRow.header)) if headers else query):
            mine[series.study_id].append(series)
    return [_study(row, mine[row.id], headers) for row in rows]


def _study(row: StudyRow, rows: list[SeriesRow], headers: bool) -> Study:
    # FLAIR is a brain (or spine) technique: a NIfTI study that names no body part but has FLAIR is taken as brain.
    neuro = row.format != "DICOM" and any(r.sequence == "FLAIR" for r in rows) and not any(r.body_part for r in rows)
    series = [
        Series(
            id=r.id, handle=f"S{row.number}.{r.number}", series_uid=r.uid, modality=r.modality,
            description=r.description, sequence=r.sequence, body_part=r.body_part or ("BRAIN" if neuro else ""),
            plane=r.which.get("plane"), phase=r.which.get("phase"), contrast=r.which.get("contrast"),
            reasons=r.which.get("reasons", []), instances=r.instances, shape=r.layout.get("shape", []),
            spacing_mm=r.layout.get("spacing_mm"), unit=r.layout.get("unit", ""), pixel_mm=r.layout.get("pixel_mm"),
            geometry=Geometry.WARNING if r.layout.get("warnings") else Geometry.OK,
            warnings=r.layout.get("warnings", []), header=r.header if headers else {},
            segment=r.layout.get("segment"),
        )
        for r in rows
    ]  # fmt: skip
    parts = list(dict.fromkeys(s.body_part for s in series if s.body_part))
    names = [s.sequence or s.description for s in series if s.is_image]
    return Study(
        id=row.id, handle=f"S{row.number}", patient_id=row.patient_id, study_instance_uid=row.uid, date=row.date,
        description=row.description or ", ".join(names[:8]), modalities=list(dict.fromkeys(s.modality for s in series)),
        body_part="/".join(parts), series=series,
        source=StudySource(format=row.format, files=sum(s.instances for s in series)), note=row.note,
    )  # fmt: skip
