"""Earlier studies of a patient, fetched from the PACS when a new one arrives, so that change can be told."""

import logging
import threading
from functools import partial

from knowledge.errors import KnowledgeError
from knowledge.studies.archive import Import
from knowledge.studies.stream import Stream
from serving import pacs
from serving.dimse import peers_of
from serving.house import House

log = logging.getLogger("consilium.priors")
ASKED_S = 3600
"""Seconds in which a patient isn't asked for again."""


class Priors:
    """Fetches for one house."""

    def __init__(self, house: House) -> None:
        self.house = house
        house.archive.listeners.append(self.arrived)

    def arrived(self, done: Import) -> None:
        """DICOM studies came: their patients' earlier ones are asked for in the background."""
        for patient in {s.patient_id for s in done.studies if s.source.format == "DICOM"}:
            if self.house.tokens.look("priors", f"priors {patient}") is None:
                self.house.tokens.mark("priors", f"priors {patient}", ASKED_S)
                threading.Thread(target=self.fetch, args=(patient,), daemon=True).start()

    def fetch(self, patient: str) -> int:
        """Fetch what the archive lacks of a patient's studies, newest first; how many studies came."""
        settings, count = self.house.settings, 0
        peers = peers_of(settings.dimse_peers)
        for title in settings.priors_from:
            try:
                here = {s.study_instance_uid for s in self.house.archive.studies(patient)}
                wanted = [str(m.StudyInstanceUID) for m in pacs.prior_studies(settings.ae_title, peers[title], patient)]
                with Stream(self.house.archive, f"AE {title}") as stream:
                    keep = partial(self._keep, stream)
                    for uid in [u for u in wanted if u not in here][: settings.priors_most]:
                        count += bool(pacs.fetch(settings.ae_title, peers[title], uid, keep, settings.dimse_port is not None))
            except pacs.NotAnswered as error:
                log.warning("earlier studies couldn't be fetched: %s", error)
            except Exception as error:  # noqa: BLE001 (one PACS that fails doesn't keep the next from being asked)
                log.warning("earlier studies couldn't be fetched from %s: %s", title, type(error).__name__)
        if count:
            self.house.archive.settle()
            self.house.archive.note("priors", "fetch priors", "", {"studies": count})
        return count

    def _keep(self, stream: Stream, data: bytes) -> bool:
        try:
            stream.take(data)
        except KnowledgeError:
            return False
        return True
