"""Search guidelines: dense (Chroma) and keyword (BM25) results of each body, fused; in the box and a hospital's own."""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
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
from knowledge.guidelines.shelves import Chroma, Shelf, stems, text_of
from knowledge.studies import workers

WORDS = 0.5
"""What the share of the query's words in a passage, each by its rarity, adds to the cosine (chosen on the pairs of `make eval`)."""
FLOOR, LEAST = 0.30, 0.15
"""Passages whose cosine is below the first have another subject, unless they hold the greater part of the query's words; below the
second, always."""
MOST_WORDS = 0.45
DEPTH = 40
"""Candidates that each list gives to the fusion."""
RARE = 0.02
"""Where a filter keeps less than this share of a body, Chroma filters; above, more candidates are taken and filtered here."""


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
        self.bodies = Bodies(folder, self.library, Chroma(folder / "chroma", chroma_url), embedder)

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
        text, added = expanded(
            query, lambda word: any(s.words is not None and stems(word) & s.words.counts.keys() for s in shelves)
        )
        vectors: dict[str, Any] = {}
        cosines: dict[str, float] = {}
        words: dict[str, float] = {}
        for shelf in shelves:
            if shelf.embedder.name not in vectors:
                vectors[shelf.embedder.name] = shelf.embedder.embed([text])[0]
            vector = vectors[shelf.embedder.name]
            if shelf.body == "box":
                near, said = self._box(shelf, text, vector, wanted, facts)
            else:
                near, said = self._asked(shelf, text, vector, wanted, max(DEPTH, 4 * limit))
            cosines |= near
            words |= said
        if wanted.version:
            cosines |= self._old(text, wanted)
        found = self._open([*dict.fromkeys([*cosines, *words])])
        share = self._shares(text, found)
        fused = {i: cosines.get(i, LEAST) + WORDS * share[i] for i in found
                 if cosines.get(i, LEAST) >= (LEAST if share[i] >= MOST_WORDS else FLOOR)}  # fmt: skip
        best = sorted(fused, key=fused.__getitem__, reverse=True)
        hits = [self._hit(found[i], fused[i], cosines.get(i), share[i], text, added) for i in best[: max(limit, 20)]]
        if self.reranker is not None and hits:
            hits = self._reranked(query, hits[: max(20, 2 * limit)])
        return hits[:limit]

    def _box(
        self, shelf: Shelf, text: str, vector: Any, wanted: "_Filter", facts: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, float]]:
        allowed = {p.id for p in corpus.passages() if p.fits(facts) and wanted.lets(p)}
        if not allowed:
            return {}, {}
        depth = len(shelf.ids) if len(allowed) < len(shelf.ids) else DEPTH
        near, said = shelf.dense(vector, depth), shelf.keywords(text, depth)
        return {i: c for i, c in near.items() if i in allowed}, {i: s for i, s in said.items() if i in allowed}

    def _asked(
        self, shelf: Shelf, text: str, vector: Any, wanted: "_Filter", depth: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        rows = [d for d in self.library.documents(["current"]) if d.body == shelf.body]
        kept = {d.id: d.passages for d in rows if wanted.lets_document(d)}
        total, mine = sum(d.passages for d in rows), sum(kept.values())
        if not mine:
            return {}, {}
        share = mine / total
        more = depth if len(kept) == len(rows) else int(min(2 * depth / share, 2000))
        near = shelf.dense(vector, depth, list(kept)) if share < RARE else shelf.dense(vector, more)
        said = shelf.keywords(text, more)
        return {i: c for i, c in near.items() if _document(i) in kept}, {i: s for i, s in said.items() if _document(i) in kept}

    def _old(self, text: str, wanted: "_Filter") -> dict[str, float]:
        """Passages of superseded versions whose version was asked for, embedded when they are asked for."""
        found: dict[str, float] = {}
        for row in [d for d in self.library.documents(["superseded"]) if wanted.lets_document(d)][:5]:
            found |= self.bodies.old(row.id).dense(self.embedder.embed([text])[0], DEPTH)
        return found

    def _shares(self, text: str, found: dict[str, Passage]) -> dict[str, float]:
        """How much of the query's words stand in each passage, 0 to 1, rare words counting more (all bodies together)."""
        counted = [s.words for s in self.bodies.shelves().values() if s.words is not None]
        total = sum(w.total for w in counted)
        weights = {}
        for stem in stems(text):
            times = sum(w.counts.get(stem, 0) for w in counted)
            weights[stem] = math.log(1 + (total - times + 0.5) / (times + 0.5))
        whole = sum(weights.values()) or 1.0
        return {i: sum(weights[s] for s in _stems_of(p) if s in weights) / whole for i, p in found.items()}

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


@lru_cache(maxsize=20_000)
def _kept_stems(passage_id: str, whole: str) -> frozenset[str]:
    return stems(whole)


def _stems_of(passage: Passage) -> frozenset[str]:
    return _kept_stems(passage.id, text_of(passage).whole)


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
