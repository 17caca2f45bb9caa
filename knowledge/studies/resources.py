"""FHIR resources as they came (from an EHR, in bundles), kept beside what was read from them; each change is a version."""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ForeignKey, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from knowledge.errors import Refused
from knowledge.evidence import Frozen
from knowledge.records import fhir
from knowledge.studies.store import Base, BundleRow, ItemRow, Objects

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_OF_A_PATIENT = ("identifier", "gender", "birthDate", "deceasedBoolean", "deceasedDateTime")
"""What is kept of a Patient beside its id: no name, address or telephone number."""


class ResourceRow(Base):
    """The newest version of a resource."""

    __tablename__ = "resources"
    name: Mapped[str] = mapped_column(primary_key=True)
    """Type/id."""
    kind: Mapped[str] = mapped_column(index=True)
    patient_id: Mapped[str] = mapped_column(ForeignKey("patients.id"), index=True)
    bundle_id: Mapped[str] = mapped_column(index=True)
    version: Mapped[int]
    updated: Mapped[str]
    data: Mapped[dict[str, Any]]


class Kept(Frozen):
    """A resource as it is kept, with `id` and `meta`, and whose it is."""

    patient_id: str
    data: dict[str, Any]


def logical_id(name: str) -> str:
    """`name` as a logical id (FHIR R4 2.24.0.1: letters, digits, '-' and '.', 64 at most); what doesn't fit gets one made from it."""
    return name if _ID.fullmatch(name) else f"x-{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def made_id(resource: dict[str, Any], patient_id: str = "") -> str:
    """The logical id of a resource that came without one: the same content gets the same."""
    plain = {k: v for k, v in resource.items() if k not in ("id", "meta")}
    return "r-" + hashlib.sha256(f"{patient_id}|{json.dumps(plain, sort_keys=True)}".encode()).hexdigest()[:24]


def keep(session: Session, patient_id: str, bundle_id: str, resources: Sequence[dict[str, Any]], only_new: bool = False) -> bool:
    """Write what a bundle brought; true where a resource that was here came with other content: then its old values are gone."""
    changed = False
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for resource in resources:
        kind = str(resource["resourceType"])
        if not re.fullmatch(r"[A-Z][A-Za-z]{1,60}", kind):
            continue
        if kind == "Patient":
            own = logical_id(patient_id)
            data = {k: v for k, v in resource.items() if k in (*_OF_A_PATIENT, "resourceType")}
        else:
            own, data = str(resource.get("id") or ""), {k: v for k, v in resource.items() if k not in ("id", "meta")}
            own = own if _ID.fullmatch(own) else made_id(resource, patient_id)
        row = session.get(ResourceRow, f"{kind}/{own}")
        if row is not None and row.patient_id != patient_id:  # two senders numbered alike
            own = made_id(resource, patient_id)
            row = session.get(ResourceRow, f"{kind}/{own}")
        if kind == "Patient" and row is not None:
            data = {**row.data, **data}  # what one sender doesn't say another may have said
        if row is None:
            session.add(ResourceRow(name=f"{kind}/{own}", kind=kind, patient_id=patient_id, bundle_id=bundle_id, version=1, updated=now,
                                    data=data))  # fmt: skip
        elif row.data != data and not only_new:
            row.version, row.updated, row.data, row.bundle_id = row.version + 1, now, data, bundle_id
            values = delete(ItemRow).where(ItemRow.patient_id == patient_id, ItemRow.data["resource"].as_string() == row.name)
            session.execute(values)
            changed = True
    session.flush()
    return changed


def untold(session: Session, objects: Objects) -> list[str]:
    """Bundles of FHIR resources, where none was kept yet: they came before this was done. All are filled in at once, so later starts read none."""
    if session.scalar(select(ResourceRow.name).limit(1)) is not None:
        return []
    query = select(BundleRow.id, BundleRow.sha256).where(BundleRow.study_id.is_(None), BundleRow.title.not_like("%.hl7"))
    return [name for name, sha in session.execute(query) if objects.there(sha) and _holds_resources(objects.get(sha))]


def _holds_resources(data: bytes) -> bool:
    if not fhir.is_fhir(data) or fhir.is_ndjson(data):
        return False
    try:
        return bool(fhir.read_bundle(data).resources)
    except Refused:
        return False


def fill(session: Session, objects: Objects, bundles: Sequence[str]) -> None:
    """Keep the resources of bundles (those `untold`)."""
    for name in bundles:
        bundle = session.get_one(BundleRow, name)
        keep(session, bundle.patient_id, bundle.id, fhir.read_bundle(objects.get(bundle.sha256)).resources, only_new=True)


def kept(session: Session, kind: str, patient_id: str | None = None) -> list[Kept]:
    """The resources of a type, of one patient or of all, those changed last first."""
    query = select(ResourceRow).where(ResourceRow.kind == kind).order_by(ResourceRow.updated.desc(), ResourceRow.name)
    if patient_id is not None:
        query = query.where(ResourceRow.patient_id == patient_id)
    return [_told(r) for r in session.scalars(query)]


def one(session: Session, kind: str, own: str) -> Kept | None:
    """One resource, or None."""
    row = session.get(ResourceRow, f"{kind}/{own}")
    return None if row is None else _told(row)


def _told(row: ResourceRow) -> Kept:
    kind, _, own = row.name.partition("/")
    meta = {"versionId": str(row.version), "lastUpdated": row.updated}
    return Kept(patient_id=row.patient_id, data={"resourceType": kind, "id": own, "meta": meta, **row.data})
