"""Teaching sessions: what was asked, how it was answered, and what was weak. No patient and no name is kept in them."""

import uuid
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy import JSON, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from knowledge.database import opened
from knowledge.errors import NotFound
from knowledge.evidence import Frozen
from knowledge.reporting.drafts import now
from knowledge.teaching.items import Item, Level


class Answered(Frozen):
    """One answer: its share of the points, and what it lacked."""

    key: str
    topic: str
    score: float = Field(ge=0, le=1)
    lacked: list[str]


class TeachingSession(Frozen):
    """A session. `current` is the question that waits for an answer."""

    id: str
    learner: str
    level: Level
    topic: str | None
    created: str
    current: Item | None = None
    queue: list[Item] = Field(default_factory=list)
    answered: list[Answered] = Field(default_factory=list)


class _Base(DeclarativeBase):
    """Tables of teaching."""


class _Row(_Base):
    """One session."""

    __tablename__ = "teaching_sessions"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    learner: Mapped[str] = mapped_column(String(80), index=True)
    created: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class TeachingStore:
    """Every session. `where`: a database URL or a file; None: memory alone."""

    def __init__(self, where: Path | str | None = None) -> None:
        self.engine = opened(where, _Base)

    def keep(self, session: TeachingSession) -> TeachingSession:
        """Keep a session as it stands."""
        with Session(self.engine) as database, database.begin():
            database.merge(
                _Row(id=session.id, learner=session.learner, created=session.created, data=session.model_dump(mode="json"))
            )
        return session

    def get(self, session_id: str) -> TeachingSession:
        """A session. Raises NotFound."""
        with Session(self.engine) as database:
            row = database.get(_Row, session_id)
            if row is None:
                raise NotFound(f"there is no teaching session {session_id}", "start one")
            return TeachingSession.model_validate(row.data)

    def of_learner(self, learner: str) -> list[TeachingSession]:
        """A learner's sessions, oldest first."""
        with Session(self.engine) as database:
            rows = database.scalars(select(_Row).where(_Row.learner == learner).order_by(_Row.created))
            return [TeachingSession.model_validate(r.data) for r in rows]

    def scores(self, learner: str) -> dict[str, float]:
        """Mean share of the points by item, of a learner's newest answer to each."""
        return {a.key: a.score for s in self.of_learner(learner) for a in s.answered}


def new_session(learner: str, level: Level, topic: str | None) -> TeachingSession:
    """An empty session."""
    return TeachingSession(id=f"q_{uuid.uuid4().hex[:16]}", learner=learner, level=level, topic=topic, created=now())
