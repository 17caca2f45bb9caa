"""The ten questions of the sample case, asked through `consilium ask --json`; `make questions`, and the last step of CI.

Each check reads one Answer as the public interface has it. Used by the tests too, which ask through the assistant.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowledge import sample

Answer = dict[str, Any]


def number(answer: Answer, title: str) -> float:
    return next(float(e["value"]) for e in answer["evidence"] if e["title"] == title)


def said(answer: Answer) -> str:
    return " ".join(s["text"] for s in answer["statements"])


def tools(answer: Answer) -> set[str]:
    return {s["tool"] for s in answer["plan"] if s["status"] == "ok"}


def sees(answer: Answer) -> None:
    assert {"list_studies", "segment"} <= tools(answer)
    assert "right" in said(answer) and "FLAIR" in said(answer)
    assert any(e["kind"] == "finding" and e["source"].get("mask") for e in answer["evidence"])


def sizes(answer: Answer) -> None:
    # The reference (consensus of five algorithms) has 24.2 mL; the model's Dice against it is 0.83.
    assert 20 < number(answer, "Volume") < 29
    long_mm, short_mm = number(answer, "Longest axial diameter"), number(answer, "Perpendicular diameter")
    assert 38 < long_mm < 48 and 20 < short_mm < long_mm
    for value, unit in ((number(answer, "Volume"), "mL"), (long_mm, "mm"), (short_mm, "mm")):
        assert f"{value} {unit}" in said(answer), (value, unit)


def sizes_in(pattern: str) -> Callable[[Answer], None]:
    def check(answer: Answer) -> None:
        sizes(answer)
        assert re.search(pattern, said(answer)), said(answer)

    return check


def kind(answer: Answer) -> None:
    (finding,) = [e for e in answer["evidence"] if e["source"].get("model") == "brain_mri_tumour_type"]
    assert finding["value"]["label"] == "glioma" and finding["value"]["probability"] > 0.5
    assert "glioma" in said(answer) and "%" in said(answer)
    assert any("histology" in m["what"] for m in answer["missing"])


def ventricle(answer: Answer) -> None:
    assert "left lateral ventricle is of normal width" in said(answer)
    assert all(e["kind"] == "report" for e in answer["evidence"])
    assert "right lateral" not in said(answer)


def treatment(answer: Answer) -> None:
    text = said(answer)
    for words in ("60 Gy", "30 fractions", "temozolomide", "75 mg/m²", "maintenance", "MGMT", "tumour board"):
        assert words in text, words
    rule, *weighed = [e for e in answer["evidence"] if e["kind"] == "rule"]
    assert weighed and all(w["title"].startswith("For and against: ") for w in weighed)
    assert rule["value"]["category"] == "60 Gy/30 + TMZ"
    inputs = {"age_years": 58, "kps": 90, "idh_status": "wildtype", "mgmt_status": "methylated"}
    assert rule["source"]["inputs"] == inputs
    assert any(e["kind"] == "guideline" and e["source"]["date"] for e in answer["evidence"])


def kidney(answer: Answer) -> None:
    (rule,) = [e for e in answer["evidence"] if e["kind"] == "rule"]
    assert abs(rule["value"]["values"]["egfr_ml_min_1_73m2"] - 85) < 1
    assert "71 µmol/L" in said(answer) and "group II" in said(answer)
    assert any("agent" in m["what"] for m in answer["missing"])


def growth(answer: Answer) -> None:
    assert answer["abstained"]
    assert any("earlier examination" in m["what"] for m in answer["missing"])
    assert "no earlier study" in answer["text"] and not re.search(r"\bhas grown|unchanged|stable\b", answer["text"])


def metastases(answer: Answer) -> None:
    assert answer["abstained"] and not answer["statements"]
    assert "liver metastases" in answer["text"] and "pembrolizumab" not in said(answer)
    assert {"patient_record", "retrieve_reports"} <= tools(answer)


def centimetres(answer: Answer) -> None:
    long_mm = number(answer, "Longest axial diameter")
    assert f"{long_mm / 10:.2f} cm" in said(answer) and "cm³" in said(answer)


@dataclass(frozen=True)
class Asked:
    """A question, the questions before it, its language and what its answer has to hold."""

    text: str
    check: Callable[[Answer], None]
    before: tuple[str, ...] = ()
    language: str = "en"
    abstained: bool = False


SIZE = "How big is the tumour, in mL and mm?"
QUESTIONS = [
    Asked("What do you see on this MRI?", sees),
    Asked(SIZE, sizes),
    Asked("What tumour type is most likely, and how sure are you?", kind),
    Asked("What did the last report say about the left ventricle?", ventricle),
    Asked(
        "Given IDH wild-type and MGMT methylated, what do guidelines recommend after surgery for a 58-year-old with KPS 90?",
        treatment,
    ),
    Asked("Is her kidney function good enough for gadolinium?", kidney),
    Asked("Has it grown since the last scan?", growth, abstained=True),
    Asked("Should we give pembrolizumab for the liver metastases?", metastases, abstained=True),
    Asked("and in cm?", centimetres, before=(SIZE,)),
    Asked("肿瘤有多大?用毫升和毫米表示。", sizes_in("体积.*最长径"), language="zh"),
    Asked("Wie groß ist der Tumor, in mL und mm?", sizes_in("Volumen.*Durchmesser"), language="de"),
]


def judge(asked: Asked, answer: Answer) -> None:
    """Raise AssertionError where the answer is wrong or a sentence has no evidence."""
    assert answer["language"] == asked.language
    assert answer["abstained"] == asked.abstained
    assert not answer["left_out"]
    known = {e["id"] for e in answer["evidence"]}
    for statement in answer["statements"]:
        assert statement["evidence"] and set(statement["evidence"]) <= known
    for step in answer["plan"]:
        assert step["status"] == "ok", step
    asked.check(answer)


def main() -> int:
    wrong = 0
    with tempfile.TemporaryDirectory() as data:
        imported = [sys.executable, "-m", "serving", "import", str(sample.FOLDER), "--data", data, "--patient-id", sample.PATIENT_ID,
                    "--study-date", sample.STUDY_DATE]  # fmt: skip
        subprocess.run(imported, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for asked in QUESTIONS:
            before = [x for b in asked.before for x in ("--before", b)]
            run = subprocess.run(
                [sys.executable, "-m", "serving", "ask", "--patient", sample.PATIENT_ID, "--data", data, "-q", asked.text, "--json", *before],
                capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1],
            )  # fmt: skip
            try:
                assert run.returncode == 0, run.stderr[-800:]
                judge(asked, json.loads(run.stdout))
                print(f"right  {asked.text}")
            except (AssertionError, ValueError, StopIteration, KeyError) as error:
                wrong += 1
                print(f"WRONG  {asked.text}\n       {type(error).__name__} {error}\n       {run.stdout[:600]}")
    print(f"{len(QUESTIONS) - wrong} of {len(QUESTIONS)} right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
