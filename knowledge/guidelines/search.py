"""Search guidelines: dense (Chroma) and keyword (BM25) results of each body, fused; in the box and a hospital's own."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from knowledge.errors import NotFound, Refused
from knowledge.evidence import Frozen
from knowledge.guidelines import corpus
from knowledge.guidelines.bodies import Bodies
from knowledge.guidelines.corpus import Passage
from knowledge.guidelines.embedders import Embedder
from knowledge.guidelines.ingest import pdf
from knowledge.guidelines.library import Document, Library, listed
from knowledge.guidelines.query import best_sentence, expanded
from knowledge.guidelines.rerank import Reranker
from knowledge.guidelines.shelves import Chroma, Shelf, Words, stem_list, stems, text_of
from knowledge.studies import workers

WORDS = 0.5
"""What the share of the query's words in a passage, each by its rarity, adds to the cosine (chosen on the pairs of `make eval`)."""
FLOOR, LEAST = 0.30, 0.15
"""Passages whose cosine is below the first have another subject, unless they hold the greater part of the query's words; below the
second, always."""
MOST_WORDS = 0.45
DEPTH = 40
"""Candidates that each list gives to the fusion."""
WORDED = 8
"""Candidates that words bring from each body at least; their scores can't be compared between bodies."""
KEPT = 20_000
"""Passages whose stems are kept."""
EXACT = 20_000
"""A filter that keeps no more passages of a body than this is searched exactly; above, more candidates are taken and filtered."""


class Hit(Frozen):
    """A passage with its fused score (higher is better), why it was found, and the sentence [start, end) of it that fits best."""

    passage: Passage
    score: float
    cosine: float
    why: str
    sentence: tuple[int, int]


class GuidelineIndex:
    """The corpus in the box and the hospital's library under `folder`; each body in collections of its own, there or on a Chroma server."""

    def __init__(self, folder: Path, embedder: Embedder, chroma_url: str | None = None, reranker: Reranker | None = None) -> None:
        self.folder, self.embedder, self.reranker = folder, embedder, reranker
        self.library = Library(folder)
        self._kept: dict[str, frozenset[str]] = {}
        self.bodies = Bodies(folder, self.library, Chroma(folder / "chroma", chroma_url), embedder)

    def close(self) -> None:
        """Let go of files and connections."""
        self.bodies.chroma.close()
        self.library.close()

    @property
    def version(self) -> str:
        """Version of everything that can be found: goes into each answer's provenance."""
        revision = self.library.revision()
        return corpus.version() + (f"+{revision}" if revision else "")

    def warm(self) -> None:
        """Load what the first search needs."""
        self.search("warm up", 1)

    def search(self, query: str, limit: int = 5, disease: str | None = None, facts: dict[str, Any] | None = None,
               version: str | None = None, modality: str | None = None, document: str | None = None) -> list[Hit]:  # fmt: skip
        """The best passages for `query`, of documents that the filters let through, and that fit the patient's `facts`. May be empty.

        Superseded versions are searched only where `version` names one; they never stand beside a current one.
        """
        from chromadb.errors import NotFoundError

        wanted = _Filter(disease, version, modality, document)
        try:
            return self._search(query, limit, facts or {}, wanted)
        except NotFoundError:  # a collection was replaced meanwhile, by this process or another
            self.bodies.again()
            return self._search(query, limit, facts or {}, wanted)

    def _search(self, query: str, limit: int, facts: dict[str, Any], wanted: "_Filter") -> list[Hit]:
        shelves = list(self.bodies.shelves().values())
        rows = self.library.documents(["current"])
        counted = [s.words for s in shelves if s.words is not None]
        text, added = expanded(query, lambda word: any(stem in w.counts for stem in stem_list(word) for w in counted))
        terms = list(dict.fromkeys(stem_list(text)))
        vectors = {e.name: e.embed([text])[0] for e in {s.embedder.name: s.embedder for s in shelves}.values()}
        cosines: dict[str, float] = {}
        words: dict[str, float] = {}

        depth = max(DEPTH // 2, 2 * limit, DEPTH * 2 // len(shelves))

        def ask(shelf: Shelf) -> tuple[dict[str, float], dict[str, float]]:
            if shelf.body == "box":
                return self._box(shelf, terms, vectors[shelf.embedder.name], wanted, facts)
            mine = [r for r in rows if r.body == shelf.body]
            return self._asked(shelf, terms, vectors[shelf.embedder.name], wanted, mine, depth)

        for near, said in _side_by_side().map(ask, shelves):
            cosines |= near
            words |= dict(list(said.items())[: max(WORDED, DEPTH // len(shelves))])
        if wanted.version:
            cosines |= self._old(text, wanted)
        near_most = sorted(cosines, key=cosines.__getitem__, reverse=True)[: max(DEPTH, 4 * limit)]
        share = _shares(terms, self._stems([*dict.fromkeys([*near_most, *words])]), counted)
        fused = {i: cosines.get(i, LEAST) + WORDS * share[i] for i in share
                 if cosines.get(i, LEAST) >= (LEAST if share[i] >= MOST_WORDS else FLOOR)}  # fmt: skip
        best = sorted(fused, key=fused.__getitem__, reverse=True)[: max(limit, 20)]
        found = self._open(best)
        hits = [self._hit(found[i], fused[i], cosines.get(i), share[i], text, added) for i in best if i in found]
        if self.reranker is not None and hits:
            hits = self._reranked(query, hits[: max(20, 2 * limit)])
        return hits[:limit]

    def _box(
        self, shelf: Shelf, terms: list[str], vector: Any, wanted: "_Filter", facts: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, float]]:
        allowed = {p.id for p in corpus.passages() if p.fits(facts) and wanted.lets(p)}
        if not allowed:
            return {}, {}
        depth = len(shelf.ids) if len(allowed) < len(shelf.ids) else DEPTH
        near, said = shelf.dense(vector, depth), shelf.keywords(terms, depth)
        return {i: c for i, c in near.items() if i in allowed}, {i: s for i, s in said.items() if i in allowed}

    def _asked(
        self, shelf: Shelf, terms: list[str], vector: Any, wanted: "_Filter", rows: Sequence[Any], depth: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        kept = {d.id: d.passages for d in rows if wanted.lets_document(d)}
        if not kept:
            return {}, {}
        if len(kept) == len(rows):
            near = {i: c for i, c in shelf.dense(vector, depth).items() if _document(i) in kept}
            return near, shelf.keywords(terms, depth)
        mine = sum(kept.values())
        if mine <= EXACT:
            near = shelf.exact(vector, depth, list(kept))
        else:
            wide = int(min(2 * depth * sum(d.passages for d in rows) / mine, 2000))
            near = {i: c for i, c in shelf.dense(vector, wide).items() if _document(i) in kept}
        return near, shelf.keywords(terms, depth, kept)

    def _old(self, text: str, wanted: "_Filter") -> dict[str, float]:
        """Passages of superseded versions whose version was asked for, embedded when they are asked for."""
        found: dict[str, float] = {}
        for row in [d for d in self.library.documents(["superseded"]) if wanted.lets_document(d)][:5]:
            found |= self.bodies.old(row.id).dense(self.embedder.embed([text])[0], DEPTH)
        return found

    def _stems(self, ids: Sequence[str]) -> dict[str, frozenset[str]]:
        """The stems of passages, kept for those that come back."""
        box = _in_box()
        fresh = [i for i in ids if i not in self._kept and i not in box]
        texts = self.library.indexed(fresh) if fresh else {}
        self._kept |= {i: stems(t.whole) for i, t in texts.items()} | {
            i: stems(text_of(box[i]).whole) for i in ids if i in box and i not in self._kept
        }
        found = {i: self._kept[i] for i in ids if i in self._kept}
        while len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept)))
        return found

    def _open(self, ids: Sequence[str]) -> dict[str, Passage]:
        box = _in_box()
        return {i: box[i] for i in ids if i in box} | self.library.passages([i for i in ids if i not in box])

    def _hit(self, passage: Passage, score: float, cosine: float | None, share: float, text: str, added: list[str]) -> Hit:
        why = ", ".join([*([f"meaning {cosine:.2f}"] if cosine is not None else []), *([f"words {share:.0%}"] if share else []),
                         *([f"also searched: {'; '.join(added)}"] if added else [])])  # fmt: skip
        return Hit(
            passage=passage,
            score=round(score, 6),
            cosine=round(cosine or 0.0, 4),
            why=why,
            sentence=best_sentence(passage.text, text),
        )

    def _reranked(self, query: str, hits: list[Hit]) -> list[Hit]:
        assert self.reranker is not None
        scores = self.reranker.scores(query, [text_of(h.passage).whole for h in hits])
        ranked = sorted(zip(scores, hits, strict=True), key=lambda pair: -pair[0])
        return [h.model_copy(update={"score": round(s, 6), "why": f"re-ranked {s:.2f}, {h.why}"}) for s, h in ranked]

    def passage(self, passage_id: str) -> Passage | None:
        """The passage with this id, superseded ones too; None where there is none."""
        return self._open([passage_id]).get(passage_id)

    def documents(self) -> list[Document]:
        """Every document: in the box, then the hospital's own with superseded versions."""
        boxed: dict[str, list[Passage]] = {}
        for passage in corpus.passages():
            boxed.setdefault(passage.document_id, []).append(passage)
        box = [Document(id=i, document=p[0].document, organisation=p[0].organisation, version=p[0].version, date=p[0].date, source=p[0].source,
                        checked=corpus.CHECKED[p[0].checked], passages=len(p), disease=p[0].disease, modality=p[0].modality)
               for i, p in boxed.items()]  # fmt: skip
        return [*box, *(listed(d, corpus.CHECKED["hospital"]) for d in self.library.documents())]

    def picture(self, document_id: str, number: int) -> bytes:
        """A page of a PDF as PNG. Raises NotFound: no such page, or no PDF."""
        row = self.library.document(document_id)
        if row.kind != "pdf" or not 1 <= number <= row.pages:
            raise NotFound(f"{document_id!r} has no picture of page {number}", "only PDFs have; pages count from 1")
        drawn = workers.run(pdf.picture, (self.library.original(document_id).read_bytes(), number), 30.0)
        if isinstance(drawn, Refused):
            raise drawn
        return bytes(drawn)

    def page(self, passage: Passage) -> tuple[str, int, int]:
        """The text around a passage (its page; in the box, its document), and where in it the passage stands."""
        if passage.body != "box" and passage.start is not None and passage.end is not None:
            return self.library.page(passage.document_id, passage.page or 1), passage.start, passage.end
        parts: list[str] = []
        start = 0
        for other in corpus.passages():
            if other.document_id == passage.document_id:
                if other.id == passage.id:
                    start = sum(len(p) + 2 for p in parts) + len(other.section) + 1
                parts.append(f"{other.section}\n{other.text}")
        return "\n\n".join(parts), start, start + len(passage.text)


@cache
def _side_by_side() -> ThreadPoolExecutor:
    """Bodies are asked side by side: Chroma and NumPy leave the interpreter alone while they work."""
    return ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="guidelines")


def _shares(terms: Sequence[str], found: dict[str, frozenset[str]], counted: Sequence[Words]) -> dict[str, float]:
    """How much of the query's words stand in each passage, 0 to 1, rare words counting more (all bodies together)."""
    total = sum(w.total for w in counted)
    weights = {}
    for stem in terms:
        times = sum(w.counts.get(stem, 0) for w in counted)
        weights[stem] = math.log(1 + (total - times + 0.5) / (times + 0.5))
    whole = sum(weights.values()) or 1.0
    return {i: sum(weights[s] for s in weights.keys() & own) / whole for i, own in found.items()}


def _document(passage_id: str) -> str:
    return passage_id.rsplit(".", 1)[0]


class _Filter:
    """What documents a search is limited to."""

    def __init__(self, disease: str | None, version: str | None, modality: str | None, document: str | None) -> None:
        self.disease, self.version = (disease or "").lower(), (version or "").lower()
        self.modality, self.document = (modality or "").upper(), (document or "").lower()

    def _lets(
        self, disease: Sequence[str], version: str, date: str, modality: Sequence[str], title: str, document_id: str
    ) -> bool:
        return bool(
            (not self.disease or self.disease in [d.lower() for d in disease])
            and (not self.version or self.version in f"{version} {date}".lower())
            and (not self.modality or not modality or self.modality in [m.upper() for m in modality])
            and (not self.document or self.document in title.lower() or self.document == document_id)
        )

    def lets(self, passage: Passage) -> bool:
        return self._lets(passage.disease, passage.version, passage.date, passage.modality, passage.document, passage.document_id)

    def lets_document(self, row: Any) -> bool:
        return self._lets(row.disease, row.version, row.date, row.modality, row.title, row.id)


@cache
def _in_box() -> dict[str, Passage]:
    return {p.id: p for p in corpus.passages()}
