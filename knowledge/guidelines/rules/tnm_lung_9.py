"""Lung cancer TNM, 9th edition (Rami-Porta 2024, doi:10.1016/j.jtho.2024.02.011)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

SIZES = ((10, "T1a"), (20, "T1b"), (30, "T1c"), (40, "T2a"), (50, "T2b"), (70, "T3"))
"""Greatest dimension in mm up to which a T holds; above 70 mm T4."""
SMALL_TOTAL_MM, MINIMAL_SOLID_MM = 30, 5
"""Subsolid: total up to 3 cm with a solid part up to 0.5 cm is T1mi."""
ORDER = ("T0", "Tis", "T1mi", "T1a", "T1b", "T1c", "T2a", "T2b", "T3", "T4")
INVASION = {
    "T2a": {"visceral_pleura", "adjacent_lobe", "main_bronchus"},
    "T3": {"parietal_pleura", "chest_wall", "pericardium", "phrenic_nerve", "azygos_vein", "t1_t2_nerve_roots", "stellate_ganglion"},
    "T4": {"mediastinum", "thymus", "trachea", "carina", "recurrent_laryngeal_nerve", "vagus_nerve", "esophagus", "diaphragm", "heart",
           "great_vessels", "vertebra", "spinal_canal", "brachial_plexus"},
}  # fmt: skip
NODULE = {"same_lobe": "T3", "other_ipsilateral_lobe": "T4"}
NODES = ("N0", "N1", "N2a", "N2b", "N3")
GROUPS = {
    "T1mi": ("IA1", "IIA", "IIB", "IIIA", "IIIB"), "T1a": ("IA1", "IIA", "IIB", "IIIA", "IIIB"),
    "T1b": ("IA2", "IIA", "IIB", "IIIA", "IIIB"), "T1c": ("IA3", "IIA", "IIB", "IIIA", "IIIB"),
    "T2a": ("IB", "IIB", "IIIA", "IIIB", "IIIB"), "T2b": ("IIA", "IIB", "IIIA", "IIIB", "IIIB"),
    "T3": ("IIB", "IIIA", "IIIA", "IIIB", "IIIC"), "T4": ("IIIA", "IIIA", "IIIB", "IIIB", "IIIC"),
}  # fmt: skip


def compute(facts: Facts) -> Outcome:
    """The stage group, with T, N and M in the recommendation."""
    (t, no_t), (n, no_n), (m, no_m) = _t(facts), _n(facts), _m(facts)
    named = f"{t or 'T?'} {n or 'N?'} {m or 'M?'}, 9th edition."
    if t is None or n is None or m is None:
        return Outcome(None, named if t or n or m else "", missing=[*no_t, *no_n, *no_m])
    group = _group(t, n, m)
    if group is None:
        return Outcome(None, f"{named} The edition has no stage group for it.", missing=[*no_m])
    return Outcome(group, named, missing=no_m)


def _group(t: str, n: str, m: str) -> str | None:
    if m != "M0":
        return "IVA" if m in ("M1a", "M1b") else "IVB"
    if t == "TX" and n == "N0":
        return "occult"
    if t == "Tis" and n == "N0":
        return "0"
    return GROUPS[t][NODES.index(n)] if t in GROUPS and n in NODES else None


def _t(facts: Facts) -> tuple[str | None, list[str]]:
    if "t_category" in facts:
        return facts["t_category"], []
    size = facts.get("size_mm")
    if size is None:
        return None, []
    kind, part = facts["nodule_type"], facts.get("solid_component_mm")
    if kind == "ground_glass":
        by_size = "Tis" if size <= SMALL_TOTAL_MM else "T1a"
    elif kind == "part_solid":
        if part is None:
            return None, ["solid_component_mm"]
        by_size = ("T1mi" if size <= SMALL_TOTAL_MM else "T1a") if part <= MINIMAL_SOLID_MM else _sized(part)
    else:
        by_size = _sized(size)
    found = [by_size, *(t for t, where in INVASION.items() if where & set(facts.get("invasion", [])))]
    if facts["atelectasis_or_pneumonitis_to_hilum"]:
        found.append("T2a")
    if facts["separate_tumor_nodule"] in NODULE:
        found.append(NODULE[facts["separate_tumor_nodule"]])
    return max(found, key=ORDER.index), []


def _sized(size: float) -> str:
    return next((t for limit, t in SIZES if size <= limit), "T4")


def _n(facts: Facts) -> tuple[str | None, list[str]]:
    if "n_category" in facts:
        return facts["n_category"], []
    if "involved_stations" not in facts or "primary_side" not in facts:
        return None, []
    side, second = facts["primary_side"][0].upper(), set()
    first = False
    for station in facts["involved_stations"]:
        number = int("".join(c for c in station if c.isdigit()))
        of = "L" if number in (5, 6) else station[-1] if station[-1] in "RL" else side
        if number == 1 or of != side:
            return "N3", []
        if number >= 10:
            first = True
        else:
            second.add(station)
    return ("N2b" if len(second) > 1 else "N2a" if second else "N1" if first else "N0"), []


def _m(facts: Facts) -> tuple[str | None, list[str]]:
    if "m_category" in facts:
        return facts["m_category"], []
    count, organs = facts.get("extrathoracic_metastases_count"), facts.get("extrathoracic_organ_systems_count")
    inside = facts.get("pleural_or_pericardial_dissemination") or facts["separate_tumor_nodule"] == "contralateral_lung"
    if count == 1:
        return "M1b", []
    if count:
        return ("M1c2" if organs > 1 else "M1c1", []) if organs else (None, ["extrathoracic_organ_systems_count"])
    if inside:
        return "M1a", absent(facts, "extrathoracic_metastases_count")
    if count == 0:
        return "M0", absent(facts, "pleural_or_pericardial_dissemination")
    return None, ["extrathoracic_metastases_count"]


RULE = Rule("tnm_lung_9", "IASLC/UICC/AJCC lung cancer TNM, 9th edition", "T, N, M and stage groups", True, compute,
            ("stage of lung cancer TNM",))  # fmt: skip
