"""Drafts of reports: each sentence with the facts that it stands on, every version kept, signed by a person or not at all."""

import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy import JSON, String, delete, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from knowledge.database import opened
from knowledge.errors import KnowledgeError, NotFound
from knowledge.evidence import Fact, Frozen
from knowledge.records.model import Report
from knowledge.reporting.templates import PARTS, Part


class NotSignable(KnowledgeError):
    """A draft that can't be signed or changed as it is."""


class By(StrEnum):
    """Whose words a sentence is."""

    EVIDENCE = "evidence"
    """Written from facts, each of which can be opened."""
    READER = "reader"
    """Written or changed by a person; what it says is theirs."""
    OPEN = "open"
    """A place that a reader has to fill in or take out before the report can be signed."""


class Sentence(Frozen):
    """One sentence of a draft. `facts` count into the draft's facts."""

    part: Part
    text: str = Field(min_length=1, max_length=2000)
    by: By = By.EVIDENCE
    facts: list[int] = Field(default_factory=list)


class Signature(Frozen):
    """Who signed, when, and the SHA-256 of the text that was signed."""

    name: str
    at: str
    sha256: str


class Draft(Frozen):
    """A report in the making. `version` counts up with every change."""

    id: str
    patient_id: str
    study_id: str | None
    study_date: str | None = None
    modality: str | None = None
    body_part: str | None = None
    template: str
    title: str
    language: str
    created: str
    version: int = 1
    sentences: list[Sentence]
    facts: list[Fact]
    signature: Signature | None = None
    software: str = ""

    @property
    def status(self) -> str:
        """`signed` or `draft`."""
        return "signed" if self.signature else "draft"

    @property
    def open_places(self) -> list[Sentence]:
        """What a reader still has to fill in."""
        return [s for s in self.sentences if s.by is By.OPEN]

    def part(self, part: Part) -> list[Sentence]:
        """The sentences of one section, in order."""
        return [s for s in self.sentences if s.part == part]


def words_of(draft: Draft) -> str:
    """The sentences as they are signed, by section."""
    return "\n\n".join(f"{p}\n" + " ".join(s.text for s in draft.part(p)) for p in PARTS if draft.part(p))


class _Base(DeclarativeBase):
    """Tables of the drafts."""


class _Row(_Base):
    """One version of one draft."""

    __tablename__ = "drafts"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(String(200), index=True)
    study_id: Mapped[str | None] = mapped_column(String(80), index=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class _Checked(_Base):
    """A text that was checked."""

    __tablename__ = "checked_reports"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    patient_id: Mapped[str] = mapped_column(String(200), index=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class CheckedReport(Frozen):
    """A report as it was checked, and what was found: kind, severity, span, message, suggestion; `evidence` counts into `facts`."""

    id: str
    patient_id: str
    report: Report
    created: str
    issues: list[dict[str, Any]]
    facts: list[Fact]


class DraftStore:
    """Every version of every draft. `where`: a database URL or a file; None: memory alone (for tools run without a server)."""

    def __init__(self, where: Path | str | None = None) -> None:
        self.engine = opened(where, _Base)

    def add(self, draft: Draft) -> Draft:
        """Keep a new draft, or a new version of one."""
        with Session(self.engine) as session, session.begin():
            session.add(_Row(id=draft.id, version=draft.version, patient_id=draft.patient_id, study_id=draft.study_id,
                             data=draft.model_dump(mode="json")))  # fmt: skip
        return draft

    def get(self, draft_id: str, version: int | None = None) -> Draft:
        """A draft's newest version, or the one named. Raises NotFound."""
        found = self.versions(draft_id)
        chosen = [d for d in found if version in (None, d.version)]
        if not chosen:
            raise NotFound(
                f"there is no draft {draft_id}" + (f" version {version}" if found else ""), "list the patient's drafts"
            )
        return chosen[-1]

    def versions(self, draft_id: str) -> list[Draft]:
        """Every version of a draft, oldest first."""
        with Session(self.engine) as session:
            rows = session.scalars(select(_Row).where(_Row.id == draft_id).order_by(_Row.version))
            return [Draft.model_validate(r.data) for r in rows]

    def of_patient(self, patient_id: str) -> list[Draft]:
        """The newest version of each of a patient's drafts, newest first."""
        with Session(self.engine) as session:
            rows = session.scalars(select(_Row).where(_Row.patient_id == patient_id).order_by(_Row.version))
            newest = {r.id: Draft.model_validate(r.data) for r in rows}
        return sorted(newest.values(), key=lambda d: d.created, reverse=True)

    def edit(self, draft_id: str, sentences: Sequence[Sentence], version: int) -> Draft:
        """A new version with these sentences, made from `version`. Raises NotSignable where it was signed or has changed since."""
        before = self.get(draft_id)
        if before.signature:
            raise NotSignable("this report is signed and can't be changed", "draft a new one, as an addendum")
        if before.version != version:
            raise NotSignable(f"the draft has changed since version {version} (it is at {before.version})", "load it again")
        if not any(s.by is not By.OPEN for s in sentences):
            raise NotSignable("a report needs at least one sentence", "write one, or delete the draft")
        return self.add(before.model_copy(update={"version": before.version + 1, "sentences": list(sentences)}))

    def sign(self, draft_id: str, name: str, version: int) -> Draft:
        """The draft signed by `name`. Raises NotSignable while places are open, where it was signed, or where it has changed since."""
        before = self.get(draft_id)
        if before.signature:
            raise NotSignable(f"this report was signed on {before.signature.at[:10]}", "draft a new one, as an addendum")
        if before.version != version:
            raise NotSignable(
                f"the draft has changed since version {version} (it is at {before.version})", "load and read it again"
            )
        if before.open_places:
            raise NotSignable(f"{len(before.open_places)} places are still open", "fill them in or take them out, then sign")
        signature = Signature(name=name, at=now(), sha256=hashlib.sha256(words_of(before).encode()).hexdigest())
        return self.add(before.model_copy(update={"version": before.version + 1, "signature": signature}))

    def delete(self, draft_id: str) -> None:
        """Forget an unsigned draft. Raises NotFound and NotSignable."""
        if self.get(draft_id).signature:
            raise NotSignable("a signed report isn't deleted", "delete the study to delete all that derives from it")
        self._drop(_Row.id == draft_id)

    def forget_study(self, study_id: str, patient_id: str) -> None:
        """Forget every draft on a study that is deleted, and the patient's checks: they quote what was found on it."""
        self._drop(_Row.study_id == study_id)
        with Session(self.engine) as session, session.begin():
            session.execute(delete(_Checked).where(_Checked.patient_id == patient_id))

    def keep_check(self, checked: CheckedReport) -> CheckedReport:
        """Keep what a check found; the text too, so that its spans open."""
        with Session(self.engine) as session, session.begin():
            session.add(_Checked(id=checked.id, patient_id=checked.patient_id, data=checked.model_dump(mode="json")))
        return checked

    def checked(self, check_id: str) -> CheckedReport:
        """A check. Raises NotFound."""
        with Session(self.engine) as session:
            row = session.get(_Checked, check_id)
            if row is None:
                raise NotFound(f"there is no check {check_id}", "check the report again")
            return CheckedReport.model_validate(row.data)

    def _drop(self, which: Any) -> None:
        with Session(self.engine) as session, session.begin():
            session.execute(delete(_Row).where(which))


def new_id(prefix: str = "d") -> str:
    """A name for a new draft (d) or check (k)."""
    return f"{prefix}_{uuid.uuid4().hex[:16]}"


def now() -> str:
    """The present moment, RFC 3339 UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
