"""Optional re-ranking of the best hits: a cross-encoder in a folder, or a server's `/rerank` (vLLM, TEI, Cohere's form)."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

from knowledge.errors import ServiceDown


class Reranker(Protocol):
    """Scores passages for a query, higher is better."""

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """One number a text."""
        ...


class CrossEncoder:
    """A sentence-transformers cross-encoder in a folder. Loads torch into this process."""

    def __init__(self, model: str) -> None:
        self.model = model

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import CrossEncoder as Model

        return Model(self.model, device="cpu", local_files_only=True)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """As Reranker has it."""
        return [float(s) for s in self._model.predict([(query, t) for t in texts], show_progress_bar=False)]


class RerankServer:
    """A server's `/rerank`."""

    def __init__(self, url: str, model: str, key: str | None = None, timeout_s: float = 30.0) -> None:
        self.url, self.model, self.key, self.timeout_s = url.rstrip("/"), model, key, timeout_s

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """As Reranker has it. Raises ServiceDown."""
        import httpx

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            reply = httpx.post(f"{self.url}/rerank", json={"model": self.model, "query": query, "documents": list(texts)}, headers=headers,
                               timeout=self.timeout_s)  # fmt: skip
            reply.raise_for_status()
            found = {int(r["index"]): float(r["relevance_score"]) for r in reply.json()["results"]}
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            raise ServiceDown(
                f"the re-ranking server doesn't answer ({type(error).__name__})", "start it, or unset reranker"
            ) from error
        return [found.get(n, float("-inf")) for n in range(len(texts))]


def reranker_of(setting: str | None, url: str | None = None, key: str | None = None) -> Reranker | None:
    """By setting: None, a cross-encoder's folder, or, with `url`, the model's name on that server."""
    if not setting:
        return None
    return RerankServer(url, setting, key) if url else CrossEncoder(setting)
