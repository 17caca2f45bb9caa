"""Scores of the field's work: differential, follow-ups, grading, drafts. `python -m tests.eval_field [--misses]`; report checks: tests.eval_reports."""

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
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
from knowledge.studies.intake import Hints
from knowledge.studies.model import Study, StudySource
from knowledge.studies.unpack import Incoming, from_bytes
from knowledge.teaching.items import item
from tests.eval_reports import wilson
from tools.base import Bench, Resources
from tools.considerations import considered
from tools.diagnosis.measured import crosses_midline, ring_enhancement, t2_flair_mismatch
from tools.diagnosis.observations import observe
from tools.models.catalogue import Catalogue
from tools.models.masks import Segmentation
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


def _ball(shape: tuple[int, int, int], centre: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(radius**2 >= ((np.indices(shape).T - centre) ** 2).sum(-1).T)


def measured_signs(n: int = 20, seed: int = 0) -> dict[str, Any]:
    """Made lesions in made heads, `n` that show each measured sign and `n` that don't, with noise and changing size: how often each is told right."""
    random = np.random.default_rng(seed)
    bundle = Catalogue().bundles["brain_mri_glioma"]
    regions = {r.name: r.labels for r in bundle.card.regions}
    bright = regions["enhancing tumour"][0]
    dull = next(v for v in regions["tumour core"] if v != bright)
    shape = (64, 72, 56)
    told: dict[str, list[bool]] = {
        f"{sign} {side}": [] for sign in ("ring", "mismatch", "midline") for side in ("shown", "not shown")
    }
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "archive")
        for number in range(2 * n):
            shown = number < n
            radius = float(random.uniform(9, 13))
            centre = np.array([random.uniform(18, 22), random.uniform(30, 42), random.uniform(24, 32)])
            person = f"P{number}"
            head = (((np.indices(shape).T - np.array([32, 36, 28])) / np.array([28, 33, 25])) ** 2).sum(-1).T <= 1
            lesion = _ball(shape, centre, radius)
            for name in ("T2", "FLAIR"):
                image = np.where(head, 400 + 40 * random.standard_normal(shape), 0)
                image[lesion & head] = 700 + 40 * random.standard_normal((lesion & head).sum())
                inside = _ball(shape, centre, radius - 4) & head
                if name == "FLAIR" and shown:
                    image[inside] = 390 + 40 * random.standard_normal(inside.sum())
                made = nib.Nifti1Image(image.astype(np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]))
                archive.add(
                    from_bytes(f"{name.lower()}.nii.gz", made.to_bytes()),
                    Hints(patient_id=person, study_date="2026-01-01", modality="MR", body_part="BRAIN"),
                )
            case = open_case(archive, person)
            bench = Bench(None, case)
            study = case.studies[0]
            series = next(q for q in study.series if q.sequence == "FLAIR")
            volume = case.volume(series)
            mask = np.zeros(volume.array.shape, np.uint8)
            mask[lesion & head] = dull

            def done(labels: np.ndarray, study: Study = study, series: Any = series, volume: Any = volume) -> Segmentation:
                return Segmentation(
                    study, series, bundle, volume.like(labels), None, None, volume, "/v1/x", False, ["FLAIR", "T1", "T1c", "T2"]
                )

            flair = t2_flair_mismatch(bench, done(mask))
            told[f"mismatch {'shown' if shown else 'not shown'}"].append(flair is not None and flair.present is shown)
            ring = mask.copy()
            rim = lesion & head & ~_ball(shape, centre, radius - 3)
            side = np.indices(shape)[0] < (100 if shown else centre[0] - radius * random.uniform(0.0, 0.6))
            ring[rim & side] = bright
            found = ring_enhancement(bench, done(ring))
            told[f"ring {'shown' if shown else 'not shown'}"].append(found is not None and found.present is shown)
            moved = mask.copy()
            if shown:
                moved[_ball(shape, np.array([32.0, centre[1], centre[2]]), radius) & head] = dull
            across = crosses_midline(bench, done(moved))
            told[f"midline {'shown' if shown else 'not shown'}"].append(across is not None and across.present is shown)
    return {k: _share(sum(v), len(v)) for k, v in told.items()}


def options(misses: bool = False) -> dict[str, Any]:
    """Written records: whether what speaks for and against the option that a rule names is found, and nothing else."""
    right = 0
    rows = DATA["treatment"]
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "archive")
        for number, (advice, inputs, record, wanted) in enumerate(rows):
            person = f"P{number}"
            base = {"subject": {"reference": "Patient/p"}, "patient": {"reference": "Patient/p"}}
            entries = [{"resourceType": "Patient", "id": "p", "identifier": [{"value": person}], "birthDate": "1960-01-01"}, *(
                {**r, **base, "id": f"r{n}"} for n, r in enumerate(_resources(record)))]  # fmt: skip
            bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in entries]}
            archive.add([Incoming("b.json", json.dumps(bundle).encode())], Hints(patient_id=person))
            told, _, _ = considered(open_case(archive, person), "gbm_mgmt_stupp", advice, inputs)
            got = {(p["effect"], p["say"].split(":")[0].split(" (")[0]) for f in told for p in f.value["points"]}
            good = got == {(e, s) for e, s in wanted}
            right += good
            if misses and not good:
                print(f"  treatment {advice}: wanted {wanted}, got {sorted(got)}")
    return {"right": _share(right, len(rows))}


def _resources(record: dict[str, Any]) -> list[dict[str, Any]]:
    active = {"clinicalStatus": {"coding": [{"code": "active"}]}}
    found = [
        {"resourceType": "Condition", "code": {"text": c}, "recordedDate": "2026-01-01", **active}
        for c in record.get("conditions", [])
    ]
    found += [
        {"resourceType": "AllergyIntolerance", "code": {"text": a}, "recordedDate": "2026-01-01"}
        for a in record.get("allergies", [])
    ]
    found += [{"resourceType": "MedicationStatement", "status": "active", "medicationCodeableConcept": {"text": m}, "effectiveDateTime": "2026-01-01"}
              for m in record.get("medication", [])]  # fmt: skip
    found += [
        {"resourceType": "Procedure", "status": "completed", "code": {"text": p}, "performedDateTime": "2025-01-01"}
        for p in record.get("procedures", [])
    ]
    found += [{"resourceType": "Observation", "status": "final", "code": {"text": n}, "effectiveDateTime": "2026-01-01",
               "valueQuantity": {"value": v, "unit": u, "code": u, "system": "http://unitsofmeasure.org"}} for n, v, u in record.get("labs", [])]  # fmt: skip
    return found


def scores(misses: bool = False) -> dict[str, Any]:
    halves = ("seen", "held")
    return {"differential": {h: differential(h, misses) for h in halves}, "follow_up": {h: followup(h, misses) for h in halves},
            "quiz": {h: grading(h, misses) for h in halves}, "signs_on_phantoms": measured_signs(), "treatment": options(misses), "drafts": drafts()}  # fmt: skip


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
