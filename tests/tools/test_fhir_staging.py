"""Clinical TNM as mCODE Observations: what a rule worked out from imaging, never what somebody assigned before."""

from typing import Any

import pytest

from tools.base import Bench, Resources
from tools.export.fhir import clinical_tnm
from tools.registry import tool_types

LUNG = {"size_mm": 25, "nodule_type": "solid", "primary_side": "right", "involved_stations": ["4R"],
        "extrathoracic_metastases_count": 0, "pleural_or_pericardial_dissemination": False}  # fmt: skip


def observations(resources: Resources, rule: str, facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    reply = tool_types()["apply_guideline"].bound(Bench(resources)).reply({"guideline": rule, "facts": facts})
    made = clinical_tnm([(f, f"o{n}") for n, f in enumerate(reply.facts)], "P1", "preliminary")
    return {o["valueCodeableConcept"]["text"]: o for o in made}


def test_categories_and_the_group_that_has_them_as_members(resources: Resources) -> None:
    found = observations(resources, "tnm_lung_9", LUNG)
    assert list(found) == ["cT1c", "cN2a", "cM0", "IIB"]
    *categories, group = found.values()
    assert [o["code"]["coding"][1]["code"] for o in categories] == ["21905-5", "21906-3", "21907-1"]
    assert all(o["method"]["coding"][0]["code"] == "1269566009" and o["meta"]["profile"] for o in categories)
    assert group["code"]["coding"][1]["code"] == "21908-9" and "meta" not in group
    assert [m["reference"] for m in group["hasMember"]] == [f"Observation/{o['id']}" for o in categories]


@pytest.mark.parametrize(("left_out", "told"), [("primary_side", ["cT1c", "cM0"]), ("size_mm", ["cN2a", "cM0"])])
def test_what_is_not_known_is_not_told(resources: Resources, left_out: str, told: list[str]) -> None:
    assert list(observations(resources, "tnm_lung_9", {k: v for k, v in LUNG.items() if k != left_out})) == told


def test_what_was_assigned_before_may_be_pathological_and_is_not_told_again(resources: Resources) -> None:
    assert list(observations(resources, "tnm_breast_8", {"size_mm": 24, "n_category": "N1", "m_category": "M0"})) == ["cT2"]
    assert observations(resources, "recist_1_1", {}) == {}
