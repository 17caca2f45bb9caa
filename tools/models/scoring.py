"""For the recipes of bundles: calibration, intervals, the check for foreign images, and sets to hold it against. Nothing at run time needs it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.covariance import LedoitWolf
from torch import Tensor

from tools.models.bundle import Bundle

BINS = 15
"""Bins of the calibration error (Guo et al. 2017)."""


def ece(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error of the most likely class: [n, classes], [n]."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    which = np.minimum((sure * BINS).astype(int), BINS - 1)
    return float(sum(abs(sure[which == b].mean() - right[which == b].mean()) * (which == b).mean() for b in np.unique(which)))


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Mean class probabilities [n, classes] of several looks, logits [n, looks, classes]."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(-1, keepdims=True))
    return np.asarray((powers / powers.sum(-1, keepdims=True)).mean(1))


def temperature_of(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature of least negative log likelihood, after averaging over looks [n, looks, classes]."""

    def loss(t: float) -> float:
        return float(-np.log(softened(logits, t)[np.arange(len(truth)), truth].clip(1e-9)).mean())

    return float(minimize_scalar(loss, bounds=(0.3, 4.0), method="bounded").x)


def interval(figure: Callable[[np.ndarray], float], groups: np.ndarray, times: int = 500) -> list[float]:
    """95 % bootstrap interval of `figure(rows)`, whole groups drawn (a patient, or a block where there is no id)."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    drawn = [figure(np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])) for _ in range(times)]
    return [round(float(v), 3) for v in np.nanpercentile(drawn, [2.5, 97.5])]


def stages_told(features: dict[str, np.ndarray], kind: str = "") -> dict[str, Tensor]:
    """`novelty.safetensors` of a bundle: each stage's mean and precision (Ledoit-Wolf) of features [n, 2 x channels] of a kind of image."""
    found = {}
    for stage, values in features.items():
        fitted = LedoitWolf().fit(values)
        name = f"{kind}/{stage}" if kind else stage
        found[f"{name}.mean"] = torch.from_numpy(fitted.location_.astype(np.float32))
        found[f"{name}.precision"] = torch.from_numpy(fitted.precision_.astype(np.float32))
    return found


def features_of(bundle: Bundle, images: Sequence[np.ndarray], stages: Sequence[str]) -> dict[str, np.ndarray]:
    """Features of pictures [rows, columns] at the named stages, each [n, 2 x channels]."""
    found: dict[str, list[np.ndarray]] = {s: [] for s in stages}
    for first in range(0, len(images), 32):
        batch = [torch.from_numpy(np.ascontiguousarray(i, np.float32))[None] for i in images[first : first + 32]]
        for stage, values in bundle.forward(batch, stages)[1].items():
            found[stage].append(values)
    return {s: np.concatenate(v) for s, v in found.items()}


def limits(own: np.ndarray, far: np.ndarray, near: np.ndarray | None = None) -> dict[str, float]:
    """Where to warn and where to refuse: a warning at the 95th percentile of held-out own images, a refusal at the distance below which
    most of own (and near) images and few far ones lie (the greatest sum of both shares)."""
    kept = own if near is None or not len(near) else np.concatenate([own, np.repeat(near, max(1, len(own) // (2 * len(near))))])
    tried = np.quantile(np.concatenate([kept, far]), np.linspace(0, 1, 400))
    best = max(tried, key=lambda t: (far > t).mean() * 2 + (kept <= t).mean())
    warn = float(np.quantile(own, 0.95))
    return {"warn": round(min(warn, float(best)), 3), "refuse": round(float(best), 3)}


def foreign(data: Path) -> dict[str, list[np.ndarray]]:
    """Pictures [rows, columns] of many kinds, by kind: those of ../shared/data, photographs of scikit-image, a drawn page, noise."""
    import h5py
    import nibabel as nib
    import pydicom
    from PIL import Image
    from skimage import color
    from skimage import data as photographs

    rng = np.random.default_rng(0)
    found: dict[str, list[np.ndarray]] = {}

    def grey(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path).convert("L"), np.float32)

    cheng = sorted((data / "mri2d_brain_tumor_cheng").glob("*/*.jpg"))
    found["brain T1c slices (Cheng)"] = [grey(cheng[i]) for i in rng.choice(len(cheng), 200, replace=False)]
    busi = sorted((data / "us2d_breast_busi").glob("*/*.png"))
    found["breast ultrasound (BUSI)"] = [grey(busi[i]) for i in rng.choice(len(busi), 200, replace=False)]
    with h5py.File(data / "ct2d_lung_tumour_msd_patches" / "patches_13patients.h5") as held:
        first = next(k for k in held if held[k].ndim >= 3 and "mask" not in k.lower() and "label" not in k.lower())
        found["lung CT patches"] = [np.asarray(p, np.float32).squeeze() * 255 for p in held[first][:]]
    body = nib.load(data / "ct_mr_body_totalseg" / "example_ct.nii.gz").get_fdata(dtype=np.float32)
    planes = np.linspace(0, body.shape[2] - 1, 60).astype(int)
    found["body CT slices"] = [np.rot90(np.clip((body[:, :, k] + 200) / 500, 0, 1) * 255).copy() for k in planes]
    scan = sorted((data / "dicom_mr_brain_defaced").rglob("*.dcm"))
    found["brain MR with skull (another scanner)"] = [pydicom.dcmread(p).pixel_array.astype(np.float32) for p in scan[10::3]]
    for kind, name in (("brain T1c slices, skull-stripped (NC)", "T1c"), ("brain FLAIR slices, skull-stripped (NC)", "Flair")):
        pictures = []
        for folder in sorted((data / "mri3d_glioma_brats_NC").glob("*_1")):
            brain = np.asanyarray(nib.load(folder / "brainmask.nii.gz").dataobj) > 0
            image = np.where(brain, nib.load(folder / f"{name}_subtrMeanDivStd.nii.gz").get_fdata(dtype=np.float32) + 20, 0)
            seen = np.where(brain, image - image[brain].min(), 0)
            areas = (np.asanyarray(nib.load(folder / "OTMultiClass.nii.gz").dataobj) > 0).sum((0, 1))
            frames = np.flatnonzero(areas >= 0.5 * areas.max())
            pictures += [seen[:, :, f].T.copy() for f in frames[:: max(1, len(frames) // 12)]]
        found[kind] = pictures
    patient = data / "mri3d_glioma_tcga_4ch" / "TCGA-DU-7294"
    t1c, tumour = (
        nib.load(patient / f"TCGA-DU-7294_{n}.nii.gz").get_fdata(dtype=np.float32) for n in ("t1c_bet", "consensus_simple")
    )
    areas = (tumour > 0).sum((0, 1))
    found["brain T1c slices, skull-stripped (TCGA)"] = [
        t1c[:, :, f].T.copy() for f in np.flatnonzero(areas >= 0.5 * areas.max())[::2]
    ]
    shots = [photographs.astronaut(), photographs.camera(), photographs.coffee(), photographs.chelsea(), photographs.coins(),
             photographs.page(), photographs.text(), photographs.moon(), photographs.brick(), photographs.grass(), photographs.gravel(),
             photographs.rocket(), photographs.retina(), photographs.immunohistochemistry(), photographs.horse().astype(np.uint8) * 255,
             photographs.hubble_deep_field(), photographs.cell()]  # fmt: skip
    found["photographs"] = [np.asarray(color.rgb2gray(p) * 255 if p.ndim == 3 else p, np.float32) for p in shots]
    found["noise"] = [rng.normal(128, s, (200, 200)).clip(0, 255).astype(np.float32) for s in np.linspace(5, 80, 20)]
    found["noise"] += [rng.uniform(0, 255, (n, n)).astype(np.float32) for n in range(64, 264, 10)]
    return found


def foreign_volumes(data: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Volumes [x, y, z] of many kinds with their affine: bodies, breasts, prostates, heads with skull, noise and shapes."""
    import nibabel as nib
    import pydicom
    import SimpleITK as sitk

    rng = np.random.default_rng(0)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in ("example_ct", "example_ct_sm"):
        image = nib.load(data / "ct_mr_body_totalseg" / f"{name}.nii.gz")
        found[f"body CT ({name})"] = image.get_fdata(dtype=np.float32), image.affine
    for path in sorted((data / "radiomics_nrrd_pyradiomics").glob("*.nrrd")):
        if "label" not in path.name:
            read = sitk.ReadImage(str(path))
            grid = np.diag([-read.GetSpacing()[0], -read.GetSpacing()[1], read.GetSpacing()[2], 1.0])
            found[path.stem] = sitk.GetArrayFromImage(read).transpose(2, 1, 0).astype(np.float32), grid
    files = sorted(
        (pydicom.dcmread(p) for p in (data / "dicom_mr_brain_defaced").rglob("*.dcm")), key=lambda f: int(f.InstanceNumber)
    )
    sides = [float(v) for v in files[0].PixelSpacing]
    thick = float(getattr(files[0], "SpacingBetweenSlices", files[0].SliceThickness))
    found["brain MR with skull"] = (
        np.stack([f.pixel_array.T for f in files], -1).astype(np.float32),
        np.diag([-sides[1], -sides[0], thick, 1.0]),
    )
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, 140)] * 3, indexing="ij"))
    egg = (axes**2 / np.array([0.6, 0.8, 0.6])[:, None, None, None] ** 2).sum(0) < 1
    one = np.diag([-1.0, -1.0, 1.0, 1.0])
    found["noise in the shape of a brain"] = np.where(egg, rng.normal(500, 100, egg.shape), 0).astype(np.float32), one
    found["flat in the shape of a brain"] = np.where(egg, 500 + rng.normal(0, 5, egg.shape), 0).astype(np.float32), one
    found["waves in the shape of a brain"] = (
        np.where(egg, 500 + 200 * np.sin(20 * axes[0]) * np.cos(17 * axes[2]), 0).astype(np.float32),
        one,
    )
    found["noise"] = rng.uniform(1, 1000, (128, 128, 64)).astype(np.float32), one
    return found
