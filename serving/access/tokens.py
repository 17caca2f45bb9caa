"""What SMART gives out and remembers: tokens, codes, launches, and which assertions were used; kept as hashes in a database."""

import hashlib
import json
import secrets
import time
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from knowledge.database import opened
from serving.access.grants import Grant


class _Base(DeclarativeBase):
    """Tables of what was given out."""


class _Row(_Base):
    """A secret by its hash, what it stands for, and until when (seconds of the epoch)."""

    __tablename__ = "given_out"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    data: Mapped[str]
    until: Mapped[float] = mapped_column(index=True)


class TokenStore:
    """Secrets of one data folder. `where`: a database URL or a file."""

    def __init__(self, where: Path | str) -> None:
        self.engine = opened(where, _Base)

    def give(self, kind: str, data: dict[str, Any], seconds: float) -> str:
        """A new secret of this kind."""
        secret = f"c{kind[0]}_{secrets.token_urlsafe(32)}"
        self._keep(_hash(secret), kind, data, seconds)
        return secret

    def _keep(self, sha: str, kind: str, data: dict[str, Any], seconds: float) -> None:
        with Session(self.engine) as session, session.begin():
            session.execute(delete(_Row).where(_Row.until < time.time()))
            session.add(_Row(sha256=sha, kind=kind, data=json.dumps(data), until=time.time() + seconds))

    def look(self, kind: str, secret: str) -> dict[str, Any] | None:
        """What a secret stands for, while it holds."""
        with Session(self.engine) as session:
            row = session.get(_Row, _hash(secret))
            if row is None or row.kind != kind or row.until < time.time():
                return None
            found: dict[str, Any] = json.loads(row.data)
            return found

    def take(self, kind: str, secret: str) -> dict[str, Any] | None:
        """What a secret stands for; it is used up by this."""
        with Session(self.engine) as session, session.begin():
            row = session.scalar(select(_Row).where(_Row.sha256 == _hash(secret), _Row.kind == kind).with_for_update())
            if row is None or row.until < time.time():
                return None
            found: dict[str, Any] = json.loads(row.data)
            gone = session.execute(delete(_Row).where(_Row.sha256 == row.sha256))
            return found if gone.rowcount == 1 else None  # type: ignore[attr-defined]  # a cursor's result

    def first_use(self, name: str, seconds: float) -> bool:
        """True the first time that `name` (an assertion's issuer and jti) is used."""
        try:
            self._keep(_hash(f"jti {name}"), "jti", {}, seconds)
        except IntegrityError:
            return False
        return True

    def mark(self, kind: str, name: str, seconds: float) -> None:
        """Remember `name` for a while: `look` finds it."""
        with Session(self.engine) as session, session.begin():
            session.execute(delete(_Row).where(_Row.sha256 == _hash(name)))
        self._keep(_hash(name), kind, {}, seconds)

    def admits(self, secret: str) -> Grant | None:
        """The grant of an access token."""
        found = self.look("token", secret)
        return None if found is None else Grant(found["name"], found["patient"], tuple(found["scopes"]), found.get("user", ""))

    def token(self, grant: Grant, seconds: float) -> str:
        """An access token for `grant`."""
        data = {"name": grant.name, "patient": grant.patient, "scopes": list(grant.scopes or ()), "user": grant.user}
        return self.give("token", data, seconds)

    def revoke(self, secret: str) -> None:
        """Let a token hold no longer."""
        with Session(self.engine) as session, session.begin():
            session.execute(delete(_Row).where(_Row.sha256 == _hash(secret)))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
