"""Every body of guidelines with its indexes: made where they aren't there, brought up where documents came or went, switched with the embedder."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from knowledge.guidelines import corpus
from knowledge.guidelines.embedders import Embedder, slug
from knowledge.guidelines.library import Library
from knowledge.guidelines.minilm import MiniLM
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
    text_of,
)  # fmt: skip

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection


@dataclass
class Bodies:
    """The shelves of a house. `folder` keeps the keyword indexes."""

    folder: Path
    library: Library
    chroma: Chroma
    embedder: Embedder
    _shelves: dict[str, Shelf] = field(default_factory=dict)
    _seen: int = -1
    _making: threading.RLock = field(default_factory=threading.RLock)

    def again(self) -> None:
        """Forget what is open: a collection was replaced, by this process or another."""
        with self._making:
            self.chroma.again()
            self._shelves = {}

    def old(self, document_id: str) -> Shelf:
        """A superseded version's own shelf, made when it is first asked for."""
        ids, texts = self.library.of_document(document_id)
        name = collection_name(f"old-{document_id}", ids, self.embedder.name)
        if name not in self.names():
            self._build(name, ids, texts, [document_id] * len(ids))
        collection = self.chroma.client.get_collection(name, embedding_function=None)
        return Shelf("old", self.embedder, collection, None, ids, [document_id] * len(ids))

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
        ids, texts = [p.id for p in rows], [text_of(p) for p in rows]
        name = collection_name("box", [corpus.version()], self.embedder.name)
        if name not in self.names() or self.chroma.client.get_collection(name, embedding_function=None).count() != len(ids):
            self._build(name, ids, texts, [p.document_id for p in rows])
            self._drop(rf"box-[0-9a-f]{{12}}-{re.escape(slug(self.embedder.name))}(-building)?", name)
        collection = self.chroma.client.get_collection(name, embedding_function=None)
        return Shelf("box", self.embedder, collection, keyword_index([t.whole for t in texts], None), ids,
                     [p.document_id for p in rows])  # fmt: skip

    def shelf(self, body: str) -> Shelf:
        """The indexes of a hospital's body, of exactly its current passages.

        With another embedder than the vectors are of, a new collection is built beside the old one, which is asked until the new is whole.
        """
        ids, texts = self.library.texts(body)
        words = keyword_index([t.whole for t in texts], self.folder / "words" / slug(body))
        name = collection_name(body, ids, self.embedder.name)
        if name not in self.names() and self.mine(body) is None:
            old = self._of_minilm(body)
            if old is not None:
                threading.Thread(target=self._switch, args=(body, name), name=f"embed {body}", daemon=True).start()
                return Shelf(body, MiniLM(), old, words, ids, [_document(i) for i in ids])
            self._build(name, ids, texts, [_document(i) for i in ids])
        collection = self._brought_up(name, self.mine(body), ids, texts)
        self._drop(rf"{re.escape(slug(body))}-[0-9a-f]{{12}}-.*", name)
        return Shelf(body, self.embedder, collection, words, ids, [_document(i) for i in ids])

    def mine(self, body: str) -> str | None:
        """The name of the body's collection by this embedder, of whichever version."""
        pattern = rf"{re.escape(slug(body))}-[0-9a-f]{{12}}-{re.escape(slug(self.embedder.name))}"
        return next((n for n in sorted(self.names()) if re.fullmatch(pattern, n)), None)

    def _of_minilm(self, body: str) -> "Collection | None":
        pattern = rf"{re.escape(slug(body))}-[0-9a-f]{{12}}-{re.escape(slug(MiniLM.name))}"
        name = next((n for n in self.names() if re.fullmatch(pattern, n)), None)
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
        for left in {name, building} & self.names():
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

    def names(self) -> set[str]:
        """All collections that there are."""
        return {c if isinstance(c, str) else c.name for c in self.chroma.client.list_collections()}

    def _drop(self, pattern: str, keep: str) -> None:
        """Collections that the one to keep has taken the place of."""
        for name in self.names():
            if name not in (keep, f"{keep}-building") and re.fullmatch(pattern, name):
                self.chroma.client.delete_collection(name)


def _document(passage_id: str) -> str:
    return passage_id.rsplit(".", 1)[0]
