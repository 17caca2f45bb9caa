"""Bulk data export (FHIR Bulk Data Access 2.0, `$export`): NDJSON by resource type, made in the background, fetched with the same key."""

import json
import re
import secrets
import shutil
import threading
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from knowledge.errors import NotFound
from serving.api.fhir.search import KINDS, span
from serving.api.fhir.shelf import Shelf
from serving.errors import Problem

DEFAULT = tuple(k for k in KINDS if k not in ("AuditEvent", "Device", "Endpoint"))
MOST_JOBS = 20


@cache
def exports_of(folder: Path) -> "Exports":
    """The exports of a folder."""
    return Exports(folder)


class Exports:
    """Exports of one data folder; those that a stop cut off are gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._threads: dict[str, threading.Thread] = {}

    def start(self, shelf: Shelf, kinds: tuple[str, ...], since: str | None, request: str, by: str) -> str:
        """Begin one; its id. Raises a Problem where too many are kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if len([p for p in self.folder.iterdir() if p.is_dir()]) >= MOST_JOBS:
            raise Problem(429, "TooMany", f"{MOST_JOBS} exports are kept", "DELETE one that was fetched")
        job = secrets.token_hex(16)
        place = self.folder / job
        place.mkdir(mode=0o700)
        (place / "by").write_text(by)
        thread = threading.Thread(target=self._make, args=(shelf, place, kinds, since, request), daemon=True)
        self._threads[job] = thread
        shelf.archive.note(by, "export", job, {"kinds": len(kinds), "form": "FHIR NDJSON"})
        thread.start()
        return job

    def _make(self, shelf: Shelf, place: Path, kinds: tuple[str, ...], since: str | None, request: str) -> None:
        when = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        low = span(since)[0] if since else None
        output = []
        try:
            for kind in kinds:
                count, path = 0, place / f"{kind}.ndjson"
                with path.open("w", encoding="utf-8") as file:
                    for resource in shelf.all(kind):
                        if low is None or span(resource.get("meta", {}).get("lastUpdated", when))[1] > low:
                            file.write(json.dumps(resource, ensure_ascii=False) + "\n")
                            count += 1
                if count:
                    output.append({"type": kind, "url": f"{shelf.base}/export/{place.name}/{kind}.ndjson", "count": count})
            told: dict[str, Any] = {
                "transactionTime": when,
                "request": request,
                "requiresAccessToken": True,
                "output": output,
                "error": [],
            }
        except Exception as error:
            told = {"failed": type(error).__name__}
        part = place / "manifest.part"
        part.write_text(json.dumps(told))
        part.replace(place / "manifest.json")

    def _place(self, job: str, by: str) -> Path:
        place = self.folder / job
        if not re.fullmatch(r"[0-9a-f]{32}", job) or not place.is_dir() or (place / "by").read_text() != by:
            raise NotFound("there is no such export", "start one at $export")
        return place

    def manifest(self, job: str, by: str) -> dict[str, Any] | None:
        """The manifest; None while it is being made. Raises NotFound, and a Problem where it failed."""
        place = self._place(job, by)
        path = place / "manifest.json"
        if not path.exists():
            if job not in self._threads:
                shutil.rmtree(place, ignore_errors=True)
                raise NotFound("the export was cut off", "start it again")
            return None
        told: dict[str, Any] = json.loads(path.read_text())
        if "failed" in told:
            raise Problem(500, "ExportFailed", f"the export failed ({told['failed']})", "start it again")
        return told

    def file(self, job: str, name: str, by: str) -> Path:
        """A file of a finished export. Raises NotFound."""
        place = self._place(job, by)
        if not re.fullmatch(r"[A-Za-z]+\.ndjson", name) or not (place / name).exists():
            raise NotFound("the export has no such file", "see its manifest")
        return place / name

    def drop(self, job: str, by: str) -> None:
        """Delete one, with its files."""
        shutil.rmtree(self._place(job, by), ignore_errors=True)
        self._threads.pop(job, None)
