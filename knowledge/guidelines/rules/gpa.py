"""Diagnosis-specific graded prognostic assessment of brain metastases (Sperduto 2008 to 2022).

None of the tables is checked against its source; each result says so. Sources: JAMA Oncol 2017, doi:10.1001/jamaoncol.2016.3834 (lung);
IJROBP 2022 (lung); IJROBP 2017, doi:10.1016/j.ijrobp.2017.06.2454 (melanoma); ctro 2019, doi:10.1016/j.ctro.2019.06.009.
"""

from collections.abc import Callable
from typing import Any

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent, required

BANDS = ("0-1", "1.5-2", "2.5-3", "3.5-4")
Points = Callable[[Facts], float]


def _from(name: str, *steps: tuple[float, float]) -> Points:
    """Points of the first step whose bound the value reaches."""
    return lambda facts: next((points for bound, points in steps if facts[name] >= bound), 0.0)


def _below(name: str, *steps: tuple[float, float]) -> Points:
    return lambda facts: next((points for bound, points in steps if facts[name] < bound), 0.0)


def _no_spread(points: float) -> Points:
    return lambda facts: 0.0 if facts["extracranial_metastases"] else points


def _count(*steps: tuple[int, float]) -> Points:
    return lambda facts: next((points for bound, points in steps if facts["metastases_count"] <= bound), 0.0)


def _gene(points: float, *names: str) -> Points:
    return lambda facts: points if any(facts.get(n) for n in names) else 0.0


_LUNG = (_below("age_years", (70, 0.5)), _from("kps", (90, 1.0), (80, 0.5)), _no_spread(1.0), _count((4, 0.5)))
_GENES = ("egfr_positive", "alk_positive")


def _old_age(facts: Facts) -> float:
    return 1.0 if facts["age_years"] < 50 else 0.5 if facts["age_years"] <= 60 else 0.0


def _haemoglobin(facts: Facts) -> float:
    value = facts["hemoglobin_g_dl"]
    return 1.0 if value > 12.5 else 0.5 if value >= 11.1 else 0.0


def _subtype(facts: Facts) -> float:
    return {"basal": 0.0, "luminal_a": 0.5, "her2": 1.5, "luminal_b": 1.5}[facts["subtype"]]


INDEX: dict[str, tuple[Points, ...]] = {
    "lung_molgpa_2017": _LUNG,
    "lung_gpa_2022": (*_LUNG, _gene(0.5, *_GENES), lambda f: 0.5 if f["pd_l1_tps_percent"] >= 1 else 0.0),
    "melanoma_molgpa_2017": (_below("age_years", (70, 0.5)), _from("kps", (90, 1.0), (80, 0.5)), _no_spread(1.0),
                             _count((1, 1.0), (4, 0.5)), _gene(0.5, "braf_mutation")),
    "renal_gpa_2018": (_from("kps", (90, 2.0), (80, 1.0)), _no_spread(0.5), _haemoglobin, _count((4, 0.5))),
    "gi_gpa_2019": (_below("age_years", (60, 0.5)), _from("kps", (90, 2.0), (80, 1.0)), _no_spread(0.5), _count((1, 1.0), (3, 0.5))),
    "breast_gpa_2020": (_from("kps", (90, 1.0), (70, 0.5)), _subtype, _below("age_years", (60, 0.5)), _no_spread(0.5),
                        _count((1, 0.5))),
    "gpa_2008": (_old_age, _from("kps", (90, 1.0), (70, 0.5)), _no_spread(1.0), _count((1, 1.0), (3, 0.5))),
}  # fmt: skip
SURVIVAL: dict[str, tuple[float | None, ...]] = {
    "adenocarcinoma": (6.9, 13.7, 26.5, 46.8), "non_adenocarcinoma": (5.3, 9.8, 12.8, None), "lung_gpa_2022": (6, 15, 30, 52),
    "melanoma_molgpa_2017": (4.9, 8.3, 15.8, 34.1), "renal_gpa_2018": (4, 12, 17, 35), "gi_gpa_2019": (3, None, None, 17),
    "breast_gpa_2020": (6, 13, 24, 36), "gpa_2008": (2.6, 3.8, 6.9, 11.0),
}  # fmt: skip
"""Median survival in months by band; None where sources differ or the band can't be reached."""
GENETIC = {"lung_gpa_2022": (*_GENES, "pd_l1_tps_percent"), "melanoma_molgpa_2017": ("braf_mutation",)}


def _compute(name: str) -> Callable[[Facts], Outcome]:
    def compute(facts: Facts) -> Outcome:
        lacking = required(name, facts)
        needed = list(GENETIC.get(name, ()))
        adeno = facts.get("histology") == "adenocarcinoma"
        if name == "lung_molgpa_2017" and adeno:
            needed = list(_GENES)
        if any(facts.get(g) for g in _GENES):
            needed = [n for n in needed if n not in _GENES]
        unknown = absent(facts, *needed)
        if lacking or unknown:
            return Outcome(None, missing=unknown)
        points = INDEX[name] + ((_gene(1.0, *_GENES),) if name == "lung_molgpa_2017" and adeno else ())
        score = sum(p(facts) for p in points)
        band = 0 if score <= 1 else 1 if score <= 2 else 2 if score <= 3 else 3
        months = SURVIVAL[facts["histology"] if name == "lung_molgpa_2017" else name][band]
        values: dict[str, float] = {"gpa_score": score} | ({"median_survival_months": months} if months is not None else {})
        told = f"{months:g} months" if months is not None else "not given here, since sources differ"
        text = f"The median survival of the published group with this score is {told}: that of a group, never a promise to one patient."
        return Outcome(BANDS[band], text, values)

    return compute


def _rule(name: str, document: str) -> Rule:
    topics: tuple[Any, ...] = ("prognosis of brain metastases GPA",)
    return Rule(name, document, "Points and survival by score", False, _compute(name), topics)


RULES = [
    _rule("lung_molgpa_2017", "Lung-molGPA (Sperduto 2017)"), _rule("lung_gpa_2022", "Lung GPA (Sperduto 2022)"),
    _rule("melanoma_molgpa_2017", "Melanoma-molGPA (Sperduto 2017)"), _rule("renal_gpa_2018", "Renal GPA (2018)"),
    _rule("gi_gpa_2019", "Gastrointestinal GPA (2019)"), _rule("breast_gpa_2020", "Breast GPA (2020)"),
    _rule("gpa_2008", "GPA, original index (2008)"),
]  # fmt: skip
