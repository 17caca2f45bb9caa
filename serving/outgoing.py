"""What leaves for a PACS, an EHR or a HIS: proposed with its difference, confirmed by a person, sent, sent again where it failed, and told where it can't be.

Nothing is written to another system any other way. Webhooks (subscriptions.py) wait in the same queue: they name an event and hold nothing of the patient's but ids.
"""

import difflib
import hashlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from agent.memory import now
from knowledge.database import opened
from knowledge.errors import NotFound
from knowledge.evidence import Frozen
from knowledge.reporting.drafts import Draft
from knowledge.studies.model import Series, Study
from knowledge.studies.query import DicomIndex
from knowledge.studies.tags import first, tag
from serving.errors import NotTaken, Problem
from serving.house import House
from tools.export.drawn import described, drawing_of
from tools.export.hl7 import as_oru
from tools.export.report import as_sr, as_text
from tools.export.seg import as_seg

log = logging.getLogger("consilium.outgoing")
ATTEMPTS = 8
FIRST_WAIT_S = 5.0
"""Seconds before the second attempt; each further one waits twice as long (to some ten minutes)."""
PROPOSED, WAITING, SENT, DEAD, DECLINED = "proposed", "waiting", "sent", "dead", "declined"


class _Base(DeclarativeBase):
    """Tables of what leaves."""


class _Row(_Base):
    """One thing for one receiver."""

    __tablename__ = "outgoing"
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    receiver: Mapped[str]
    what: Mapped[str]
    """JSON: what is sent, by its names here."""
    patient_id: Mapped[str] = mapped_column(index=True)
    study_id: Mapped[str] = mapped_column(default="")
    sha256: Mapped[str]
    words: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    proposed_by: Mapped[str]
    confirmed_by: Mapped[str] = mapped_column(default="")
    attempts: Mapped[int] = mapped_column(default=0)
    due: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str] = mapped_column(default="")
    created: Mapped[str]
    sent: Mapped[str] = mapped_column(default="")


class Outgoing(Frozen):
    """Something on its way out, as it is shown. `difference`: against what that receiver got last, line by line (+ new, - gone)."""

    id: str
    kind: str
    receiver: str
    what: dict[str, Any]
    patient_id: str
    sha256: str
    status: str
    proposed_by: str
    confirmed_by: str
    attempts: int
    error: str
    created: str
    sent: str
    difference: list[str] = []


Sender = Callable[[House, str, dict[str, Any]], None]
"""Sends one thing to a receiver. Raises NotTaken, a Problem or an OSError."""


class Outbox:
    """The queue of one house, worked off in a thread from `start` to `stop`."""

    def __init__(self, house: House, where: Path | str) -> None:
        self.house = house
        self.engine = opened(where, _Base)
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.senders: dict[str, Sender] = {"report": _send_report, "mask": _send_mask}

    def start(self) -> None:
        """Work off what waits."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after what is being sent now; the rest waits for the next start."""
        self._ended.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=60)
        self.engine.dispose()

    # Proposing and confirming

    def receivers(self) -> dict[str, list[str]]:
        """Where something can be sent, and what."""
        settings = self.house.settings
        found = {f"pacs:{t}": ["report", "mask"] for t in settings.dimse_peers}
        found |= {f"hl7:{n}": ["report"] for n in settings.mllp_send_to}
        return found | {f"ehr:{u}": ["report"] for u, s in settings.ehr_servers.items() if s.writes}

    def propose(self, kind: str, what: dict[str, Any], receiver: str, by: str) -> Outgoing:
        """What would be sent, with its difference; nothing leaves. Raises Problems and KnowledgeErrors."""
        if kind not in self.receivers().get(receiver, []):
            raise Problem(
                422,
                "NoReceiver",
                f"nothing of this kind can be sent to {receiver[:80]}",
                f"receivers are {sorted(self.receivers())}",
            )
        words, patient, study = _words(self.house, kind, what)
        row = _Row(id=f"o_{secrets.token_hex(8)}", kind=kind, receiver=receiver, what=json.dumps(what), patient_id=patient, study_id=study, words=words,
                   sha256=hashlib.sha256(words.encode()).hexdigest(), status=PROPOSED, proposed_by=by, created=now())  # fmt: skip
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.add(row)
        return self._shown(row)

    def confirm(self, name: str, sha256: str, confirmed_by: str, by: str) -> Outgoing:
        """A person has looked at the difference and wants it sent. Raises 409 where it isn't what they looked at any more."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            row = self._row(session, name)
            if row.status != PROPOSED:
                raise Problem(409, "Decided", f"it is {row.status} already", "propose it again")
            words, *_ = _words(self.house, row.kind, json.loads(row.what))
            if sha256 != row.sha256 or hashlib.sha256(words.encode()).hexdigest() != row.sha256:
                raise Problem(
                    409, "Changed", "it isn't what was looked at any more", "propose it again, and look at the difference"
                )
            row.status, row.confirmed_by, row.due = WAITING, confirmed_by, time.time()
        self.house.archive.note(
            by, "confirm sending", name, {"kind": row.kind, "receiver": row.receiver, "confirmed_by": confirmed_by}
        )
        self._wake.set()
        return self._shown(row)

    def decline(self, name: str, by: str) -> Outgoing:
        """It isn't wanted. Raises 409 where it was decided."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            row = self._row(session, name)
            if row.status not in (PROPOSED, WAITING, DEAD):
                raise Problem(409, "Decided", f"it is {row.status} already", "")
            row.status = DECLINED
        self.house.archive.note(by, "decline sending", name, {"kind": row.kind, "receiver": row.receiver})
        return self._shown(row)

    def route(self, kind: str, what: dict[str, Any], confirmed_by: str, by: str) -> list[Outgoing]:
        """Send a result that a person just signed or confirmed where the settings route it to."""
        done = []
        for title in self.house.settings.route_results_to:
            proposed = self.propose(kind, what, f"pacs:{title}", by)
            done.append(self.confirm(proposed.id, proposed.sha256, confirmed_by, by))
        return done

    def queue(self, kind: str, what: dict[str, Any], receiver: str, patient_id: str) -> None:
        """Something that needs no confirmation, since it tells no more than that something happened (webhooks)."""
        words = json.dumps(what, sort_keys=True)
        row = _Row(id=f"o_{secrets.token_hex(8)}", kind=kind, receiver=receiver, what=json.dumps(what), patient_id=patient_id, words=words,
                   sha256=hashlib.sha256(words.encode()).hexdigest(), status=WAITING, proposed_by="settings", due=time.time(), created=now())  # fmt: skip
        with Session(self.engine) as session, session.begin():
            session.add(row)
        self._wake.set()

    def again(self, name: str, by: str) -> Outgoing:
        """Try once more what was given up."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            row = self._row(session, name)
            if row.status != DEAD:
                raise Problem(409, "NotDead", f"it is {row.status}", "only what was given up is tried again by hand")
            row.status, row.attempts, row.due = WAITING, 0, time.time()
        self.house.archive.note(by, "send again", name, {"kind": row.kind, "receiver": row.receiver})
        self._wake.set()
        return self._shown(row)

    # Showing

    def get(self, name: str) -> Outgoing:
        """One. Raises NotFound."""
        with Session(self.engine) as session:
            return self._shown(self._row(session, name))

    def listed(self, patient_id: str | None = None, status: str | None = None, limit: int = 200) -> list[Outgoing]:
        """Newest first."""
        query = select(_Row).order_by(_Row.created.desc(), _Row.id)
        query = query if patient_id is None else query.where(_Row.patient_id == patient_id)
        query = query if status is None else query.where(_Row.status == status)
        with Session(self.engine) as session:
            return [self._shown(r, difference=False) for r in session.scalars(query.limit(limit))]

    def confirmed(self, draft_id: str) -> list[str]:
        """Who confirmed that a report be sent, each time that it was."""
        what = json.dumps({"draft_id": draft_id})
        query = select(_Row.confirmed_by).where(_Row.kind == "report", _Row.what == what, _Row.status == SENT).order_by(_Row.sent)
        with Session(self.engine) as session:
            return list(session.scalars(query))

    def _row(self, session: Session, name: str) -> _Row:
        row = session.get(_Row, name)
        if row is None:
            raise NotFound("there is nothing of this name on its way out", "list what is")
        return row

    def _shown(self, row: _Row, difference: bool = True) -> Outgoing:
        told = {n: getattr(row, n) for n in Outgoing.model_fields if n not in ("what", "difference")}
        lines = self._difference(row) if difference else []
        return Outgoing(**told, what=json.loads(row.what), difference=lines)

    def _difference(self, row: _Row) -> list[str]:
        """Against what this receiver got last of the same kind about the same study."""
        query = select(_Row.words).where(_Row.kind == row.kind, _Row.receiver == row.receiver, _Row.patient_id == row.patient_id,
                                         _Row.study_id == row.study_id, _Row.status == SENT, _Row.id != row.id)  # fmt: skip
        with Session(self.engine) as session:
            before = session.scalar(query.order_by(_Row.sent.desc()).limit(1)) or ""
        return [x for x in difflib.ndiff(before.splitlines(), row.words.splitlines()) if not x.startswith("? ")]

    # Sending

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            try:
                self.work()
            except Exception as error:  # noqa: BLE001 (the queue goes on whatever one of its rows does)
                log.error("the queue of what leaves failed with %s", type(error).__name__)
            self._wake.wait(self._pause())

    def _pause(self) -> float:
        with Session(self.engine) as session:
            due = session.scalar(select(_Row.due).where(_Row.status == WAITING).order_by(_Row.due).limit(1))
        return 30.0 if due is None else min(30.0, max(0.05, due - time.time()))

    def work(self) -> None:
        """Send what is due, once each."""
        with Session(self.engine) as session:
            names = session.scalars(
                select(_Row.id).where(_Row.status == WAITING, _Row.due <= time.time()).order_by(_Row.due)
            ).all()
        for name in names:
            if self._ended.is_set():
                return
            self._attempt(name)

    def _attempt(self, name: str) -> None:
        with Session(self.engine) as session, session.begin():
            row = session.get_one(_Row, name)
            row.attempts += 1
            row.due = time.time() + FIRST_WAIT_S * 2 ** (row.attempts - 1)  # a process that dies now tries again then
            kind, receiver, attempts = row.kind, row.receiver, row.attempts
            what = {**json.loads(row.what), "id": name, "confirmed_by": row.confirmed_by}
        error = ""
        try:
            self.senders[kind](self.house, receiver, what)
        except NotTaken as failure:
            error = str(failure)[:300]
        except Problem as failure:
            error = failure.detail[:300]
        except OSError:
            error = "the receiver can't be reached"
        except Exception as failure:  # noqa: BLE001 (told in the list; details would quote the patient)
            log.error("sending %s failed with %s", name, type(failure).__name__)
            error = f"it failed ({type(failure).__name__})"
        with Session(self.engine) as session, session.begin():
            row = session.get_one(_Row, name)
            if row.status != WAITING:  # declined meanwhile
                return
            if not error:
                row.status, row.sent, row.error = (
                    SENT,
                    datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "",
                )
            else:
                row.error = error
                row.status = DEAD if attempts >= ATTEMPTS else WAITING
        if not error and kind in ("report", "mask"):
            self.house.archive.note("outbox", "sent", name, {"kind": kind, "receiver": receiver})


# What is sent


def _words(house: House, kind: str, what: dict[str, Any]) -> tuple[str, str, str]:
    """What would be sent in words, as a person looks at it; the patient and the study that it is about."""
    if kind == "report":
        draft = _signed(house, what)
        study = house.archive.study(draft.study_id) if draft.study_id else None
        text = as_text(draft, house.archive.patient(draft.patient_id), study).decode()
        return text, draft.patient_id, draft.study_id or ""
    study, series, path = _mask(house, what)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [
        f"DICOM Segmentation on {study.handle} {study.date or ''} {series.modality} {series.description}".strip(),
        *described(house.resources.catalogue, path),
        f"mask {digest[:16]}",
    ]
    return "\n".join(lines), study.patient_id, study.id


def _mask(house: House, what: dict[str, Any]) -> tuple[Study, Series, Path]:
    """A mask's study, series and file. Raises NotFound, and Refused where the model is gone."""
    study = house.archive.study(what["study_id"])
    series = next((s for s in study.series if s.id == what["series_id"]), None)
    path = house.archive.derived(what["series_id"]) / what["name"]
    if series is None or not path.is_file():
        raise NotFound("there is no such mask", "ask for a segmentation first")
    described(house.resources.catalogue, path)
    return study, series, path


def _signed(house: House, what: dict[str, Any]) -> Draft:
    draft = house.resources.drafts.get(str(what.get("draft_id", "")))
    if draft.signature is None:
        raise Problem(409, "NotSigned", "a report leaves once it is signed", "sign it first")
    return draft


def _accession(house: House, uid: str | None) -> str:
    if not uid:
        return ""
    found = next(DicomIndex(house.archive).studies({(tag("StudyInstanceUID"),): uid}), None)
    return first(found, "AccessionNumber") if found else ""


def _to_pacs(house: House, receiver: str, data: bytes) -> None:
    from serving import pacs
    from serving.dimse import peers_of

    title = receiver.partition(":")[2]
    peer = peers_of(house.settings.dimse_peers).get(title)
    if peer is None:
        raise NotTaken(f"{title} isn't in dimse_peers any more")
    stored = pacs.store(house.settings.ae_title, peer, [data])
    if title in house.settings.commit_by:
        pacs.ask_to_commit(house.settings.ae_title, peer, stored)


def _send_mask(house: House, receiver: str, what: dict[str, Any]) -> None:
    study, series, path = _mask(house, what)
    _to_pacs(house, receiver, as_seg(drawing_of(house.archive, house.resources.catalogue, study, series, path)))


def _send_report(house: House, receiver: str, what: dict[str, Any]) -> None:
    draft = _signed(house, what)
    patient = house.archive.patient(draft.patient_id)
    study = house.archive.study(draft.study_id) if draft.study_id else None
    way, _, name = receiver.partition(":")
    if way == "pacs":
        _to_pacs(house, receiver, as_sr(draft, patient, study))
    elif way == "hl7":
        from serving import mllp

        accession = _accession(house, study.study_instance_uid if study else None)
        mllp.send(house.settings.mllp_send_to[name], as_oru(draft, patient, study, accession, name))
    else:
        from serving import ehr

        ehr.write_report(house, name, draft, str(what.get("confirmed_by") or ""))
