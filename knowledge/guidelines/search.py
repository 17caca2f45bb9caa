"""Search the corpus: dense (Chroma with MiniLM) and keyword (BM25) results, fused by reciprocal rank."""

import re
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowledge.evidence import Frozen
from knowledge.guidelines import corpus
from knowledge.guidelines.corpus import Passage
from knowledge.guidelines.minilm import MiniLM

if TYPE_CHECKING:
    import bm25s
    from chromadb.api.models.Collection import Collection

K = 60
"""Constant of reciprocal rank fusion (Cormack et al., SIGIR 2009)."""
FLOOR = 0.30
"""Passages whose cosine is below this have another subject; shared words alone don't bring them in."""

_SYNONYMS = {
    r"\bgbm\b": "glioblastoma", r"\bhcc\b": "hepatocellular carcinoma", r"\bgadolinium\b": "gadolinium contrast agent",
    r"\btmz\b": "temozolomide", r"\brt\b": "radiotherapy", r"\bkps\b": "karnofsky performance status",
    r"\bnsclc\b": "non-small-cell lung cancer", r"\bsrs\b": "radiosurgery", r"\bmets\b": "metastases",
    r"\bttf(ields)?\b": "tumour-treating fields", r"\btumor": "tumour", r"\begfr\b(?! mut)": "eGFR",
    r"\bsurgery\b": "surgery resection", r"\bkidney function\b": "kidney function eGFR",
}  # fmt: skip


class Hit(Frozen):
    """A passage with its fused score (higher is better), and why it was found."""

    passage: Passage
    score: float
    cosine: float
    why: str


def expanded(query: str) -> str:
    """The query in lower case with abbreviations written out."""
    text = query.lower()
    for pattern, word in _SYNONYMS.items():
        text = re.sub(pattern, word, text)
    return text


class GuidelineIndex:
    """The corpus in a Chroma collection under `folder`, made once for each corpus version and embedder."""

    def __init__(self, folder: Path, embedder: MiniLM) -> None:
        self.folder, self.embedder = folder, embedder
        self._making = threading.Lock()

    @property
    def name(self) -> str:
        return f"guidelines-{corpus.version()}-{self.embedder.name.lower()}"

    @cached_property
    def _collection(self) -> "Collection":
        import chromadb
        from chromadb.config import Settings

        with self._making:
            self.folder.mkdir(parents=True, exist_ok=True)
            client = chromadb.PersistentClient(str(self.folder), Settings(anonymized_telemetry=False))
            collection = client.get_or_create_collection(
                self.name, embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
            )
            if collection.count() < len(corpus.passages()):
                rows = corpus.passages()
                vectors = self.embedder.embed([f"{p.document}. {p.section}. {p.text}" for p in rows])
                collection.upsert(ids=[p.id for p in rows], embeddings=vectors, documents=[p.text for p in rows],
                                  metadatas=[{"document": p.document, "date": p.date} for p in rows])  # fmt: skip
            return collection

    @cached_property
    def _keywords(self) -> "bm25s.BM25":
        import bm25s

        index = bm25s.BM25()
        texts = [f"{p.document} {p.section} {p.text}".lower() for p in corpus.passages()]
        index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        return index

    def warm(self) -> None:
        """Load what the first search needs."""
        self.search("warm up", 1)

    def search(self, query: str, limit: int = 5, disease: str | None = None,
               facts: dict[str, Any] | None = None) -> list[Hit]:  # fmt: skip
        """The best passages for `query`: only those tagged with `disease`, and that fit the patient's `facts`. May be empty."""
        import bm25s

        rows = {p.id: p for p in corpus.passages() if p.fits(facts or {}) and (disease is None or disease.lower() in p.disease)}
        text = expanded(query)
        depth = len(corpus.passages())
        found = self._collection.query(query_embeddings=self.embedder.embed([text]), n_results=depth,
                                       include=["distances"])  # fmt: skip
        cosines = {i: 1 - d for i, d in zip(found["ids"][0], (found["distances"] or [[]])[0], strict=True) if i in rows}
        tokens = bm25s.tokenize([text], stopwords="en", show_progress=False)
        order, strength = self._keywords.retrieve(tokens, k=depth, show_progress=False)
        ids = [p.id for p in corpus.passages()]
        words = {ids[i]: float(s) for i, s in zip(order[0], strength[0], strict=True) if ids[i] in rows and s > 0}
        ranks = [sorted(scores, key=scores.__getitem__, reverse=True) for scores in (cosines, words)]
        fused = {i: sum(1 / (K + r.index(i)) for r in ranks if i in r) for i in rows}
        hits = []
        for i in sorted(fused, key=fused.__getitem__, reverse=True):
            if cosines.get(i, 0) < FLOOR:
                continue
            why = f"meaning {cosines.get(i, 0):.2f}" + (f", words {words[i]:.1f}" if i in words else "")
            hits.append(Hit(passage=rows[i], score=round(fused[i], 6), cosine=round(cosines.get(i, 0), 4), why=why))
        return hits[:limit]

    def passage(self, passage_id: str) -> Passage | None:
        """The passage with this id, if the corpus has it."""
        return next((p for p in corpus.passages() if p.id == passage_id), None)
