"""The command line as a user runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agent.testing import dicom_series
from knowledge import sample
from tests.conftest import shared

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, **more
    )  # type: ignore[call-overload,no-any-return]


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['x', '--help']\nimport serving.cli\nheavy = {'torch', 'monai', 'chromadb', 'langgraph', 'fastapi'} & set(sys.modules)\nassert not heavy, heavy"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_ask_on_files_gives_one_answer_on_stdout(tmp_path: Path) -> None:
    done = run("ask", str(sample.FOLDER / "flair.nii.gz"), "--records", str(sample.FOLDER / "bundle.json"), "-q", "What is the creatinine?",
               "--json", "--out", str(tmp_path / "out"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "71 µmol/L" in answer["text"] and "patient_record" in done.stderr
    assert "71 µmol/L" in (tmp_path / "out" / "answer.html").read_text()


def test_records_belong_to_the_images_they_are_given_with(tmp_path: Path) -> None:
    files = dicom_series(np.ones((16, 16, 3), np.uint16), np.eye(4), patient_id="PACS-7")
    for number, data in enumerate(files):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    asked = ("-q", "What is the creatinine, and which studies are there?", "--json")
    done = run("ask", str(tmp_path), "--records", str(sample.FOLDER / "bundle.json"), *asked)
    assert done.returncode == 0, done.stderr
    assert {e["kind"] for e in json.loads(done.stdout)["evidence"]} == {"record", "finding"}
    mixed = run("ask", str(tmp_path), str(sample.FOLDER / "bundle.json"), *asked)
    assert mixed.returncode == 3 and "2 patients" in mixed.stderr


def test_ask_writes_pictures(data_with_sample: Path, tmp_path: Path) -> None:
    done = run(
        "ask", "--patient", sample.PATIENT_ID, "--data", str(data_with_sample), "-q", "How big is it?", "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "data:image/png;base64," in (tmp_path / "answer.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ask", "-q", "x"], 2),
        (["ask", "README.md", "-q", "x"], 3),
        (["ask", "no-such-file", "-q", "x"], 2),
        (["ask", "README.md"], 2),
        (["import", "README.md"], 3),
        (["serve", "--host", "0.0.0.0", "--no-auth"], 2),
        (["llm", "probe", "--llm-url", "http://127.0.0.1:9"], 4),
        (["tools", "show", "none"], 2),
        (["nonsense"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int, tmp_path: Path) -> None:
    done = run(*arguments, *(["--data", str(tmp_path)] if arguments[0] == "import" else []))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and done.stderr


def test_a_language_model_that_is_down_is_exit_4(data_with_sample: Path) -> None:
    done = run("ask", "--patient", sample.PATIENT_ID, "--data", str(data_with_sample), "-q", "How big is it?",
               "--llm-url", "http://127.0.0.1:9/v1", "--llm-model", "none")  # fmt: skip
    assert done.returncode == 4 and "language model" in done.stderr and "Traceback" not in done.stderr
    assert "built-in planner" in done.stdout and "27.9 mL" in done.stdout, (
        "what was answered instead is told, and says who answered"
    )


def test_lists_and_doctor(tmp_path: Path) -> None:
    assert "segment" in run("tools", "list").stdout
    assert "brain_mri_glioma" in run("models", "list").stdout
    assert "EANO" in run("guidelines", "list").stdout
    assert "/v1/studies" in run("openapi").stdout
    assert run("doctor", "--data", str(tmp_path)).returncode == 0


def test_plan_of_a_described_case(tmp_path: Path) -> None:
    questions = [json.loads(line) for line in shared("questions", "dev.jsonl").read_text().splitlines()]
    asked = next(q for q in questions if q["id"] == "qd-007")
    file = tmp_path / "case.json"
    file.write_text(json.dumps({"case": asked["case"], "history": asked["history"]}))
    done = run("plan", "--case", str(file), "-q", asked["question"], "--json")
    result = json.loads(done.stdout)
    assert {"segment", "measure"} <= set(result["tools"]) and result["abstain"] is False and result["language"] == "en"


def test_the_server_starts_prints_its_link_and_stops(tmp_path: Path) -> None:
    import httpx

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = subprocess.Popen([sys.executable, "-m", "serving", "serve", "--sample", "--data", str(tmp_path), "--port", port], cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})  # fmt: skip
    try:
        assert server.stdout is not None
        link = ""
        while "#key=" not in link:
            link = server.stdout.readline()
            assert link, "the server ended"
        key = link.strip().split("#key=")[1]
        for _ in range(100):
            try:
                ready = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        assert ready.json()["status"] == "ok"
        assert httpx.get(f"http://127.0.0.1:{port}/v1/studies").status_code == 401
        studies = httpx.get(f"http://127.0.0.1:{port}/v1/studies", headers={"Authorization": f"Bearer {key}"}).json()
        assert studies[0]["patient_id"] == sample.PATIENT_ID
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) is not None
