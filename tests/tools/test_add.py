"""Models that a hospital brings, each way with a model made for it: a MONAI bundle, an nnU-Net folder, TorchScript, ONNX."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from typer.testing import CliRunner

from agent.testing import dicom_series
from knowledge.case import open_case
from knowledge.studies.archive import Archive
from knowledge.studies.unpack import Incoming
from tools.base import Bench, Resources
from tools.errors import NotApplicable
from tools.models.add import GivenCard, add, stated_card
from tools.models.bundle import Bundle
from tools.models.catalogue import IN_THE_BOX, Catalogue
from tools.models.shape import axial
from tools.registry import tool_types

CARD = {"modality": "MR", "body_part": "KNEE", "classes": ["background", "bright part"], "tumour": ["bright part"],
        "window": [0, 1000], "licence": "made for a test"}  # fmt: skip


class Bright(nn.Module):
    """Two classes: all above `line` is the second. Input [B, 1, X, Y, Z] in 0 … 1."""

    def __init__(self, line: float = 0.5) -> None:
        super().__init__()
        self.lift = nn.Conv3d(1, 2, 1)
        with torch.no_grad():
            self.lift.weight[:, 0, 0, 0, 0] = torch.tensor([0.0, 40.0])
            self.lift.bias.copy_(torch.tensor([0.0, -40.0 * line]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.lift(image)
        return out


def knee(archive: Archive) -> None:
    """A made knee of 40 x 40 x 20 voxels of 2 x 2 x 3 mm with a bright block of 10 x 8 x 6 voxels (5.76 mL)."""
    array = np.full((40, 40, 20), 200, np.uint16)
    array[10:20, 12:20, 5:11] = 900
    files = dicom_series(array, np.diag([2.0, 2, 3, 1]), patient_id="KNEE", body_part="KNEE")
    archive.add([Incoming(f"{i}.dcm", f) for i, f in enumerate(files)])


def outlined(folder: Path, resources: Resources, archive: Archive) -> float:
    """mL of the bright part, through the tools' own path."""
    knee(archive)
    shared = Resources(Catalogue((IN_THE_BOX, folder)), resources.guidelines, resources.embedder, resources.records)
    facts = tool_types()["measure"].bound(Bench(shared, open_case(archive, "KNEE"))).reply({}).facts
    assert facts[0].source.model not in {p.name for p in IN_THE_BOX.iterdir()}
    return float(facts[0].value)


def test_a_torchscript_file_joins_and_is_used(tmp_path: Path, resources: Resources, archive: Archive) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Bright(), torch.zeros(1, 1, 8, 8, 8)).save(tmp_path / "bright.ts")
    bundle = add(tmp_path / "bright.ts", tmp_path / "models", GivenCard(**CARD))
    assert bundle.card.origin == "added" and bundle.card.kind == "TorchScript" and len(bundle.sha256) == 64
    assert outlined(tmp_path / "models", resources, archive) == pytest.approx(5.76, abs=0.1)


def test_an_onnx_file_joins_and_is_used(tmp_path: Path, resources: Resources, archive: Archive) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Bright(), (torch.zeros(1, 1, 48, 48, 48),), str(tmp_path / "bright.onnx"), dynamo=False, input_names=["x"],
                          dynamic_axes={"x": {2: "i", 3: "j", 4: "k"}})  # fmt: skip
    add(tmp_path / "bright.onnx", tmp_path / "models", GivenCard(**CARD))
    assert outlined(tmp_path / "models", resources, archive) == pytest.approx(5.76, abs=0.1)


def zoo_bundle(folder: Path, expression: str = "$@network_def.to(@device)") -> Path:
    """A bundle laid out as the Model Zoo's are, with a state dict and a file pipeline."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    net = nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        net.weight[:, 0, 0, 0, 0] = torch.tensor([0.0, 40.0])
        net.bias.copy_(torch.tensor([0.0, -20.0]))
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    metadata = {"version": "0.3.0", "monai_version": "1.3.0", "task": "bright part", "description": "made for a test",
                "intended_use": "a test of adding bundles", "data_source": "none", "eval_metrics": {"mean_dice": 0.9},
                "network_data_format": {"inputs": {"image": {"type": "image", "modality": "MRI", "num_channels": 1, "spatial_shape": [48, 48, 48]}},
                                        "outputs": {"pred": {"type": "image", "format": "segmentation", "num_channels": 2,
                                                             "channel_def": {"0": "background", "1": "bright part"}}}}}  # fmt: skip
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    config = {"imports": ["$import torch"], "device": "cpu", "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1,
                                                                            "out_channels": 2, "kernel_size": 1},
              "network": expression,
              "preprocessing": {"_target_": "Compose", "transforms": [
                  {"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"},
                  {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
                  {"_target_": "Spacingd", "keys": "image", "pixdim": [2, 2, 2], "mode": "bilinear"},
                  {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 1000, "b_min": 0, "b_max": 1, "clip": True}]},
              "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_batch_size": 1, "overlap": 0.25},
              "postprocessing": {"_target_": "Compose", "transforms": [
                  {"_target_": "Activationsd", "keys": "pred", "softmax": True}, {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                  {"_target_": "SaveImaged", "keys": "pred"}]}}  # fmt: skip
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    return folder


def test_a_bundle_of_the_model_zoo_joins_and_is_used(tmp_path: Path, resources: Resources, archive: Archive) -> None:
    bundle = add(zoo_bundle(tmp_path / "bright_zoo"), tmp_path / "models", GivenCard(body_part="KNEE", tumour=["bright part"]))
    assert "0.9" in bundle.card.accuracy and bundle.card.intended_use == "a test of adding bundles"
    assert outlined(tmp_path / "models", resources, archive) == pytest.approx(5.76, rel=0.25)  # 3 mm slices on a grid of 2 mm


def test_a_bundle_that_runs_code_of_its_own_needs_a_persons_word(tmp_path: Path) -> None:
    source = zoo_bundle(tmp_path / "sly", "$[eval('1'), @network_def][1]")
    with pytest.raises(NotApplicable, match="runs code") as error:
        add(source, tmp_path / "models", GivenCard(body_part="KNEE"))
    assert "--trust-code" in error.value.hint
    assert not list((tmp_path / "models").iterdir()), "nothing of it stays"
    assert add(source, tmp_path / "models", GivenCard(body_part="KNEE"), trust_code=True).name == "sly"


def nnunet_folder(folder: Path) -> tuple[Path, nn.Module]:
    """A results folder as nnU-Net v2 writes it, and the network whose weights it holds."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    torch.manual_seed(0)
    kwargs = {"n_stages": 2, "features_per_stage": [4, 8], "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
              "strides": [[1, 1, 1], [1, 2, 2]], "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1], "conv_bias": True,
              "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
              "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}}  # fmt: skip
    made = {**kwargs, "conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    net = PlainConvUNet(input_channels=1, num_classes=3, deep_supervision=False, **made)
    (folder / "fold_0").mkdir(parents=True)
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}})
    )
    low = {
        "data_identifier": "x",
        "patch_size": [16, 32, 32],
        "spacing": [3.0, 2.0, 2.0],
        "normalization_schemes": ["CTNormalization"],
    }
    full = {"inherits_from": "3d_lowres",
            "architecture": {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet", "arch_kwargs": kwargs,
                             "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}}  # fmt: skip
    properties = {"0": {"mean": 100.0, "std": 50.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}}
    plans = {"configurations": {"3d_lowres": low, "3d_fullres": full}, "foreground_intensity_properties_per_channel": properties}
    (folder / "plans.json").write_text(json.dumps(plans))
    torch.save({"network_weights": net.state_dict(), "init_args": {"configuration": "3d_fullres"}, "current_epoch": 1000,
                "_best_ema": np.float64(0.9)}, folder / "fold_0" / "checkpoint_final.pth")  # fmt: skip
    return folder, net.eval()


def test_an_nnunet_results_folder_joins_with_its_own_axes_and_values(tmp_path: Path) -> None:
    folder, net = nnunet_folder(tmp_path / "Dataset999_Made")
    bundle = add(folder, tmp_path / "models", GivenCard(body_part="ABDOMEN", tumour=["tumour"]))
    assert bundle.card.modality == "CT" and [r.name for r in bundle.card.regions] == ["liver", "tumour"]
    assert [r.tumour for r in bundle.card.regions] == [False, True]
    rng = np.random.default_rng(1)
    array = rng.uniform(-200, 400, (32, 32, 16)).astype(np.float32)
    image = MetaTensor(torch.from_numpy(array)[None], affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64)))
    mine = bundle.scores(image).as_tensor()
    theirs = torch.from_numpy(((array.clip(-100, 300) - 100) / 50).transpose(2, 1, 0).copy())[None, None]
    with torch.inference_mode():
        expected = torch.softmax(net(theirs), 1)[0].permute(0, 3, 2, 1)
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-3)


def test_what_can_not_be_used_is_named_and_nothing_of_it_stays(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "broken.ts").write_bytes(b"PK\x03\x04 nothing")
    wide = zoo_bundle(tmp_path / "wide")
    torch.save(nn.Conv3d(2, 2, 1).state_dict(), wide / "models" / "model.pt")
    bare = zoo_bundle(tmp_path / "bare")
    (bare / "models" / "model.pt").unlink()
    given = GivenCard(**CARD)
    for source, reason in (("notes.txt", "no model that is known"), ("broken.ts", "doesn't run|can't be read"), ("wide", "don't fit|doesn't run"),
                           ("bare", "no weights"), ("nowhere", "isn't there")):  # fmt: skip
        with pytest.raises(Exception, match=reason):
            add(tmp_path / source, models, given)
        assert not models.exists() or not list(models.iterdir()), source
    with pytest.raises(NotApplicable, match="state its modality"):
        torch.jit.script(Bright()).save(tmp_path / "plain.ts")
        add(tmp_path / "plain.ts", models, GivenCard())


def test_the_command_line_adds_lists_shows_and_removes(tmp_path: Path) -> None:
    from serving.cli import app

    torch.jit.script(Bright()).save(tmp_path / "bright.ts")
    (tmp_path / "card.yaml").write_text("modality: MR\nbody_part: KNEE\ntumour: [bright part]\nwindow: [0, 1000]\n")
    data = ["--data", str(tmp_path / "data")]
    run = CliRunner()
    source = [str(tmp_path / "bright.ts"), "--card", str(tmp_path / "card.yaml"), "--classes", "background, bright part"]
    done = run.invoke(app, ["models", "add", *source, *data])
    assert done.exit_code == 0, done.output
    assert "bright 1.0.0" in done.output and "sha256" in done.output
    again = run.invoke(app, ["models", "add", *source, *data])
    assert again.exit_code == 3 and "already" in again.output
    assert "bright 1.0.0 (added)" in run.invoke(app, ["models", "list", *data]).output
    shown = json.loads(run.invoke(app, ["models", "show", "bright", *data]).output)
    assert shown["consilium"]["origin"] == "added" and shown["sha256"] == Bundle(tmp_path / "data" / "models" / "bright").sha256
    assert run.invoke(app, ["models", "remove", "bright", *data]).exit_code == 0
    assert "bright 1.0.0" not in run.invoke(app, ["models", "list", *data]).output
    assert run.invoke(app, ["models", "remove", "brain_mri_glioma", *data]).exit_code == 2


class Spots(nn.Module):
    """A network as MONAI's RetinaNetDetector asks one: an anchor's class is whether all around its middle is bright, its box the anchor itself."""

    spatial_dims, num_classes, num_anchors, size_divisible = 3, 1, 1, 4
    cls_key, box_reg_key = "classification", "box_regression"

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Parameter(torch.tensor(0.5))

    def forward(self, image: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        bright = torch.nn.functional.avg_pool3d(image, 8, 4, padding=2)  # anchors have their middles at 2, 6, 10 … voxels
        return {self.cls_key: [40 * (bright - self.line)], self.box_reg_key: [torch.zeros(bright.shape[0], 6, *bright.shape[2:])]}


def detector_bundle(folder: Path) -> Path:
    """A detection bundle as the Model Zoo lays them out, around Spots, with an inferer that runs code of its own."""
    root = folder / "spots"
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    config = {
        "imports": ["$import torch"], "network_def": {"_target_": "tests.tools.test_add.Spots"}, "network": "$@network_def",
        "anchor_generator": {"_target_": "AnchorGeneratorWithAnchorShape", "feature_map_scales": [1], "base_anchor_shapes": [[8, 8, 8]]},
        "detector": {"_target_": "RetinaNetDetector", "network": "@network", "anchor_generator": "@anchor_generator"},
        "detector_ops": ["$@detector.set_target_keys(box_key='box', label_key='label')",
                         "$@detector.set_box_selector_parameters(score_thresh=0.3, topk_candidates_per_level=100, nms_thresh=0.1, detections_per_img=20)"],
        "preprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [2.0, 2.0, 2.0]},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 1000, "b_min": 0, "b_max": 1, "clip": True}]},
        "inferer": {"_target_": "scripts.detection_inferer.RetinaNetInferer", "detector": "@detector"},
    }  # fmt: skip
    metadata = {"version": "0.1", "name": "Spots", "task": "bright spots", "description": "for a test", "network_data_format": {
        "inputs": {"image": {"modality": "MR", "num_channels": 1, "spatial_shape": ["4*n", "4*n", "4*n"]}},
        "outputs": {"pred": {"type": "object", "format": "dict", "channel_def": {"0": "spot"}}}}}  # fmt: skip
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.save(Spots().state_dict(), root / "models" / "model.pt")
    return root


def test_a_monai_detector_joins_and_its_boxes_are_in_millimetres(tmp_path: Path, resources: Resources, archive: Archive) -> None:
    source = detector_bundle(tmp_path)
    with pytest.raises(NotApplicable, match="isn't MONAI's"):
        add(source, tmp_path / "models", GivenCard(body_part="KNEE"))
    bundle = add(source, tmp_path / "models", GivenCard(body_part="KNEE"), trust_code=True)
    assert bundle.card.task == "detection" and bundle.card.kind == "MONAI detector"
    array = np.full((48, 48, 32), 100, np.uint16)
    array[10:18, 22:30, 10:18] = array[30:38, 6:14, 10:18] = 950
    files = dicom_series(array, np.diag([2.0, 2, 2, 1]), patient_id="KNEE", body_part="KNEE")
    archive.add([Incoming(f"{i}.dcm", f) for i, f in enumerate(files)])
    shared = Resources(Catalogue((IN_THE_BOX, tmp_path / "models")), resources.guidelines, resources.embedder, resources.records)
    facts = tool_types()["detect"].bound(Bench(shared, open_case(archive, "KNEE"))).reply({}).facts
    assert facts[0].value == {"label": "lesions", "count": 2} and facts[1].source.model == bundle.name
    boxes = sorted(f.source.box for f in facts[1:])
    view = open_case(archive, "KNEE")
    shown = axial(view.volume(view.studies[0].series[0])).array
    for x0, y0, x1, y1 in boxes:
        frame = facts[1].source.frame
        inside = shown[round(x0) : round(x1), round(y0) : round(y1), frame] > 500
        assert inside.mean() == 1, "the box lies on its spot"
    assert all(f.value["extents_mm"] == pytest.approx([16, 16, 16], abs=2) for f in facts[1:])


@pytest.mark.parametrize("kind", ["zoo", "detector", "nnunet", "torchscript"])
def test_what_is_stated_before_a_model_is_taken_in_is_its_card_after(tmp_path: Path, kind: str) -> None:
    """The statement of a package's tool is made without the weights."""
    given = GivenCard(body_part="ABDOMEN", tumour=["tumour"]) if kind == "nnunet" else GivenCard(**CARD)
    if kind == "nnunet":
        source = nnunet_folder(tmp_path / "Dataset999_Made")[0]
    elif kind == "torchscript":
        source = tmp_path / "bright.ts"
        torch.jit.script(Bright()).save(source)
    else:
        source = (zoo_bundle if kind == "zoo" else detector_bundle)(tmp_path / "made")
    stated, taken = stated_card(source, given), add(source, tmp_path / "models", given, trust_code=True).card
    for part in ("task", "modality", "body_part", "dimensions", "classes", "intended_use", "accuracy", "limits", "licence"):
        assert getattr(stated, part) == getattr(taken, part), part
    assert [r.name for r in stated.regions] == [r.name for r in taken.regions]
