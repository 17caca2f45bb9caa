"""How the Hounsfield units inside an outlined lesion are spread."""

from typing import ClassVar

import numpy as np

from tools.kit import Card, Fact, ImageArguments, ImageTool, Kind, Needs, NotApplicable, Picture, measurement


class HuHistogram(ImageTool):
    """Percentiles of the Hounsfield units in a region."""

    name: str = "hu_histogram"
    description: str = "Spread of the Hounsfield units inside an outlined region of a CT: 5th, 50th and 95th percentile."
    asks: ClassVar[list[str]] = [
        "How are the Hounsfield units of the nodule spread?",
        "Give me the HU histogram of the lesion",
        "HU percentiles of the nodule",
        "How dense is the lesion in Hounsfield units?",
    ]
    needs: ClassVar[Needs] = Needs(modality=["CT"])
    gives: ClassVar[list[Kind]] = [Kind.MEASUREMENT]
    card: ClassVar[Card] = Card(
        intended_use="Density of an outlined region on CT, for research.",
        accuracy="On the made-up chest CT the median is within 5 HU of the truth (tests/test_hu_histogram.py).",
        limits="As good as the outline: voxels at its edge are averages of both sides.",
    )

    def look(self, picture: Picture, arguments: ImageArguments) -> list[Fact]:
        region = picture.outline(arguments.target)
        values = picture.volume.array[region.mask.array > 0]
        if values.size < 10:
            raise NotApplicable(f"{region.name} has {values.size} voxels: too few to tell", "outline a larger region")
        return [measurement(f"{p}th percentile", float(np.percentile(values, p)), "HU", picture, region) for p in (5, 50, 95)]
