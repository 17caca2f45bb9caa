"""What was done to the archive, by whom and when: rows that chain, so that a change to one shows. No patient is named in them."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from knowledge.evidence import Frozen
from knowledge.studies.store import AuditRow


class AuditEntry(Frozen):
    """One act. `detail` holds counts and formats, never identity."""

    number: int
    at: str
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


def append(session: Session, actor: str, action: str, subject: str, detail: dict[str, Any]) -> None:
    """Add an act, in the transaction of the act itself."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    last = session.scalar(select(AuditRow.chain).order_by(AuditRow.id.desc()).limit(1)) or ""
    session.add(AuditRow(at=at, actor=actor, action=action, subject=subject, detail=detail,
                         chain=_link(last, at, actor, action, subject, detail)))  # fmt: skip
    session.flush()


def _link(last: str, at: str, actor: str, action: str, subject: str, detail: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([last, at, actor, action, subject, detail], sort_keys=True).encode()).hexdigest()


def entries(session: Session, limit: int = 100, subject: str | None = None) -> list[AuditEntry]:
    """The newest acts first."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(AuditRow.subject == subject)
    return [AuditEntry(number=r.id, at=r.at, actor=r.actor, action=r.action, subject=r.subject, detail=r.detail)
            for r in session.scalars(query)]  # fmt: skip


def broken_at(session: Session) -> int | None:
    """The number of the first entry that doesn't follow from those before it; None where all do."""
    last = ""
    for row in session.scalars(select(AuditRow).order_by(AuditRow.id)):
        if row.chain != _link(last, row.at, row.actor, row.action, row.subject, row.detail):
            return row.id
        last = row.chain
    return None
