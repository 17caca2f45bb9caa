"""What turns words into vectors: MiniLM in the box, any sentence-transformers model, or an OpenAI-compatible server."""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from knowledge.errors import ServiceDown
from knowledge.guidelines.minilm import MiniLM


class Embedder(Protocol):
    """Embeds texts; `name` is part of the collections' names, so vectors of two embedders never meet."""

    name: str

    def embed(self, texts: Sequence[str], batch: int = 32) -> np.ndarray:
        """float32 [len(texts), dimensions], each of length one."""
        ...


class SentenceTransformer:
    """A sentence-transformers model in a folder (or by name, where it lies in the local cache). Loads torch into this process."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.name = f"st-{slug(model.rstrip('/').rsplit('/', 1)[-1])}-{hashlib.sha256(model.encode()).hexdigest()[:6]}"

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer as Model

        return Model(self.model, device="cpu", local_files_only=True)

    def embed(self, texts: Sequence[str], batch: int = 32) -> np.ndarray:
        """As Embedder has it."""
        found = self._model.encode(
            list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(found, np.float32)


class OpenAIEmbedder:
    """A server with the OpenAI API's `/embeddings` (vLLM, TEI, Ollama …)."""

    def __init__(self, url: str, model: str, key: str | None = None, timeout_s: float = 60.0) -> None:
        self.url, self.model, self.key, self.timeout_s = url.rstrip("/"), model, key, timeout_s
        self.name = f"api-{slug(model)}"

    def embed(self, texts: Sequence[str], batch: int = 32) -> np.ndarray:
        """As Embedder has it. Raises ServiceDown."""
        import httpx

        rows: list[list[float]] = []
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            with httpx.Client(timeout=self.timeout_s, headers=headers) as client:
                for start in range(0, len(texts), batch):
                    reply = client.post(
                        f"{self.url}/embeddings", json={"model": self.model, "input": list(texts[start : start + batch])}
                    )
                    reply.raise_for_status()
                    rows += [d["embedding"] for d in sorted(reply.json()["data"], key=lambda d: d["index"])]
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            raise ServiceDown(
                f"the embedding server doesn't answer ({type(error).__name__})", "start it, or unset embedder_url"
            ) from error
        found = np.asarray(rows, np.float32).reshape(len(rows), -1)
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12), np.float32)


def embedder_of(setting: str, url: str | None = None, key: str | None = None) -> Embedder:
    """By setting: `minilm`, a sentence-transformers folder or name, or, with `url`, the model's name on that server."""
    if url:
        return OpenAIEmbedder(url, setting, key)
    return MiniLM() if setting == "minilm" else SentenceTransformer(setting)


def slug(text: str) -> str:
    """Letters, digits and dashes of `text`, in lower case."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "x"
