"""What DICOMweb and DIMSE tell of studies and series: attributes in the DICOM JSON model (PS3.18 F), kept beside the archive's tables."""

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from sqlalchemy import ForeignKey, Index, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from knowledge.errors import NotFound, Refused
from knowledge.studies.store import Base, InstanceRow, Objects, SeriesRow, StudyRow

Tags = dict[str, dict[str, Any]]
"""Attributes by tag (eight hexadecimal digits): `{"vr": "LO", "Value": [...]}`."""

STUDY = ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "TimezoneOffsetFromUTC", "PatientName", "PatientID",
         "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDescription")  # fmt: skip
"""Of a study and its patient: PS3.18 table 10.6.3-3, and what worklists of viewers show besides."""
SERIES = ("Modality", "Manufacturer", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "SeriesDate", "SeriesTime", "BodyPartExamined",
          "Laterality", "ProtocolName", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "FrameOfReferenceUID")  # fmt: skip
"""Of a series: PS3.18 table 10.6.3-4, and the same."""
MOST = 1024
"""Characters of a value."""


class StudyTags(Base):
    """A study's attributes, those that every archive is asked by in columns of their own."""

    __tablename__ = "study_tags"
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True)
    uid: Mapped[str] = mapped_column(index=True)
    patient_id: Mapped[str] = mapped_column(index=True)
    patient_name: Mapped[str]
    """Without case, accents and empty components, as names are matched."""
    accession: Mapped[str] = mapped_column(index=True)
    date: Mapped[str]
    data: Mapped[dict[str, Any]]
    __table_args__ = (Index("ix_study_tags_date", "date", "study_id"),)


class SeriesTags(Base):
    """A series' attributes."""

    __tablename__ = "series_tags"
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True)
    uid: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[dict[str, Any]]


class GoneRow(Base):
    """A study, series or instance that was deleted, by the SHA-256 of its UID: who asks for it is told so."""

    __tablename__ = "gone"
    uid: Mapped[str] = mapped_column(primary_key=True)
    study: Mapped[str] = mapped_column(index=True)
    """The SHA-256 of its study's UID: all of it is there again when the study comes again."""


def tag(keyword: str) -> str:
    """The tag of a keyword as eight hexadecimal digits. Raises ValueError for a keyword that the dictionary lacks."""
    number = tag_for_keyword(keyword)
    if number is None:
        raise ValueError(f"{keyword!r} is no keyword of the DICOM dictionary")
    return f"{number:08X}"


def of(dataset: Dataset, keywords: Sequence[str]) -> Tags:
    """The attributes that `dataset` has a value for; one whose value can't be read is left out."""
    found: Tags = {}
    for keyword in keywords:
        try:
            element = dataset[keyword]
            told = element.to_json_dict(None, MOST)
        except Exception:  # noqa: BLE001, S112 (headers from outside: whatever pydicom trips over)
            continue
        values = told.get("Value")
        if values and all(len(str(v)) <= MOST for v in values):
            found[tag(keyword)] = told
    return found


def put(name: str, *values: Any) -> dict[str, dict[str, Any]]:
    """One attribute by its keyword."""
    number = tag_for_keyword(name)
    assert number is not None
    return {f"{number:08X}": {"vr": dictionary_VR(number), **({"Value": list(values)} if values else {})}}


def first(tags: Tags, keyword: str) -> str:
    """The first value as text; empty where there is none."""
    value = (tags.get(tag(keyword), {}).get("Value") or [""])[0]
    return str(value.get("Alphabetic", "") if isinstance(value, dict) else value)


def plain(name: str) -> str:
    """A name without case, accents and empty components."""
    folded = unicodedata.normalize("NFKD", name).casefold()
    return "".join(c for c in folded if not unicodedata.combining(c)).rstrip("^ ")


def keep(session: Session, study: StudyRow, series_uid: str, study_tags: Tags, series_tags: Tags) -> None:
    """Write a series' attributes, and its study's where none of its series came before."""
    if study_tags and session.get(StudyTags, study.id) is None:
        told = {**study_tags, **put("StudyInstanceUID", study.uid), **put("PatientID", study.patient_id)}
        session.add(StudyTags(study_id=study.id, uid=study.uid or "", patient_id=study.patient_id, patient_name=plain(first(told, "PatientName")),
                              accession=first(told, "AccessionNumber"), date=first(told, "StudyDate"), data=told))  # fmt: skip
    if series_tags and session.get(SeriesTags, (study.id, series_uid)) is None:
        session.add(SeriesTags(study_id=study.id, uid=series_uid, data={**series_tags, **put("SeriesInstanceUID", series_uid)}))


def digest(uid: str) -> str:
    """What is kept of the UID of something deleted."""
    return hashlib.sha256(uid.encode()).hexdigest()


def bury(session: Session, study: StudyRow) -> None:
    """Note that a DICOM study, its series and instances were here."""
    if study.format != "DICOM" or not study.uid:
        return
    mine = digest(study.uid)
    uids = {study.uid}
    for series, sop in session.execute(
        select(InstanceRow.series_uid, InstanceRow.sop_uid).where(InstanceRow.study_id == study.id)
    ):
        uids |= {series, sop}
    revive(session, study.uid)
    session.add_all(GoneRow(uid=digest(u), study=mine) for u in sorted(uids))


def revive(session: Session, study_uid: str) -> None:
    """Forget that a study was deleted: it comes again."""
    session.execute(delete(GoneRow).where(GoneRow.study == digest(study_uid)))


def untold(session: Session) -> Sequence[tuple[str, str]]:
    """DICOM series (study, UID) whose attributes aren't kept: they came before this was done."""
    known = select(SeriesTags.uid).where(SeriesTags.study_id == SeriesRow.study_id, SeriesTags.uid == SeriesRow.uid).exists()
    there = (
        select(InstanceRow.id).where(InstanceRow.study_id == SeriesRow.study_id, InstanceRow.series_uid == SeriesRow.uid).exists()
    )
    query = select(SeriesRow.study_id, SeriesRow.uid).where(SeriesRow.format == "DICOM", ~known, there).distinct()
    return [(study, uid) for study, uid in session.execute(query)]


def fill(session: Session, objects: Objects, series: Sequence[tuple[str, str]]) -> int:
    """Read the attributes of DICOM series (those `untold`); how many could be read."""
    from knowledge.studies.dicom import read_instance

    count = 0
    for study_id, uid in series:
        mine = select(InstanceRow.sha256).where(InstanceRow.study_id == study_id, InstanceRow.series_uid == uid).limit(1)
        try:
            instance = read_instance(objects.get(session.scalars(mine).one()))
        except (Refused, NotFound, LookupError):
            continue
        keep(session, session.get_one(StudyRow, study_id), uid, instance.study_tags, instance.series_tags)
        count += 1
    return count
