"""Simulated gliomas in one real anatomy: what the network of this bundle is trained on.

The only permissive patient of the data (TCGA-DU-7294, CC BY 3.0) is healed first: its tumour is replaced by the mirrored other
half, registered. Then each sample bends that brain, changes the contrast of its tissues, and grows a tumour in it (oedema, core,
enhancing part), with vessels, bias field, noise, thick slices and cut fields of view. The patient's real tumour is never shown in
training: it serves for validation.

Arrays are [channel, x, y, z] at 2 mm, LPS; channels FLAIR, T1, T1c, T2; labels whole tumour, core, enhancing.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional as nn

SEQUENCES = ["FLAIR", "T1", "T1c", "T2"]
FILES = {"FLAIR": "fla", "T1": "t1", "T1c": "t1c", "T2": "t2"}
STEP_MM = 2.0
SHAPE = (80, 96, 80)
"""Voxels of a sample: 160 x 192 x 160 mm."""


def real(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The patient's four sequences [4, x, y, z] at 1 mm, zero outside the brain, and the consensus labels (1 core, 2 oedema)."""
    name = folder.name
    images = [np.asanyarray(nib.load(folder / f"{name}_{FILES[s]}_bet.nii.gz").dataobj).astype(np.float32) for s in SEQUENCES]
    labels = np.asanyarray(nib.load(folder / f"{name}_consensus_simple.nii.gz").dataobj)
    return np.stack(images), labels


def halved(images: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 x 2 voxels [.., x, y, z], after an even number of voxels was cut."""
    x, y, z = (n // 2 * 2 for n in images.shape[-3:])
    cut = images[..., :x, :y, :z]
    return np.asarray(cut.reshape(*cut.shape[:-3], x // 2, 2, y // 2, 2, z // 2, 2).mean((-1, -3, -5)))


def centred(images: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """A box of SHAPE around the middle of the brain."""
    middle = [(a.min() + a.max()) // 2 for a in np.nonzero(brain)]
    padded = np.pad(images, [(0, 0)] * (images.ndim - 3) + [(n, n) for n in SHAPE])
    low = [m + n - n // 2 for m, n in zip(middle, SHAPE, strict=True)]
    return padded[..., low[0] : low[0] + SHAPE[0], low[1] : low[1] + SHAPE[1], low[2] : low[2] + SHAPE[2]]


def healed(images: np.ndarray, tumour: np.ndarray) -> np.ndarray:
    """`images` with the tumour replaced by the mirrored other half, brought into place by an affine and a B-spline registration on T1."""
    fixed, moving = sitk.GetImageFromArray(images[1]), sitk.GetImageFromArray(images[1, ::-1].copy())
    wide = ndimage.binary_dilation(tumour, iterations=4)
    outside = sitk.GetImageFromArray(((images[1] != 0) & ~wide).astype(np.uint8))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(outside)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGS2(numberOfIterations=100)
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method.SetInitialTransform(start)
    affine = method.Execute(fixed, moving)
    spline = sitk.BSplineTransformInitializer(fixed, [8, 9, 8])
    method.SetMovingInitialTransform(affine)
    method.SetInitialTransform(spline)
    bent = sitk.CompositeTransform([affine, method.Execute(fixed, moving)])
    blend = ndimage.gaussian_filter(ndimage.binary_dilation(tumour, iterations=2).astype(np.float32), 1.0)
    result = []
    for image in images:
        other = sitk.GetArrayFromImage(sitk.Resample(sitk.GetImageFromArray(image[::-1].copy()), fixed, bent, sitk.sitkLinear))
        near = (images[1] != 0) & ndimage.binary_dilation(wide, iterations=6) & ~wide & (other != 0)
        gain = np.median(image[near]) / np.median(other[near])
        result.append(np.where(image != 0, image * (1 - blend) + gain * other * blend, 0))
    return np.stack(result)


def standard(images: Tensor) -> Tensor:
    """Each channel minus its mean over its own non-zero voxels, by its standard deviation, within -5 to 5: as the bundle does it."""
    made = torch.zeros_like(images)
    for index, image in enumerate(images):
        inside = image != 0
        if inside.any():
            values = image[inside]
            made[index][inside] = ((values - values.mean()) / values.std().clamp_min(1e-6)).clamp(-5, 5)
    return made


class Simulator:
    """Makes samples (image [4, x, y, z], labels [3, x, y, z]) without end, from one healed brain."""

    def __init__(self, folder: Path, seed: int) -> None:
        images, labels = real(folder)
        small = halved(images)
        tumour = halved((labels > 0).astype(np.float32)) > 0.5
        brain = halved((images[1] != 0).astype(np.float32)) > 0.5
        small *= brain
        whole = healed(small, tumour)
        whole, brain = centred(whole, brain), centred(brain, brain)
        inside = brain & (whole[1] != 0)
        scaled = np.stack([(c - c[inside].mean()) / c[inside].std() for c in whole])
        features = scaled[:, inside][[1, 3]].T
        mixture = GaussianMixture(3, random_state=seed).fit(features[::7])
        shares = mixture.predict_proba(features)
        order = np.argsort(mixture.means_[:, 0])
        tissues = np.zeros((3, *SHAPE), np.float32)
        for place, component in enumerate(order):  # by brightness on T1: fluid, grey, white
            tissues[place][inside] = shares[:, component]
        self.volume = torch.from_numpy(np.concatenate([scaled * inside, inside[None], tissues]).astype(np.float32))
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def field(self, cells: int) -> Tensor:
        """A smooth random field [x, y, z] of standard deviation 1, about `cells` waves across."""
        coarse = torch.randn(1, 1, cells + 2, cells + 2, cells + 2)
        smooth = nn.interpolate(coarse, size=SHAPE, mode="trilinear", align_corners=True)[0, 0]
        return (smooth - smooth.mean()) / smooth.std()

    def bent(self) -> Tensor:
        """The healed brain, turned, scaled, mirrored and bent; [8, x, y, z]: four channels, brain, three tissues."""
        angles = self.rng.normal(0, 0.15, 3)
        turn = torch.eye(3)
        for (i, j), angle in zip([(0, 1), (0, 2), (1, 2)], angles, strict=True):
            one = torch.eye(3)
            one[i, i] = one[j, j] = float(np.cos(angle))
            one[i, j], one[j, i] = -float(np.sin(angle)), float(np.sin(angle))
            turn = turn @ one
        turn = turn @ torch.diag(torch.tensor(self.rng.uniform(0.85, 1.2, 3), dtype=torch.float32))
        if self.rng.random() < 0.5:
            turn[:, 0] *= -1
        shift = torch.tensor(self.rng.uniform(-0.12, 0.12, 3), dtype=torch.float32)
        theta = torch.cat([turn, shift[:, None]], 1)[None]
        grid = nn.affine_grid(theta, [1, 1, *SHAPE], align_corners=False)
        cells = int(self.rng.integers(3, 7))
        size = self.between(0, 0.09)
        wave = nn.interpolate(torch.randn(1, 3, cells, cells, cells) * size, size=SHAPE, mode="trilinear", align_corners=True)
        return nn.grid_sample(self.volume[None], grid + wave.permute(0, 2, 3, 4, 1), align_corners=False)[0]

    def tumour(self, brain: Tensor, tissues: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Masks of oedema with core, core, enhancing, and dead tissue or cavity; all empty for one sample in seven."""
        empty = torch.zeros(SHAPE, dtype=torch.bool)
        if self.rng.random() < 0.14:
            return empty, empty, empty, empty
        places = torch.nonzero((brain > 0.5) & (tissues[0] < 0.3))
        middle = places[int(self.rng.integers(len(places)))].float()
        axes = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in SHAPE], indexing="ij"))
        inside = brain > 0.5

        def blob(centre: Tensor, radius: float, rough: float, cells: int) -> Tensor:
            """Distance from the centre in radii, roughened; below 1 is inside."""
            stretch = torch.tensor(self.rng.uniform(0.7, 1.4, 3), dtype=torch.float32)
            away = ((axes - centre.view(3, 1, 1, 1)) * stretch.view(3, 1, 1, 1)).square().sum(0).sqrt() / radius
            return away + rough * self.field(cells)

        core_radius = float(np.exp(self.rng.uniform(np.log(2.5), np.log(14))))
        core_field = blob(middle, core_radius, self.between(0.05, 0.35), int(self.rng.integers(5, 12)))
        core = (core_field < 1) & inside
        kind = self.rng.choice(["ring", "patchy", "none", "solid"], p=[0.4, 0.25, 0.22, 0.13])
        dead = enhancing = empty
        if kind == "ring":
            thick = self.between(0.8, 3.2) / core_radius
            dead = (core_field + 0.12 * self.field(10) < 1 - thick) & inside
            enhancing = core & ~dead
            if self.rng.random() < 0.3:
                enhancing = enhancing & (self.field(5) > -1.0)
        elif kind == "patchy":
            enhancing = core & (self.field(int(self.rng.integers(6, 16))) > self.between(-0.6, 1.0))
            dead = core & ~enhancing & (self.field(8) > self.between(0, 2))
        elif kind == "solid":
            enhancing = core
        elif self.rng.random() < 0.3:
            dead = core & (core_field < 0.6)
        if self.rng.random() < (0.35 if kind == "none" else 0.12):
            return core, core, enhancing, dead
        radius = core_radius * self.between(1.1, 2.2) + self.between(0.5, 5)
        wide = blob(middle + torch.randn(3) * 0.25 * core_radius, radius, self.between(0.1, 0.45), int(self.rng.integers(4, 9)))
        like = self.between(0, 0.7)
        wide = wide - like * (tissues[2] - 0.6) + self.between(0, 0.6) * tissues[0]
        oedema = (wide < 1) & inside & ~((tissues[0] > 0.7) & (self.rng.random() < 0.85))
        return oedema | core, core, enhancing, dead

    def sample(self) -> tuple[Tensor, Tensor]:
        """One image, standardised, with channels left out at random (zero), and its labels."""
        moved = self.bent()
        brain, tissues = moved[4], moved[5:]
        inside = brain > 0.5
        channels = moved[:4].clone()
        for c in range(4):  # other scanners, other contrast between the tissues
            for tissue in tissues:
                channels[c] += float(self.rng.normal(0, 0.45)) * tissue
            channels[c] *= self.between(0.7, 1.3)
        whole, core, enhancing, dead = self.tumour(brain, tissues)
        if whole.any():
            self.paint(channels, tissues, whole, core, enhancing, dead)
        self.vessels(channels[2], inside)
        for c in range(4):
            low = channels[c][inside].min()
            bright = channels[c] - low + 0.3
            top = bright[inside].max()
            bright = top * (bright / top).clamp_min(0) ** float(np.exp(self.rng.normal(0, 0.22)))
            bright = bright * torch.exp(self.between(0, 0.2) * self.field(2))
            if self.rng.random() < 0.5:
                sigma = self.rng.uniform(0, 0.9, 3)
                bright = torch.from_numpy(ndimage.gaussian_filter(bright.numpy(), sigma))
            bright = bright + torch.randn(SHAPE) * self.between(0, 0.14)
            channels[c] = bright.clamp_min(1e-3)
        if self.rng.random() < 0.2:
            self.thicken(channels)
        if self.rng.random() < 0.3:
            axis, share = int(self.rng.integers(3)), self.between(0.05, 0.35)
            cut = int(share * SHAPE[axis]) + 6
            inside = inside.clone()
            inside.narrow(axis, 0 if self.rng.random() < 0.5 else SHAPE[axis] - cut, cut).fill_(False)
        channels *= inside
        labels = torch.stack([whole, core, enhancing]) & inside
        return self.dropped(standard(channels)), labels.float()

    def paint(self, channels: Tensor, tissues: Tensor, whole: Tensor, core: Tensor, enhancing: Tensor, dead: Tensor) -> None:
        """Give the tumour's parts their brightness on each sequence (in standard deviations of the brain)."""
        ranges = {  # oedema, core that doesn't enhance, enhancing, dead or cavity
            0: [(0.9, 4.0), (0.7, 3.8), (0.2, 3.5), (-2.5, 3.0)],
            1: [(-1.6, -0.1), (-2.2, -0.3), (-1.2, 0.8), (-3.2, -0.8)],
            2: [(-1.5, -0.1), (-2.2, -0.2), (0.9, 5.5), (-3.2, -0.6)],
            3: [(0.6, 3.0), (0.4, 3.8), (-0.3, 2.5), (0.0, 5.0)],
        }
        parts = [whole & ~core, core & ~enhancing & ~dead, enhancing, dead]
        same = self.rng.random() < 0.4
        levels = self.rng.random(4)
        soft = self.between(0.3, 0.8)
        masks = [torch.from_numpy(ndimage.gaussian_filter(p.numpy().astype(np.float32), soft)) for p in parts]
        masks[0] = torch.from_numpy(ndimage.gaussian_filter(parts[0].numpy().astype(np.float32), self.between(0.3, 1.4)))
        texture = [self.field(int(self.rng.integers(4, 24))) for _ in parts]
        for c, spans in ranges.items():
            white = float((channels[c] * tissues[2]).sum() / tissues[2].sum().clamp_min(1))
            for part, (low, high) in enumerate(spans):
                level = 0 if same and part == 1 and c == 0 else part
                height = low + (high - low) * (levels[level] if self.rng.random() < 0.6 else self.rng.random())
                fill = self.between(0.55, 1.0) if part == 0 else self.between(0.75, 1.0)
                target = white + height + self.between(0, 0.35) * texture[part]
                share = (fill * masks[part]).clamp(0, 1)
                channels[c] = channels[c] * (1 - share) + target * share

    def vessels(self, t1c: Tensor, inside: Tensor) -> None:
        """Bright lines and spots on T1c that are no tumour."""
        if self.rng.random() < 0.3:
            return
        rim = inside & (nn.max_pool3d((~inside).float()[None], 7, 1, 3)[0] > 0)
        where = rim if self.rng.random() < 0.7 else inside
        lines = where & (self.field(14).abs() < 0.06) & (self.field(9) > self.between(-0.5, 1.2))
        share = torch.from_numpy(ndimage.gaussian_filter(lines.numpy().astype(np.float32), 0.4)) * self.between(0.5, 3.5)
        t1c += share

    def thicken(self, channels: Tensor) -> None:
        """Slices of 4 to 6 mm along one axis."""
        axis, factor = int(self.rng.choice([0, 1, 2], p=[0.15, 0.15, 0.7])), int(self.rng.integers(2, 4))
        size = list(SHAPE)
        size[axis] = SHAPE[axis] // factor
        few = nn.interpolate(channels[None], size=size, mode="area")
        channels.copy_(nn.interpolate(few, size=SHAPE, mode="trilinear", align_corners=False)[0])

    def dropped(self, image: Tensor) -> Tensor:
        """Leave sequences out (zero): FLAIR or T2 always stays, and FLAIR with T1c is the commonest pair."""
        draw = self.rng.random()
        if draw < 0.25:
            keep = [1, 1, 1, 1]
        elif draw < 0.55:
            keep = [1, 0, 1, 0]
        elif draw < 0.72:
            keep = [1, 0, 0, 0]
        else:
            keep = [int(k) for k in self.rng.random(4) < 0.6]
            if not keep[0] and not keep[3]:
                keep[0] = 1
        return image * torch.tensor(keep, dtype=image.dtype).view(4, 1, 1, 1)
