"""Lasting names of lesions, and every version of every worksheet."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, String, delete, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from knowledge.database import opened
from knowledge.errors import KnowledgeError, NotFound
from knowledge.evidence import Frozen
from knowledge.response.model import Worksheet
from knowledge.studies.dicom import made_uid


class Changed(KnowledgeError):
    """A worksheet that somebody else changed in the meantime."""


class Name(Frozen):
    """What a lesion is called, for good. `uid`: its DICOM Tracking Unique Identifier."""

    number: int
    uid: str

    @property
    def name(self) -> str:
        """L1, L2 …"""
        return f"L{self.number}"


class _Base(DeclarativeBase):
    """Tables of lesions and worksheets."""


class _Seen(_Base):
    """One outline of a lesion, and the lesion that it is of."""

    __tablename__ = "lesion_outlines"
    patient_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    digest: Mapped[str] = mapped_column(String(40), primary_key=True)
    study_id: Mapped[str] = mapped_column(String(80), index=True)
    number: Mapped[int] = mapped_column()
    uid: Mapped[str] = mapped_column(String(64))


class _Sheet(_Base):
    """One version of one worksheet."""

    __tablename__ = "worksheets"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(String(200), index=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class ResponseStore:
    """`where`: a database URL or a file; None: memory alone (for tools run without a server)."""

    def __init__(self, where: Path | str | None = None) -> None:
        self.engine = opened(where, _Base)

    def names(self, patient_id: str, lesions: Sequence[Sequence[tuple[str, str, str | None]]]) -> list[Name]:
        """The name of each lesion. A lesion is its outlines (digest, study, its author's tracking UID), earliest first.

        An outline that was named before keeps its name, also where studies come later that lie before it. Lesions that were taken for
        one and aren't any more get a name each: the one with the earliest outline keeps the old one.
        """
        with Session(self.engine) as session, session.begin():
            rows = {r.digest: r for r in session.scalars(select(_Seen).where(_Seen.patient_id == patient_id))}
            highest = session.scalar(select(func.max(_Seen.number)).where(_Seen.patient_id == patient_id)) or 0
            taken: set[int] = set()
            found = []
            for outlines in lesions:
                known = [rows[d] for d, _, _ in outlines if d in rows and rows[d].number not in taken]
                if known:
                    name = Name(number=known[0].number, uid=known[0].uid)
                else:
                    highest += 1
                    stated = next((u for _, _, u in outlines if u), None)
                    name = Name(number=highest, uid=stated or made_uid(patient_id, outlines[0][0]))
                taken.add(name.number)
                found.append(name)
                for digest, study, _ in outlines:
                    session.merge(_Seen(patient_id=patient_id, digest=digest, study_id=study, number=name.number, uid=name.uid))
            return found

    def add(self, sheet: Worksheet) -> Worksheet:
        """Keep a new worksheet, or a new version of one."""
        with Session(self.engine) as session, session.begin():
            session.add(
                _Sheet(id=sheet.id, version=sheet.version, patient_id=sheet.patient_id, data=sheet.model_dump(mode="json"))
            )
        return sheet

    def get(self, sheet_id: str, version: int | None = None) -> Worksheet:
        """A worksheet's newest version, or the one named. Raises NotFound."""
        with Session(self.engine) as session:
            query = select(_Sheet).where(_Sheet.id == sheet_id).order_by(_Sheet.version.desc())
            row = session.scalars(query if version is None else query.where(_Sheet.version == version)).first()
            if row is None:
                raise NotFound(
                    f"there is no worksheet {sheet_id}" + (f" version {version}" if version else ""), "ask for the response again"
                )
            return Worksheet.model_validate(row.data)

    def change(self, sheet: Worksheet, version: int) -> Worksheet:
        """Keep a change that was made from `version`. Raises Changed where there is a newer one."""
        now = self.get(sheet.id).version
        if now != version:
            raise Changed(f"the worksheet has changed since version {version} (it is at {now})", "load it again")
        return self.add(sheet.model_copy(update={"version": now + 1}))

    def of_patient(self, patient_id: str) -> list[Worksheet]:
        """The newest version of each of a patient's worksheets, newest first."""
        with Session(self.engine) as session:
            rows = session.scalars(select(_Sheet).where(_Sheet.patient_id == patient_id).order_by(_Sheet.version))
            newest = {r.id: Worksheet.model_validate(r.data) for r in rows}
        return sorted(newest.values(), key=lambda s: s.created, reverse=True)

    def forget_study(self, study_id: str, patient_id: str) -> None:
        """Forget the outlines of a deleted study, and the worksheets that count it."""
        gone = [s.id for s in self.of_patient(patient_id) if any(x.id == study_id for x in s.studies)]
        with Session(self.engine) as session, session.begin():
            session.execute(delete(_Seen).where(_Seen.study_id == study_id))
            session.execute(delete(_Sheet).where(_Sheet.id.in_(gone)))


def new_id() -> str:
    """A name for a new worksheet."""
    return f"w_{uuid.uuid4().hex[:16]}"
