"""DIMSE (PS3.7, PS3.4): a PACS stores here, searches, fetches and has things sent on; only application entities on the list are let in.

A C-STORE is answered with success once the archive has committed the instance, never before.
"""

import logging
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pydicom
import pynetdicom.transport
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made from the dictionary at import
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from knowledge.errors import KnowledgeError, NotFound, Refused, StorageFailed
from knowledge.studies import matching
from knowledge.studies.archive import Archive
from knowledge.studies.query import MATCHED, DicomIndex, Stored
from knowledge.studies.stream import Stream
from knowledge.studies.tags import Tags
from knowledge.studies.wado import syntax_of

log = logging.getLogger("consilium.dimse")
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # what it says of a message quotes the patient in it


def _readable(
    sockets: Sequence[Any], _: Sequence[Any], __: Sequence[Any], seconds: float
) -> tuple[list[Any], list[Any], list[Any]]:
    """As select.select for reading, at any file descriptor."""
    poll = select.poll()
    for one in sockets:
        poll.register(one, select.POLLIN | select.POLLPRI)
    ready = {fd for fd, _ in poll.poll(seconds * 1000)}
    return [s for s in sockets if s.fileno() in ready], [], []


# pynetdicom asks by select(2), which takes no descriptor above 1,023, and then drops the association: a server with many open
# chats has more.
pynetdicom.transport.select = SimpleNamespace(select=_readable)  # type: ignore[attr-defined,assignment]
SUCCESS, PENDING, CANCELLED = 0x0000, 0xFF00, 0xFE00
OUT_OF_RESOURCES, NOT_UNDERSTOOD, IDENTIFIER_WRONG = 0xA700, 0xC000, 0xA900
"""Status codes of PS3.4 B.2.3 and C.4.1.1.4."""
LEVELS = {"PATIENT": 0, "STUDY": 1, "SERIES": 2, "IMAGE": 3}
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
QUIET_S = 2
"""Seconds without a new instance after which what came is laid out, though the association stays open."""
MOST = 10_000
"""Matches of one C-FIND, instances of one C-GET or C-MOVE."""
QUERIES = (PatientRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelFind)
FETCHES = (PatientRootQueryRetrieveInformationModelGet, PatientRootQueryRetrieveInformationModelMove,
           StudyRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelMove)  # fmt: skip


@dataclass(frozen=True)
class Peer:
    """Another application entity: its title, and where it listens."""

    title: str
    host: str
    port: int


def peers_of(told: dict[str, str]) -> dict[str, Peer]:
    """The list of the settings, which have checked its addresses."""
    parted = {title: address.rpartition(":") for title, address in told.items()}
    return {title: Peer(title, host, int(port)) for title, (host, _, port) in parted.items()}


class Node:
    """Our application entity, listening from `start` to `stop`."""

    def __init__(self, archive: Archive, title: str, peers: dict[str, Peer]) -> None:
        self.archive, self.index, self.peers = archive, DicomIndex(archive), peers
        self.ae = AE(ae_title=title)
        self.ae.require_called_aet = False
        self.ae.require_calling_aet = list(peers)
        self.ae.maximum_pdu_size = 0
        self.ae.maximum_associations = 32
        self.ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            assert context.abstract_syntax is not None
            self.ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES, scu_role=True, scp_role=True)
        for model in (*QUERIES, *FETCHES):
            self.ae.add_supported_context(model)
        self.ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self.committed: Callable[[str, int, int], object] = lambda transaction, kept, missing: None
        """Told what a PACS answers to our own requests: the transaction, how many instances it keeps, and how many it doesn't."""
        self._server: Any = None
        self._streams: dict[Any, Stream] = {}
        self._came: float | None = 0
        """When the last instance came that isn't laid out; 0: now is the time to."""
        self._look, self._ended = threading.Event(), False

    def start(self, host: str, port: int) -> None:
        """Listen."""
        handlers: list[Any] = [(evt.EVT_C_ECHO, lambda event: SUCCESS), (evt.EVT_C_STORE, self.store), (evt.EVT_C_FIND, self.find),
                               (evt.EVT_C_GET, self.get), (evt.EVT_C_MOVE, self.move), (evt.EVT_N_ACTION, self.commit), (evt.EVT_N_EVENT_REPORT, self.reported),
                               (evt.EVT_CONN_CLOSE, self.ended)]  # fmt: skip
        threading.Thread(target=self._settle_in_pauses, daemon=True).start()
        self._server = self.ae.start_server((host, port), block=False, evt_handlers=handlers)
        # It would collect garbage of the whole process every half-minute and at each burst: a quarter of the time that storing takes.
        self._server.service_actions = lambda: None

    def stop(self) -> None:
        """Listen no more; associations are aborted."""
        self._ended = True
        self._look.set()
        if self._server is not None:
            self._server.shutdown()

    # What others ask

    def store(self, event: Any) -> int:
        """C-STORE: the instance is kept and committed, or refused by its status."""
        caller = str(event.assoc.requestor.ae_title).strip()
        try:
            if event.assoc not in self._streams:
                self._streams[event.assoc] = Stream(self.archive, f"AE {caller}")
            self._streams[event.assoc].take(event.encoded_dataset())
        except StorageFailed:
            return OUT_OF_RESOURCES
        except Refused:
            return NOT_UNDERSTOOD
        except Exception as error:  # noqa: BLE001 (whatever it is, the sender keeps the instance and is told so)
            log.error("an instance of %s couldn't be stored: %s", caller, type(error).__name__)
            return NOT_UNDERSTOOD
        self._came = time.monotonic()
        return SUCCESS

    def ended(self, event: Any) -> None:
        """An association is over: what it sent is laid out."""
        if (stream := self._streams.pop(event.assoc, None)) is not None:
            stream.close()
            self._came = 0
            self._look.set()

    def _settle_in_pauses(self) -> None:
        while not self._ended:
            self._look.wait(QUIET_S)
            self._look.clear()
            if self._came is not None and time.monotonic() - self._came > QUIET_S:
                self._came = None
                try:
                    self.archive.settle()
                except Exception as error:  # noqa: BLE001 (it waits, and whoever reads it meets the reason)
                    log.error("what came couldn't be laid out: %s", type(error).__name__)

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        """C-FIND: what matches, with the attributes that were asked for."""
        try:
            level, keys, wanted = asked(event.identifier)
            matches = self._matches(level, keys)
        except KnowledgeError as error:
            log.info("a C-FIND that can't be answered: %s", type(error).__name__)
            yield IDENTIFIER_WRONG, None
            return
        for number, match in enumerate(matches):
            if event.is_cancelled:
                yield CANCELLED, None
                return
            if number >= MOST:
                yield OUT_OF_RESOURCES, None
                return
            yield PENDING, self._told(match, level, wanted)

    def get(self, event: Any) -> Iterator[Any]:
        """C-GET: the instances, over this association."""
        try:
            stored = self._stored(event.identifier)
        except KnowledgeError:
            yield 0
            yield IDENTIFIER_WRONG, None
            return
        yield len(stored)
        yield from self._sent(event, stored)

    def move(self, event: Any) -> Iterator[Any]:
        """C-MOVE: the instances, to an entity on the list."""
        peer = self.peers.get(str(event.move_destination).strip())
        if peer is None:
            yield None, None
            return
        try:
            stored = self._stored(event.identifier)
        except KnowledgeError:
            stored = []
        contexts = sorted({(s.sop_class, syntax_of(s)) for s in stored})
        yield peer.host, peer.port, {"contexts": [build_context(c, s) for c, s in contexts[:128]], "ae_title": self.ae.ae_title}
        yield len(stored)
        yield from self._sent(event, stored)

    def commit(self, event: Any) -> tuple[int, Dataset | None]:
        """N-ACTION of storage commitment: taken now, answered on an association of ours, once it was looked up."""
        peer = self.peers.get(str(event.assoc.requestor.ae_title).strip())
        try:
            asked = event.action_information
            transaction = str(asked.TransactionUID)
            wanted = [(str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID)) for i in asked.ReferencedSOPSequence]
        except (AttributeError, ValueError):
            return 0x0120, None  # missing attribute
        if peer is None or event.action_type != 1:
            return 0x0123, None  # no such action
        there = self.index.kept([uid for _, uid in wanted])
        kept = [w for w in wanted if there.get(w[1]) == w[0]]
        threading.Thread(
            target=self._tell, args=(peer, transaction, kept, [w for w in wanted if w not in kept]), daemon=True
        ).start()
        return SUCCESS, None

    def _tell(self, peer: Peer, transaction: str, kept: list[tuple[str, str]], missing: list[tuple[str, str]]) -> None:
        from serving import pacs

        for wait in (0.2, 5, 60):
            time.sleep(wait)
            try:
                pacs.tell_committed(self.ae.ae_title, peer, transaction, kept, missing)
                return
            except pacs.NotAnswered as error:
                log.warning("a storage commitment couldn't be answered: %s", error)

    def reported(self, event: Any) -> tuple[int, Dataset | None]:
        """N-EVENT-REPORT: what a PACS answers to a request of ours."""
        told = event.event_information
        counts = [len(told.get(n) or []) for n in ("ReferencedSOPSequence", "FailedSOPSequence")]
        self.committed(str(told.get("TransactionUID", "")), counts[0], counts[1])
        return SUCCESS, None

    # How it is found

    def _matches(self, level: str, keys: dict[tuple[str, ...], str]) -> Iterator[Tags]:
        if level == "SERIES":
            return self.index.series(keys)
        if level == "IMAGE":
            return self.index.instances(keys)
        studies = self.index.studies(keys)
        return studies if level == "STUDY" else _of_patients(studies)

    def _stored(self, identifier: Dataset) -> list[Stored]:
        level, keys, _ = asked(identifier)
        uids = [[u for u in keys.get(matching.path_of(name), "").split("\\") if u] for name in UIDS]
        if level == "PATIENT" or not uids[0]:
            uids[0] = [str(m["0020000D"]["Value"][0]) for m in self.index.studies(keys)]
        found: list[Stored] = []
        for study in uids[0]:
            for series in uids[1] if LEVELS[level] > 1 and uids[1] else [None]:
                for sop in uids[2] if LEVELS[level] > 2 and uids[2] else [None]:
                    try:
                        found += self.index.stored(study, series, sop)
                    except NotFound:
                        continue
        if not found:
            raise NotFound("nothing fits the identifier")
        return found[:MOST]

    def _sent(self, event: Any, stored: list[Stored]) -> Iterator[tuple[int, Dataset | None]]:
        for one in stored:
            if event.is_cancelled:
                yield CANCELLED, None
                return
            yield PENDING, pydicom.dcmread(one.path, force=True)

    def _told(self, match: Tags, level: str, wanted: list[str]) -> Dataset:
        made = Dataset.from_json({t: match[t] for t in wanted if t in match})
        for tag in wanted:
            if tag not in match:
                made.add_new(Tag(tag), matching.vr_of(tag), None)
        made.QueryRetrieveLevel, made.RetrieveAETitle, made.SpecificCharacterSet = level, self.ae.ae_title, "ISO_IR 192"
        return made


def asked(identifier: Dataset) -> tuple[str, dict[tuple[str, ...], str], list[str]]:
    """Level, keys and wanted attributes of an identifier. Raises Refused for one that says nothing that can be meant."""
    level = str(identifier.get("QueryRetrieveLevel") or "").strip()
    if level not in LEVELS:
        raise Refused("the identifier names no level", "PATIENT, STUDY, SERIES or IMAGE")
    keys: dict[tuple[str, ...], str] = {}
    wanted: list[str] = []
    for element in identifier:
        name = f"{int(element.tag):08X}"
        if element.keyword in ("QueryRetrieveLevel", "SpecificCharacterSet", "TimezoneOffsetFromUTC") or element.tag.is_private:
            continue
        wanted.append(name)
        if element.VR == "SQ":
            for item in element.value or []:
                keys |= {(name, f"{int(e.tag):08X}"): _text(e.value) for e in item if _text(e.value)}
        elif text := _text(element.value):
            keys[(name,)] = text
    matching.check(keys)
    return level, {path: value for path, value in keys.items() if path[0] in MATCHED}, wanted


def _text(value: Any) -> str:
    if value is None:
        return ""
    return "\\".join(str(v) for v in value) if isinstance(value, pydicom.multival.MultiValue | list) else str(value)


def _of_patients(studies: Iterator[Tags]) -> Iterator[Tags]:
    seen: set[str] = set()
    for study in studies:
        patient = str(study["00100020"]["Value"][0])
        if patient not in seen:
            seen.add(patient)
            yield study
