"""Integrated diagnosis of adult-type diffuse glioma (WHO CNS5; Louis 2021, doi:10.1093/neuonc/noab106)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule

SEQUENCE_BELOW_YEARS = 55
"""Below this age a negative IDH1 R132H stain is followed by sequencing (WHO CNS5)."""
_GBM = ("necrosis", "microvascular_proliferation", "tert_promoter_mutation", "egfr_amplification")
_GRADE_4 = ("cdkn2a_b_homozygous_deletion", "necrosis", "microvascular_proliferation")


def compute(facts: Facts) -> Outcome:
    """Categories as in facts.json; NOS where a deciding test was not done, which is then missing."""
    if facts.get("h3_status") == "k27_altered":
        site = facts.get("location")
        missing = [] if site else ["location"]
        if site in (None, "midline"):
            return Outcome("diffuse midline glioma, H3 K27-altered, CNS WHO grade 4", "Integrated diagnosis.", missing=missing)
    if facts.get("h3_status") == "g34_mutant" and facts.get("location", "hemispheric") == "hemispheric":
        return Outcome("diffuse hemispheric glioma, H3 G34-mutant, CNS WHO grade 4", "Integrated diagnosis.")
    if "idh_status" not in facts:
        text = "Sequence IDH1/2 and test 1p/19q first: a TERT promoter mutation alone does not make a glioblastoma."
        return Outcome("diffuse glioma, NOS", text, missing=["idh_status", "codeletion_1p19q"])
    return _mutant(facts) if facts["idh_status"] == "mutant" else _wildtype(facts)


def _mutant(facts: Facts) -> Outcome:
    codeleted = facts.get("codeletion_1p19q")
    if codeleted is None and facts.get("atrx_loss"):
        codeleted = False
    if codeleted is None:
        return Outcome("diffuse glioma, NOS", "Test 1p/19q: it decides between the two.", missing=["codeletion_1p19q"])
    if codeleted:
        high = any(facts.get(n) for n in ("significant_mitotic_activity", *_GRADE_4))
        untested = [] if high else [n for n in ("significant_mitotic_activity", *_GRADE_4) if n not in facts]
        name = f"oligodendroglioma, IDH-mutant, 1p/19q-codeleted, CNS WHO grade {3 if high else 2}"
        return Outcome(name, "Integrated diagnosis.", missing=untested)
    if any(facts.get(n) for n in _GRADE_4):
        return Outcome("astrocytoma, IDH-mutant, CNS WHO grade 4", "Integrated diagnosis.")
    untested = [n for n in _GRADE_4 if n not in facts]
    grade = 3 if facts.get("significant_mitotic_activity") else 2
    return Outcome(f"astrocytoma, IDH-mutant, CNS WHO grade {grade}", "Integrated diagnosis.", missing=untested)


def _wildtype(facts: Facts) -> Outcome:
    age = facts.get("age_years")
    if not facts.get("idh_sequenced", True) and (facts.get("atrx_loss") or (age or 0) < SEQUENCE_BELOW_YEARS):
        text = "Only the R132H stain was done: sequence IDH1/2 first."
        return Outcome("diffuse glioma, NOS", text, missing=["idh_sequenced"])
    pair = ("chromosome_7_gain", "chromosome_10_loss")
    if "h3_status" not in facts and not any(facts.get(n) for n in _GBM) and not all(facts.get(n) for n in pair):
        untested = [n for n in (*_GBM, *pair) if n not in facts]
        text = "H3 and the molecular criteria of glioblastoma decide."
        return Outcome("diffuse glioma, NOS", text, missing=["h3_status", *untested])
    assumed = [] if "h3_status" in facts else ["h3_status"]
    if any(facts.get(n) for n in _GBM) or all(facts.get(n) for n in pair):
        return Outcome("glioblastoma, IDH-wildtype, CNS WHO grade 4", "Integrated diagnosis.", missing=assumed)
    untested = [n for n in _GBM if n not in facts]
    if not any(facts.get(n) is False for n in pair):
        untested += [n for n in pair if n not in facts]
    if untested:
        return Outcome("diffuse glioma, NOS", "A deciding test was not done.", missing=untested)
    return Outcome("diffuse glioma, IDH-wildtype, NEC", "Methylation profiling, and tests of BRAF, FGFR and MYB, are advised.")


RULE = Rule("who_cns_2021_glioma", "WHO CNS5, adult-type diffuse glioma: integrated diagnosis",
            "Integrated diagnosis", True, compute, ("integrated diagnosis of glioma WHO 2021",),
            open_ended=True)  # fmt: skip
