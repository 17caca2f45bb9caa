"""Telling others that something happened: webhooks of the settings (Standard Webhooks' signature), and FHIR R4 subscriptions to topics (backport IG 1.1).

A notification names what happened and where to read it; who is told reads it with their own key.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from agent.memory import now
from knowledge.errors import NotFound
from knowledge.language import language_of
from knowledge.records.reports import cut
from knowledge.studies.archive import Import
from knowledge.studies.resources import logical_id
from serving.access.clients import EVENTS
from serving.errors import Problem
from serving.house import House
from serving.outgoing import Outbox
from tools.export import fhir
from tools.urgent import emergency

TOPIC = "urn:consilium:topic:"
SECONDS = 10.0
TOLD_S = 10 * 365 * 86400
"""Seconds for which an emergency of one report isn't told again, though the report comes again."""
MOST = 100
"""Subscriptions that are kept."""


class _Base(DeclarativeBase):
    """Tables of the subscriptions."""


class _Row(_Base):
    """A FHIR subscription."""

    __tablename__ = "subscriptions"
    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    topic: Mapped[str]
    data: Mapped[str]
    events: Mapped[int] = mapped_column(default=0)
    updated: Mapped[str]


class Subscriptions:
    """Who is told of what in one house."""

    def __init__(self, house: House, outbox: Outbox) -> None:
        self.house, self.outbox = house, outbox
        self._engine = outbox.engine
        _Base.metadata.create_all(self._engine)
        outbox.senders |= {"hook": self._send_hook, "subscription": self._send_subscription}
        house.archive.listeners.append(self.arrived)

    # What happens

    def happened(self, event: str, focus: str, patient_id: str) -> None:
        """Tell everyone who wants to know. `focus`: Type/id of what can be read."""
        told = {"type": event, "at": now(), "focus": focus, "subject": f"Patient/{logical_id(patient_id)}"}
        for number, hook in enumerate(self.house.settings.webhooks):
            if event in hook.events:
                self.outbox.queue("hook", told, f"hook:{number}", patient_id)
        with Session(self._engine) as session, session.begin():
            counted = []
            for row in session.scalars(select(_Row).where(_Row.topic == TOPIC + event, _Row.status == "active")):
                row.events += 1
                counted.append((row.id, row.events))
        for own, number in counted:
            what = {**told, "number": number, "kind": "event-notification"}
            self.outbox.queue("subscription", what, f"subscription:{own}", patient_id)

    def _wanted(self, event: str) -> bool:
        """Whether anybody wants to know."""
        if any(event in hook.events for hook in self.house.settings.webhooks):
            return True
        with Session(self._engine) as session:
            query = select(_Row.id).where(_Row.topic == TOPIC + event, _Row.status == "active").limit(1)
            return session.scalar(query) is not None

    def arrived(self, done: Import) -> None:
        """Reports that came: an emergency in one is told, once."""
        reports = [r for r in done.records if r.kind == "report"]
        if not reports or not self._wanted("finding.critical"):
            return
        for record in reports:
            name = f"critical {record.id}"
            if self.house.tokens.look("told", name) is None and self._critical(record.id):
                self.house.tokens.mark("told", name, TOLD_S)
                self.happened("finding.critical", f"DocumentReference/{fhir.own_id(record.id)}", record.patient_id)

    def _critical(self, report_id: str) -> bool:
        report = self.house.archive.report(report_id)
        language = language_of(report.text[:2000])
        said = (s for s in cut(report.text) if s.part not in ("INDICATION", "TECHNIQUE", "COMPARISON"))
        return any(emergency(s.text, language) for s in said)

    # Webhooks

    def _send_hook(self, house: House, receiver: str, what: dict[str, Any]) -> None:
        number = int(receiver.partition(":")[2])
        if number >= len(house.settings.webhooks):
            raise Problem(404, "NoHook", "the webhook isn't in the settings any more", "")
        hook = house.settings.webhooks[number]
        body = json.dumps({k: v for k, v in what.items() if k not in ("id", "confirmed_by")}, sort_keys=True).encode()
        stamp = str(int(time.time()))
        headers = {"Content-Type": "application/json", "webhook-id": what["id"], "webhook-timestamp": stamp,
                   "webhook-signature": signature(hook.secret.get_secret_value(), what["id"], stamp, body)}  # fmt: skip
        _post(hook.url, body, headers)

    # FHIR

    def create(self, resource: dict[str, Any], by: str) -> dict[str, Any]:
        """A subscription, as soon as its receiver has answered a handshake. Raises Problems."""
        told = resource.get("channel")
        channel: dict[str, Any] = told if isinstance(told, dict) else {}
        endpoint = str(channel.get("endpoint") or "")
        topic = str(resource.get("criteria") or "")
        if topic not in {TOPIC + e for e in EVENTS}:
            raise Problem(
                422,
                "UnknownTopic",
                "criteria is no topic of this server",
                f"the topics are {', '.join(TOPIC + e for e in EVENTS)}",
            )
        if channel.get("type") != "rest-hook" or channel.get("payload", "application/fhir+json") != "application/fhir+json":
            raise Problem(422, "NotSupported", "notifications are rest-hooks in application/fhir+json", "")
        if (
            urlsplit(endpoint).scheme not in ("https", "http")
            or urlsplit(endpoint).hostname not in self.house.settings.subscription_hosts
        ):
            raise Problem(
                403,
                "HostNotAllowed",
                "the endpoint's host isn't in subscription_hosts",
                "nothing is sent to hosts that the settings don't name",
            )
        with Session(self._engine) as session:
            if len(session.scalars(select(_Row.id)).all()) >= MOST:
                raise Problem(422, "TooMany", f"{MOST} subscriptions are kept", "delete one")
        own = f"sub-{secrets.token_hex(8)}"
        kept = {**resource, "status": "active"}
        row = _Row(id=own, status="requested", topic=topic, data=json.dumps(kept), updated=now())
        with Session(self._engine) as session, session.begin():
            session.add(row)
        try:
            self._notify(own, {"kind": "handshake"})
            status = "active"
        except (Problem, OSError, httpx.HTTPError):
            status = "error"
        with Session(self._engine) as session, session.begin():
            session.get_one(_Row, own).status = status
        self.house.archive.note(by, "subscribe", own, {"topic": topic, "status": status})
        return self.get(own)

    def get(self, own: str) -> dict[str, Any]:
        """One. Raises NotFound."""
        with Session(self._engine) as session:
            row = session.get(_Row, own)
            if row is None:
                raise NotFound("there is no such subscription", "")
            return _told(row)

    def all(self) -> list[dict[str, Any]]:
        """Every subscription."""
        with Session(self._engine) as session:
            return [_told(r) for r in session.scalars(select(_Row).order_by(_Row.id))]

    def delete(self, own: str, by: str) -> None:
        """End one. Raises NotFound."""
        with Session(self._engine) as session, session.begin():
            row = session.get(_Row, own)
            if row is None:
                raise NotFound("there is no such subscription", "")
            session.delete(row)
        self.house.archive.note(by, "unsubscribe", own, {})

    def _send_subscription(self, house: House, receiver: str, what: dict[str, Any]) -> None:
        self._notify(receiver.partition(":")[2], what)

    def _notify(self, own: str, what: dict[str, Any]) -> None:
        with Session(self._engine) as session:
            row = session.get(_Row, own)
            if row is None:
                return  # ended meanwhile
            subscription, count = json.loads(row.data), row.events
        headers = {"Content-Type": "application/fhir+json"}
        for line in subscription["channel"].get("header") or []:
            name, _, value = str(line).partition(":")
            headers[name.strip()] = value.strip()
        _post(
            subscription["channel"]["endpoint"],
            json.dumps(notification(own, subscription["criteria"], what, count)).encode(),
            headers,
        )


def _told(row: _Row) -> dict[str, Any]:
    data = json.loads(row.data)
    channel = {k: v for k, v in data["channel"].items() if k != "header"}  # a header may hold the receiver's key
    return {
        **data,
        "resourceType": "Subscription",
        "id": row.id,
        "meta": {"lastUpdated": row.updated},
        "status": row.status,
        "channel": channel,
    }


def notification(own: str, topic: str, what: dict[str, Any], count: int) -> dict[str, Any]:
    """A notification Bundle of R4's backport: SubscriptionStatus as Parameters, with references only (id-only payload)."""
    parts: list[dict[str, Any]] = [
        {"name": "subscription", "valueReference": {"reference": f"Subscription/{own}"}}, {"name": "topic", "valueCanonical": topic},
        {"name": "status", "valueCode": "active"}, {"name": "type", "valueCode": what["kind"]},
        {"name": "events-since-subscription-start", "valueString": str(what.get("number", count))},
    ]  # fmt: skip
    if what.get("focus"):
        parts.append({"name": "notification-event", "part": [
            {"name": "event-number", "valueString": str(what["number"])}, {"name": "timestamp", "valueInstant": what["at"]},
            {"name": "focus", "valueReference": {"reference": what["focus"]}},
            {"name": "additional-context", "valueReference": {"reference": what["subject"]}}]})  # fmt: skip
    profile = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription-status-r4"
    status = {
        "resourceType": "Parameters",
        "id": f"status-{secrets.token_hex(6)}",
        "meta": {"profile": [profile]},
        "parameter": parts,
    }
    return {"resourceType": "Bundle", "type": "history", "timestamp": now(), "entry": [
        {"fullUrl": f"urn:uuid:{uuid.uuid4()}", "resource": status, "request": {"method": "GET", "url": f"Subscription/{own}/$status"},
         "response": {"status": "200"}}]}  # fmt: skip


def signature(secret: str, name: str, stamp: str, body: bytes) -> str:
    """Standard Webhooks: v1 and HMAC-SHA256 of id.timestamp.body, in base64."""
    digest = hmac.new(secret.encode(), f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    try:
        with httpx.Client(timeout=SECONDS, follow_redirects=False, trust_env=False) as client:
            reply = client.post(url, content=body, headers=headers)
    except httpx.HTTPError as error:
        raise OSError("the receiver can't be reached") from error
    if reply.status_code >= 300:
        raise Problem(502, "NotTaken", f"the receiver answered {reply.status_code}", "")
