"""Soft tissue: a model without code of its own."""

from pathlib import Path

from tools.kinds import Model

HERE = Path(__file__).parent
OFFER = Model("soft_tissue", HERE / "model/threshold.ts", HERE / "card.yaml")
