"""Every tool keeps the contract; those of the box do their work on the sample case."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from langchain_core.messages import ToolMessage
from monai.bundle import ConfigParser
from safetensors.torch import load_file

from agent.testing import dicom_series
from knowledge.case import Case, open_case
from knowledge.evidence import Evidence, Fact, ImageRef, Kind
from knowledge.studies.archive import Archive
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming
from tests.conftest import shared
from tools.base import Bench, Reply, Resources
from tools.errors import NotApplicable, TryAgain
from tools.models.bundle import Bundle
from tools.models.catalogue import IN_THE_BOX
from tools.models.masks import segmentation
from tools.registry import tool_types, tools_for

CALLS = {
    "list_studies": {}, "explain_image_metadata": {}, "segment": {}, "detect": {}, "classify": {}, "measure": {}, "radiomics": {"classes": ["shape"]},
    "retrieve_reports": {"query": "left ventricle"}, "patient_record": {"topics": ["creatinine"]},
    "search_guidelines": {"query": "glioblastoma"}, "apply_guideline": {"guideline": "gbm_mgmt_stupp"}, "draft_report": {}, "check_report": {},
    "differential_diagnosis": {}, "imaging_signs": {}, "education_quiz": {},
}  # fmt: skip


WITHOUT_A_CASE = {"search_guidelines", "apply_guideline", "differential_diagnosis", "imaging_signs", "education_quiz"}


def test_the_box_has_its_tools() -> None:
    assert {*CALLS, "look", "compare_studies", "follow_up", "read_annotations", "find_similar_cases"} == set(tool_types())


@pytest.mark.parametrize("name", CALLS)
def test_a_tool_states_itself_and_gives_evidence(bench: Bench, name: str) -> None:
    tool = next(t for t in tools_for(bench) if t.name == name)
    told = tool.described()
    assert json.dumps(told)
    assert len(tool.asks) >= 5 and told["card"]["intended_use"] and told["card"]["limits"]
    message = tool.invoke({"type": "tool_call", "name": name, "id": "1", "args": CALLS[name]})
    assert isinstance(message, ToolMessage) and isinstance(message.artifact, Reply)
    facts = message.artifact.facts
    assert facts and {f.kind for f in facts} <= set(tool.gives)
    with pytest.raises(TryAgain):
        tool.reply({"no_such_argument": 1})


@pytest.mark.parametrize("name", [n for n, a in CALLS.items() if n not in WITHOUT_A_CASE])
def test_a_tool_without_its_case_says_so(resources: Resources, name: str) -> None:
    with pytest.raises(NotApplicable, match="no case"):
        tool_types()[name].bound(Bench(resources)).reply(CALLS[name])


def test_a_tool_reaches_nothing_outside_its_case(bench: Bench) -> None:
    for handle in ("S7", "st_000000000000", "1.2.840.10008"):
        with pytest.raises(TryAgain, match="no study of this case"):
            tool_types()["measure"].bound(bench).reply({"study": handle})


def test_the_mask_is_on_its_series_grid_and_close_to_the_reference(bench: Bench) -> None:
    done = segmentation(bench)
    assert done.mask.same_grid(done.volume)
    reference = nib.load(Path(__file__).parents[1] / "data" / "sample_consensus.nii.gz")
    truth, mine = np.asarray(reference.dataobj) > 0, done.mask.array > 0
    assert 2 * (truth & mine).sum() / (truth.sum() + mine.sum()) > 0.8


def test_the_mask_is_cached_by_series_model_and_version(bench: Bench) -> None:
    first, second = segmentation(bench), segmentation(bench)
    assert second.cached
    assert f"{first.bundle.name}-{first.bundle.version}" in first.url
    np.testing.assert_array_equal(first.mask.array, second.mask.array)


def flair_alone(bundle: Bundle, array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """What the glioma bundle outlines on a FLAIR volume without the other sequences."""
    from monai.data import MetaTensor

    data = np.zeros((4, *array.shape), np.float32)
    data[0] = array
    return bundle.segment(MetaTensor(torch.from_numpy(data), affine=torch.from_numpy(affine))) > 0


def test_segmentation_in_another_orientation_is_the_same(bench: Bench) -> None:
    done = segmentation(bench)
    image = nib.Nifti1Image(done.volume.array, done.volume.affine)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("RAS"))
    )
    plain = flair_alone(done.bundle, done.volume.array, done.volume.affine)
    mask = flair_alone(done.bundle, turned.get_fdata(dtype=np.float32), turned.affine)
    assert abs(int(mask.sum()) - int(plain.sum())) <= 0.002 * int(plain.sum())


def test_held_out_patients_reach_what_the_card_says(resources: Resources) -> None:
    bundle = resources.catalogue.bundles["brain_mri_glioma"]
    folder = shared("data", "mri3d_glioma_brats_NC", "brats_2013_pat0004_1")
    flair = nib.load(folder / "Flair_subtrMeanDivStd.nii.gz")
    brain = np.asarray(nib.load(folder / "brainmask.nii.gz").dataobj) > 0
    truth = np.asarray(nib.load(folder / "OTMultiClass.nii.gz").dataobj) > 0
    mine = flair_alone(bundle, np.where(brain, flair.get_fdata(dtype=np.float32) + 20, 0), flair.affine)
    assert 2 * (truth & mine).sum() / (truth.sum() + mine.sum()) > 0.9


@pytest.mark.parametrize("folder", sorted(p.name for p in IN_THE_BOX.iterdir() if p.is_dir()))
def test_a_bundle_is_whole(folder: str) -> None:
    root = IN_THE_BOX / folder
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    for field in ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "network_data_format"):
        assert metadata[field]
    weights = root / "models" / "model.safetensors"
    assert weights.stat().st_size < 20 * 2**20
    parser = ConfigParser()
    parser.read_config(root / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(load_file(weights))
    card = Bundle(root).card
    for told in (card.intended_use, card.accuracy, card.limits, card.training_data, card.licence):
        assert len(told) > 20, told
    assert card.compared and card.seconds and card.rates
    log = json.loads((root / "recipe" / "training_log.json").read_text())
    assert log and list((root / "recipe").glob("*.py"))
    assert "NC" not in metadata["consilium"]["training_data"]


def test_classes_sum_to_one_and_name_their_model(bench: Bench) -> None:
    (fact,) = tool_types()["classify"].bound(bench).reply({}).facts
    assert sum(fact.value["probabilities"].values()) == pytest.approx(1, abs=0.01)
    assert fact.value["label"] == "glioma"
    assert fact.source.model == "brain_mri_tumour_type"


@pytest.mark.parametrize("picture", ["us2d_breast_busi/malignant/malignant (1).png", "us2d_breast_busi/benign/benign (1).png"])
def test_a_nameless_picture_goes_to_the_model_that_it_looks_like(resources: Resources, archive: Archive, picture: str) -> None:
    archive.add([Incoming("p.png", shared("data", *picture.split("/")).read_bytes())])
    bench = Bench(resources, open_case(archive, patient_id=archive.patient_ids()[0]))
    reply = tool_types()["classify"].bound(bench).reply({})
    assert reply.facts[0].source.model == "breast_us_lesion_type"
    assert any("whether the picture is US of the breast" in m.what for m in reply.missing), "what was assumed is said"


def test_a_breast_picture_that_is_called_a_brain_is_refused(resources: Resources, archive: Archive) -> None:
    data = shared("data", "us2d_breast_busi", "malignant", "malignant (1).png").read_bytes()
    archive.add([Incoming("p.png", data)], Hints(patient_id="P", modality="MR", body_part="BRAIN"))
    for name in ("classify", "detect"):
        with pytest.raises(NotApplicable, match="doesn't look like"):
            tool_types()[name].bound(Bench(resources, open_case(archive, "P"))).reply({})


def test_a_slice_of_its_own_kind_is_classified(resources: Resources, archive: Archive) -> None:
    archive.add([Incoming("1246.jpg", shared("data", "mri2d_brain_tumor_cheng", "pituitary", "1246.jpg").read_bytes())])
    bench = Bench(resources, open_case(archive, patient_id=archive.patient_ids()[0]))
    reply = tool_types()["classify"].bound(bench).reply({})
    assert reply.facts[0].value["label"] == "pituitary"
    assert any("whether the picture is" in m.what for m in reply.missing), "what was assumed is said"


@pytest.mark.parametrize("hints", [Hints(modality="CT", body_part="BRAIN"), Hints(modality="MR", body_part="BREAST")])
def test_a_picture_that_is_said_to_be_something_else_is_refused(resources: Resources, archive: Archive, hints: Hints) -> None:
    data = shared("data", "mri2d_brain_tumor_cheng", "pituitary", "1246.jpg").read_bytes()
    archive.add([Incoming("1246.jpg", data)], hints)
    bench = Bench(resources, open_case(archive, patient_id=archive.patient_ids()[0]))
    with pytest.raises(NotApplicable, match="no model for classification"):
        tool_types()["classify"].bound(bench).reply({})


def test_a_head_with_its_skull_is_refused(resources: Resources, archive: Archive) -> None:
    noise = np.random.default_rng(0).integers(1, 400, (40, 40, 12)).astype(np.uint16)
    archive.add([Incoming(f"{i}.dcm", f) for i, f in enumerate(dicom_series(noise, np.eye(4)))])
    bench = Bench(resources, open_case(archive, patient_id="PHANTOM"))
    with pytest.raises(NotApplicable, match="skull-stripped"):
        tool_types()["segment"].bound(bench).reply({})


def test_a_body_is_not_for_the_brain_models(resources: Resources, archive: Archive) -> None:
    files = shared("data", "ct_mr_body_totalseg")
    archive.add([Incoming(p.name, p.read_bytes()) for p in sorted(files.rglob("*.dcm"))])
    (owner,) = archive.patient_ids()
    bench = Bench(resources, open_case(archive, patient_id=owner))
    for name in ("classify", "detect"):
        with pytest.raises(NotApplicable):
            tool_types()[name].bound(bench).reply({})
    for fact in tool_types()["segment"].bound(bench).reply({}).facts:
        assert fact.source.model == "body_ct_organs"


def test_a_measurement_without_a_unit_can_not_be_built(case: Case) -> None:
    source = ImageRef(study_id="s", series_uid="u", model="m", model_version="1")
    with pytest.raises(ValueError, match="unit"):
        Fact(kind=Kind.MEASUREMENT, title="Volume", statement="v", value=3.0, source=source)
    with pytest.raises(ValueError, match="needs a"):
        Fact(kind=Kind.REPORT, title="x", statement="x", source=source)
    assert Evidence.model_fields["href"]


def test_missing_facts_are_named(bench: Bench) -> None:
    reply = tool_types()["apply_guideline"].bound(bench).reply({"guideline": "egfr_contrast", "facts": {"medium": "gadolinium"}})
    assert reply.facts[0].value["values"]["egfr_ml_min_1_73m2"] == pytest.approx(84.9, abs=0.1)
    assert reply.facts[0].value["checked"] is False
    assert "agent group" in [m.what for m in reply.missing]


def test_the_same_patient_as_dicom_has_the_same_millimetres(
    bench: Bench, resources: Resources, archive: Archive, case: Case
) -> None:
    """The sample's series written as DICOM: same outline, sizes, side and class; evidence names the instance of its frame."""
    for name in ("FLAIR", "T1", "T1c", "T2"):
        (series,) = [q for q in case.studies[0].series if q.sequence == name]
        volume = case.volume(series).oriented("LPS")
        lps = np.diag([-1.0, -1, 1, 1]) @ volume.affine
        label = "T1 post contrast" if name == "T1c" else name
        files = dicom_series(volume.array, lps, patient_id="SAME", description=label, study_uid="1.2.3.4.5")
        archive.add([Incoming(f"{name}{i}.dcm", f) for i, f in enumerate(files)])
    other = Bench(resources, open_case(archive, patient_id="SAME"))
    values = []
    for place in (bench, other):
        measured = tool_types()["measure"].bound(place).reply({}).facts
        found = tool_types()["segment"].bound(place).reply({}).facts[0]
        (kind,) = tool_types()["classify"].bound(place).reply({}).facts
        values.append(([(f.title, f.value) for f in measured], found.value["side"], kind.value, found.source.frame))
        uid = measured[1].source.sop_instance_uids
    assert values[0] == values[1]
    assert len(uid) == 1
    instance = other.case.volume(next(q for q in other.case.studies[0].series if q.sequence == "FLAIR"))
    assert instance.sop_instance_uids[values[1][3]] == uid[0]


def test_a_few_voxels_and_the_scale_of_grey_values_decide_nothing(bench: Bench) -> None:
    done = segmentation(bench)

    def volume(array: np.ndarray) -> float:
        return float(flair_alone(done.bundle, array, done.volume.affine).sum())

    plain = done.volume.array
    assert volume(plain.clip(0)) == pytest.approx(volume(plain), rel=0.02)  # 1,561 negative voxels of 1.2 million
    assert volume(plain * 3.3) == pytest.approx(volume(plain), rel=0.002)


@pytest.mark.slow
def test_a_series_read_in_another_plane_opens_at_a_slice_that_shows_the_finding(
    bench: Bench, resources: Resources, archive: Archive, case: Case
) -> None:
    """The sample written as sagittal DICOM: the same sizes, and each evidence names the acquired slice (and instance) that shows it."""
    for name in ("FLAIR", "T1", "T1c", "T2"):
        (series,) = [q for q in case.studies[0].series if q.sequence == name]
        volume = case.volume(series).oriented("PIL")  # columns to posterior, rows to inferior, slices to the left
        label = "T1 post contrast" if name == "T1c" else name
        lps = np.diag([-1.0, -1, 1, 1]) @ volume.affine
        files = dicom_series(volume.array, lps, patient_id="SAG", description=label, study_uid="1.2.3.4.6")
        archive.add([Incoming(f"{name}{i}.dcm", f) for i, f in enumerate(files)])
    other = Bench(resources, open_case(archive, patient_id="SAG"))
    one, two = ([(f.title, f.value) for f in tool_types()["measure"].bound(b).reply({}).facts] for b in (bench, other))
    assert one == two
    done = segmentation(other)
    stack = done.volume.display()
    mask = done.mask.aligned_with(stack)
    assert mask.same_grid(stack) and stack.array.shape == (240, 155, 240)
    for tool in ("segment", "measure", "classify"):
        for fact in tool_types()[tool].bound(other).reply({}).facts:
            source = fact.source
            assert mask.array[:, :, source.frame].any(), (tool, fact.title)
            shown = next(q for q in other.case.studies[0].series if q.series_uid == source.series_uid)
            assert source.sop_instance_uids == [other.case.volume(shown).sop_instance_uids[source.frame]]
            assert source.box is None and source.line is None, "axial lines are not drawn on sagittal slices"
