"""The knowledge base, its ranking, measured signs on phantoms, and what the sample case makes of them."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from knowledge import sample
from knowledge.case import open_case
from knowledge.entities.library import ORGANS, described, entities, features, signs, source_keys, sources, spelled
from knowledge.entities.ranking import CLASSIFIER_MOST, rank
from knowledge.evidence import Kind
from knowledge.studies.archive import Archive
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import from_bytes
from tests.eval_field import differential, measured_signs
from tools.base import Bench, Resources
from tools.diagnosis.measured import MEASURES, crosses_midline, ring_enhancement, t2_flair_mismatch
from tools.errors import NotApplicable, TryAgain
from tools.models.masks import Segmentation, segmentation
from tools.registry import tool_types


def test_every_fact_of_the_knowledge_base_names_its_source() -> None:
    links = [(e, f, link) for organ in ORGANS for e in entities(organ).values() for f, link in e.links.items()]
    assert len(links) > 400
    for entity, feature, link in links:
        assert feature in features(entity.organ), (entity.name, feature)
        assert link.weight and source_keys(link.source) and set(source_keys(link.source)) <= set(sources()), (
            entity.name,
            feature,
            link.source,
        )
    for entity in (e for organ in ORGANS for e in entities(organ).values()):
        assert entity.needs is None or entity.needs in features(entity.organ)
        assert sum(link.weight > 0 for link in entity.links.values()) >= 1
    for one in signs().values():
        assert source_keys(one.source) and one.look_alikes and (one.measured is None) is (one.key not in MEASURES)
        assert one.feature is None or one.feature in features(one.organ)
        assert all(f.source for f in one.figures)
    assert "[general]" in spelled("K") and not next(link for _, _, link in links if link.source == "K").checked


def test_each_organ_has_malignant_benign_and_mimic() -> None:
    for organ in ORGANS:
        kinds = " ".join(e.kind for e in entities(organ).values())
        assert "malignant" in kinds and "benign" in kinds and "mimic" in kinds, organ


def test_the_classifier_never_decides_alone() -> None:
    sure = {"glioma": 0.99, "meningioma": 0.005, "pituitary": 0.005}
    assert rank("brain", {}, sure).certainty == "none"
    assert rank("brain", {"older": True}, sure).certainty == "none", "age says nothing of the lesion"
    against = rank("brain", {"dural_base": True, "dural_tail": True, "homogeneous_enhancement": True}, sure).ranked[0]
    assert against.entity.name == "meningioma" and against.classifier_points >= -CLASSIFIER_MOST


def test_a_finding_for_an_entity_never_lowers_it() -> None:
    for organ in ORGANS:
        for entity in entities(organ).values():
            for feature, link in entity.links.items():
                before = next(r.points for r in rank(organ, {}).ranked if r.entity == entity)
                after = next(r.points for r in rank(organ, {feature: True}).ranked if r.entity == entity)
                assert (after >= before) if link.weight > 0 else (after <= before), (entity.name, feature)


def test_points_add_up_and_arguments_are_those_that_are_known() -> None:
    found = rank("liver", {"cirrhosis": True, "aphe": True, "washout": True, "capsule": False})
    hcc = next(r for r in found.ranked if r.entity.name == "hcc")
    assert found.ranked[0] is hcc and found.certainty == "clear"
    assert hcc.points == pytest.approx(1 + sum(a.points for a in hcc.arguments))
    assert {a.feature for a in hcc.arguments} == {"cirrhosis", "aphe", "washout", "capsule"}
    assert all(f not in {"cirrhosis", "aphe", "washout", "capsule"} for f, _, _ in found.apart)


@pytest.mark.parametrize("half", ["seen", "held"])
def test_vignettes_find_their_entity(half: str) -> None:
    found = differential(half)
    assert found["top1"]["value"] >= 0.9 and found["top3"]["value"] == 1.0


def test_the_sample_is_ranked_from_evidence(bench: Bench) -> None:
    reply = tool_types()["differential_diagnosis"].bound(bench).reply({})
    assert reply.facts[0].kind is Kind.RECORD and "Glioblastoma" in reply.facts[0].statement, "what tissue has shown stands first"
    first = next(f for f in reply.facts if f.kind is Kind.RULE and "entity" in f.value)
    assert first.value["entity"] == "glioblastoma" and first.source.inputs["idh_wildtype"] is True
    assert first.source.origins["idh_wildtype"].kind == "record" and first.source.origins["crosses_midline"].kind == "finding"
    assert described(first.source.rule)["version"] and any(not a["checked"] for a in first.value["arguments"])
    assert "field knowledge that wasn't looked up" in first.statement
    assert any(m.would_change.startswith("it would speak for") for m in reply.missing)


def test_without_a_case_the_words_of_the_question_are_weighed(resources: Resources) -> None:
    tool = tool_types()["differential_diagnosis"].bound(Bench(resources))
    reply = tool.reply(
        {
            "findings": "58-year-old with fever and a ring-enhancing brain lesion with restricted diffusion in its centre, no necrosis"
        }
    )
    assert reply.facts[0].value["entity"] == "abscess" and reply.facts[0].source.origins["infection"].kind == "question"
    with pytest.raises(NotApplicable, match="nothing but"):
        tool.reply({"organ": "liver"})
    with pytest.raises(NotApplicable, match="knowledge base holds"):
        tool.reply({"findings": "a lesion of the toe"})


def test_signs_say_measured_reported_or_to_be_judged(bench: Bench, resources: Resources) -> None:
    every = tool_types()["imaging_signs"].bound(bench).reply({})
    assert {f.value["sign"] for f in every.facts if f.kind is Kind.FINDING} == set(MEASURES)
    tail = tool_types()["imaging_signs"].bound(bench).reply({"sign": "dural tail"})
    assert [m.what for m in tail.missing] == ["a reader's judgement of: Dural tail"]
    assert "HP:0032268" in tail.text and "60 to 72 %" in tail.text and "dural metastasis" in tail.text
    general = tool_types()["imaging_signs"].bound(Bench(resources)).reply({"sign": "what does the halo sign mean in the lung?"})
    assert "not specific" in general.text and not general.missing
    with pytest.raises(TryAgain, match="no sign of that name"):
        tool_types()["imaging_signs"].bound(bench).reply({"sign": "the sign of the fish"})


@pytest.fixture(scope="module")
def painted(resources: Resources, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Bench, Segmentation]]:
    """The sample's brain with a made lesion: bright on T2 and FLAIR (`plain`), and suppressed inside on FLAIR (`mismatch`)."""
    found = {}
    for name in ("plain", "mismatch"):
        archive = Archive(tmp_path_factory.mktemp(name))
        files = []
        centre, radius = np.array([150, 120, 90]), 18
        for one in ("t1.nii.gz", "t1c.nii.gz", "t2.nii.gz", "flair.nii.gz"):
            image = nib.load(sample.FOLDER / one)
            data = image.get_fdata(dtype=np.float32)
            away = np.sqrt(((np.indices(data.shape).T - centre) ** 2).sum(-1)).T
            brain = data[np.abs(data - data[0, 0, 0]) > 0.02 * np.ptp(data)]
            bright, dull = np.percentile(brain, 99.5), np.median(brain)
            if one in ("t2.nii.gz", "flair.nii.gz"):
                data[away <= radius] = bright
            if one == "flair.nii.gz" and name == "mismatch":
                data[away <= radius - 4] = dull
            made = nib.Nifti1Image(data, image.affine)
            files += list(from_bytes(one, made.to_bytes()))
        archive.add(files, Hints(patient_id="P", study_date="2026-01-01", modality="MR", body_part="BRAIN"))
        case = open_case(archive, "P")
        bench = Bench(resources, case)
        study = case.studies[0]
        series = next(q for q in study.series if q.sequence == "FLAIR")
        volume = case.volume(series)
        t2 = case.volume(next(q for q in study.series if q.sequence == "T2"))
        middle = np.argwhere(_most(t2.array)).mean(0)
        grid = np.sqrt(((np.indices(volume.array.shape).T - middle) ** 2).sum(-1)).T
        bundle = resources.catalogue.bundles["brain_mri_glioma"]
        mask = volume.like((grid <= radius).astype(np.uint8))
        found[name] = (
            bench,
            Segmentation(study, series, bundle, mask, None, None, volume, "/v1/x", False, ["FLAIR", "T1", "T1c", "T2"]),
        )
    return found


def _most(array: np.ndarray) -> np.ndarray:
    """The painted ball: the voxels that share one value most."""
    values, counts = np.unique(array[array != array[0, 0, 0]], return_counts=True)
    return np.asarray(array == values[counts.argmax()])


def test_a_mismatch_is_measured_where_it_was_painted(painted: dict[str, tuple[Bench, Segmentation]]) -> None:
    plain, made = (t2_flair_mismatch(*painted[name]) for name in ("plain", "mismatch"))
    assert plain is not None and not plain.present and plain.value < 10
    assert made is not None and made.present and made.value > 60


def test_a_ring_is_told_from_a_spot(bench: Bench) -> None:
    done = segmentation(bench)
    core = next(r for r in done.regions if r.name == "tumour core").labels
    bright = next(r for r in done.regions if r.name == "enhancing tumour").labels
    dull = next(v for v in core if v not in bright)
    away = np.sqrt(((np.indices(done.mask.array.shape).T - np.array(done.mask.array.shape) / 2) ** 2).sum(-1)).T
    ring, spot, open_ring = (np.zeros(done.mask.array.shape, np.uint8) for _ in range(3))
    ring[away <= 14] = bright[0]
    ring[away <= 10] = dull
    spot[away <= 14] = dull
    spot[away <= 4] = bright[0]
    open_ring[:] = ring
    open_ring[: ring.shape[0] // 2 - 2][open_ring[: ring.shape[0] // 2 - 2] == bright[0]] = dull
    found = [ring_enhancement(bench, replace(done, mask=done.mask.like(m))) for m in (ring, spot, open_ring)]
    assert [f.present for f in found if f is not None] == [True, False, False]
    assert found[0] is not None and found[0].value > 95


def test_growth_across_the_midline_is_a_share(bench: Bench) -> None:
    done = segmentation(bench)
    small = crosses_midline(bench, done)
    assert small is not None and not small.present and small.value < 10
    wide = np.zeros(done.mask.array.shape, np.uint8)
    wide[60:180, 100:140, 70:90] = done.regions[0].labels[0]
    assert (crossing := crosses_midline(bench, replace(done, mask=done.mask.like(wide)))) is not None and crossing.present


def test_the_sources_file_says_how_far_each_was_checked() -> None:
    text = (Path(described.__code__.co_filename).parent / "sources.yaml").read_text(encoding="utf-8")
    assert all(word in text for word in ("verified", "second-hand", "general"))


def test_the_sources_of_the_sample_stand_beside_each_other(bench: Bench) -> None:
    reply = tool_types()["differential_diagnosis"].bound(bench).reply({})
    told = next(f for f in reply.facts if f.title == "What each source says")
    assert told.value["agree"] and "They agree on glioma." in told.statement
    assert [s["sure"] for s in told.value["sources"]] == [False, False, True], "classifier, report with doubt, record"
    rule = next(f for f in reply.facts if getattr(f.source, "rule", "") == "who_cns_2021_glioma")
    assert rule.value["category"] == "diffuse glioma, NOS", "the record has no molecular criterion of glioblastoma"
    assert {"tert promoter mutation", "egfr amplification"} & {m.what for m in reply.missing}


def test_sources_that_differ_are_named(resources: Resources, archive: Archive) -> None:
    mri = b"EXAMINATION: MRI of the brain\nDATE: 2025-01-01\nFINDINGS: Extra-axial mass at the convexity with a dural tail.\nIMPRESSION: Meningioma."
    pet = b"EXAMINATION: PET of the brain\nDATE: 2025-01-09\nFINDINGS: One focus.\nIMPRESSION: Metastasis is likely."
    archive.add([*from_bytes("a.txt", mri), *from_bytes("b.txt", pet)], Hints(patient_id="P"))
    reply = tool_types()["differential_diagnosis"].bound(Bench(resources, open_case(archive, "P"))).reply({"organ": "brain"})
    told = next(f for f in reply.facts if f.title == "What each source says")
    assert told.value["agree"] is False and "They don't agree" in told.statement and "metastasis, probable" in told.statement


def test_signs_are_told_right_on_made_heads() -> None:
    assert all(share["value"] >= 0.8 for share in measured_signs(n=5).values())
