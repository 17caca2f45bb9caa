"""Whole answers to the evaluation's questions, on cases built for real; `python -m tests.answers` prints what was missed of the seen half."""

import argparse
import asyncio
import json
import re
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from agent.answer import Answer
from agent.testing import dicom_series, sphere
from knowledge import sample
from knowledge.studies.archive import Archive
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming
from tests.asked import DATA, Line, cases, lines

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_BRAIN_FILES = {"FLAIR": "flair.nii.gz", "T1c": "t1c.nii.gz", "T1": "t1.nii.gz", "T2": "t2.nii.gz"}
_KINDS = {"lab": "laboratory", "genomics": "laboratory", "score": "survey", "history": "social-history"}


def build(archive: Archive, name: str) -> str | None:
    """Put the case into `archive`; gives its patient's id, None for no case."""
    case = cases()[name]
    if not case:
        return None
    if case.get("sample"):
        sample.load(archive)
        return sample.PATIENT_ID
    person = f"case-{name}"
    for study in case.get("studies", []):
        _study(archive, person, study)
    for number, report in enumerate(case.get("reports", []), 1):
        if report.get("text"):
            archive.add(
                [Incoming(f"{report['kind']}-{number}.txt", report["text"].encode())],
                Hints(patient_id=person, study_date=report["date"]),
            )
    bundle = _bundle(person, case)
    archive.add([Incoming("record.json", json.dumps(bundle).encode())], Hints(patient_id=person))
    return person


def _study(archive: Archive, person: str, study: dict[str, Any]) -> None:
    hints = Hints(patient_id=person, study_date=study["date"], modality=study["modality"], body_part=study["body_part"])
    if study["modality"] == "MR" and study["body_part"] == "BRAIN":
        files = [Incoming(f, _brain(f, person, study["date"])) for f in (_BRAIN_FILES[s] for s in study["sequences"])]
        archive.add(files, hints)
        return
    shape, spacing = ((64, 64, 1), 0.3) if study["modality"] in ("MG", "DX") else ((96, 96, 40), 2.5)
    affine = LPS @ np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    ball = sphere(shape, affine, 9.0)
    body = sphere(shape, affine, 95.0)
    signed = study["modality"] == "CT"
    array = (
        np.where(ball, 60, np.where(body, -400 if study["body_part"] == "CHEST" else 40, -1000))
        if signed
        else np.where(ball, 900, np.where(body, 400, 0))
    )
    date = study["date"].replace("-", "")
    for sequence in study.get("sequences") or [study["description"]]:
        files = dicom_series(array.astype(np.int16), affine, patient_id=person, description=sequence, date=date,
                             body_part=study["body_part"], modality=study["modality"], study_uid=f"1.2.826.0.1.3680043.8.498.{date}{len(person)}")  # fmt: skip
        archive.add([Incoming(f"{sequence}-{k}.dcm", f) for k, f in enumerate(files)], Hints())


def _brain(name: str, person: str, date: str) -> bytes:
    """A sequence of the sample, its voxels a little larger for a patient's later study: the tumour is larger by 1.05 cubed."""
    image = nib.load(sample.FOLDER / name)
    late = person.endswith("brain2") and date > "2024-02"
    affine = image.affine @ np.diag([1.05, 1.05, 1.05, 1.0]) if late else image.affine
    return bytes(nib.Nifti1Image(np.asarray(image.dataobj), affine).to_bytes()) if late else (sample.FOLDER / name).read_bytes()


def _bundle(person: str, case: dict[str, Any]) -> dict[str, Any]:
    """The case's patient and records as FHIR R4."""
    about = case.get("patient", {})
    born = {"birthDate": f"{2024 - about['age']}-01-01"} if about.get("age") else {}
    sex = {"gender": {"F": "female", "M": "male"}[about["sex"]]} if about.get("sex") else {}
    found: list[dict[str, Any]] = [
        {
            "resourceType": "Patient",
            "id": person,
            "identifier": [{"value": person}],
            "name": [{"text": "Phantom Made"}],
            **born,
            **sex,
        }
    ]
    subject = {"reference": f"Patient/{person}"}
    for number, record in enumerate(case.get("records", []), 1):
        name, made = record["name"], {"id": f"r{number}", "subject": subject}
        value = record.get("value")
        if record["kind"] == "medication":
            dose = [{"text": f"{value} {record.get('unit')}"}] if value else []
            found.append({"resourceType": "MedicationStatement", **made, "status": "active", "medicationCodeableConcept": {"text": name},
                          "effectiveDateTime": record.get("date"), "dosage": dose})  # fmt: skip
        elif record["kind"] == "condition":
            found.append(
                {"resourceType": "Condition", **made, "code": {"text": name}, "clinicalStatus": {"coding": [{"code": "active"}]}}
            )
        else:
            quantity = (
                {"valueQuantity": {"value": value, "unit": record.get("unit")}}
                if isinstance(value, int | float)
                else {"valueString": str(value)}
            )
            found.append({"resourceType": "Observation", **made, "status": "final", "code": {"text": name}, "effectiveDateTime": record.get("date"),
                          "category": [{"coding": [{"code": _KINDS[record["kind"]]}]}], **quantity})  # fmt: skip
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": {k: v for k, v in r.items() if v is not None}} for r in found],
    }


@cache
def wanted_arguments() -> dict[str, dict[str, dict[str, str]]]:
    """Question -> tool -> argument -> pattern."""
    loaded: dict[str, dict[str, dict[str, str]]] = yaml.safe_load((DATA / "asked_arguments.yaml").read_text(encoding="utf-8"))
    return loaded


def arguments_right(line: Line, answer: Answer) -> list[bool]:
    """For each argument that the question's calls have to carry, whether one call of that tool does."""
    found = []
    for tool, arguments in wanted_arguments().get(line.question, {}).items():
        calls = [s.arguments for s in answer.plan if s.tool == tool]
        found += [
            any(re.search(pattern, json.dumps(c.get(name), ensure_ascii=False)) for c in calls)
            for name, pattern in arguments.items()
        ]
    return found


def judged(line: Line, answer: Answer, seconds: float) -> dict[str, Any]:
    """How one answer did."""
    called = {s.tool for s in answer.plan}
    text = " ".join([answer.text, *(m.what for m in answer.missing)])
    known = {e.id for e in answer.evidence}
    cited = [set(s.evidence) <= known and bool(s.evidence) for s in answer.statements]
    tools = sum(s.seconds for s in answer.plan)
    return {"id": line.id, "split": line.split, "kind": line.kind, "language": line.language,
            "recall": len(line.expected & called) / len(line.expected) if line.expected else None,
            "precision": len(called & (line.expected | line.optional)) / len(called) if called else 1.0,
            "must": [bool(re.search(m, text)) for m in line.must], "violations": [m for m in line.must_not if re.search(m, text)],
            "abstained": answer.abstained == line.abstain, "declined": answer.abstained, "should_decline": line.abstain, "cited": cited,
            "arguments": arguments_right(line, answer), "accepted": [s.status != "failed" for s in answer.plan], "left_out": len(answer.left_out),
            "own_ms": round(1000 * max(0.0, seconds - tools), 1), "answer_language": answer.language == line.language}  # fmt: skip


async def answers(wanted: list[Line], settings: Any = None) -> list[tuple[Line, Answer, dict[str, Any]]]:
    """Each line asked in a conversation of its own, with its earlier turns asked before it."""
    from serving.house import build as house_of
    from serving.settings import Settings

    done = []
    with TemporaryDirectory() as folder:
        house = house_of(settings(Path(folder)) if settings else Settings(data=Path(folder)))
        house.warm()
        patients: dict[str, str | None] = {}
        async with house.assistant as assistant:
            for line in wanted:
                if line.case not in patients:
                    patients[line.case] = build(house.archive, line.case)
                person = patients[line.case]
                conversation = assistant.open(patient_id=person)
                told = [text for pair in line.history for text in pair]
                started = time.perf_counter()
                answer = await assistant.ask(conversation.id, line.question, history=told)
                done.append((line, answer, judged(line, answer, time.perf_counter() - started)))
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a case")
    parser.add_argument("--full", action="store_true", help="print the answers")
    args = parser.parse_args()
    wanted = [x for x in lines() if x.split == "seen" and x.case.startswith(args.only)]
    for line, answer, row in asyncio.run(answers(wanted)):
        lacking = [m for m, ok in zip(line.must, row["must"], strict=True) if not ok]
        if (
            lacking
            or row["violations"]
            or not row["abstained"]
            or not all(row["cited"])
            or not row["answer_language"]
            or row["left_out"]
        ):
            print(line.id, line.case, line.question, "| LACKS", lacking, "| VIOLATES", row["violations"], "" if row["abstained"] else f"| abstain {answer.abstained}",
                  answer.language, row["left_out"] and answer.left_out, "" if all(row["arguments"]) else f"| ARGUMENTS {[(s.tool, s.arguments) for s in answer.plan]}")  # fmt: skip
            if args.full:
                print("    ", answer.text[:900].replace("\n", "\n     "), [(s.tool, s.status, s.message) for s in answer.plan])


if __name__ == "__main__":
    main()
