"""docs/knowledge.md, written from what is in the box: documents with versions, rules with inputs, and what is left out."""

from knowledge.guidelines import corpus
from knowledge.guidelines.corpus import Passage
from knowledge.guidelines.rules import RULES

LEFT_OUT = """\
* **How specific most signs are**: figures stand only where one was found (docs/diagnosis.md); half of the arguments of the differential are field knowledge and say so.
* **Prognostic stage of breast cancer** (grade, ER, PR, HER2, gene panels): a long look-up that isn't reproduced; the anatomic stage is computed and says so.
* **Rows 3 to 5 of O-RADS US v2022, the class II subtypes of Bosniak 2019, management intervals of LI-RADS and Bosniak, the 12-week rule and the baseline rule of RANO
  2.0, the GPA point tables, rare NSCLC drivers (MET, RET, NTRK, HER2, EGFR exon 20), Herder's coefficients**: second-hand; where they are used, the result or the passage
  says that they await a check.
* **Median survival of the middle bands of the gastrointestinal GPA**: sources differ (7 or 9, 11 to 12 months), so no number is given.
* **Gadolinium group III and agents moved since 2021**: not stated; the agent has to be named.
* **Lugano stage of one region with contiguous extranodal disease, spleen response by CT**: the facts file doesn't settle them; no stage is given.
* **iPR and iCR after an iUPD of non-targets**: not settled by the source; a reader has to.
* **Doses beyond those that the guideline names, and everything a tumour board decides**: never computed.
* The BCLC update of 2025 and changes of the ASCO living guidelines after the versions named above.
"""


def written() -> str:
    """The page as Markdown."""
    rows = corpus.passages()
    documents: dict[str, list[Passage]] = {}
    for passage in rows:
        documents.setdefault(passage.document_id, []).append(passage)
    lines = [
        "# Knowledge in the box", "",
        "Written by `python -m serving guidelines docs` from the corpus and the rules; a test holds it. Research use only.", "",
        f"## Documents ({len(documents)}, {len(rows)} passages, corpus {corpus.version()})", "",
        "In our own words. *Facts* says how far they were checked: against the source's text, from secondary sources, or not yet.", "",
        "| document | organisation | version | date | passages | facts | source |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name in sorted(documents):
        first = documents[name][0]
        lines.append(f"| {first.document} | {first.organisation} | {first.version} | {first.date} | {len(documents[name])} | "
                     f"{corpus.CHECKED[first.checked]} | {first.source} |")  # fmt: skip
    lines += ["", f"## Rules ({len(RULES)})", "",
              "*Required* facts are needed for a category; inputs, types and units: `GET /v1/tools/apply_guideline`.", "",
              "| rule | title | version | cited | required | facts in all | checked |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name in sorted(RULES):
        rule, spec = RULES[name], RULES[name].spec
        needed = [n for n, s in spec["facts"].items() if s["required"]]
        needed += [" or ".join(" and ".join(c) for c in group) for group in spec.get("one_of", [])]
        lines.append(f"| `{name}` | {spec['title']} | {spec['version']} | {rule.document}: {rule.section} | {', '.join(needed) or 'by case'} | "
                     f"{len(spec['facts'])} | {'yes' if rule.checked else 'awaits a check'} |")  # fmt: skip
    lines += ["", "## Left out, or marked", "", LEFT_OUT]
    lines += [
        "## A hospital's own", "",
        "`consilium guidelines add FILE…` or `POST /v1/guidelines` takes PDF (text, tables, page numbers; scanned pages by OCR), HTML, Markdown, text and DOCX. "
        "A document is told from its versions by title and organisation; a later date supersedes the earlier one, which stays for old answers and is found only "
        "when its version is asked for. A rule that is a table joins as `.yaml` (form: `knowledge/guidelines/rules/table.py`) once its worked cases pass; one that "
        "computes joins by a package with an entry point in the group `consilium.rules`.", "",
    ]  # fmt: skip
    return "\n".join(lines)
