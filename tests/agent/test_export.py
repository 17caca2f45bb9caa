"""Feedback as training data: TRL's forms, nothing of the patient's identity, and only what evidence carries."""

import json
from pathlib import Path

from agent.answer import PlannerRef
from agent.assistant import Assistant
from agent.memory import Memory
from agent.planner.builtin import NAME, BuiltinPlanner
from agent.training.export import Scrub, corrected, export
from knowledge import sample
from knowledge.case import Case, open_case
from knowledge.studies.archive import Archive
from tools.base import Resources

SECRET = b"0" * 32


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_identity_is_taken_out_of_texts() -> None:
    scrub = Scrub(["MRN-4711", "Meier^Anna"], SECRET)
    text = scrub.text(
        "Frau Meier (MRN-4711), Anna MEIER, seen 2024-05-02 and 03.05.2024 by Dr. Jane Smith, call +49 6221 123456, a@b.de; 44.6 mm, E12."
    )
    assert not any(w in text for w in ("Meier", "MEIER", "Anna", "4711", "Smith", "123456", "a@b.de", "2024-05-02", "03.05.2024"))
    assert "44.6 mm" in text and "E12" in text
    assert (
        Scrub(["MRN-4711", "Meier^Anna"], SECRET).text("2024-05-02")
        == scrub.text("2024-05-02")
        != Scrub(["MRN-4711"], b"1" * 32).text("2024-05-02")
    )
    assert scrub.left({"a": "anna"}) and not scrub.left({"a": "an annual scan"})


async def test_ratings_become_rows_and_what_evidence_doesnt_carry_does_not(
    resources: Resources, sample_archive: Archive, tmp_path: Path
) -> None:
    memory = Memory(tmp_path / "m.db")
    ref = PlannerRef(kind="builtin", model=NAME)
    async with Assistant(sample_archive, resources, memory, BuiltinPlanner.of(resources.embedder), ref) as assistant:
        one = assistant.open(patient_id=sample.PATIENT_ID).id
        good = await assistant.ask(one, "What is the creatinine?")
        wrong = await assistant.ask(one, "What are the lab values?")
        lost = await assistant.ask(one, "What is the MGMT status?")
        plain = await assistant.ask(one, f"What is the KPS of {sample.PATIENT_ID}?")
    for answer, rating, correction in ((good, "up", None), (wrong, "down", "Creatinine: 71 µmol/L. The moon is made of cheese."),
                                       (lost, "down", "MGMT is unmethylated."), (plain, "down", None), (plain, "up", None)):  # fmt: skip
        memory.rate(one, answer.id, rating, correction)
    assert [s.text for s in corrected("Creatinine: 71 µmol/L. The moon is made of cheese.", wrong.evidence)] == [
        "Creatinine: 71 µmol/L."
    ]

    def case_of(conversation_id: str) -> Case | None:
        return open_case(sample_archive, sample.PATIENT_ID, None)

    done = export(memory, case_of, SECRET, tmp_path / "out")
    assert (done.preference, done.rated) == (1, 4) and any("no sentence of the correction" in why for why in done.left_out)
    sft = rows(tmp_path / "out" / "sft.jsonl")
    assert len(sft) == done.sft == 5  # two answers rated up, each as a plan and as an answer, and one correction
    for row in sft:
        assert set(row) == {"prompt", "completion", "tools"} and row["completion"][0]["role"] == "assistant"  # type: ignore[index]
    (pair,) = rows(tmp_path / "out" / "preference.jsonl")
    assert set(pair) == {"prompt", "chosen", "rejected", "tools"} and "cheese" not in json.dumps(pair)
    assert {r["label"] for r in rows(tmp_path / "out" / "rated.jsonl")} == {True, False}
    whole = "".join(p.read_text(encoding="utf-8") for p in (tmp_path / "out").iterdir())
    assert sample.PATIENT_ID not in whole and one not in whole and good.id not in whole and "2026-10-02" not in whole
    about = json.loads((tmp_path / "out" / "provenance.json").read_text(encoding="utf-8"))
    assert len(about["rows"]) == done.sft + done.preference + done.rated and about["rows"][0]["planner"]["model"] == NAME

    chosen = export(memory, case_of, SECRET, tmp_path / "weak", chooses=True)
    said = [
        json.loads(r["completion"][0]["content"]) for r in rows(tmp_path / "weak" / "sft.jsonl") if r["completion"][0]["content"]
    ]  # type: ignore[index]
    assert chosen.sft == 5 and all(set(s) == {"abstained", "evidence"} for s in said)
    gone = export(memory, lambda _: None, SECRET, tmp_path / "gone")
    assert gone.sft == gone.rated == 0 and sum(gone.left_out.values()) == 4
