"""Every bundle that is there: those in the box and those of a hospital's own folder."""

from collections.abc import Sequence
from pathlib import Path

from tools.errors import NotApplicable
from tools.models.bundle import Bundle

IN_THE_BOX = Path(__file__).parent / "bundles"


class Catalogue:
    """Bundles by name; picked by their card, not by their name."""

    def __init__(self, folders: Sequence[Path] = (IN_THE_BOX,)) -> None:
        found = [p.parent.parent for folder in folders for p in sorted(folder.glob("*/configs/metadata.json"))]
        self.bundles = {f.name: Bundle(f) for f in found}

    def pick(self, task: str, body_part: str, modality: str) -> Bundle:
        """The bundle whose card fits. Raises NotApplicable and says what there is."""
        for bundle in self.bundles.values():
            card = bundle.card
            if card.task == task and card.body_part == body_part.upper() and card.modality == modality.upper():
                return bundle
        there = ", ".join(sorted({f"{b.card.modality} {b.card.body_part}" for b in self.bundles.values() if b.card.task == task}))
        what = f"{modality} {body_part}".strip() or "this image"
        raise NotApplicable(f"no model for {task} of {what} is installed", f"models for {task} exist for: {there}")
