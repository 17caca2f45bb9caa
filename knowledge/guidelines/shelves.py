"""Dense and keyword indexes of one body of guidelines each: a Chroma collection and a BM25 index, both made from the passages.

Bodies are kept apart because a `where` in Chroma costs more than a collection of one's own (shared/FACTS.md: 51 against 2.9 ms).
"""

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from knowledge.errors import ServiceDown
from knowledge.guidelines.corpus import Passage
from knowledge.guidelines.embedders import Embedder, slug

if TYPE_CHECKING:
    import bm25s
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection as ChromaCollection

Progress = Callable[[int, int], None]
HNSW = {"hnsw": {"space": "cosine", "ef_construction": 200, "max_neighbors": 32, "ef_search": 80}}
"""Measured by `make bench`: recall@10 against exact search at 100,000 passages."""
BATCH = 64


@dataclass
class Chroma:
    """Where Chroma runs: embedded in `folder`, or a server at `url`."""

    folder: Path
    url: str | None = None
    _client: "ClientAPI | None" = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def client(self) -> "ClientAPI":
        """The client, made once. Raises ServiceDown: the server doesn't answer."""
        with self._lock:
            if self._client is None:
                self._client = self._open()
            return self._client

    def again(self) -> None:
        """Forget the client, so that what another process wrote is seen."""
        from chromadb.api.shared_system_client import SharedSystemClient

        with self._lock:
            if self._client is not None and self.url is None:
                SharedSystemClient.clear_system_cache()
                self._client = None

    def close(self) -> None:
        """Let go of the client's files and threads; the next use opens it again."""
        with self._lock:
            if self._client is not None:
                self._client.close()  # type: ignore[attr-defined]  # Client has it, its interface not
                self._client = None

    def _open(self) -> "ClientAPI":
        import chromadb
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False)
        if self.url is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            return chromadb.PersistentClient(str(self.folder), settings)
        from urllib.parse import urlsplit

        import httpx
        from chromadb.errors import ChromaError

        parts = urlsplit(self.url if "//" in self.url else f"http://{self.url}")
        try:
            return chromadb.HttpClient(
                parts.hostname or "localhost", parts.port or 8000, ssl=parts.scheme == "https", settings=settings
            )
        except (ValueError, httpx.HTTPError, ChromaError, OSError) as error:
            raise ServiceDown(
                f"the Chroma server at {parts.hostname}:{parts.port or 8000} doesn't answer", "start it, or unset chroma_url"
            ) from error


def collection_name(body: str, ids: Sequence[str], embedder: str) -> str:
    """Body, version of its content and embedder: a collection that isn't of this content or embedder is never asked."""
    version = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:12]
    return f"{slug(body)}-{version}-{slug(embedder)}"


@dataclass
class Shelf:
    """One body's two indexes, and the embedder that its vectors are of. `documents` names the document of each of `ids`."""

    body: str
    embedder: Embedder
    collection: "ChromaCollection"
    words: "Words | None"
    ids: list[str]
    documents: list[str]
    _rows: dict[str, tuple[list[str], np.ndarray]] = field(default_factory=dict)

    @cached_property
    def _coded(self) -> tuple[list[str], np.ndarray]:
        """The documents, and of each passage the number of its own."""
        names, codes = np.unique(np.asarray(self.documents, dtype=object).astype(str), return_inverse=True)
        return names.tolist(), codes

    def dense(self, vector: np.ndarray, count: int) -> dict[str, float]:
        """Cosine of the nearest passages by id, nearest first."""
        if not self.ids:
            return {}
        found = self.collection.query(query_embeddings=[vector], n_results=min(count, len(self.ids)), include=["distances"])  # type: ignore[list-item]
        return {i: 1 - d for i, d in zip(found["ids"][0], (found["distances"] or [[]])[0], strict=True)}

    def exact(self, vector: np.ndarray, count: int, documents: Sequence[str]) -> dict[str, float]:
        """As `dense`, of these documents alone, every passage compared; their vectors are fetched once."""
        found: dict[str, float] = {}
        for document in documents:
            if document not in self._rows:
                got = self.collection.get(where={"document": document}, include=["embeddings"])
                self._rows[document] = got["ids"], np.asarray(got["embeddings"], np.float32)
            ids, rows = self._rows[document]
            near = rows @ vector if len(ids) else np.zeros(0)
            best: Any = np.argpartition(-near, min(count, len(near)) - 1)[:count] if len(near) else []
            found |= {ids[int(n)]: float(near[n]) for n in best}
        return dict(sorted(found.items(), key=lambda item: -item[1])[:count])

    def keywords(self, terms: Sequence[str], count: int, documents: Collection[str] | None = None) -> dict[str, float]:
        """BM25 of the best passages by id, best first (of these documents alone, where some are named); none without any of the stems."""
        known = [t for t in terms if self.words is not None and t in self.words.counts]
        if self.words is None or not known:
            return {}
        scores = self.words.index.get_scores(known)
        if documents is not None:
            names, codes = self._coded
            scores = np.where(np.isin(codes, [n for n, name in enumerate(names) if name in documents]), scores, 0)
        best = np.argpartition(-scores, min(count, len(scores)) - 1)[:count]
        return {self.ids[int(n)]: float(scores[n]) for n in best[np.argsort(-scores[best], kind="stable")] if scores[n] > 0}


_local = threading.local()


def stem_list(text: str) -> list[str]:
    """The stems of a text's English words without stop words, in order, as the keyword index has them."""
    from bm25s.stopwords import STOPWORDS_EN

    if not hasattr(_local, "stemmer"):
        import Stemmer

        _local.stemmer = Stemmer.Stemmer("english")  # one for each thread: it keeps state
    words = [w for w in re.findall(r"\b\w\w+\b", text.lower()) if w not in STOPWORDS_EN]
    return list(_local.stemmer.stemWords(words))


def tokenized(texts: Sequence[str]) -> Any:
    """As `stem_list`, for many texts at once, in the form that bm25s takes."""
    import bm25s
    import Stemmer

    return bm25s.tokenize(list(texts), stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False)


def stems(text: str) -> frozenset[str]:
    """The stems that a text holds."""
    return frozenset(stem_list(text))


@dataclass(frozen=True)
class Words:
    """A BM25 index of a body's passages, and in how many passages each stem stands."""

    index: "bm25s.BM25"
    counts: dict[str, int]
    total: int


def keyword_index(texts: Sequence[str], folder: Path | None) -> Words | None:
    """The keyword index of the texts; kept in `folder`, where one is given, and read from there the next time."""
    import bm25s

    if not texts:
        return None
    mark = hashlib.sha256(f"{len(texts)}|{texts[0]}|{texts[-1]}".encode()).hexdigest() if folder else ""
    if folder is not None and (folder / "counts.json").exists():
        kept = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        if kept["mark"] == mark:
            return Words(bm25s.BM25.load(str(folder), mmap=True), kept["counts"], len(texts))
    tokens = tokenized(texts)
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    names = {number: stem for stem, number in tokens.vocab.items()}
    seen = np.concatenate([np.unique(np.asarray(ids, np.int64)) for ids in tokens.ids])
    stems, times = np.unique(seen, return_counts=True)
    words = Words(index, {names[int(s)]: int(n) for s, n in zip(stems, times, strict=True)}, len(texts))
    if folder is not None:
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        index.save(str(part))
        (part / "counts.json").write_text(json.dumps({"mark": mark, "counts": words.counts}), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    return words


@dataclass(frozen=True)
class Text:
    """What is indexed of a passage: its headings (with other words for what it answers) and the whole."""

    heading: str
    whole: str

    @classmethod
    def of(cls, title: str, section: str, text: str, asks: str = "") -> "Text":
        heading = f"{title}. {section}. {asks}".strip()
        return cls(heading, f"{title}. {section}. {text} {asks}".strip())


def text_of(passage: Passage) -> Text:
    """What is indexed of a passage."""
    return Text.of(passage.document, passage.section, passage.text, passage.asks)


def embed_all(embedder: Embedder, texts: Sequence[Text], progress: Progress = lambda done, total: None) -> np.ndarray:
    """A vector for each passage, halfway between its whole and its headings (which found more on the pairs of `make eval`)."""
    headings = sorted({t.heading for t in texts})
    at = {h: n for n, h in enumerate(headings)}
    total = len(texts) + len(headings)
    whole = _vectors(embedder, [t.whole for t in texts], lambda n: progress(n, total))
    heads = _vectors(embedder, headings, lambda n: progress(len(texts) + n, total))
    both = whole + heads[[at[t.heading] for t in texts]] if texts else whole
    return np.asarray(both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12), np.float32)


def _vectors(embedder: Embedder, texts: Sequence[str], progress: Callable[[int], None]) -> np.ndarray:
    """Those of like length together, so that little is padded."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows: list[np.ndarray] = []
    for start in range(0, len(order), BATCH):
        rows.append(embedder.embed([texts[i] for i in order[start : start + BATCH]], 8))
        progress(min(start + BATCH, len(order)))
    found = np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)
    back = np.empty_like(found)
    back[order] = found
    return back


def fill(collection: "ChromaCollection", ids: Sequence[str], vectors: np.ndarray, documents: Sequence[str]) -> None:
    """Put vectors into a collection; each with its document, texts stay in the library."""
    for start in range(0, len(ids), 4000):
        stop = start + 4000
        collection.upsert(
            ids=list(ids[start:stop]), embeddings=vectors[start:stop], metadatas=[{"document": d} for d in documents[start:stop]]
        )
