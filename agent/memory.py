"""Conversations, their messages and numbered evidence, kept in a database; nothing here is held in a global."""

import json
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from agent.answer import Answer
from agent.errors import Unknown
from knowledge.database import engine_of
from knowledge.evidence import Evidence, Fact, Frozen, Kind


class Base(DeclarativeBase):
    """Tables of the conversations."""

    type_annotation_map = {dict[str, Any]: JSON, list[str]: JSON}


class ConversationRow(Base):
    __tablename__ = "conversations"
    id: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[str]
    patient_id: Mapped[str | None]
    study_ids: Mapped[list[str] | None] = mapped_column(JSON)


class MessageRow(Base):
    __tablename__ = "messages"
    id: Mapped[str] = mapped_column(primary_key=True)
    conversation_id: Mapped[str] = mapped_column(index=True)
    number: Mapped[int]
    created: Mapped[str]
    question: Mapped[str]
    answer: Mapped[dict[str, Any]]


class EvidenceRow(Base):
    __tablename__ = "evidence"
    id: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(index=True)
    number: Mapped[int]
    patient_id: Mapped[str | None]
    data: Mapped[dict[str, Any]]


class FeedbackRow(Base):
    __tablename__ = "feedback"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    message_id: Mapped[str] = mapped_column(index=True)
    created: Mapped[str]
    rating: Mapped[str]
    correction: Mapped[str | None]


class PinnedRow(Base):
    __tablename__ = "pinned_tools"
    conversation_id: Mapped[str] = mapped_column(primary_key=True)
    tools: Mapped[list[str]] = mapped_column(JSON)


class Conversation(Frozen):
    """One conversation about one patient's case (or about none)."""

    id: str
    created: str
    patient_id: str | None
    study_ids: list[str] | None


class Listed(Conversation):
    """A conversation in a list: its first question, and how many there are."""

    title: str
    asked: int


class Message(Frozen):
    """One question with its answer."""

    id: str
    created: str
    question: str
    answer: Answer


class Rating(Frozen):
    """What a user said of an answer."""

    message_id: str
    created: str
    rating: str
    correction: str | None


KEPT_SCOPES = 256
"""Conversations whose evidence is kept ready in memory."""


def now() -> str:
    """The time as RFC 3339 UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Memory:
    """The conversations of one server."""

    def __init__(self, where: Path | str) -> None:
        """`where`: an SQLite file, or an SQLAlchemy URL."""
        if isinstance(where, Path):
            where.parent.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{where}" if isinstance(where, Path) else where.replace("postgresql://", "postgresql+psycopg://")
        self.engine = engine_of(url, Base)
        self._known: OrderedDict[str, dict[str, Evidence]] = OrderedDict()
        self._opened: OrderedDict[str, Conversation] = OrderedDict()
        self._lock = threading.RLock()

    def open(self, patient_id: str | None, study_ids: Sequence[str] | None) -> Conversation:
        made = Conversation(id=f"c_{uuid.uuid4().hex[:16]}", created=now(), patient_id=patient_id,
                            study_ids=list(study_ids) if study_ids else None)  # fmt: skip
        with Session(self.engine) as session, session.begin():
            session.add(ConversationRow(**made.model_dump()))
        return made

    def conversation(self, conversation_id: str) -> Conversation:
        with self._lock:
            if (known := self._opened.get(conversation_id)) is not None:
                return known
        with Session(self.engine) as session:
            row = session.get(ConversationRow, conversation_id)
            if row is None:
                raise Unknown(f"there is no conversation {conversation_id}", "open one with POST /v1/conversations")
            found = Conversation(id=row.id, created=row.created, patient_id=row.patient_id, study_ids=row.study_ids)
        with self._lock:
            self._opened[conversation_id] = found
            while len(self._opened) > KEPT_SCOPES:
                self._opened.popitem(last=False)
        return found

    def listed(self, patient_id: str | None, words: str, asked: bool, limit: int) -> list[Listed]:
        """Conversations, newest first: a patient's, those with all `words` in one question or answer, those in which something was asked."""
        with Session(self.engine) as session:
            of = select(MessageRow.conversation_id, func.count().label("asked")).group_by(MessageRow.conversation_id).subquery()
            query = select(ConversationRow, of.c.asked).join(of, of.c.conversation_id == ConversationRow.id, isouter=not asked)
            if patient_id is not None:
                query = query.where(ConversationRow.patient_id == patient_id)
            for word in words.split():
                told = or_(
                    MessageRow.question.icontains(word, autoescape=True),
                    MessageRow.answer["text"].as_string().icontains(word, autoescape=True),
                )
                query = query.where(ConversationRow.id.in_(select(MessageRow.conversation_id).where(told)))
            rows = session.execute(query.order_by(ConversationRow.created.desc()).limit(limit)).all()
            firsts = select(MessageRow.conversation_id, MessageRow.question).where(
                MessageRow.number == 1, MessageRow.conversation_id.in_([r[0].id for r in rows])
            )
            titles = dict(session.execute(firsts).tuples().all())
            return [Listed(id=r.id, created=r.created, patient_id=r.patient_id, study_ids=r.study_ids, title=titles.get(r.id, "")[:200], asked=n or 0)
                    for r, n in rows]  # fmt: skip

    def branch(self, conversation_id: str, before: str) -> Conversation:
        """A new conversation on the same case with the messages that stood before message `before`, and their evidence. Raises Unknown."""
        old = self.conversation(conversation_id)
        with Session(self.engine) as session, session.begin():
            end = session.get(MessageRow, before)
            if end is None or end.conversation_id != conversation_id:
                raise Unknown(f"there is no message {before} in this conversation", "show the conversation")
            made = Conversation(
                id=f"c_{uuid.uuid4().hex[:16]}", created=now(), patient_id=old.patient_id, study_ids=old.study_ids
            )
            session.add(ConversationRow(**made.model_dump()))

            def own(data: dict[str, Any]) -> dict[str, Any]:
                copied: dict[str, Any] = json.loads(json.dumps(data).replace(conversation_id, made.id))
                return copied

            kept = select(MessageRow).where(MessageRow.conversation_id == conversation_id, MessageRow.number < end.number)
            for row in session.scalars(kept.order_by(MessageRow.number)).all():
                name = f"m_{uuid.uuid4().hex[:16]}"
                session.add(MessageRow(id=name, conversation_id=made.id, number=row.number, created=row.created, question=row.question,
                                       answer={**own(row.answer), "id": name}))  # fmt: skip
            for fact in session.scalars(select(EvidenceRow).where(EvidenceRow.scope == conversation_id)).all():
                session.add(EvidenceRow(id=fact.id.replace(conversation_id, made.id), scope=made.id, number=fact.number,
                                        patient_id=fact.patient_id, data=own(fact.data)))  # fmt: skip
        return made

    def pin(self, conversation_id: str, tools: Sequence[str] | None) -> None:
        """The conversation uses these tools alone from now on; None: all again."""
        self.conversation(conversation_id)
        with Session(self.engine) as session, session.begin():
            session.execute(delete(PinnedRow).where(PinnedRow.conversation_id == conversation_id))
            if tools is not None:
                session.add(PinnedRow(conversation_id=conversation_id, tools=sorted(set(tools))))

    def pinned(self, conversation_id: str) -> list[str] | None:
        """The tools that the conversation is held to; None: all."""
        with Session(self.engine) as session:
            row = session.get(PinnedRow, conversation_id)
            return list(row.tools) if row else None

    def forget(self, conversation_id: str) -> None:
        self.conversation(conversation_id)
        with Session(self.engine) as session, session.begin():
            session.execute(delete(MessageRow).where(MessageRow.conversation_id == conversation_id))
            session.execute(delete(EvidenceRow).where(EvidenceRow.scope == conversation_id))
            session.execute(delete(PinnedRow).where(PinnedRow.conversation_id == conversation_id))
            session.execute(delete(ConversationRow).where(ConversationRow.id == conversation_id))
        with self._lock:
            self._known.pop(conversation_id, None)
            self._opened.pop(conversation_id, None)

    def keep(self, question: str, answer: Answer) -> None:
        with Session(self.engine) as session, session.begin():
            count = session.scalar(select(func.count()).where(MessageRow.conversation_id == answer.conversation_id))
            session.add(MessageRow(id=answer.id, conversation_id=answer.conversation_id, number=(count or 0) + 1,
                                   created=now(), question=question, answer=answer.model_dump(mode="json")))  # fmt: skip

    def messages(self, conversation_id: str) -> list[Message]:
        with Session(self.engine) as session:
            query = select(MessageRow).where(MessageRow.conversation_id == conversation_id).order_by(MessageRow.number)
            return [_message(r) for r in session.scalars(query)]

    def newest(self, conversation_id: str) -> Message | None:
        """The newest message of a conversation."""
        with Session(self.engine) as session:
            query = (
                select(MessageRow)
                .where(MessageRow.conversation_id == conversation_id)
                .order_by(MessageRow.number.desc())
                .limit(1)
            )
            row = session.scalars(query).first()
            if row is None:
                return None
            return _message(row)

    def ids_told(self, conversation_id: str) -> list[str]:
        """Numbers of the evidence that the first statements of a conversation's answers cite (those put first)."""
        with Session(self.engine) as session:
            rows = session.scalars(select(MessageRow.answer).where(MessageRow.conversation_id == conversation_id))
            return [i for answer in rows for s in answer["statements"] for i in s["evidence"]]

    def rate(self, conversation_id: str, message_id: str, rating: str, correction: str | None) -> None:
        with Session(self.engine) as session, session.begin():
            row = session.get(MessageRow, message_id)
            if row is None or row.conversation_id != conversation_id:
                raise Unknown(f"there is no message {message_id} in this conversation", "show the conversation")
            session.add(FeedbackRow(message_id=message_id, created=now(), rating=rating, correction=correction))

    def ratings(self) -> list[Rating]:
        """Ratings in the order in which they came; of several of one message the last counts."""
        with Session(self.engine) as session:
            rows = session.scalars(select(FeedbackRow).order_by(FeedbackRow.id))
            last = {
                r.message_id: Rating(message_id=r.message_id, created=r.created, rating=r.rating, correction=r.correction)
                for r in rows
            }
            return list(last.values())

    def message(self, message_id: str) -> Message | None:
        """The message, or None where its conversation was deleted."""
        with Session(self.engine) as session:
            row = session.get(MessageRow, message_id)
            if row is None:
                return None
            return _message(row)

    def number(self, scope: str, facts: Sequence[Fact], patient_id: str | None) -> list[Evidence]:
        """`facts` as numbered evidence of `scope`; the same fact keeps the number that it has."""
        with self._lock:
            try:
                return self._number(scope, facts, patient_id)
            except IntegrityError:  # another process numbered in between
                self._known.pop(scope, None)
                return self._number(scope, facts, patient_id)

    def _number(self, scope: str, facts: Sequence[Fact], patient_id: str | None) -> list[Evidence]:
        known = dict(self._of_scope(scope))
        numbered, rows = [], []
        for fact in facts:
            content = _content(fact)
            if content not in known:
                made = known[content] = Evidence.of(fact, len(known) + 1, scope)
                rows.append(EvidenceRow(id=f"{scope}.{made.id}", scope=scope, number=len(known), patient_id=patient_id,
                                        data=made.model_dump(mode="json")))  # fmt: skip
            numbered.append(known[content])
        if rows:
            with Session(self.engine) as session, session.begin():
                session.add_all(rows)
            self._known[scope] = known
        return numbered

    def _of_scope(self, scope: str) -> dict[str, Evidence]:
        """All evidence of a scope by content, in order; kept for the scopes used last."""
        if scope not in self._known:
            with Session(self.engine) as session:
                rows = session.scalars(select(EvidenceRow).where(EvidenceRow.scope == scope).order_by(EvidenceRow.number))
                found = [Evidence.model_validate(r.data) for r in rows]
            self._known[scope] = {_content(e): e for e in found}
            while len(self._known) > KEPT_SCOPES:
                self._known.popitem(last=False)
        self._known.move_to_end(scope)
        return self._known[scope]

    def evidence(self, full_id: str) -> tuple[Evidence, str | None]:
        """The evidence `conversation.E7`, and the patient whose it is. A bare `E7` will do while only one conversation has it."""
        with Session(self.engine) as session:
            row = session.get(EvidenceRow, full_id)
            if row is None and re.fullmatch(r"E\d+", full_id):
                same = session.scalars(select(EvidenceRow).where(EvidenceRow.number == int(full_id[1:])).limit(2)).all()
                if len(same) > 1:
                    raise Unknown(f"several conversations have an {full_id}", "use the href of the answer's evidence")
                row = same[0] if same else None
            if row is None:
                raise Unknown(f"there is no evidence {full_id}", "use the href of an answer's evidence")
            return Evidence.model_validate(row.data), row.patient_id

    def of_patient(self, patient_id: str, kind: Kind) -> list[Evidence]:
        """Evidence of one kind about a patient, from every conversation and tool run, each fact once, in the order in which it came."""
        with Session(self.engine) as session:
            query = select(EvidenceRow).where(
                EvidenceRow.patient_id == patient_id, EvidenceRow.data["kind"].as_string() == str(kind)
            )
            found = [Evidence.model_validate(r.data) for r in session.scalars(query)]
        return list({_content(e): e for e in reversed(found)}.values())[::-1]

    def numbered(self, scope: str) -> list[Evidence]:
        """All evidence of a conversation or tool run, in order."""
        with self._lock:
            return list(self._of_scope(scope).values())


def _message(row: MessageRow) -> Message:
    return Message(id=row.id, created=row.created, question=row.question, answer=Answer.model_validate(row.answer))


def _content(fact: Fact) -> str:
    return fact.model_dump_json(exclude={"id", "href"})
