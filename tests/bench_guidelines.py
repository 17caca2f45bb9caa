"""`make bench`, guidelines: search at 100,000 passages, the index against exact search on real text, and a 300-page PDF taken in.

Real text: the documentation that Debian and Python packages carry on this machine (README, man-page sources, docstrings), cut into sentences; some
7 minutes of embedding, kept in .cache/bench for the next run.
"""

import hashlib
import io
import re
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "bench"
BODIES = ("brain", "lung", "liver", "breast", "prostate", "kidney", "thyroid", "lymphoma")
SMALL = 0.05
"""Share of a body's passages that the filtered search keeps."""


def real_sentences(count: int) -> list[str]:
    """Distinct sentences of 8 to 45 words, in an order that doesn't change."""
    seen: dict[str, None] = {}
    for text in _texts():
        for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
            words = sentence.split()
            if 8 <= len(words) <= 45 and sum(w.isalpha() for w in words) > 0.7 * len(words):
                seen.setdefault(" ".join(words), None)
        if len(seen) >= count:
            break
    return list(seen)[:count]


def _texts() -> Iterator[str]:
    import ast

    for folder in (Path(sysconfig.get_paths()["purelib"]), Path(sysconfig.get_paths()["stdlib"])):
        for path in sorted(folder.rglob("*.py")):
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
                    text := ast.get_docstring(node)
                ):
                    yield text
    for path in sorted(Path("/usr/share/doc").rglob("*")):
        if path.is_file() and path.suffix in ("", ".md", ".txt") and path.stat().st_size < 2**21:
            yield path.read_text(encoding="utf-8", errors="ignore")


def vectors_of(sentences: list[str]) -> np.ndarray:
    """MiniLM's vectors, kept for the next run."""
    from knowledge.guidelines.minilm import MiniLM
    from knowledge.guidelines.shelves import _vectors

    mark = hashlib.sha256("\n".join(sentences).encode()).hexdigest()[:16]
    kept = CACHE / f"sentences-{mark}.npy"
    if kept.exists():
        return np.load(kept)
    started = time.perf_counter()

    def told(done: int) -> None:
        if done % 6400 == 0:
            print(f"  embedding {done:,} of {len(sentences):,}, {time.perf_counter() - started:.0f} s", file=sys.stderr)

    found = _vectors(MiniLM(), sentences, told)
    CACHE.mkdir(parents=True, exist_ok=True)
    np.save(kept, found)
    return found


def searching(count: int = 100_000) -> dict[str, Any]:
    """Milliseconds of whole searches (language, spelling, synonyms, embedding, both indexes, fusion) over `count` passages in eight bodies."""
    from knowledge.guidelines.ingest.chunks import Chunk
    from knowledge.guidelines.library import DocumentRow, now
    from knowledge.guidelines.minilm import MiniLM
    from knowledge.guidelines.search import GuidelineIndex
    from knowledge.guidelines.shelves import HNSW, collection_name, fill

    sentences = real_sentences(count)
    vectors = vectors_of(sentences)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        index = GuidelineIndex(Path(folder) / "g", MiniLM())
        each = len(sentences) // len(BODIES)
        started = time.perf_counter()
        for number, body in enumerate(BODIES):
            mine = range(number * each, (number + 1) * each)
            small = int(each * SMALL)
            ids: list[str] = []
            documents: list[str] = []
            for part, some in (("a", mine[:small]), ("b", mine[small:])):
                row = DocumentRow(id=f"gd_{body}{part}", key=f"{body}{part}", title=f"{body} {part}", organisation="bench", version="1", date="2024",
                                  source="bench", sha256=f"{body}{part}", kind="md", pages=0, passages=len(some), body=body,
                                  disease=[body, "rare"] if part == "a" else [body], modality=[], status="adding", added=now(), warnings=[])  # fmt: skip
                index.library.keep(row, [""], [Chunk("Text", 1, 0, 0, sentences[n]) for n in some], b"", False)
                index.library.publish(row.id, "current", [])
                ids += [f"{row.id}.{n}" for n in range(1, len(some) + 1)]
                documents += [row.id] * len(some)
            made = index.bodies.chroma.client.create_collection(collection_name(body, ids, index.embedder.name), embedding_function=None,
                                                         configuration=HNSW)  # type: ignore[arg-type]  # fmt: skip
            fill(made, ids, vectors[list(mine)], documents)
        filled = time.perf_counter() - started
        started = time.perf_counter()
        shelves = index.bodies.shelves()
        opened = time.perf_counter() - started
        total = sum(len(s.ids) for s in shelves.values())
        asked = [" ".join(sentences[n].split()[:12]) for n in rng.choice(len(sentences), 200, replace=False)]
        for query in asked[:5]:
            index.search(query, 5)
        plain = [_ms(lambda q=q: index.search(q, 5)) for q in asked]
        organ = [_ms(lambda q=q: index.search(q, 5, disease="liver")) for q in asked]
        rare = [_ms(lambda q=q: index.search(q, 5, disease="rare")) for q in asked]
        embedding = [_ms(lambda q=q: index.embedder.embed([q])) for q in asked]
        probes = index.embedder.embed(asked)
        shares = []
        for number, body in enumerate(BODIES):
            own = vectors[number * each : (number + 1) * each]
            names = shelves[body].ids
            for probe in probes[:100]:
                exact = {names[i] for i in np.argsort(-(own @ probe))[:10]}
                shares.append(len(exact & set(shelves[body].dense(probe, 10))) / 10)
    return {"passages": total, "bodies": len(BODIES), "filled_per_s": round(len(sentences) / filled), "opened_s": round(opened, 1),
            "search_ms": _spread(plain), "filtered_by_organ_ms": _spread(organ), f"filtered_to_{SMALL:.0%}_ms": _spread(rare),
            "embedding_ms": _spread(embedding), "recall@10_of_exact": round(statistics.mean(shares), 4)}  # fmt: skip


def _ms(work: Any) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 1), "p95": round(float(np.percentile(values, 95)), 1)}


def a_pdf(pages: int, sentences: list[str], each: int = 22) -> bytes:
    """A PDF of real sentences: heading, five paragraphs a page, a ruled table on every tenth."""
    from reportlab.lib import colors
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table

    styles, flow = getSampleStyleSheet(), []
    clean = [s.replace("&", "and").replace("<", "(").replace(">", ")") for s in sentences]
    for page in range(pages):
        some = [clean[(page * each + n) % len(clean)] for n in range(each)]
        flow.append(Paragraph(f"{page + 1} Chapter {page + 1}", styles["Heading1"]))
        flow += [Paragraph(" ".join(some[n::5])[:900], styles["BodyText"]) for n in range(5)]
        if page % 10 == 0:
            flow.append(
                Table(
                    [["agent", "dose"], ["one", "1 mg"], ["two", "2 mg"]], style=[("GRID", (0, 0), (-1, -1), 0.5, colors.black)]
                )
            )
        flow.append(PageBreak())
    out = io.BytesIO()
    SimpleDocTemplate(out, title=f"Bench guideline of {pages} pages").build(flow)
    return out.getvalue()


def taking_in(pages: int = 300) -> dict[str, Any]:
    """Seconds to take in a PDF of real text, from its bytes to its passages being found."""
    from knowledge.guidelines.adding import About, Adder
    from knowledge.guidelines.minilm import MiniLM
    from knowledge.guidelines.search import GuidelineIndex

    data = a_pdf(pages, real_sentences(7000))
    with tempfile.TemporaryDirectory() as folder:
        index = GuidelineIndex(Path(folder) / "g", MiniLM())
        index.warm()
        steps: list[tuple[str, str, int, int]] = []
        started = time.perf_counter()
        done = Adder(index).add([("bench.pdf", data)], About(date="2024"), lambda *step: steps.append(step))
        seconds = time.perf_counter() - started
    (document,) = done.documents
    return {"pages": document.pages, "passages": document.passages, "megabytes": round(len(data) / 2**20, 1), "seconds": round(seconds, 1),
            "progress_events": len(steps)}  # fmt: skip


def figures() -> dict[str, float]:
    """Both, as flat figures."""
    found: dict[str, float] = {}
    for head, part in (("guidelines_300_pages", taking_in()), ("guidelines_100_000_passages", searching())):
        for name, value in part.items():
            values = value if isinstance(value, dict) else {"": value}
            found |= {f"{head}_{name}{'_' if key else ''}{key}": v for key, v in values.items()}
    return found


if __name__ == "__main__":
    import json

    which = sys.argv[1] if len(sys.argv) > 1 else ""
    print(json.dumps(taking_in(int(which)) if which.isdigit() else figures(), indent=1))
