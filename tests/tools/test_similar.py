"""Similar cases: closed by default and by role; of other patients alone; nothing of their identity."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from knowledge.case import open_case
from knowledge.similar import CaseIndex
from knowledge.studies.archive import Archive
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming
from serving.house import ROLE, lets_of
from serving.settings import Settings
from tests.conftest import shared
from tools.base import Bench, Resources
from tools.errors import NotApplicable
from tools.phantoms import dicom_series
from tools.similar import FindSimilarCases, indexed

PICTURES = sorted((shared() / "data" / "us2d_breast_busi").rglob("*.png"))


def ultrasound(pixels: np.ndarray, patient: str, name: str) -> list[Incoming]:
    array = pixels.T[:, :, None].astype(np.int16)
    files = dicom_series(
        array,
        np.diag([-0.1, -0.1, 1.0, 1.0]),
        patient_id=patient,
        name=name,
        description="breast",
        date="20260102",
        body_part="BREAST",
        modality="US",
    )
    return [Incoming(f"{patient}-{n}.dcm", f) for n, f in enumerate(files)]


@pytest.fixture(scope="module")
def hospital(resources: Resources, tmp_path_factory: pytest.TempPathFactory) -> tuple[Resources, Archive]:
    from PIL import Image

    folder = tmp_path_factory.mktemp("hospital")
    archive = Archive(folder / "archive")
    with_index = replace(resources, cases=CaseIndex(folder / "similar"))
    random = np.random.default_rng(0)
    shown = [p for p in PICTURES if "mask" not in p.name][:3]
    first = np.asarray(Image.open(shown[0]).convert("L"), float)
    images = [
        first,
        np.clip(first + random.normal(0, 3, first.shape), 0, 255),
        *(np.asarray(Image.open(p).convert("L"), float) for p in shown[1:]),
    ]
    for number, (pixels, name) in enumerate(
        zip(images, ("Asked^Anna", "Twin^Theodora", "Other^Olga", "Third^Tessa"), strict=True)
    ):
        archive.add(ultrasound(pixels, f"PAT{number}", name))
    report = "IMPRESSION: Twin Theodora (PAT1, phone 0171 2345678) was seen by Dr. Huber on 2026-01-02. Fibroadenoma, BI-RADS 3."
    archive.add([Incoming("report.txt", report.encode())], Hints(patient_id="PAT1", study_date="2026-01-02"))
    for patient in archive.patient_ids():
        bench = Bench(with_index, open_case(archive, patient))
        for study in bench.required_case.studies:
            assert with_index.cases is not None
            indexed(bench, with_index.cases, study)
    return with_index, archive


def test_the_most_alike_study_of_another_patient_comes_first(hospital: tuple[Resources, Archive]) -> None:
    resources, archive = hospital
    reply = FindSimilarCases.bound(Bench(resources, open_case(archive, "PAT0"))).reply({})
    assert reply.facts[0].value["pseudonym"] == archive.vault.patient("PAT1")
    likeness = [f.value["similarity"] for f in reply.facts]
    assert likeness == sorted(likeness, reverse=True) and len(reply.facts) == 3
    assert archive.vault.patient("PAT0") not in {f.value["pseudonym"] for f in reply.facts}, "never the patient's own"


def test_nothing_of_the_other_patients_identity_is_told(hospital: tuple[Resources, Archive]) -> None:
    resources, archive = hospital
    reply = FindSimilarCases.bound(Bench(resources, open_case(archive, "PAT0"))).reply({})
    told = json.dumps([f.model_dump(mode="json") for f in reply.facts])
    assert "Fibroadenoma, BI-RADS 3" in told
    assert not [word for word in ("Twin", "Theodora", "PAT1", "Huber", "0171", "2345678", "2026-01-02") if word in told], told
    others = {s.id for p in ("PAT1", "PAT2", "PAT3") for s in archive.studies(p)}
    assert not any(o in told for o in others), "no way to the other patient's images"


def test_it_is_closed_unless_switched_on_for_a_role(tmp_path: Path) -> None:
    name = "find_similar_cases"
    assert not lets_of(Settings(data=tmp_path))(name)
    opened = lets_of(Settings(data=tmp_path, similar_cases=True, similar_for=["researcher"]))
    for role, may in ((None, False), ("reader", False), ("researcher", True)):
        token = ROLE.set(role)
        try:
            assert opened(name) is may
        finally:
            ROLE.reset(token)
    token = ROLE.set("researcher")
    try:
        assert not lets_of(Settings(data=tmp_path, similar_for=["researcher"]))(name), "off by default, whatever the role"
    finally:
        ROLE.reset(token)


def test_without_an_index_it_says_so(hospital: tuple[Resources, Archive]) -> None:
    resources, archive = hospital
    with pytest.raises(NotApplicable, match="no index"):
        FindSimilarCases.bound(Bench(replace(resources, cases=None), open_case(archive, "PAT0"))).reply({})


def test_a_deleted_study_is_forgotten(hospital: tuple[Resources, Archive]) -> None:
    resources, archive = hospital
    assert resources.cases is not None
    gone = archive.studies("PAT3")[0].id
    before = resources.cases.count()
    resources.cases.forget([gone])
    assert resources.cases.count() == before - 1
