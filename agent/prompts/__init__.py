"""Prompts as files with an identity: their hash stands in each answer's provenance."""

import hashlib
from functools import cache
from pathlib import Path


@cache
def prompt(name: str) -> str:
    """The text of `name`.md."""
    return (Path(__file__).parent / f"{name}.md").read_text(encoding="utf-8").strip()


@cache
def identity() -> str:
    """A short hash over all prompts."""
    files = sorted(Path(__file__).parent.glob("*.md"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]
