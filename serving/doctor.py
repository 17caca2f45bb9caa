"""Checks that the four rooms are this checkout's, and that models and the embedder are there."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from serving.settings import Settings

ROOMS = ("knowledge", "tools", "agent", "serving")
CHECKOUT = Path(__file__).resolve().parents[1]


def strangers() -> list[str]:
    """Rooms whose import finds something other than this checkout: a wheel may ship a stray package of that name."""
    found = {room: find_spec(room) for room in ROOMS}
    return [r for r, s in found.items() if s is None or not s.origin or Path(s.origin).resolve().parent != CHECKOUT / r]


def checks(settings: Settings) -> Iterator[tuple[str, str]]:
    """What was checked, and what is wrong with it (empty: nothing)."""
    from knowledge.guidelines.minilm import ONNX, package_dir
    from tools.models.catalogue import IN_THE_BOX, Catalogue

    yield "the four rooms are this checkout's", ", ".join(strangers())
    try:
        package_dir()
        yield "the MiniLM package is installed", ""
    except FileNotFoundError as error:
        yield "the MiniLM package is installed", str(error)
    yield "the MiniLM network is built", "" if ONNX.exists() else "run `make setup`"
    for bundle in Catalogue((IN_THE_BOX, settings.model_folder)).bundles.values():
        yield (
            f"model {bundle.name} {bundle.version} has its weights",
            "" if bundle.weights else f"{bundle.folder / 'models'} has none",
        )
    writable = settings.data.parent if not settings.data.exists() else settings.data
    yield f"the data folder {settings.data} can be made or written", "" if writable.exists() else f"{writable} isn't there"
