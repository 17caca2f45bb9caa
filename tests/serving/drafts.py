"""A report on a study, with one measurement: to be signed, sent, shown."""

import hashlib
from typing import Any

from knowledge.evidence import Fact, ImageRef, Kind
from knowledge.reporting.drafts import By, Draft, Sentence, now
from knowledge.studies.archive import Archive
from knowledge.studies.model import Study
from tools.concepts import LONG_AXIS


def draft_on(archive: Archive, study: Study, text: str, **more: Any) -> Draft:
    """`text` is what it finds; the same text on the same study has the same id."""
    series = study.series[0]
    source = ImageRef(study_id=study.id, series_uid=series.series_uid, sop_instance_uids=[archive.frames(series.id)[0][0]],
                      model="made up", model_version="1")  # fmt: skip
    fact = Fact(
        kind=Kind.MEASUREMENT,
        title="Longest axial diameter",
        statement="It is 21 mm.",
        value=21.0,
        unit="mm",
        code=LONG_AXIS,
        source=source,
    )
    sentences = [
        Sentence(part="FINDINGS", text=text, by=By.EVIDENCE, facts=[0]),
        Sentence(part="IMPRESSION", text="One lesion | ^ & ~.", by=By.READER),
    ]
    name = f"d_{hashlib.sha256(f'{study.id} {text}'.encode()).hexdigest()[:16]}"
    return Draft(id=name, patient_id=study.patient_id, study_id=study.id, study_date=study.date, modality="MR", body_part="BRAIN", template="t",
                 title="MRI of the brain", language="en", created=now(), sentences=sentences, facts=[fact], software="consilium 0", **more)  # fmt: skip
