"""docs/models.md, written from the cards of the bundles in the box: what stands there is what the tools themselves read."""

from tools.models.bundle import Bundle
from tools.models.catalogue import Catalogue

HEAD = """# The imaging models

Research use only; not a medical device. This page is written from the models' cards (`consilium models docs`); a test holds it to them.
Each is a MONAI bundle in `tools/models/bundles`: `configs/inference.json` runs with `python -m monai.bundle run`, `recipe/` holds what
made it and what scored it, with the figures as JSON. Intervals are 95 % bootstrap intervals. Published figures are quoted without the
papers at hand (nothing could be looked up where this was written): check them before citing.

## A model of one's own

`consilium models add SOURCE` takes

* a **MONAI bundle** folder (Model Zoo layout: `configs/metadata.json`, `configs/inference.json` or `.yaml`, `models/model.pt`, `.ts` or
  `.safetensors`). A configuration that runs Python beyond MONAI's own is refused, unless it was read and `--trust-code` is given. A
  bundle with a MONAI detector (RetinaNet) gives its boxes to `detect`;
* an **nnU-Net v2 or TotalSegmentator results folder** (`dataset.json`, `plans.json`, `fold_0/checkpoint_final.pth`): network, spacing,
  normalisation and patch come from its plans. `--modality` and `--body-part` say what it is for;
* **TorchScript** (`.ts`, `.pt`) or **ONNX** (`.onnx`), with a card in YAML:

```yaml
modality: CT            # DICOM modality
body_part: CHEST
task: segmentation      # or classification
dimensions: 3           # or 2
classes: [background, lesion]
tumour: [lesion]        # classes that are (parts of) lesions
spacing_mm: [1.5, 1.5, 1.5]
window: [-1000, 400]    # values put to 0 … 1; left out: mean 0, deviation 1
patch: [96, 96, 96]
licence: Apache-2.0
accuracy: "Dice 0.71 on 20 patients of our own (2024)"
```

A model is run once on made-up values before it may be used, is kept with its sha256 in the data folder's `models`, and comes before those
in the box where both fit. `consilium models list`, `show NAME`, `remove NAME`.
"""


def page(catalogue: Catalogue | None = None) -> str:
    """The whole page."""
    bundles = sorted((catalogue or Catalogue()).bundles.values(), key=lambda b: b.name)
    return "\n".join([HEAD, *(_section(b) for b in bundles)]).rstrip() + "\n"


def _section(bundle: Bundle) -> str:
    card, metadata = bundle.card, bundle.metadata
    lines = [f"## {bundle.name} {bundle.version}", "", f"{metadata['description']}", "",
             f"* **For:** {card.intended_use}",
             f"* **Takes:** {card.modality}, {card.body_part.lower()}, {card.dimensions}D" + (f"; sequences {', '.join(card.sequences)}" if card.sequences else "")
             + (f"; at least {' or '.join(' with '.join(n) for n in card.needs)}" if card.needs else "")]  # fmt: skip
    if card.regions:
        told = [f"{r.name}" + (f" (needs {' and '.join(r.needs)})" if r.needs else "") for r in card.regions]
        lines.append(f"* **Outlines:** {', '.join(told)}")
    elif card.classes:
        lines.append(f"* **Tells:** {', '.join(card.classes)}" + ("; and a box around the lesion" if card.detects else ""))
    lines += [f"* **Accuracy:** {card.accuracy}", f"* **Limits:** {card.limits}"]
    if card.rates:
        lines.append(f"* **Foreign images:** false acceptance {100 * card.rates.false_acceptance:.1f} %, false refusal "
                     f"{100 * card.rates.false_refusal:.1f} % ({card.rates.on})")  # fmt: skip
    lines += [f"* **Compared:** {c}" for c in card.compared]
    lines += [
        f"* **Trained on:** {card.training_data}",
        f"* **Licence:** {card.licence}",
        f"* **sha256 of its weights:** `{bundle.sha256}`",
    ]
    if card.scores:
        names = list(dict.fromkeys(n for s in card.scores.values() for n in s))
        lines += ["", f"| shown as | {' | '.join(n.replace('_', ' ') for n in names)} |", f"|{'---|' * (len(names) + 1)}"]
        lines += [
            f"| {k.replace('_', ' ')} | {' | '.join(f'{s[n]:g}' if n in s else '' for n in names)} |"
            for k, s in card.scores.items()
        ]
    return "\n".join([*lines, ""])
