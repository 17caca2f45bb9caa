"""Scores of the field's work: differential, follow-ups, grading, drafts. `python -m tests.eval_field [--misses]`; report checks: tests.eval_reports."""

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from agent import grounding
from agent.memory import Memory
from knowledge import sample
from knowledge.case import open_case
from knowledge.entities.ranking import rank
from knowledge.guidelines.minilm import MiniLM
from knowledge.guidelines.search import GuidelineIndex
from knowledge.records.followups import follow_ups
from knowledge.records.model import Report
from knowledge.records.search import RecordSearch
from knowledge.reporting.drafts import By
from knowledge.studies.archive import Archive
from knowledge.studies.model import Study, StudySource
from knowledge.teaching.items import item
from tests.eval_reports import wilson
from tools.base import Bench, Resources
from tools.diagnosis.observations import observe
from tools.models.catalogue import Catalogue
from tools.registry import tool_types
from tools.teaching.grading import grade

DATA = yaml.safe_load((Path(__file__).parent / "data" / "field_work.yaml").read_text(encoding="utf-8"))


def _share(right: int, n: int) -> dict[str, Any]:
    return {"value": round(right / n, 3), "interval": wilson(right, n), "n": n}


def differential(half: str, misses: bool = False) -> dict[str, Any]:
    """How often the entity that a vignette was written for is first, and among the first three."""
    first = third = 0
    for organ, words, wanted in DATA["differential"][half]:
        observed = {o.feature: o.present for o in observe(Bench(None), organ, None, words)}
        names = [r.entity.name for r in rank(organ, observed).ranked]
        first += names[0] == wanted
        third += wanted in names[:3]
        if misses and names[0] != wanted:
            print(f"  differential {wanted}: {names[:3]} from {observed} <{words}>")
    n = len(DATA["differential"][half])
    return {"top1": _share(first, n), "top3": _share(third, n)}


def _study(day: str, modality: str, part: str, number: int) -> Study:
    from knowledge.studies.model import Geometry, Series

    series = Series(id=f"x{number}", series_uid=f"1.{number}", modality=modality, description="", body_part=part, instances=1, shape=[4, 4, 4],
                    spacing_mm=None, geometry=Geometry.OK)  # fmt: skip
    return Study(id=f"s{number}", handle=f"S{number}", patient_id="P", study_instance_uid=None, date=day, description="", modalities=[modality], body_part=part,
                 series=[series], source=StudySource(format="dicom", files=1))  # fmt: skip


def followup(half: str, misses: bool = False) -> dict[str, Any]:
    """How often status and due date are the expected ones."""
    right = 0
    for day, text, later, today, wanted in DATA["follow_up"][half]:
        report = Report(id="r", handle="R1", patient_id="P", title="Report", date=day, text=text)
        found = follow_ups([report], [_study(*s, n) for n, s in enumerate(later, 1)], date.fromisoformat(today))
        if wanted == "none":
            good = not found
        else:
            good = bool(found) and found[0].status == wanted["status"] and wanted.get("due", found[0].due) == found[0].due
        right += good
        if misses and not good:
            print(f"  follow-up {wanted}: {[(f.status, f.due, f.modalities, f.body_part) for f in found]} <{text!r}>")
    return {"right": _share(right, len(DATA["follow_up"][half]))}


def grading(half: str, misses: bool = False) -> dict[str, Any]:
    """Points granted against those that the writer would grant."""
    hit = wanted_n = given = 0
    for key, answer, wanted in DATA["quiz"][half]:
        points = item(key).points
        got = {points.index(p) for p in grade(item(key), answer).has}
        hit += len(got & set(wanted))
        wanted_n += len(wanted)
        given += len(got)
        if misses and got != set(wanted):
            print(f"  quiz {key}: wanted {wanted}, granted {sorted(got)} <{answer}>")
    return {"recall": _share(hit, wanted_n), "precision": _share(hit, given)}


def drafts() -> dict[str, Any]:
    """Share of the sample case's draft sentences that their evidence carries, over templates, languages and styles."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        archive = Archive(root / "archive")
        sample.load(archive)
        embedder = MiniLM()
        resources = Resources(Catalogue(), GuidelineIndex(root / "chroma", embedder), embedder, RecordSearch(embedder))
        bench = Bench(resources, open_case(archive, sample.PATIENT_ID))
        memory = Memory(root / "c.db")
        carried = n = 0
        for arguments in [
            *({"language": x} for x in ("en", "de", "es", "fr", "zh")),
            {"style": "full"},
            {"template": "tumour_board"},
        ]:
            reply = tool_types()["draft_report"].bound(bench).reply(arguments)
            assert reply.made is not None
            draft = resources.drafts.get(reply.made.id)
            evidence = memory.number(draft.id, draft.facts, "x")
            for one in [s for s in draft.sentences if s.by is By.EVIDENCE]:
                n += 1
                carried += not grounding.problems(one.text, [evidence[i] for i in one.facts])
        return {"sentences_carried": _share(carried, n)}


def scores(misses: bool = False) -> dict[str, Any]:
    halves = ("seen", "held")
    return {"differential": {h: differential(h, misses) for h in halves}, "follow_up": {h: followup(h, misses) for h in halves},
            "quiz": {h: grading(h, misses) for h in halves}, "drafts": drafts()}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--misses", action="store_true")
    parser.add_argument("--half")
    asked = parser.parse_args()
    if asked.half:
        print(
            json.dumps(
                {
                    "differential": differential(asked.half, asked.misses),
                    "follow_up": followup(asked.half, asked.misses),
                    "quiz": grading(asked.half, asked.misses),
                }
            )
        )
    else:
        from tests import eval_reports

        print(json.dumps({"check_report": eval_reports.scores(), **scores(asked.misses)}, indent=1))
