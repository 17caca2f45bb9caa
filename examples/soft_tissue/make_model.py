"""Writes the network of this example: a threshold at -300 HU, as TorchScript. Run once: `python make_model.py`."""

from pathlib import Path

import torch


class Threshold(torch.nn.Module):
    """Two logits a voxel: less dense, denser."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        above = 40.0 * (image - (-300.0 + 1000.0) / 1400.0)
        return torch.cat([-above, above], 1)


if __name__ == "__main__":
    target = Path(__file__).parent / "consilium_soft_tissue" / "model" / "threshold.ts"
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(Threshold()).save(str(target))
