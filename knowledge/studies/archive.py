"""The archive: takes files in, keeps originals, answers with studies, records and volumes."""

import logging
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, undefer

from knowledge.database import batches, engine_of
from knowledge.errors import NotFound, Refused, StorageFailed
from knowledge.evidence import Frozen
from knowledge.migrations import migrate
from knowledge.records.model import Record, RecordItem, Report
from knowledge.studies import audit, intake, resources, store, stream, tags
from knowledge.studies.deidentify.vault import Vault
from knowledge.studies.keeper import Ask, Conflict, Keeper
from knowledge.studies.model import Patient, Study
from knowledge.studies.resources import Kept
from knowledge.studies.rows import hashes_of, report_of, series_row, studies_of, study_row, unnamed
from knowledge.studies.settle import Settler, settle_old, undecodable
from knowledge.studies.store import (
    AuditRow,
    BundleRow,
    InstanceRow,
    ItemRow,
    Journal,
    Objects,
    PatientRow,
    ReportRow,
    SeriesRow,
    StudyRow,
    WaitingRow,
)
from knowledge.studies.unpack import BROKEN_ARCHIVE, Incoming
from knowledge.studies.volume import Volume
from knowledge.studies.volumes import InPlace, VolumeCache, in_place, volume_of

log = logging.getLogger("consilium.archive")
READERS = 2 + (os.cpu_count() or 1)
"""Two more than cores: they wait for the disk."""


class Rejected(Frozen):
    """A file that wasn't taken, and why."""

    file: str
    reason: str
    sop_class: str = Field("", exclude=True)
    sop_uid: str = Field("", exclude=True)
    """Of a DICOM instance that can be told of though it wasn't taken."""
    other_study: bool = Field(False, exclude=True)
    """It is of another study than the caller named."""


@dataclass(frozen=True)
class Original:
    """A file as it came. `place` for DICOM alone."""

    name: str
    path: Path
    series_uid: str
    place: dict[str, Any] | None
    modality: str
    header: dict[str, Any]


class Taken(Frozen):
    """A DICOM instance that was taken in: the file that it came as, and its UIDs."""

    file: str
    sop_class: str
    sop_uid: str
    series_uid: str
    study_uid: str


class Import(Frozen):
    """What one upload brought. `conflicts`: what contradicts itself or the archive; `asks`: what the files don't say of themselves."""

    studies: list[Study] = Field(default_factory=list)
    records: list[Record] = Field(default_factory=list)
    rejected: list[Rejected] = Field(default_factory=list)
    conflicts: list[Conflict] = Field(default_factory=list)
    asks: list[Ask] = Field(default_factory=list)
    instances: list[Taken] = Field(default_factory=list, exclude=True)
    """DICOM instances that are kept now, be they new or not."""

    @property
    def patient_ids(self) -> set[str]:
        return {s.patient_id for s in self.studies} | {r.patient_id for r in self.records}


_LOCK = update(AuditRow).where(AuditRow.id == -1).values(actor="")
"""Takes SQLite's write lock."""


class Archive:
    """Studies and records under `root`: `archive.db` (or another database `url`), `objects/`, `derived/`, `cache/`."""

    def __init__(self, root: Path, url: str | None = None, clean: Callable[[bytes], bytes] | None = None) -> None:
        """`clean` de-identifies each DICOM file before anything of it is kept; then nothing else is taken in."""
        self.root, self.clean = root, clean
        with store.storing():
            root.mkdir(parents=True, exist_ok=True)
            self.objects = Objects(root / "objects")
        self.engine = engine_of(url or f"sqlite:///{root / 'archive.db'}", store.Base, migrate)
        self.cache = VolumeCache(root / "cache")
        self._writing = threading.Lock()
        self.watchers: list[Callable[[str], object]] = []
        """Told the id of each series whose slices changed or that went."""
        self.listeners: list[Callable[[Import], object]] = []
        """Told what each upload brought, once it is kept."""
        self._sweep()
        self._settle_old()
        self._tell_old()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction that no other writer, of this process or another, runs beside. A full disk ends it whole."""
        try:
            with self._writing, Session(self.engine) as session, session.begin():
                if self.engine.dialect.name == "postgresql":
                    session.execute(text("SELECT pg_advisory_xact_lock(842000)"))
                else:
                    session.connection().execute(_LOCK)
                yield session
        except OperationalError as error:
            raise StorageFailed(f"the archive's database can't be written: {error.orig}", "make room or mend the permissions of the data "
                                "folder, then try again; nothing was changed") from error  # fmt: skip

    # Taking in

    def add(self, files: Iterable[Incoming], hints: intake.Hints | None = None, by: str = "local") -> Import:
        """Read and keep `files`. Each is taken whole or refused with its reason; the same file twice changes nothing.

        Files stream through a few threads, so memory doesn't grow with the upload. Originals are on the disk before the rows that
        name them; when this returns, both are. Raises StorageFailed where the disk can't take them: then nothing of it is kept.
        """
        hints = hints or intake.Hints()
        with store.storing():
            journal = Journal(self.objects.parts)
        try:
            parsed, rejected = self._read(files, hints, journal)
            self.objects.settle(journal)
            doubts = undecodable([(i.series_uid, p.sha256, i.place) for p in parsed if (i := p.instance)], self.objects.path)
            with self.writing() as session:
                keeper, stale = self._keep(session, hints, parsed, doubts)
                if keeper.studies or keeper.records:
                    detail = {"files": len(parsed), "rejected": len(rejected), "studies": sorted(keeper.studies)}
                    audit.append(session, by, "import", "", detail)
        except BaseException:
            self.take_back(journal)
            raise
        for series_id in stale:
            self.forget(series_id)
        if rejected:
            self.take_back(journal)
        journal.close()
        done = Import(studies=self._studies(list(keeper.studies)), records=list(keeper.records.values()), rejected=rejected,
                      conflicts=keeper.conflicts, asks=keeper.asks,
                      instances=[Taken(file=p.name, sop_class=i.sop_class, sop_uid=i.sop_instance_uid, series_uid=i.series_uid,
                                       study_uid=i.study_uid) for p in parsed if (i := p.instance)])  # fmt: skip
        self._tell(done)
        return done

    def _tell(self, done: Import) -> None:
        for listener in self.listeners:
            try:
                listener(done)
            except Exception as error:  # noqa: BLE001 (what came is kept, whatever is made of it)
                log.error("something that listens to what arrives failed with %s", type(error).__name__)

    def _read(
        self, files: Iterable[Incoming], hints: intake.Hints, journal: Journal
    ) -> tuple[list[intake.Parsed], list[Rejected]]:
        reader = intake.Reader(self.objects, journal, hints, self.clean)
        parsed: list[intake.Parsed] = []
        rejected: list[Rejected] = []
        halves: list[intake.Half] = []

        def take(name: str, found: "list[intake.Parsed] | intake.Half | Refused") -> None:
            if isinstance(found, Refused):
                reason = f"{found}: {found.hint}" if found.hint else str(found)
                sop_class, sop_uid = found.instance
                rejected.append(Rejected(file=name, reason=reason, sop_class=sop_class, sop_uid=sop_uid,
                                         other_study=isinstance(found, intake.WrongStudy)))  # fmt: skip
            elif isinstance(found, intake.Half):
                halves.append(found)
            else:
                parsed.extend(found)
                strange = [r for p in found if p.record for r in p.record.foreign]
                rejected.extend(
                    Rejected(file=f"{name}: {r}", reason="it speaks of another patient than the bundle's") for r in strange
                )

        waiting: deque[tuple[str, Future[list[intake.Parsed] | intake.Half | Refused]]] = deque()
        with ThreadPoolExecutor(READERS) as threads:
            for file in files:
                waiting.append((file.name, threads.submit(self.read_one, reader, file)))
                while len(waiting) > 2 * READERS or (waiting and waiting[0][1].done()):
                    name, future = waiting.popleft()
                    take(name, future.result())
            for name, future in waiting:
                take(name, future.result())
        for name, joined in reader.join(halves):
            take(name, joined)
        return parsed, rejected

    def read_one(self, reader: intake.Reader, file: Incoming) -> "list[intake.Parsed] | intake.Half | Refused":
        """One file read and its original kept; why it can't be, where it can't. Raises StorageFailed."""
        try:
            if file.refusal:
                return Refused(file.refusal)
            with file.open() as stream:
                staged = self.objects.stage(stream)
            return reader.read(file.name, staged)
        except Refused as refusal:
            return refusal
        except StorageFailed:
            raise
        except BROKEN_ARCHIVE as error:  # a file that can't be read (permission, a broken archive under it)
            return Refused(f"it can't be read ({type(error).__name__})", "check the file and send it again")

    def _keep(
        self, session: Session, hints: intake.Hints, parsed: list[intake.Parsed], doubts: dict[str, str]
    ) -> tuple[Keeper, set[str]]:
        """Write the rows of an upload; what was made from series that changed is stale."""
        keeper = Keeper(session, self.objects, hints, parsed)
        for one in parsed:
            keeper.keep(one)
        session.flush()
        settler = Settler(session, self.objects, doubts)
        for (study_id, uid), sample in keeper.touched.items():
            settler.series(study_id, uid, sample)
        for study_id in keeper.studies:
            settler.study(study_id)
        self.still_there(parsed)
        return keeper, settler.stale

    def still_there(self, parsed: Sequence[intake.Parsed]) -> None:
        """Another upload's clean-up may have taken a file that both had: under the write lock this is settled. Raises StorageFailed."""
        if any(not self.objects.there(p.sha256) for p in parsed):
            raise StorageFailed("an original vanished while it was taken in", "send the upload again")

    def settle(self) -> None:
        """Lay out what came one instance at a time, and tell of it."""
        if studies := stream.settle(self):
            self._tell(Import(studies=self._studies(studies)))

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session in which every series is laid out; where the disk doesn't let it, what was laid out before can still be read."""
        with Session(self.engine) as session:
            if stream.waits(session):
                session.rollback()
                try:
                    self.settle()
                except StorageFailed as error:
                    log.error("what came can't be laid out: %s", error)
            yield session

    def forget(self, series_id: str) -> None:
        """Drop masks and cached voxels of a series that changed or went."""
        folder = self.derived(series_id)
        if folder.exists():
            shutil.rmtree(folder)  # a model's derived files may lie in folders of their own
        self.cache.forget(series_id)
        for told in self.watchers:
            told(series_id)

    def take_back(self, journal: Journal) -> None:
        """Drop what an upload wrote that no row names."""
        self._drop_unnamed(journal.names)
        journal.close()

    def _drop_unnamed(self, names: Sequence[str]) -> None:
        """Drop those originals that no row names: judged while nobody else writes."""
        with self.writing() as session:
            self.objects.drop(unnamed(session, names))

    def _sweep(self) -> None:
        """Drop what killed uploads left behind: temporary files, and originals that no row names."""
        with self.objects.left_behind() as names:
            if names:
                self._drop_unnamed(names)

    def _settle_old(self) -> None:
        """Lay out what an earlier version's tables held: instances are read again from their originals."""
        with Session(self.engine) as session:
            if session.scalar(select(SeriesRow.id).where(SeriesRow.settled.is_(False)).limit(1)) is None:
                return
        with self.writing() as session:
            settle_old(session, self.objects)

    def _tell_old(self) -> None:
        """Read the attributes and resources that others ask for, of what came before they were kept."""
        with Session(self.engine) as session:
            series, bundles = tags.untold(session), resources.untold(session, self.objects)
        if series or bundles:
            with self.writing() as session:
                tags.fill(session, self.objects, series)
                resources.fill(session, self.objects, bundles)

    def assign(self, study_id: str, patient_id: str, by: str = "local") -> Study:
        """Say whose a study is that came without a patient. Raises Refused where its files name one."""
        with self.writing() as session:
            row = study_row(session, study_id)
            made = session.get_one(PatientRow, row.patient_id)
            if not made.made and row.patient_id != patient_id:
                raise Refused("the study's files name their patient", "correct the files and import them again")
            if row.patient_id != patient_id:
                Keeper(session, self.objects, intake.Hints(patient_id), []).move(made, patient_id)
                audit.append(session, by, "assign", study_id, {})
        return self.study(study_id)

    def describe(self, study_id: str, date: str | None, modality: str | None, body_part: str | None, by: str = "local") -> Study:
        """Say what a study's files don't: date, modality, body part. Raises Refused for DICOM, which says it itself."""
        with self.writing() as session:
            row = study_row(session, study_id)
            if row.format == "DICOM":
                raise Refused("DICOM says its date, modality and body part itself", "correct the files and import them again")
            row.date = date or row.date
            for series in session.scalars(select(SeriesRow).where(SeriesRow.study_id == study_id, SeriesRow.modality != "SEG")):
                series.modality, series.body_part = (modality or series.modality).upper(), (body_part or series.body_part).upper()
                series.layout = {
                    **series.layout,
                    "warnings": [w for w in series.layout["warnings"] if not (modality and w == intake.UNKNOWN)],
                }
            session.flush()
            Settler(session, self.objects, {}).study(study_id)
            audit.append(session, by, "describe", study_id, {})
        return self.study(study_id)

    def delete(self, study_id: str, by: str = "local") -> None:
        """Delete a study with its originals, its reports and values, and everything derived or cached from its series."""
        with self.writing() as session:
            tags.bury(session, study_row(session, study_id))
            series = session.scalars(select(SeriesRow.id).where(SeriesRow.study_id == study_id)).all()
            hashes = hashes_of(session, study_id)
            bundles = session.scalars(select(BundleRow.id).where(BundleRow.study_id == study_id)).all()
            session.execute(delete(ItemRow).where(ItemRow.bundle_id.in_(bundles)))
            for table in (BundleRow, ReportRow, InstanceRow, SeriesRow, WaitingRow):
                session.execute(delete(table).where(table.study_id == study_id))
            session.execute(delete(StudyRow).where(StudyRow.id == study_id))
            derived = sum(len(list(self.derived(one).glob("*"))) for one in series)
            detail = {"series": len(series), "originals": len(hashes), "derived": derived}
            audit.append(session, by, "delete", study_id, detail)
        self._drop_unnamed(hashes)  # the rows are gone for good: now the files, unless an upload has named them again
        for one in series:
            self.forget(one)

    def audit(self, limit: int = 100, subject: str | None = None) -> list[audit.AuditEntry]:
        """What was done, newest first."""
        with Session(self.engine) as session:
            return audit.entries(session, limit, subject)

    def audit_broken_at(self) -> int | None:
        """The first audit entry that was tampered with, or None."""
        with Session(self.engine) as session:
            return audit.broken_at(session)

    def note(self, by: str, action: str, subject: str, detail: dict[str, object]) -> None:
        """Add an act to the audit (an export, say)."""
        with self.writing() as session:
            audit.append(session, by, action, subject, detail)

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

    def identifying(self, patient_id: str) -> list[str]:
        """Names and identifiers of a patient, as files and headers have them: to be taken out of texts, never shown."""
        from knowledge.studies.tags import StudyTags, first

        with Session(self.engine) as session:
            row = session.get(PatientRow, patient_id)
            told = [] if row is None else [row.id, row.shared_id, row.name]
            for tags in session.scalars(
                select(StudyTags).join(StudyRow, StudyRow.id == StudyTags.study_id).where(StudyRow.patient_id == patient_id)
            ):
                told += [first(tags.data, "PatientName"), tags.accession]
        return list(dict.fromkeys(w.replace("^", " ").strip() for w in told if w and w.strip()))

    def studies(self, patient_id: str | None = None, modality: str | None = None, since: str | None = None, until: str | None = None,
                limit: int | None = None, offset: int = 0, headers: bool = False) -> list[Study]:  # fmt: skip
        """Studies, by patient oldest first, or of all patients newest first; `since` and `until` are ISO dates, both included."""
        with self.reading() as session:
            query = select(StudyRow)
            if patient_id is not None:
                query = query.where(StudyRow.patient_id == patient_id).order_by(StudyRow.number)
            else:
                query = query.order_by(StudyRow.date.desc(), StudyRow.id)
            if modality is not None:
                query = query.where(StudyRow.modalities.contains(f"|{modality}|", autoescape=True))
            if since is not None:
                query = query.where(StudyRow.date >= since)
            if until is not None:
                query = query.where(StudyRow.date <= until)
            return studies_of(session, session.scalars(query.limit(limit).offset(offset)).all(), headers)

    def _studies(self, ids: Sequence[str]) -> list[Study]:
        with Session(self.engine) as session:
            rows = [r for some in batches(ids) for r in session.scalars(select(StudyRow).where(StudyRow.id.in_(some)))]
            rows.sort(key=lambda r: ids.index(r.id))
            return studies_of(session, rows)

    def study(self, study_id: str) -> Study:
        with self.reading() as session:
            row = study_row(session, study_id)
            return studies_of(session, [row], headers=True)[0]

    def volume(self, series_id: str) -> Volume:
        """The voxels of a series in their source grid."""
        with self.reading() as session:
            series = series_row(session, series_id)
            return volume_of(session, self.objects, self.cache, series)

    def in_place(self, series_id: str) -> InPlace | None:
        """A series whose slices can be read one by one; None where they can't."""
        with self.reading() as session:
            return in_place(session, self.objects, series_row(session, series_id))

    def originals(self, study_id: str) -> list[Original]:
        """A study's originals, as they came."""
        self.study(study_id)
        with self.reading() as session:
            mine = SeriesRow.study_id == study_id
            told = {r.uid: r for r in session.scalars(select(SeriesRow).where(mine).options(undefer(SeriesRow.header)))}
            found = []
            for r in session.scalars(select(InstanceRow).where(InstanceRow.study_id == study_id).order_by(InstanceRow.id)):
                series = told.get(r.series_uid)
                place = r.place if series is not None and series.format == "DICOM" else None
                modality, header = (series.modality, series.header) if series else ("OT", {})
                found.append(Original(r.name, self.objects.path(r.sha256), r.series_uid, place, modality, header))
                if r.companion:
                    name = r.place.get("data_name", "voxels")
                    found.append(Original(name, self.objects.path(r.companion), r.series_uid, None, modality, header))
            return found

    def frames(self, series_id: str) -> list[tuple[str, int]]:
        """(SOP Instance UID, frame) of each slice of a DICOM series, first to last; no UID for a slice of zeros."""
        with self.reading() as session:
            series = series_row(session, series_id)
            rows = session.execute(select(InstanceRow.id, InstanceRow.sop_uid).where(InstanceRow.study_id == series.study_id))
            uids = {row.id: row.sop_uid for row in rows}
            return [(uids[s[0]], s[1]) if s else ("", 0) for s in series.frames]

    @cached_property
    def vault(self) -> Vault:
        """Pseudonyms for what leaves de-identified."""
        with store.storing():
            return Vault(self.root / "vault")

    def derived(self, series_id: str) -> Path:
        """The folder of what was made from a series (masks)."""
        if "/" in series_id or ".." in series_id:
            raise NotFound("there is no such series", "show the study")
        return self.root / "derived" / series_id

    def patients_with_reports(self) -> list[str]:
        with Session(self.engine) as session:
            return list(session.scalars(select(ReportRow.patient_id).distinct().order_by(ReportRow.patient_id)))

    def reports(self, patient_id: str) -> list[Report]:
        with Session(self.engine) as session:
            rows = session.scalars(select(ReportRow).where(ReportRow.patient_id == patient_id).order_by(ReportRow.number))
            return [report_of(r) for r in rows]

    def report(self, report_id: str) -> Report:
        with Session(self.engine) as session:
            row = session.get(ReportRow, report_id)
            if row is None:
                raise NotFound(f"there is no report {report_id}", "list the patient's records")
            return report_of(row)

    def kept_resources(self, kind: str, patient_id: str | None = None) -> list[Kept]:
        """FHIR resources of a type as they came, those changed last first."""
        with Session(self.engine) as session:
            return resources.kept(session, kind, patient_id)

    def kept_resource(self, kind: str, own: str) -> Kept | None:
        """One FHIR resource as it came."""
        with Session(self.engine) as session:
            return resources.one(session, kind, own)

    def items(self, patient_id: str) -> list[RecordItem]:
        """The patient's structured values, newest first."""
        with Session(self.engine) as session:
            rows = session.scalars(select(ItemRow).where(ItemRow.patient_id == patient_id))
            items = [RecordItem.model_validate(r.data) for r in rows]
        return sorted(items, key=lambda i: (i.date or "", i.id), reverse=True)
