"""The sample case: a real glioma MRI (CC BY 3.0) with a report and a FHIR bundle made up for it."""

from pathlib import Path

from knowledge.studies.archive import Archive, Import
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import from_bytes

FOLDER = Path(__file__).parent
PATIENT_ID = "SAMPLE-GLIOMA"
STUDY_DATE = "2026-09-14"
FILES = ("t1.nii.gz", "t1c.nii.gz", "t2.nii.gz", "flair.nii.gz", "report.txt", "bundle.json")


def load(archive: Archive) -> Import:
    """Import the sample case; a second time changes nothing."""
    files = (i for name in FILES for i in from_bytes(name, (FOLDER / name).read_bytes()))
    return archive.add(files, Hints(patient_id=PATIENT_ID, study_date=STUDY_DATE, modality="MR", body_part="BRAIN"))
