"""ASTRO 2022: radiosurgery of intact brain metastases (Gondi 2022, doi:10.1016/j.prro.2022.02.003)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

FEW, SOME = 4, 10
"""Radiosurgery recommended (strong) for up to 4, conditionally for 5 to 10 lesions."""
SMALL_MM, MIDDLE_MM, LARGE_MM, HUGE_MM = 20, 30, 40, 60
V12_CM3 = 10
"""Above 10 cm³ that receive 12 Gy, fractionate."""
_BOARD = " An option to discuss, never an order."


def compute(facts: Facts) -> Outcome:
    """Size above 4 cm decides before the number does."""
    count, size, status = (facts.get(n) for n in ("metastases_count", "max_diameter_mm", "ecog_ps"))
    if (status is not None and status > 2) or (count is not None and count > SOME):
        return Outcome("not covered", "More than 10 metastases or ECOG 3 to 4: not covered by this guideline.")
    if count is None or size is None or status is None:
        return Outcome(None)
    if size > HUGE_MM:
        return Outcome("SRS discouraged", "Radiosurgery is discouraged above 6 cm; surgery is to be discussed." + _BOARD)
    missing = absent(facts, "symptomatic", "cns_active_systemic_therapy_available")
    if size > LARGE_MM:
        text = "Above 4 cm surgery is conditionally recommended; otherwise multifraction radiosurgery."
        return Outcome("surgery conditionally recommended", text + _context(facts) + _BOARD, missing=missing)
    category = "SRS recommended" if count <= FEW else "SRS conditionally recommended"
    return Outcome(category, f"{_dose(size)}{_context(facts)}{_BOARD}", missing=missing)


def _dose(size: float) -> str:
    if size < SMALL_MM:
        return "Below 2 cm: single fraction of 20-24 Gy."
    if size < MIDDLE_MM:
        return "2 to below 3 cm: single fraction of 18 Gy, or multifraction 27 Gy in 3 or 30 Gy in 5 (conditional)."
    return "3 to 4 cm: multifraction 27 Gy in 3 or 30 Gy in 5 (conditional; a single fraction not above 15 Gy)."


def _context(facts: Facts) -> str:
    text = " The volume that receives 12 Gy exceeds 10 cm³: fractionate." if facts.get("v12gy_cm3", 0) > V12_CM3 else ""
    if facts.get("symptomatic"):
        return text + " Symptomatic: local therapy first, also where a drug acts in the brain."
    if facts.get("cns_active_systemic_therapy_available") and facts.get("symptomatic") is False:
        return (
            text + " Asymptomatic with a drug that acts in the brain: multidisciplinary decision, local therapy may be deferred."
        )
    return text


RULE = Rule("astro_brain_mets_2022", "ASTRO guideline, brain metastases 2022", "Intact metastases", True, compute,
            ("radiosurgery of brain metastases number size dose",))  # fmt: skip
