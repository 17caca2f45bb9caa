"""DICOM instances that come one at a time (C-STORE): each is on the disk and committed when `take` returns.

What a series is can be told once it is whole: its rows wait to be laid out until the sender pauses or somebody reads (`Archive.settle`).
Laid out after each instance, a series of two thousand would be worked out two thousand times.
"""

import logging
from typing import TYPE_CHECKING, Self

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.orm import Session

from knowledge.errors import NotFound, Refused
from knowledge.studies import audit, dicom, intake, store
from knowledge.studies.keeper import Keeper
from knowledge.studies.model import Patient
from knowledge.studies.settle import Settler, undecodable
from knowledge.studies.store import InstanceRow, Journal, WaitingRow
from knowledge.studies.unpack import Incoming

if TYPE_CHECKING:
    from knowledge.studies.archive import Archive

log = logging.getLogger("consilium.archive")
HINTS = intake.Hints(study_uid="")
"""DICOM alone."""
NOTED = 1000
"""Originals in one journal."""


class Stream:
    """The instances of one sender, one after the other; a stream for each thread."""

    def __init__(self, archive: "Archive", by: str) -> None:
        self.archive, self.by = archive, by
        self._series: dict[tuple[Patient, str, str], str] = {}
        """The study of each series that this stream is sending, by patient, study and series as its files name them."""
        self._told: set[str] = set()
        """Series whose header came already: it isn't read again."""
        self._journal: Journal | None = None
        """What this stream wrote; what rows name of it is kept, whatever becomes of the process."""

    def take(self, data: bytes) -> None:
        """Keep one instance. Raises Refused, or StorageFailed: then nothing of it is kept."""
        if self._journal is None:
            with store.storing():
                self._journal = Journal(self.archive.objects.parts)
        journal = self._journal
        try:
            one = self._read(data, journal)
            self.archive.objects.settle(journal)
            with self.archive.writing() as session:
                if not self._again(session, one):
                    self._first(session, one, data)
                self.archive.still_there([one])
        except BaseException:
            self._journal = None
            self.archive.take_back(journal)
            raise
        if len(journal.names) >= NOTED:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more comes for now."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _read(self, data: bytes, journal: Journal) -> intake.Parsed:
        reader = intake.Reader(self.archive.objects, journal, HINTS, self.archive.clean, self._told)
        found = self.archive.read_one(reader, Incoming("instance", data))
        if isinstance(found, Refused):
            raise found
        assert isinstance(found, list)  # DICOM is never half of a pair
        return found[0]

    def _again(self, session: Session, one: intake.Parsed) -> bool:
        """Write one more instance of a series that is being sent; False where there is more to be done."""
        instance = one.instance
        assert instance is not None
        study = self._series.get(_key(instance))
        if study is None or instance.header or instance.texts or instance.values:
            return False
        connection = session.connection()
        where = {"study": study, "series": instance.series_uid, "sender": self.by}
        if connection.execute(_SAME, {"study": study, "sop": instance.sop_instance_uid}).first() is not None:
            return False
        if connection.execute(_ONE_MORE, where).rowcount != 1:
            return False  # it was laid out since, or deleted
        connection.execute(_KEEP, {"study_id": study, "series_uid": instance.series_uid, "sop_uid": instance.sop_instance_uid,
                                   "sop_class": instance.sop_class, "sha256": one.sha256, "name": one.name, "place": instance.place, "variant": 0})  # fmt: skip
        return True

    def _first(self, session: Session, one: intake.Parsed, data: bytes) -> None:
        """Write an instance with everything that its header says of patient, study and series."""
        instance = one.instance
        assert instance is not None
        if not instance.header:  # told before, and perhaps deleted since
            kept = self.archive.objects.get(one.sha256) if self.archive.clean else data
            one = intake.Parsed(one.name, one.sha256, instance=(instance := dicom.read_instance(kept)))
        keeper = Keeper(session, self.archive.objects, HINTS, [one])
        keeper.keep(one)
        session.flush()
        for study, series in keeper.touched:
            row = session.get(WaitingRow, (study, series, self.by))
            if row is None:
                session.add(WaitingRow(study_id=study, series_uid=series, by=self.by, files=1))
            else:
                row.files += 1
            self._series[_key(instance)] = study


_SAME = select(InstanceRow.id).where(InstanceRow.study_id == bindparam("study"), InstanceRow.sop_uid == bindparam("sop")).limit(1)
_ONE_MORE = update(WaitingRow).values(files=WaitingRow.files + 1).where(
    WaitingRow.study_id == bindparam("study"), WaitingRow.series_uid == bindparam("series"), WaitingRow.by == bindparam("sender"))  # fmt: skip
_KEEP = insert(InstanceRow)


def _key(instance: dicom.Instance) -> tuple[Patient, str, str]:
    return instance.patient, instance.study_uid, instance.series_uid


def waits(session: Session) -> bool:
    """True where instances came that aren't laid out."""
    return session.execute(_ANY).first() is not None


_ANY = select(WaitingRow.files).limit(1)


def settle(archive: "Archive") -> list[str]:
    """Lay out the series that wait; the studies that this touched."""
    with Session(archive.engine) as session:
        doubts = undecodable([t for w in session.scalars(select(WaitingRow)) for t in _frames(session, w)], archive.objects.path)
    studies: dict[str, None] = {}
    with archive.writing() as session:
        gone = delete(WaitingRow).returning(WaitingRow.study_id, WaitingRow.series_uid, WaitingRow.by, WaitingRow.files)
        waiting: list[tuple[str, str, str, int]] = sorted((s, u, by, n) for s, u, by, n in session.execute(gone))
        settler = Settler(session, archive.objects, doubts)
        for study, series in dict.fromkeys(w[:2] for w in waiting):
            sample = _sample(session, archive, study, series)
            if sample is None:
                log.error("a series that came can't be laid out: none of its originals can be read")
                continue
            settler.series(study, series, sample)
            studies[study] = None
        for study in studies:
            settler.study(study)
        for by in dict.fromkeys(w[2] for w in waiting):
            mine = [w for w in waiting if w[2] == by]
            detail = {"files": sum(w[3] for w in mine), "rejected": 0, "studies": sorted({w[0] for w in mine})}
            audit.append(session, by, "import", "", detail)
    for series_id in settler.stale:
        archive.forget(series_id)
    return list(studies)


def _frames(session: Session, row: WaitingRow) -> list[tuple[str, str, dict[str, object]]]:
    mine = select(InstanceRow).where(InstanceRow.study_id == row.study_id, InstanceRow.series_uid == row.series_uid)
    return [(r.series_uid, r.sha256, r.place) for r in session.scalars(mine.order_by(InstanceRow.id))]


def _sample(session: Session, archive: "Archive", study: str, series: str) -> dicom.Instance | None:
    """The first instance of a series that can be read, with its header."""
    mine = select(InstanceRow.sha256).where(InstanceRow.study_id == study, InstanceRow.series_uid == series)
    for sha in session.scalars(mine.order_by(InstanceRow.variant < 0, InstanceRow.id)):
        try:
            return dicom.read_instance(archive.objects.get(sha))
        except (Refused, NotFound):
            continue
    return None
