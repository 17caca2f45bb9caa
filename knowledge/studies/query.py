"""Search the archive as DICOM has it: studies, series and instances by their attributes (PS3.4 C.4.1, PS3.18 10.6)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from knowledge.database import batches
from knowledge.errors import Gone, NotFound
from knowledge.studies.archive import Archive
from knowledge.studies.matching import Keys, matches, words
from knowledge.studies.store import InstanceRow, StudyRow
from knowledge.studies.tags import SERIES, STUDY, GoneRow, SeriesTags, StudyTags, Tags, digest, plain, put, tag

AT_ONCE = 200
MATCHED = {tag(k) for k in (*STUDY, *SERIES, "ModalitiesInStudy", "SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns",
                            "BitsAllocated", "NumberOfFrames", "InstanceAvailability")}  # fmt: skip
"""What can be asked by. Other attributes are passed over, as the standard has it (PS3.4 C.2.2.1.3, PS3.18 8.3.4.5)."""
UIDS = {tag(k) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}


@dataclass(frozen=True)
class Stored:
    """One DICOM instance as it is kept. `place`: see `placement.place_of`."""

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    path: Path
    place: dict[str, Any]


class DicomIndex:
    """An archive's DICOM objects."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive

    # Searching

    def studies(self, keys: Keys, fuzzy: bool = False, skip: int = 0, most: int | None = None) -> Iterator[Tags]:
        """Studies, newest first, without the first `skip`; no more than `most`."""
        query = select(StudyTags, StudyRow.patient_id, StudyRow.modalities).join(StudyRow, StudyRow.id == StudyTags.study_id)
        conditions, every = _conditions(keys, fuzzy)
        order = (StudyTags.date.desc(), StudyTags.study_id.desc())
        if every:  # the page is found on the index alone, and only its rows are read
            ids = select(StudyTags.study_id).order_by(*order)
            if conditions:
                ids = ids.join(StudyRow, StudyRow.id == StudyTags.study_id).where(*conditions)
            page = (
                ids.offset(skip).limit(-1 if most is None and self.archive.engine.dialect.name == "sqlite" else most).subquery()
            )
            query, skip = query.where(StudyTags.study_id.in_(select(page.c.study_id))), 0
        else:
            query = query.where(*conditions)
        query = query.order_by(*order)
        left = most
        with self.archive.reading() as session:
            for some in session.execute(query.execution_options(yield_per=min(AT_ONCE, most or AT_ONCE))).partitions():
                told = [(row.study_id, _study(row, patient, kinds)) for row, patient, kinds in some]
                found = [(study_id, one) for study_id, one in told if matches(one, keys, fuzzy)]
                skip, found = max(0, skip - len(found)), found[skip:]
                found = found if left is None else found[:left]
                left = None if left is None else left - len(found)
                counts = _counts(session, [study_id for study_id, _ in found], InstanceRow.study_id)
                for study_id, one in found:
                    series, instances = counts.get(study_id, (0, 0))
                    yield {**one, **put("NumberOfStudyRelatedSeries", series), **put("NumberOfStudyRelatedInstances", instances)}
                if left == 0:
                    return

    def series(self, keys: Keys, fuzzy: bool = False) -> Iterator[Tags]:
        """Series with their study's attributes, by study newest first, then by number."""
        query = (
            select(SeriesTags, StudyTags, StudyRow.patient_id, StudyRow.modalities)
            .join(StudyTags, StudyTags.study_id == SeriesTags.study_id)
            .join(StudyRow, StudyRow.id == StudyTags.study_id)
        )
        conditions, _ = _conditions(keys, fuzzy, SeriesTags.uid)
        query = query.where(*conditions).order_by(StudyTags.date.desc(), StudyTags.study_id, SeriesTags.uid)
        with self.archive.reading() as session:
            for some in session.execute(query.execution_options(yield_per=AT_ONCE)).partitions():
                found = [(one, told) for one, row, patient, kinds in some
                         if matches(told := {**_study(row, patient, kinds), **one.data}, keys, fuzzy)]  # fmt: skip
                counts = _counts(session, [one.uid for one, _ in found], InstanceRow.series_uid)
                for one, told in sorted(found, key=lambda f: _number(f[1])):
                    yield {**told, **put("NumberOfSeriesRelatedInstances", counts.get(one.uid, (0, 0))[1])}

    def instances(self, keys: Keys, fuzzy: bool = False) -> Iterator[Tags]:
        """Instances with their series' and study's attributes, by number within their series."""
        query = (
            select(InstanceRow, SeriesTags, StudyTags, StudyRow.patient_id, StudyRow.modalities)
            .join(SeriesTags, (SeriesTags.study_id == InstanceRow.study_id) & (SeriesTags.uid == InstanceRow.series_uid))
            .join(StudyTags, StudyTags.study_id == InstanceRow.study_id)
            .join(StudyRow, StudyRow.id == StudyTags.study_id)
            .where(InstanceRow.variant == 0)
        )
        conditions, _ = _conditions(keys, fuzzy, InstanceRow.series_uid, InstanceRow.sop_uid)
        query = query.where(*conditions).order_by(
            StudyTags.date.desc(), StudyTags.study_id, InstanceRow.series_uid, InstanceRow.id
        )
        with self.archive.reading() as session:
            for some in session.execute(query.execution_options(yield_per=AT_ONCE)).partitions():
                for row, one, study, patient, kinds in some:
                    told = {**_study(study, patient, kinds), **one.data, **_instance(row)}
                    if matches(told, keys, fuzzy):
                        yield told

    # Finding

    def stored(self, study_uid: str, series_uid: str | None = None, sop_uid: str | None = None) -> list[Stored]:
        """The instances of a study, a series, or one. Raises NotFound, and Gone for what was deleted."""
        query = (
            select(InstanceRow, StudyRow.uid)
            .join(StudyRow, StudyRow.id == InstanceRow.study_id)
            .where(StudyRow.uid == study_uid, StudyRow.format == "DICOM", InstanceRow.variant == 0)
        )
        for column, wanted in ((InstanceRow.series_uid, series_uid), (InstanceRow.sop_uid, sop_uid)):
            query = query if wanted is None else query.where(column == wanted)
        with self.archive.reading() as session:
            found = [
                Stored(study_uid, r.series_uid, r.sop_uid, r.sop_class, self.archive.objects.path(r.sha256), r.place)
                for r, _ in session.execute(query.order_by(InstanceRow.series_uid, InstanceRow.id))
            ]
            asked = sop_uid or series_uid or study_uid
            if not found and session.get(GoneRow, digest(asked)) is not None:
                raise Gone("it was deleted", "ask whoever deleted it, or send it again")
        if not found:
            raise NotFound("the archive has no such study, series or instance", "search for it first")
        return found

    def kept(self, sops: Sequence[str]) -> dict[str, str]:
        """Of these SOP Instance UIDs those that are kept, with their SOP class."""
        found: dict[str, str] = {}
        with self.archive.reading() as session:
            for some in batches(sops):
                rows = session.execute(
                    select(InstanceRow.sop_uid, InstanceRow.sop_class).where(
                        InstanceRow.sop_uid.in_(some), InstanceRow.variant == 0
                    )
                )
                found |= dict(rows.tuples().all())
        return found


def _conditions(keys: Keys, fuzzy: bool, series: Any = None, sop: Any = None) -> tuple[list[ColumnElement[bool]], bool]:
    """What the database can tell by itself of the keys (`series`, `sop`: the columns of their UIDs), and whether that is all of them."""
    columns: dict[str, Any] = {tag("StudyInstanceUID"): StudyTags.uid, tag("SeriesInstanceUID"): series, tag("SOPInstanceUID"): sop,
                               tag("PatientID"): StudyRow.patient_id, tag("AccessionNumber"): StudyTags.accession}  # fmt: skip
    found: list[ColumnElement[bool]] = []
    every = True
    for path, wanted in keys.items():
        if wanted in ("", "*"):
            continue
        name, column, wild = path[-1], columns.get(path[-1]) if len(path) == 1 else None, "*" in wanted or "?" in wanted
        if column is not None and not wild:
            found.append(column.in_([w for w in re.split(r"[\\,]", wanted) if w] if name in UIDS else [wanted]))
        elif path == (tag("StudyDate"),):
            low, dash, high = wanted.partition("-")
            found += [StudyTags.date != "", StudyTags.date >= low, StudyTags.date <= (high or ("99999999" if dash else low))]
        elif path == (tag("PatientName"),):
            # By themselves, so that the names are read in a row; else SQLite reads every study in the order of its date.
            named = aliased(StudyTags)
            fitting = select(named.study_id).where(*(named.patient_name.like(p, escape="!") for p in _likes(wanted, fuzzy)))
            found.append(StudyTags.study_id.in_(fitting))
            every = False
        elif path == (tag("ModalitiesInStudy"),) and not wild:
            found.append(StudyRow.modalities.contains(f"|{wanted}|", autoescape=True))
        else:
            every = False
    return found, every


def _likes(name: str, fuzzy: bool) -> list[str]:
    """Patterns that a matching name fits; not all that fit match."""
    if fuzzy:
        return [f"%{_escaped(w)}%" for w in words(name.replace("*", " ").replace("?", " "))]
    return [_escaped(plain(name)).replace("*", "%").replace("?", "_")]


def _escaped(text: str) -> str:
    return re.sub(r"([!%_])", r"!\1", text)


def _study(row: StudyTags, patient_id: str, modalities: str) -> Tags:
    kinds = [m for m in modalities.split("|") if m]
    return {
        **row.data,
        **put("PatientID", patient_id),
        **put("ModalitiesInStudy", *kinds),
        **put("InstanceAvailability", "ONLINE"),
    }


def _instance(row: InstanceRow) -> Tags:
    place = row.place
    told = {**put("SOPClassUID", row.sop_class), **put("SOPInstanceUID", row.sop_uid)}
    if place.get("number") is not None:
        told |= put("InstanceNumber", place["number"])
    if place.get("frames"):
        told |= {**put("Rows", place["rows"]), **put("Columns", place["columns"]), **put("BitsAllocated", place["bits"]),
                 **put("NumberOfFrames", place["frames"])}  # fmt: skip
    return told


def _counts(session: Session, names: Sequence[str], column: Any) -> dict[str, tuple[int, int]]:
    """Series and instances of each study, or of each series."""
    found: dict[str, tuple[int, int]] = {}
    for some in batches(names):
        query = select(column, func.count(InstanceRow.series_uid.distinct()), func.count()).where(
            column.in_(some), InstanceRow.variant == 0
        )
        found |= {name: (series, instances) for name, series, instances in session.execute(query.group_by(column))}
    return found


def _number(told: Tags) -> int:
    value = (told.get(tag("SeriesNumber"), {}).get("Value") or [0])[0]
    return int(value) if isinstance(value, int | float) else 0
