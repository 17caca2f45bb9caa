"""Calling a PACS (DIMSE as user): echo, store, find, fetch, and storage commitment. Only application entities of the settings are called."""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, StoragePresentationContexts, build_role, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made from the dictionary at import
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from serving.dimse import Peer
from serving.errors import NotTaken

log = logging.getLogger("consilium.pacs")
SECONDS = 30
MOST_CLASSES = 120
"""Storage SOP classes that fit one association beside the query's own context (128 at most)."""


class NotAnswered(NotTaken):
    """The PACS can't be reached, refuses us, or failed; the text says which."""


def _associated(title: str, peer: Peer, contexts: Sequence[Any], handlers: Sequence[Any] = (), roles: Sequence[Any] = ()) -> Any:
    entity = AE(ae_title=title)
    entity.acse_timeout = entity.connection_timeout = entity.dimse_timeout = entity.network_timeout = SECONDS
    entity.requested_contexts = list(contexts)
    association = entity.associate(peer.host, peer.port, ae_title=peer.title, evt_handlers=list(handlers), ext_neg=list(roles))
    if not association.is_established:
        raise NotAnswered(f"{peer.title} {'refuses us' if association.is_rejected else 'cannot be reached'}")
    return association


def echo(title: str, peer: Peer) -> None:
    """C-ECHO. Raises NotAnswered."""
    association = _associated(title, peer, [build_context(Verification)])
    try:
        status = association.send_c_echo()
        if not status or status.Status != 0x0000:
            raise NotAnswered(f"{peer.title} answers an echo with a failure")
    finally:
        association.release()


def store(title: str, peer: Peer, files: Sequence[bytes]) -> list[tuple[str, str]]:
    """C-STORE each Part 10 file; (SOP class, SOP instance UID) of each. Raises NotAnswered where one isn't taken."""
    read = [pydicom.dcmread(io.BytesIO(f)) for f in files]
    kinds = {(str(d.SOPClassUID), str(d.file_meta.TransferSyntaxUID)) for d in read}
    association = _associated(title, peer, [build_context(c, s) for c, s in sorted(kinds)])
    try:
        for one in read:
            try:
                status = association.send_c_store(one)
            except ValueError as error:  # no context was accepted for it
                raise NotAnswered(f"{peer.title} doesn't take {one.SOPClassUID.name}") from error
            if not status or (status.Status != 0x0000 and status.Status & 0xF000 != 0xB000):
                code = f"0x{status.Status:04X}" if status else "no status"
                raise NotAnswered(f"{peer.title} didn't store it ({code})")
        return [(str(d.SOPClassUID), str(d.SOPInstanceUID)) for d in read]
    finally:
        association.release()


def find(title: str, peer: Peer, keys: Dataset) -> Iterator[Dataset]:
    """C-FIND at study root. Raises NotAnswered."""
    association = _associated(title, peer, [build_context(StudyRootQueryRetrieveInformationModelFind)])
    try:
        for status, match in association.send_c_find(keys, StudyRootQueryRetrieveInformationModelFind):
            if not status or status.Status not in (0x0000, 0xFF00, 0xFF01):
                raise NotAnswered(f"{peer.title} doesn't answer the query")
            if status.Status != 0x0000 and match is not None:
                yield match
    finally:
        association.release()


def prior_studies(title: str, peer: Peer, patient_id: str) -> list[Dataset]:
    """A patient's studies, newest first: UID, date, modalities, description."""
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.PatientID, keys.StudyInstanceUID, keys.StudyDate = "STUDY", patient_id, "", ""
    keys.ModalitiesInStudy, keys.StudyDescription, keys.NumberOfStudyRelatedInstances = "", "", ""
    found = [
        m for m in find(title, peer, keys) if str(m.get("PatientID", "")).strip() == patient_id and m.get("StudyInstanceUID")
    ]
    return sorted(found, key=lambda m: str(m.get("StudyDate") or ""), reverse=True)


def fetch(title: str, peer: Peer, study_uid: str, keep: Callable[[bytes], bool], move_to_us: bool) -> int:
    """A study's instances: by C-GET, each handed to `keep`; by C-MOVE to our own node where that is refused and we listen. Their number.

    Raises NotAnswered."""
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", study_uid
    try:
        return _got(title, peer, keys, keep)
    except NotAnswered:
        if not move_to_us:
            raise
        return _moved(title, peer, keys)


def _got(title: str, peer: Peer, keys: Dataset, keep: Callable[[bytes], bool]) -> int:
    kept = 0

    def taken(event: Any) -> int:
        nonlocal kept
        if not keep(event.encoded_dataset()):
            return 0xC000
        kept += 1
        return 0x0000

    classes = [c.abstract_syntax for c in StoragePresentationContexts if c.abstract_syntax is not None][:MOST_CLASSES]
    contexts = [build_context(StudyRootQueryRetrieveInformationModelGet), *(build_context(c) for c in classes)]
    roles = [build_role(c, scp_role=True) for c in classes]
    association = _associated(title, peer, contexts, [(evt.EVT_C_STORE, taken)], roles)
    try:
        _through(association.send_c_get(keys, StudyRootQueryRetrieveInformationModelGet), peer)
    except ValueError as error:  # the PACS has no C-GET
        raise NotAnswered(f"{peer.title} has no C-GET") from error
    finally:
        association.release()
    return kept


def _moved(title: str, peer: Peer, keys: Dataset) -> int:
    association = _associated(title, peer, [build_context(StudyRootQueryRetrieveInformationModelMove)])
    try:
        return _through(association.send_c_move(keys, title, StudyRootQueryRetrieveInformationModelMove), peer)
    finally:
        association.release()


def _through(replies: Iterator[tuple[Dataset, Dataset | None]], peer: Peer) -> int:
    done = 0
    for status, _ in replies:
        if not status or (status.Status not in (0x0000, 0xFF00) and status.Status & 0xF000 != 0xB000):
            raise NotAnswered(f"{peer.title} couldn't send the study")
        done = int(status.get("NumberOfCompletedSuboperations") or done)
    return done


# Storage commitment (PS3.4 J)


def ask_to_commit(title: str, peer: Peer, instances: Sequence[tuple[str, str]]) -> str:
    """Ask a PACS to take responsibility for instances; the transaction's UID. Its answer comes to our node. Raises NotAnswered."""
    asked = Dataset()
    asked.TransactionUID = generate_uid()
    asked.ReferencedSOPSequence = [_referenced(c, u) for c, u in instances]
    association = _associated(title, peer, [build_context(StorageCommitmentPushModel)])
    try:
        status, _ = association.send_n_action(asked, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        if not status or status.Status != 0x0000:
            raise NotAnswered(f"{peer.title} doesn't commit to what it stored")
        return str(asked.TransactionUID)
    except ValueError as error:
        raise NotAnswered(f"{peer.title} has no storage commitment") from error
    finally:
        association.release()


def tell_committed(
    title: str, peer: Peer, transaction: str, kept: Sequence[tuple[str, str]], missing: Sequence[tuple[str, str]]
) -> None:
    """The answer to another's request: what is kept here, and what isn't (0112, no such object instance). Raises NotAnswered."""
    told = Dataset()
    told.TransactionUID = transaction
    if kept:
        told.ReferencedSOPSequence = [_referenced(c, u) for c, u in kept]
    if missing:
        told.FailedSOPSequence = [_referenced(c, u, 0x0112) for c, u in missing]
    role = build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    association = _associated(title, peer, [build_context(StorageCommitmentPushModel)], roles=[role])
    try:
        association.send_n_event_report(told, 2 if missing else 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    except ValueError as error:
        raise NotAnswered(f"{peer.title} takes no answer") from error
    finally:
        association.release()


def _referenced(sop_class: str, uid: str, failure: int | None = None) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = sop_class, uid
    if failure is not None:
        made.FailureReason = failure
    return made
