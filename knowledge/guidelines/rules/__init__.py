"""Computable guidelines, one file each. Their facts and categories stand in facts.json."""

from knowledge.errors import NotFound
from knowledge.guidelines.rules.base import Outcome, Rule
from knowledge.guidelines.rules.egfr_contrast import RULE as EGFR_CONTRAST
from knowledge.guidelines.rules.fleischner_2017 import RULE as FLEISCHNER
from knowledge.guidelines.rules.gbm_mgmt_stupp import RULE as GBM
from knowledge.guidelines.rules.rano_2_0 import RULE as RANO
from knowledge.guidelines.rules.recist_1_1 import RULE as RECIST
from knowledge.guidelines.rules.volume_doubling_time import RULE as DOUBLING
from knowledge.guidelines.rules.who_cns_2021_glioma import RULE as WHO_GLIOMA

RULES: dict[str, Rule] = {r.name: r for r in (GBM, WHO_GLIOMA, EGFR_CONTRAST, RANO, RECIST, FLEISCHNER, DOUBLING)}


def rule(name: str) -> Rule:
    """The rule of that name. Raises NotFound."""
    if name not in RULES:
        raise NotFound(f"there is no rule {name!r}", f"the rules are {sorted(RULES)}")
    return RULES[name]


__all__ = ["RULES", "Outcome", "Rule", "rule"]
