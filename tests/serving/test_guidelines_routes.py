"""Guidelines over HTTP and on the command line: adding with progress, refusing by name, opening at the page."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from knowledge.guidelines.library import Document
from serving.app import create_app
from serving.cli import app as commands
from serving.knowledge_page import written
from serving.settings import Settings
from tests.knowledge.test_guidelines import _pdf, _protocol
from tests.knowledge.test_rules import OWN

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(data=tmp_path_factory.mktemp("guided"), no_auth=True)
    with TestClient(create_app(settings), raise_server_exceptions=False) as made:
        yield made


def _post(client: TestClient, files: list[tuple[str, bytes]], **more):
    headers = more.pop("headers", {})
    return client.post("/v1/guidelines", files=[("files", f) for f in files], data=more, headers=headers)


def test_documents_go_in_and_open_at_their_page(client: TestClient) -> None:
    pdf = _pdf([[("Heading1", f"{n} Chapter"), ("BodyText", f"Chapter {n} is about nothing. " * 20)] for n in range(1, 4)]
               + [[("Heading1", "4 Spleen"), ("BodyText", "The spleen is imaged twice a year after trauma.")]])  # fmt: skip
    reply = _post(client, [("spleen.pdf", pdf), ("bad.pdf", b"%PDF-1.4 nothing"), ("rule.yaml", OWN.encode())],
                  document="Spleen guideline", date="2024-03-01", organisation="Our hospital")  # fmt: skip
    assert reply.status_code == 201, reply.text
    told = reply.json()
    assert told["rules"] == ["house_rule"] and [r["file"] for r in told["rejected"]] == ["bad.pdf"]
    document = Document(**told["documents"][0])
    found = client.get("/v1/guidelines/search", params={"q": "how often is the spleen imaged after trauma", "limit": 1}).json()[0]
    assert found["passage"]["page"] == 4 and found["passage"]["document"] == "Spleen guideline"
    ran = client.post(
        "/v1/tools/search_guidelines", json={"arguments": {"query": "how often is the spleen imaged after trauma", "limit": 1}}
    ).json()
    evidence = ran["evidence"][0]
    assert evidence["statement"].startswith('"Spleen guideline" (Our hospital, version') and "page 4" in evidence["statement"]
    opened = client.get(evidence["href"]).json()["opened"]
    page = opened["page"]
    assert page["text"][page["start"] : page["end"]] == opened["passage"]["text"]
    start, end = opened["sentence"]
    assert "twice a year" in opened["passage"]["text"][start:end]
    assert client.get(opened["picture"]).headers["content-type"] == "image/png"
    assert "twice a year" in client.get(f"/v1/guidelines/{document.id}/pages/4").text
    assert client.get(f"/v1/guidelines/{document.id}/pages/40").status_code == 404
    assert client.get(f"/v1/guidelines/{document.id}").json()["status"] == "current"
    rule = client.post(
        "/v1/tools/apply_guideline", json={"arguments": {"guideline": "house_rule", "facts": {"size_mm": 12}}}
    ).json()
    assert rule["evidence"][0]["value"]["category"] == "board"
    assert client.get(rule["evidence"][0]["href"]).json()["opened"]["rule"]["origins"]["size_mm"]["kind"] == "question"
    assert "house_rule" in client.get("/v1/tools/apply_guideline").json()["rules"]


def test_progress_is_told_as_events(client: TestClient) -> None:
    reply = _post(client, [("p.md", _protocol())], headers={"Accept": "text/event-stream"})
    events = [block for block in reply.text.replace("\r", "").split("\n\n") if block.startswith("event")]
    names = [e.split("\n")[0].split(": ")[1] for e in events]
    assert names[-1] == "added" and set(names[:-1]) == {"progress"}
    steps = [json.loads(e.split("data: ")[1]) for e in events[:-1]]
    assert {s["stage"] for s in steps} == {"reading", "embedding"} and all(s["file"] == "p.md" for s in steps)
    reply = _post(client, [("p.exe", b"MZ")], headers={"Accept": "text/event-stream"})
    assert "event: error" in reply.text and "p.exe" in reply.text


def test_a_superseded_passage_of_an_old_answer_still_opens(client: TestClient) -> None:
    _post(client, [("p.md", _protocol())])
    question = {"arguments": {"query": "how long does the patient fast before liver MRI", "limit": 1}}
    old = client.post("/v1/tools/search_guidelines", json=question).json()["evidence"][0]
    _post(client, [("p.md", _protocol("2024-06-01", hours=2).replace(b"2023", b"2024"))])
    new = client.post("/v1/tools/search_guidelines", json=question).json()["evidence"][0]
    assert "4 hours" in old["statement"] and "2 hours" in new["statement"]
    opened = client.get(old["href"]).json()["opened"]
    assert opened["passage"]["status"] == "superseded" and "4 hours" in opened["page"]["text"]
    listed = {d["version"]: d["status"] for d in client.get("/v1/guidelines").json() if d["document"].startswith("Liver MRI")}
    assert listed == {"2023": "superseded", "2024": "current"}


@pytest.mark.parametrize(
    ("files", "more", "status", "words"),
    [([], {}, 422, "no file"), ([("a.exe", b"MZ")], {}, 422, "a.exe"), ([("a.md", b"# A\ntext of it, long enough to be kept")], {"date": "soon"}, 422, "date"),
     ([("a.md", b"# A\ntext")], {"document": "x" * 400}, 422, "at most 300"), ([("r.yaml", b"name: x")], {}, 422, "lacks")],
)  # fmt: skip
def test_bad_input_says_what_to_do(client: TestClient, files, more, status: int, words: str) -> None:
    reply = _post(client, files, **more) if files else client.post("/v1/guidelines", files=[("other", ("x", b"x"))])
    assert reply.status_code == status and reply.headers["content-type"].startswith("application/problem+json")
    assert words in reply.json()["detail"] and reply.json()["hint"]


def test_what_is_in_the_box_stays(client: TestClient) -> None:
    assert client.delete("/v1/guidelines/bi_rads").status_code == 422
    assert client.delete("/v1/guidelines/nothing").status_code == 404
    added = _post(
        client, [("q.md", b"# Quarks\n## One\nQuarks are imaged on Sundays alone, says this page.")], date="2024"
    ).json()["documents"][0]
    assert client.delete(f"/v1/guidelines/{added['id']}").status_code == 204
    assert not any(
        "Sundays" in f["passage"]["text"] for f in client.get("/v1/guidelines/search", params={"q": "quarks Sundays"}).json()
    )


def test_the_command_line_adds_and_searches(tmp_path: Path) -> None:
    run = CliRunner()
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "p.md").write_bytes(_protocol())
    (folder / "rule.yaml").write_text(OWN)
    (folder / "bad.pdf").write_bytes(b"%PDF-1.4 nothing")
    data = ["--data", str(tmp_path / "data")]
    done = run.invoke(commands, ["guidelines", "add", str(folder), *data])
    assert (
        done.exit_code == 0
        and "current gd_" in done.stdout
        and "rule house_rule" in done.stdout
        and "refused bad.pdf" in done.stderr
    )
    hits = json.loads(run.invoke(commands, ["guidelines", "search", "gadoxetate before liver surgery", "--json", *data]).stdout)
    assert hits[0]["passage"]["document"] == "Liver MRI protocol 2023"
    assert any(d["body"] == "liver" for d in json.loads(run.invoke(commands, ["guidelines", "list", "--json", *data]).stdout))
    assert run.invoke(commands, ["guidelines", "add", str(folder / "bad.pdf"), *data]).exit_code == 3


def test_the_page_on_knowledge_is_as_the_box_is() -> None:
    assert (ROOT / "docs" / "knowledge.md").read_text() == written(), "run `python -m serving guidelines docs`"
