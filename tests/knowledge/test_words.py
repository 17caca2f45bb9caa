"""Reports, corpus and embedder."""

import json

import numpy as np
import pytest

from knowledge import sample
from knowledge.case import Case, open_case
from knowledge.errors import MixedPatients, NotFound
from knowledge.guidelines import corpus
from knowledge.guidelines.minilm import MiniLM, package_dir
from knowledge.records.reports import date_of, sentences
from knowledge.studies.archive import Archive
from knowledge.studies.unpack import Incoming
from knowledge.studies.which import sequence_of
from tools.base import Resources


def test_sentences_keep_their_spans() -> None:
    text = (sample.FOLDER / "report.txt").read_text()
    cut = sentences(text)
    assert {s.section for s in cut} >= {"FINDINGS", "IMPRESSION", "TECHNIQUE"}
    for sentence in cut:
        assert " ".join(text[sentence.start : sentence.end].split()) == sentence.text
    assert date_of(text) == "2026-09-14"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("left ventricle", "left lateral ventricle"),
        ("midline shift", "midline"),
        ("contrast enhancement", "contrast enhancement"),
    ],
)
def test_a_report_is_found_by_its_subject(resources: Resources, case: Case, query: str, words: str) -> None:
    hits = resources.records.sentences(query, case.reports)
    assert words in hits[0].sentence.text


@pytest.mark.parametrize("query", ["spleen", "liver metastases", "left ventricular ejection fraction", "aortic valve"])
def test_nothing_is_found_that_no_report_says(resources: Resources, case: Case, query: str) -> None:
    assert resources.records.sentences(query, case.reports) == []


def test_the_other_side_is_not_quoted(resources: Resources, case: Case) -> None:
    hits = resources.records.sentences("left ventricle", case.reports)
    assert not any("right" in h.sentence.text and "left" not in h.sentence.text for h in hits)


def test_every_passage_names_its_source() -> None:
    assert len(corpus.passages()) >= 40
    assert len({p.id for p in corpus.passages()}) == len(corpus.passages())
    for passage in corpus.passages():
        assert passage.source and passage.version and passage.date and passage.checked in corpus.CHECKED
        assert 30 < len(passage.text) < 900


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Is her kidney function good enough for gadolinium?", "contrast_kidney."),
        ("first-line treatment of MGMT methylated GBM", "gbm_first_line."),
        ("how is progression of glioma defined", "rano_2_0."),
        ("6 mm solid lung nodule follow-up", "fleischner_2017."),
        ("which category has 4B malignancy risk in breast", "bi_rads."),
    ],
)
def test_search_finds_the_document(resources: Resources, query: str, expected: str) -> None:
    assert resources.guidelines.search(query, 3)[0].passage.id.startswith(expected)


def test_search_finds_nothing_where_there_is_nothing(resources: Resources) -> None:
    assert resources.guidelines.search("What is the capital of France?") == []


def test_passages_for_other_patients_are_left_out(resources: Resources) -> None:
    found = resources.guidelines.search("glioblastoma treatment by age", 10, facts={"age_years": 58, "kps": 90})
    ids = {h.passage.id for h in found}
    assert "gbm_first_line.older-patients-who-are-fit" not in ids
    assert "gbm_first_line.poor-performance-status" not in ids


@pytest.mark.filterwarnings("ignore")
def test_the_embedder_is_the_model_of_the_package() -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["glioblastoma after surgery", "x", "Wie groß ist der Tumor?"]
    theirs = SentenceTransformer(str(package_dir()), device="cpu").encode(texts, normalize_embeddings=True)
    assert np.min((MiniLM().embed(texts) * theirs).sum(1)) > 0.9999


@pytest.mark.parametrize(
    ("text", "sequence"),
    [("t1c_bet", "T1c"), ("T1 post Gd", "T1c"), ("TCGA-DU-7294_fla_bet", "FLAIR"), ("AX T2 FLAIR", "FLAIR"), ("t2", "T2"),
     ("sag T1 mprage", "T1"), ("T1ce", "T1c"), ("ADC map", "ADC"), ("scout", None)],
)  # fmt: skip
def test_sequences(text: str, sequence: str | None) -> None:
    assert sequence_of(text) == sequence


def test_a_case_is_one_patient(sample_archive: Archive, archive: Archive, case: Case) -> None:
    assert case.age_years == 58 and case.patient.sex == "F"
    with pytest.raises(NotFound):
        case.study("S9")
    bundle = b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","id":"%s"}}]}'
    from agent.testing import dicom_series

    studies = []
    for name in ("A", "B"):
        archive.add([Incoming("p.json", bundle % name.encode())])
        done = archive.add([Incoming("a.dcm", dicom_series(np.ones((4, 4, 1), np.uint16), np.eye(4), patient_id=name)[0])])
        studies.append(done.studies[0].id)
    with pytest.raises(MixedPatients):
        open_case(archive, study_ids=studies)


def test_the_inventory_names_nobody(case: Case) -> None:
    said = json.dumps(case.inventory())
    assert sample.PATIENT_ID not in said and "1968" not in said and "Sample Patient" not in said
