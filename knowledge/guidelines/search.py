"""Search guidelines: dense (Chroma) and keyword (BM25) results of each body, fused; in the box and a hospital's own."""

import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from knowledge.errors import NotFound, Refused
from knowledge.evidence import Frozen
from knowledge.guidelines import corpus
from knowledge.guidelines.corpus import Passage
from knowledge.guidelines.embedders import Embedder, slug
from knowledge.guidelines.ingest import pdf
from knowledge.guidelines.library import Document, Library, listed
from knowledge.guidelines.minilm import MiniLM, package_dir
from knowledge.guidelines.rerank import Reranker
from knowledge.guidelines.shelves import (
    HNSW,
    Chroma,
    Progress,
    Shelf,
    Text,
    collection_name,
    embed_all,
    fill,
    keyword_index,
    stems,
)
from knowledge.language import glossed, language_of
from knowledge.studies import workers

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

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


@cache
def _synonyms() -> list[tuple[re.Pattern[str], str]]:
    loaded = yaml.safe_load((Path(__file__).parent / "synonyms.yaml").read_text(encoding="utf-8"))
    return [(re.compile(rf"\b(?:{pattern})(?!\w)", re.I), word) for pattern, word in loaded.items()]


@cache
def _vocabulary() -> dict[int, list[str]]:
    """Words of the corpus in the box and of the synonyms, by length: what a misspelt word may have meant."""
    texts = [_text_of(p).whole for p in corpus.passages()] + [w for _, w in _synonyms()]
    words = Counter(w for t in texts for w in re.findall(r"[a-z]{4,}", t.lower()))
    found: dict[int, list[str]] = {}
    for word in words:
        found.setdefault(len(word), []).append(word)
    return found


@cache
def _plain_words() -> frozenset[str]:
    """Whole words that MiniLM's tokenizer knows: none of them is a misspelling of a clinical word."""
    tokens = json.loads((package_dir() / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return frozenset(w for w in tokens if len(w) >= 4 and w.isalpha())


def spelled(text: str, known: Callable[[str], bool] = lambda word: False) -> list[tuple[str, str]]:
    """Words that neither English nor the guidelines have, each with the one word of the corpus that it is a slip of the pen away from."""
    from rapidfuzz.distance import DamerauLevenshtein

    found = []
    for word in dict.fromkeys(re.findall(r"\b[a-z]{5,}\b", text)):
        if word in _plain_words() or known(word):
            continue
        limit = 1 if len(word) < 12 else 2
        near = [w for n in range(len(word) - limit, len(word) + limit + 1) for w in _vocabulary().get(n, ())]
        best = min(
            ((DamerauLevenshtein.distance(word, w, score_cutoff=limit), w) for w in near if w[0] == word[0]), default=(9, word)
        )
        if 0 < best[0] <= limit:
            found.append((word, best[1]))
    return found


def expanded(query: str, known: Callable[[str], bool] = lambda word: False) -> tuple[str, list[str]]:
    """The query in English and lower case with other words for the same thing added, and what was added.

    What was asked stays: a word that looks misspelt is searched beside its correction, since it may be a name that isn't known here.
    """
    text = glossed(query, language_of(query)).lower().replace("tumor", "tumour")
    mended = spelled(text, known)
    text = " ".join([text, *(right for _, right in mended)])
    added = [word for pattern, word in _synonyms() if pattern.search(text) and word.lower() not in text]
    return " ".join([text, *added]), [*(f"{right} for {wrong}" for wrong, right in mended), *added]


class GuidelineIndex:
    """The corpus in the box and the hospital's library under `folder`; each body in collections of its own, there or on a Chroma server."""

    def __init__(self, folder: Path, embedder: Embedder, chroma_url: str | None = None, reranker: Reranker | None = None) -> None:
        self.folder, self.embedder, self.reranker = folder, embedder, reranker
        self.library = Library(folder)
        self.chroma = Chroma(folder / "chroma", chroma_url)
        self._shelves: dict[str, Shelf] = {}
        self._seen = -1
        self._making = threading.RLock()

    @property
    def version(self) -> str:
        """Version of everything that can be found: goes into each answer's provenance."""
        revision = self.library.revision()
        return corpus.version() + (f"+{revision}" if revision else "")

    def warm(self) -> None:
        """Load what the first search needs."""
        self.search("warm up", 1)

    # ---- shelves ---------------------------------------------------------------------------------------------------------------

    def shelves(self) -> dict[str, Shelf]:
        """Every body's indexes, made or brought up where they aren't there."""
        with self._making:
            revision = self.library.revision()
            if revision != self._seen and self._seen >= 0:
                self.chroma.again()
                self._shelves = {}
            self._seen = revision
            if "box" not in self._shelves:
                self._shelves["box"] = self._boxed()
            for body in {d.body for d in self.library.documents(["current"])} - set(self._shelves):
                self._shelves[body] = self.shelf(body)
            return self._shelves

    def _boxed(self) -> Shelf:
        rows = corpus.passages()
        ids, texts = [p.id for p in rows], [_text_of(p) for p in rows]
        name = collection_name("box", [corpus.version()], self.embedder.name)
        if name not in self._names() or self.chroma.client.get_collection(name, embedding_function=None).count() != len(ids):
            self._build(name, ids, texts, [p.document_id for p in rows])
            self._drop(rf"box-[0-9a-f]{{12}}-{re.escape(slug(self.embedder.name))}(-building)?", name)
        collection = self.chroma.client.get_collection(name, embedding_function=None)
        return Shelf("box", self.embedder, collection, keyword_index([t.whole for t in texts], None), ids)

    def shelf(self, body: str) -> Shelf:
        """The indexes of a hospital's body, of exactly its current passages.

        With another embedder than the vectors are of, a new collection is built beside the old one, which is asked until the new is whole.
        """
        ids, texts = self.library.texts(body)
        words = keyword_index([t.whole for t in texts], self.folder / "words" / slug(body))
        name = collection_name(body, ids, self.embedder.name)
        if name not in self._names() and self.mine(body) is None:
            old = self._of_minilm(body)
            if old is not None:
                threading.Thread(target=self._switch, args=(body, name), name=f"embed {body}", daemon=True).start()
                return Shelf(body, MiniLM(), old, words, ids)
            self._build(name, ids, texts, [_document(i) for i in ids])
        collection = self._brought_up(name, self.mine(body), ids, texts)
        self._drop(rf"{re.escape(slug(body))}-[0-9a-f]{{12}}-.*", name)
        return Shelf(body, self.embedder, collection, words, ids)

    def mine(self, body: str) -> str | None:
        """The name of the body's collection by this embedder, of whichever version."""
        pattern = rf"{re.escape(slug(body))}-[0-9a-f]{{12}}-{re.escape(slug(self.embedder.name))}"
        return next((n for n in sorted(self._names()) if re.fullmatch(pattern, n)), None)

    def _of_minilm(self, body: str) -> "Collection | None":
        pattern = rf"{re.escape(slug(body))}-[0-9a-f]{{12}}-{re.escape(slug(MiniLM.name))}"
        name = next((n for n in self._names() if re.fullmatch(pattern, n)), None)
        return self.chroma.client.get_collection(name, embedding_function=None) if name else None

    def _switch(self, body: str, name: str) -> None:
        """Build a body's collection by the new embedder, then let it take the old one's place."""
        ids, texts = self.library.texts(body)
        self._build(name, ids, texts, [_document(i) for i in ids])
        with self._making:
            self._shelves.pop(body, None)
            self.shelves()

    def _brought_up(self, name: str, there: str | None, ids: Sequence[str], texts: Sequence[Text]) -> "Collection":
        """The collection with exactly these passages and this name: what is new is added, what is gone taken out, in place."""
        collection = self.chroma.client.get_collection(there or name, embedding_function=None)
        if collection.name == name and collection.count() == len(ids):
            return collection
        held = set(collection.get(include=[])["ids"])
        gone = list(held - set(ids))
        for start in range(0, len(gone), 4000):
            collection.delete(ids=gone[start : start + 4000])
        new = [n for n, i in enumerate(ids) if i not in held]
        if new:
            vectors = embed_all(self.embedder, [texts[n] for n in new])
            fill(collection, [ids[n] for n in new], vectors, [_document(ids[n]) for n in new])
        if collection.name != name:
            collection.modify(name=name)
        return collection

    def _build(self, name: str, ids: Sequence[str], texts: Sequence[Text], documents: Sequence[str]) -> None:
        """A collection that has its name only once it is whole."""
        building = f"{name}-building"
        for left in {name, building} & self._names():
            self.chroma.client.delete_collection(left)
        made = self.chroma.client.create_collection(building, embedding_function=None, configuration=HNSW)  # type: ignore[arg-type]
        fill(made, ids, embed_all(self.embedder, texts), documents)
        made.modify(name=name)

    def put(self, body: str, document_id: str, progress: Progress) -> None:
        """Embed a document's passages into its body's collection, before the document counts."""
        ids, texts = self.library.of_document(document_id)
        vectors = embed_all(self.embedder, texts, progress)
        with self._making:
            there = self.mine(body)
            name = there or collection_name(body, [], self.embedder.name)
            client = self.chroma.client
            collection = client.get_collection(name, embedding_function=None) if there else client.create_collection(
                name, embedding_function=None, configuration=HNSW)  # type: ignore[arg-type]  # fmt: skip
            fill(collection, ids, vectors, [document_id] * len(ids))

    def _names(self) -> set[str]:
        return {c if isinstance(c, str) else c.name for c in self.chroma.client.list_collections()}

    def _drop(self, pattern: str, keep: str) -> None:
        """Collections that the one to keep has taken the place of."""
        for name in self._names():
            if name not in (keep, f"{keep}-building") and re.fullmatch(pattern, name):
                self.chroma.client.delete_collection(name)

    # ---- searching -------------------------------------------------------------------------------------------------------------

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
            with self._making:
                self.chroma.again()
                self._shelves = {}
            return self._search(query, limit, facts or {}, wanted)

    def _search(self, query: str, limit: int, facts: dict[str, Any], wanted: "_Filter") -> list[Hit]:
        shelves = list(self.shelves().values())
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
            ids, texts = self.library.of_document(row.id)
            name = collection_name(f"old-{row.id}", ids, self.embedder.name)
            if name not in self._names():
                self._build(name, ids, texts, [row.id] * len(ids))
            collection = self.chroma.client.get_collection(name, embedding_function=None)
            found |= Shelf(row.body, self.embedder, collection, None, ids).dense(self.embedder.embed([text])[0], DEPTH)
        return found

    def _shares(self, text: str, found: dict[str, Passage]) -> dict[str, float]:
        """How much of the query's words stand in each passage, 0 to 1, rare words counting more (all bodies together)."""
        counted = [s.words for s in self._shelves.values() if s.words is not None]
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
        scores = self.reranker.scores(query, [_text_of(h.passage).whole for h in hits])
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
    return _kept_stems(passage.id, _text_of(passage).whole)


def _text_of(passage: Passage) -> Text:
    return Text.of(passage.document, passage.section, passage.text, passage.asks)


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


_SENTENCE = re.compile(r"[^.!?。；;\n]*(?:[.!?。；;](?!\s|$)[^.!?。；;\n]*)*(?:[.!?。；;]|\n|$)")


def best_sentence(text: str, query: str) -> tuple[int, int]:
    """Characters [start, end) of the sentence that shares most words with the query; the whole text where none shares any."""
    asked = set(re.findall(r"[^\W_]{3,}", query.lower()))
    best, found = 0.0, (0, len(text))
    for match in _SENTENCE.finditer(text):
        words = set(re.findall(r"[^\W_]{3,}", match.group().lower()))
        if not words:
            continue
        shared = len({w[:6] for w in words} & {w[:6] for w in asked})
        score = shared / (len(words) ** 0.3)
        if score > best:
            start = match.start() + len(match.group()) - len(match.group().lstrip())
            best, found = score, (start, match.start() + len(match.group().rstrip()))
    return found


__all__ = ["GuidelineIndex", "Hit", "MiniLM", "NotFound", "expanded"]
