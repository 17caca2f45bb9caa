"""Every bundle that is there: those in the box and those of a hospital's own folder."""

from collections.abc import Sequence
from pathlib import Path

from tools.errors import NotApplicable
from tools.models.bundle import Bundle
from tools.models.fit import same_part

IN_THE_BOX = Path(__file__).parent / "bundles"


class Catalogue:
    """Bundles by name; picked by their card, not by their name. A hospital's own come before those in the box."""

    def __init__(self, folders: Sequence[Path] = (IN_THE_BOX,)) -> None:
        self.folders = tuple(folders)
        self._kept: dict[str, Bundle] = {}

    @property
    def bundles(self) -> dict[str, Bundle]:
        """Bundles by name. A folder that is added while the server runs is found."""
        found = {p.parent.parent.name: p.parent.parent for f in self.folders for p in sorted(f.glob("*/configs/metadata.json"))}
        for name, folder in found.items():
            if name not in self._kept or self._kept[name].folder != folder:
                self._kept[name] = Bundle(folder)
        return {n: self._kept[n] for n in found}

    def of(self, task: str) -> list[Bundle]:
        """The bundles for a task (segmentation, classification, detection), a hospital's own first."""
        mine = [b for b in self.bundles.values() if b.card.task == task or (task == "detection" and b.card.detects)]
        return sorted(mine, key=lambda b: b.card.origin == "in the box")

    def pick(self, task: str, body_part: str, modality: str) -> Bundle:
        """The bundle whose card fits. Raises NotApplicable and says what there is."""
        for bundle in self.of(task):
            if same_part(bundle.card.body_part, body_part) and bundle.card.modality == modality.upper():
                return bundle
        there = ", ".join(sorted({f"{b.card.modality} {b.card.body_part}" for b in self.of(task)}))
        what = f"{modality} {body_part}".strip() or "this image"
        raise NotApplicable(f"no model for {task} of {what} is installed", f"models for {task} exist for: {there}")
