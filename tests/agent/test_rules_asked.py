"""The built-in planner finds the rule that a question means, and the facts that it states."""

import pytest

from agent.planner import extract, steps
from agent.planner.steps import Call, Given
from agent.planner.understand import _rules
from knowledge.guidelines.rules import RULES

NAMES = sorted({n for r in RULES.values() for n in r.spec["facts"]})


@pytest.mark.parametrize(
    ("question", "rule", "category"),
    [
        ("Lung-RADS for a new 7 mm solid nodule?", "lung_rads_2022", "4A"),
        ("LI-RADS: 15 mm, APHE, washout, cirrhosis", "li_rads_2018", "LR-5"),
        ("TI-RADS solid hypoechoic taller than wide smooth margin no calcifications 12 mm", "acr_ti_rads_2017", "TR5"),
        ("PI-RADS PZ DWI 3 DCE positive", "pi_rads_v2_1", "4"), ("TNM stage of lung cancer T1c N0 M0", "tnm_lung_9", "IA3"),
        ("Child-Pugh: bilirubin 2.5 mg/dL, albumin 3.2 g/dL, INR 1.2, no ascites, no encephalopathy", "child_pugh", "B"),
        ("BI-RADS 4C with routine screening, does that fit?", "bi_rads_concordance", "discordant"),
        ("Deauville 4, lower uptake than baseline, no new lesion", "lugano_2014_pet", "PMR"),
        ("SRS for 3 brain metastases of 15 mm, ECOG 1", "astro_brain_mets_2022", "SRS recommended"),
        ("EGFR exon 19 deletion NSCLC first line? panel complete", "nsclc_first_line", "EGFR exon 19 deletion or L858R"),
        ("Bosniak class: homogeneous 78 HU on non-contrast CT", "bosniak_2019", "II"), ("stage of breast cancer 18 mm N0 M0", "tnm_breast_8", "IA"),
        ("RECIST baseline 100 nadir 70 now 90 no new lesion", "recist_1_1", "PD"), ("ALBI with bilirubin 17 umol/L and albumin 35 g/L", "albi", "2"),
        ("fleischner 7 mm solid single nodule low risk 54y", "fleischner_2017", "CT at 6-12 months, then consider CT at 18-24 months"),
    ],
)  # fmt: skip
def test_a_question_brings_its_rule_and_facts(question: str, rule: str, category: str) -> None:
    assert _rules(question) == (rule,)
    facts = steps._fitting(extract.facts(question, NAMES), RULES[rule].spec["facts"])
    assert RULES[rule].apply(facts).category == category


def test_what_doesnt_fit_a_rule_is_left_out() -> None:
    known = RULES["egfr_contrast"].spec["facts"]
    assert steps._fitting({"sex": "male", "age_years": 70, "kps": 90, "medium": "air"}, known) == {"sex": "M", "age_years": 70}


def test_a_rule_on_a_size_waits_for_the_measurement_and_takes_it_by_number() -> None:
    calls = [Call("measure", {}), Call("apply_guideline", {"guideline": "fleischner_2017", "facts": {}})]
    assert [c.tool for c in steps.linked(calls, [], [])] == ["measure"]
    given = [
        Given("measure", "E1", "Volume"),
        Given("measure", "E2", "Longest axial diameter"),
        Given("measure", "E3", "Perpendicular diameter"),
    ]
    (_, applied) = steps.linked(calls, [calls[0]], given)
    assert applied.arguments["evidence"] == {"long_axis_mm": "E2", "short_axis_mm": "E3"}
    (_, plain) = steps.linked(calls, [calls[0]], [])
    assert "evidence" not in plain.arguments
