"""An index of a hospital's own studies by what an imaging network sees of them, in Chroma. It holds pseudonyms, never a name or an ID."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knowledge.guidelines.shelves import Chroma


@dataclass(frozen=True)
class Near:
    """A study of the index. `similarity`: cosine of the two embeddings, 1 for the same image."""

    study_id: str
    pseudonym: str
    similarity: float
    about: dict[str, Any]


class CaseIndex:
    """One collection for each network and version, since their embeddings can't be compared. `folder`: where Chroma lies."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.chroma = Chroma(folder, url)

    def _collection(self, network: str) -> Any:
        return self.chroma.client.get_or_create_collection(
            f"cases-{network}"[:60], metadata={"hnsw:space": "cosine"}, embedding_function=None
        )

    def put(self, network: str, study_id: str, pseudonym: str, embedding: np.ndarray, about: dict[str, Any]) -> None:
        """Keep a study, or replace it."""
        self._collection(network).upsert(
            ids=[study_id], embeddings=[embedding.tolist()], metadatas=[{"pseudonym": pseudonym, **about}]
        )

    def has(self, network: str, study_id: str) -> bool:
        """True where the study is in the index of this network."""
        return bool(self._collection(network).get(ids=[study_id], include=[])["ids"])

    def near(self, network: str, embedding: np.ndarray, not_of: str, most: int) -> list[Near]:
        """The nearest studies of other patients than `not_of` (a pseudonym), the nearest first."""
        collection = self._collection(network)
        if not collection.count():
            return []
        found = collection.query(query_embeddings=[embedding.tolist()], n_results=min(most, collection.count()), where={"pseudonym": {"$ne": not_of}},
                                 include=["metadatas", "distances"])  # fmt: skip
        rows = zip(found["ids"][0], found["metadatas"][0], found["distances"][0], strict=True)
        return [
            Near(i, str(m["pseudonym"]), round(1 - float(d), 4), {k: v for k, v in m.items() if k != "pseudonym"})
            for i, m, d in rows
        ]

    def forget(self, study_ids: Sequence[str]) -> None:
        """Take studies out of every network's index."""
        for collection in self.chroma.client.list_collections():
            if collection.name.startswith("cases-"):
                self.chroma.client.get_collection(collection.name, embedding_function=None).delete(ids=list(study_ids))

    def count(self) -> int:
        """Entries in all collections."""
        return sum(c.count() for c in self.chroma.client.list_collections() if c.name.startswith("cases-"))

    def close(self) -> None:
        """Let go of Chroma's files."""
        self.chroma.close()
