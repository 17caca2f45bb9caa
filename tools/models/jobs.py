"""What the model process does: networks on arrays that lie in files. Nothing here runs in the server's own process."""

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tools.models import worker
from tools.models.bundle import Bundle, brought_back

LOWER, UPPER = 0.6, 0.4
"""Probabilities at which the inner and the outer outline are drawn: how far a size depends on where the line is put."""
CAM_TOP = (0.6, 0.8)
"""Shares of the saliency map's maximum from which a pixel counts as looked at, and as looked at most."""


@dataclass(frozen=True)
class Segmented:
    """What became of a segmentation: label maps in files beside the input, how foreign the image was, what it cost."""

    outlines: dict[str, str]
    """`main`, `inner` and `outer`: .npy files of uint8 on the source grid."""
    novelty: float | None
    peak_mb: float
    certainty: dict[int, float] = field(default_factory=dict)
    """Mean probability inside each label of the main map."""


@cache
def bundle_of(folder: str) -> Bundle:
    """The bundle, kept for the next run: the second study pays no loading."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    return Bundle(Path(folder))


def segment(folder: str, files: Sequence[str | None], affine: np.ndarray, mirror: bool, foreign_only: bool = False) -> Segmented:
    """Outlines of the image whose channels lie in `files` (None: a sequence that isn't there) on one grid."""
    import torch
    from monai.data import MetaTensor

    bundle = bundle_of(folder)
    data, there = _loaded(files)
    image = MetaTensor(torch.from_numpy(data), affine=torch.from_numpy(affine))
    prepared, given = bundle.ready(image)
    novelty = bundle.novelty_of(given)
    if foreign_only or (novelty is not None and novelty > bundle.card.novelty["refuse"]):
        return Segmented({}, novelty, _peak())
    scores = bundle.scores_of(prepared, given, worker.step, mirror)
    brain = (data != 0).any(0) if bundle.card.fit.skull_stripped else None
    del image, data, prepared, given
    made, certainty = {}, {}
    for name, threshold in (("main", 0.5), ("inner", LOWER), ("outer", UPPER)):
        labels = bundle.labels(scores, threshold)
        if name == "main":
            certainty = _certainty(scores.as_tensor(), labels.as_tensor())
        grid = np.asarray(labels.affine)
        path = str(Path(next(f for f in files if f)).with_name(f"{name}.npy"))
        back = brought_back(labels.numpy(), grid, affine, there.shape)
        np.save(path, back if brain is None else back * brain)
        made[name] = path
        if "threshold" not in bundle.config:
            break  # a network of classes that exclude each other has one outline
    return Segmented(made, novelty, _peak(), certainty)


def _loaded(files: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """The channels [C, X, Y, Z] (zeros for a sequence that isn't there), and the first that is."""
    whole = [None if f is None else np.load(f, mmap_mode="r") for f in files]
    there = next(w for w in whole if w is not None)
    data = np.zeros((len(whole), *there.shape), np.float32)
    for channel, array in zip(data, whole, strict=True):
        if array is not None:
            channel[:] = array
    return data, there


def embed_volume(folder: str, files: Sequence[str | None], affine: np.ndarray) -> np.ndarray | None:
    """What the network's stages see of a volume, of length one (`Bundle.embedding_of`); None where the bundle has no measure of them."""
    import torch
    from monai.data import MetaTensor

    bundle = bundle_of(folder)
    data, _ = _loaded(files)
    _, given = bundle.ready(MetaTensor(torch.from_numpy(data), affine=torch.from_numpy(affine)))
    return bundle.embedded(given)


def embed_slices(folder: str, slices: Sequence[np.ndarray]) -> np.ndarray | None:
    """The same of slices [1, rows, columns]: their mean."""
    import torch

    bundle = bundle_of(folder)
    _, features = bundle.forward([torch.from_numpy(np.ascontiguousarray(s, np.float32)) for s in slices], bundle.stages)
    made = bundle.embedding_of(features)
    return None if made is None else np.asarray(made.mean(0) / max(float(np.linalg.norm(made.mean(0))), 1e-9), np.float32)


def patch(folder: str, pixels: np.ndarray) -> tuple[np.ndarray, float | None]:
    """Probability of the lesion [rows, columns] on a small picture [rows, columns], averaged over its four quarter turns, and how foreign it is."""
    import torch

    bundle = bundle_of(folder)
    image = torch.from_numpy(np.ascontiguousarray(pixels, np.float32))[None]
    (plain, *_), features = bundle.forward([image], bundle.stages)
    turned = [bundle.forward([torch.rot90(image, k, (1, 2))], [])[0][0] for k in (1, 2, 3)]
    turns = [torch.rot90(torch.softmax(t, 0), -k, (1, 2)) for k, t in enumerate([plain, *turned])]
    distance = bundle.distances(features)
    return np.asarray(sum(turns)[1] / 4), None if distance is None else float(distance[0])


def detect(folder: str, file: str, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 6] in voxels of the image in `file`, and scores [n], by a MONAI detector."""
    import torch
    from monai.data import MetaTensor

    data = torch.from_numpy(np.load(file).astype(np.float32))[None]
    return bundle_of(folder).boxes(MetaTensor(data, affine=torch.from_numpy(affine)))


def _certainty(scores: Any, labels: Any) -> dict[int, float]:
    """Mean of the highest probability inside each label; `labels` may lie on a finer grid."""
    from torch.nn.functional import interpolate

    sure = scores.amax(0)
    if sure.shape != labels.shape:
        sure = interpolate(sure[None, None], size=labels.shape, mode="trilinear")[0, 0]
    return {int(v): float(sure[labels == v].mean()) for v in labels.unique() if v}


def _peak() -> float:
    """Most memory that this process held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(frozen=True)
class Classified:
    """Probabilities [slices, classes], how foreign each slice is, where the network looked, and boxes where it gives some."""

    probabilities: np.ndarray
    novelty: np.ndarray | None
    looked: list[np.ndarray]
    """For each slice, on its own pixels [rows, columns]: 0, 1 (looked at), 2 (looked at most)."""
    boxes: np.ndarray | None = None
    """x0, y0, x1, y1 in pixels of the slice."""
    box_scores: np.ndarray | None = None


NEAR = 2.0
"""Side of the square around a lesion that a network with boxes sees besides the whole slice, in longer sides of the box (its training)."""
SMALLEST_SQUARE = 0.2
"""The square's side is at least this share of the slice's width (its training)."""


def classify(folder: str, slices: Sequence[np.ndarray], mirror: bool = True, look: bool = True,
             near: Sequence[Sequence[float]] | None = None) -> Classified:  # fmt: skip
    """Classes of slices [1, rows, columns]; averaged with their mirror images where `mirror`.

    A network that gives boxes looks twice: at the whole slice, and at the square around its own box; classes are averaged over both.
    Where the lesion is known (`near`: its box x0, y0, x1, y1 in pixels of each slice), it looks at the square around that alone: what
    else is on the slice is then no hint of the type, and less of it transfers to other scanners.
    """
    import torch

    bundle = bundle_of(folder)
    images = [torch.from_numpy(np.ascontiguousarray(s, np.float32)) for s in slices]
    probabilities, novelty = _told(bundle, images, mirror)
    boxes = scores = None
    corners, seen = [(0, 0)] * len(images), images
    if bundle.card.detects:
        if near is None:
            boxes, scores, spans = found(bundle, images)
        else:
            spans = [_square(i, b) for i, b in zip(images, near, strict=True)]
        seen = [i[:, y0:y1, x0:x1].contiguous() for i, (x0, y0, x1, y1) in zip(images, spans, strict=True)]
        corners = [(x0, y0) for x0, y0, _, _ in spans]
        closer, _ = _told(bundle, seen, mirror)
        probabilities = (probabilities + closer) / 2 if near is None else closer
    label = int(probabilities.mean(0).argmax())
    looked = []
    for image, (x0, y0), cut in zip(images, corners, seen, strict=True) if look else ():
        whole = np.zeros(image.shape[1:], np.uint8)
        whole[y0 : y0 + cut.shape[1], x0 : x0 + cut.shape[2]] = _looked(bundle, cut, label)
        looked.append(whole)
    return Classified(probabilities.numpy(), novelty, looked, boxes, scores)


def _told(bundle: Bundle, images: Sequence[Any], mirror: bool) -> tuple[Any, np.ndarray | None]:
    import torch

    probabilities, novelty = bundle.classify(list(images))
    if mirror:
        again, _ = bundle.classify([torch.flip(i, [2]) for i in images])
        probabilities = (probabilities + again) / 2
    return probabilities, novelty


def _square(image: Any, box: Sequence[float]) -> tuple[int, int, int, int]:
    """The square around a box, cut at the slice's edges: x0, y0, x1, y1. All of the slice where nothing is to be seen in it."""
    rows, columns = image.shape[1:]
    bx0, bx1 = (min(max(float(v), 0), columns) for v in (box[0], box[2]))
    by0, by1 = (min(max(float(v), 0), rows) for v in (box[1], box[3]))
    half = max(NEAR * max(bx1 - bx0, by1 - by0), SMALLEST_SQUARE * columns) / 2
    x, y = (bx0 + bx1) / 2, (by0 + by1) / 2
    x0, y0, x1, y1 = (
        max(0, int(x - half)),
        max(0, int(y - half)),
        min(columns, max(8, int(x + half))),
        min(rows, max(8, int(y + half))),
    )
    cut = image[:, y0:y1, x0:x1]
    return (x0, y0, x1, y1) if min(cut.shape) and float(cut.max()) > float(cut.min()) else (0, 0, columns, rows)


def _looked(bundle: Bundle, image: Any, label: int) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, by MONAI) of the class on the slice's own pixels."""
    import torch
    from monai.visualize import GradCAM

    from tools.models.networks import BoxAndType

    class Logits(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output = self.network(x)
            logits: torch.Tensor = output[:, BoxAndType.TYPES :, 0, 0] if output.ndim == 4 else output
            return logits

    layer = bundle.config.get("saliency_layer")
    if layer is None:
        return np.zeros(image.shape[1:], np.uint8)
    prepared = bundle.preprocess(image)
    with torch.enable_grad():
        frame = GradCAM(
            Logits(bundle.network).eval(), f"network.{layer}", postprocessing=lambda x: x
        )  # MONAI puts the mode back that it found
        heat = np.asarray(frame(prepared.as_tensor()[None].clone(), class_idx=label).detach())[0, 0]
    rows, columns = image.shape[1:]
    grid = np.asarray(prepared.affine)[:2, [0, 1, 3]]
    back = np.linalg.inv(np.vstack([grid, [0, 0, 1]]))
    from scipy import ndimage

    source = ndimage.affine_transform(heat, back[:2, :2], back[:2, 2], (rows, columns), order=1)
    top = float(source.max())
    return sum((source > share * top).astype(np.uint8) for share in CAM_TOP) if top > 0 else np.zeros((rows, columns), np.uint8)


def found(bundle: Bundle, images: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int, int]]]:
    """The best box of each slice, its score, and the square around the first look's box in which the second look was taken.

    Each look is a mean over the picture and its mirror image; the second, on the square alone, sees the lesion larger.
    """
    first, scores = _boxes(bundle, images)
    spans = [_square(i, b) for i, b in zip(images, first, strict=True)]
    closer, _ = _boxes(bundle, [i[:, y0:y1, x0:x1].contiguous() for i, (x0, y0, x1, y1) in zip(images, spans, strict=True)])
    second = closer + np.array([[x0, y0, x0, y0] for x0, y0, _, _ in spans])
    return FIRST_LOOK * first + (1 - FIRST_LOOK) * second, scores, spans


FIRST_LOOK = 0.5
"""Share of the first look in a box; the rest is the second's."""


def _boxes(bundle: Bundle, images: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores of pictures, averaged with those of their mirror images."""
    import torch

    plain, scores = _looked_once(bundle, images)
    turned, again = _looked_once(bundle, [torch.flip(i, [2]) for i in images])
    widths = np.array([i.shape[2] for i in images])
    turned = np.stack([widths - turned[:, 2], turned[:, 1], widths - turned[:, 0], turned[:, 3]], 1)
    share = (scores / np.maximum(scores + again, 1e-9))[:, None]  # the surer look counts for more
    return share * plain + (1 - share) * turned, (scores + again) / 2


def _looked_once(bundle: Bundle, images: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The best box of each slice in its own pixels, and its score."""
    import torch

    from tools.models.networks import best_boxes

    prepared = [bundle.preprocess(i) for i in images]
    with torch.inference_mode():
        found, scores = best_boxes(bundle.network(torch.stack([torch.as_tensor(p) for p in prepared])).float())
    boxes = []
    for one, box in zip(prepared, found.numpy(), strict=True):
        corners = np.array([[box[1], box[0], 0, 1], [box[3], box[2], 0, 1]]) - [0.5, 0.5, 0, 0]
        back = (np.asarray(one.affine) @ corners.T).T + 0.5
        boxes.append([back[0, 1], back[0, 0], back[1, 1], back[1, 0]])
    return np.array(boxes), scores.numpy()
