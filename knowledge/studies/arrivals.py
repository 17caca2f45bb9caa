"""When things came: the time at which the newest file of a study, or a report's file, was stored."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from knowledge.database import batches
from knowledge.studies.archive import Archive
from knowledge.studies.resources import ResourceRow
from knowledge.studies.store import BundleRow, InstanceRow, ReportRow

LONG_AGO = "1970-01-01T00:00:00Z"


def of_studies(archive: Archive, ids: Sequence[str]) -> dict[str, str]:
    """RFC 3339 UTC by study id."""
    found: dict[str, str] = {}
    with archive.reading() as session:
        for some in batches(ids):
            newest = select(func.max(InstanceRow.id)).where(InstanceRow.study_id.in_(some)).group_by(InstanceRow.study_id)
            for study, sha in session.execute(select(InstanceRow.study_id, InstanceRow.sha256).where(InstanceRow.id.in_(newest))):
                found[study] = _when(archive.objects.path(sha))
    return found


def of_reports(archive: Archive, patient_id: str | None) -> dict[str, str]:
    """RFC 3339 UTC by report id, of those that are no FHIR resource of their own."""
    documents = select(ResourceRow.bundle_id).where(ResourceRow.kind.in_(("DocumentReference", "DiagnosticReport")))
    own = select(BundleRow.sha256).where(BundleRow.id.in_(documents))
    query = select(ReportRow.id, ReportRow.sha256).where(ReportRow.sha256.not_in(own))
    if patient_id is not None:
        query = query.where(ReportRow.patient_id == patient_id)
    with Session(archive.engine) as session:
        return {report: _when(archive.objects.path(sha)) for report, sha in session.execute(query)}


def _when(path: Path) -> str:
    try:
        seconds = path.stat().st_mtime
    except FileNotFoundError:
        return LONG_AGO
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
