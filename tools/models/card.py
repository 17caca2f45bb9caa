"""The card of a model: what it is for, what it needs, how well it does it and on what; read from a bundle's metadata.json."""

from pydantic import Field

from knowledge.evidence import Frozen


class Region(Frozen):
    """Something that a segmentation names: the union of some label values, and the sequences without which it can't be told."""

    name: str
    labels: list[int]
    needs: list[str] = Field(default_factory=list)
    tumour: bool = False
    """True where the region is (a part of) a lesion, false for an organ."""


class Fit(Frozen):
    """What an image has to be for the model; what isn't named isn't asked."""

    skull_stripped: bool = False
    """The head without skull and scalp, zero outside the brain."""
    spacing_warn_mm: float | None = None
    """A coarser voxel side is warned of."""
    spacing_refuse_mm: float | None = None
    extent_min_mm: list[float] | None = None
    """Least extent of what is not background, along left-right, front-back and head-feet."""
    longest_front_to_back: bool = False
    """A head is longer from front to back than from side to side; where it isn't, the orientation is in doubt."""
    air: bool = False
    """Values as low as air's have to be there: a CT of the body has some, an image of another kind that is called one has none."""
    window: list[float] | None = None
    """Range of voxel values that the modality can have (HU for CT); values outside of it everywhere are refused."""


class Rates(Frozen):
    """How often the check for foreign images errs, as measured, and on what."""

    false_acceptance: float
    false_refusal: float
    on: str


class BundleCard(Frozen):
    """What a bundle is for: the `consilium` part of its metadata.json."""

    task: str
    """segmentation, classification or detection (boxes in space); a classification with boxes also detects."""
    detects: bool = False
    least_score: float = 0.3
    """A box that scores less isn't told."""
    mirrors: bool = False
    """A volume may be averaged with the run on its mirror image (left and right mean the same to the model)."""
    kind: str
    modality: str
    body_part: str
    sequences: list[str] = Field(default_factory=list)
    """The network's channels in order; empty where one image of any kind is taken."""
    needs: list[list[str]] = Field(default_factory=list)
    """Sets of sequences, one of which has to be there; the other channels may be missing. Empty: the first channel has to be."""
    dimensions: int = 3
    classes: list[str] = Field(default_factory=list)
    regions: list[Region] = Field(default_factory=list)
    fit: Fit = Fit()
    intended_use: str
    accuracy: str
    limits: str
    training_data: str
    licence: str
    temperature: float = 1.0
    novelty: dict[str, float] = Field(default_factory=dict)
    """Distances from which an image is warned of (`warn`) and refused (`refuse`; `refuse_stated` where its header says that it is of the
    model's modality and body part)."""
    rates: Rates | None = None
    scores: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Held-out figures by what the model is shown."""
    compared: list[str] = Field(default_factory=list)
    """A trivial baseline and published figures beside the model's, each with how its setting differs."""
    seconds: float = 3.0
    memory_mb: int = 1500
    origin: str = "in the box"
    """Where the model comes from; `added` for a hospital's own."""

    def fitting(self, sequences: set[str]) -> list[str] | None:
        """The channels that can be filled from `sequences`; None where what the model needs isn't there."""
        if not self.sequences:
            return []
        needs = self.needs or [self.sequences[:1]]
        if not any(set(group) <= sequences for group in needs):
            return None
        return [s for s in self.sequences if s in sequences]

    def told(self, sequences: set[str]) -> list[Region]:
        """The regions that can be told from `sequences`."""
        return [r for r in self.regions if set(r.needs) <= sequences]
