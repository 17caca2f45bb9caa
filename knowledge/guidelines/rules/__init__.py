"""Computable guidelines, one file each: code where it computes, a YAML table where it is one. Typed facts stand in facts.json."""

from pathlib import Path

from knowledge.errors import NotFound
from knowledge.guidelines.rules import gpa, nodule_models
from knowledge.guidelines.rules.acr_ti_rads_2017 import RULE as TI_RADS
from knowledge.guidelines.rules.albi import RULE as ALBI
from knowledge.guidelines.rules.astro_brain_mets_2022 import RULE as ASTRO
from knowledge.guidelines.rules.base import Outcome, Rule
from knowledge.guidelines.rules.bclc_2022 import RULE as BCLC
from knowledge.guidelines.rules.bosniak_2019 import RULE as BOSNIAK
from knowledge.guidelines.rules.child_pugh import RULE as CHILD_PUGH
from knowledge.guidelines.rules.egfr_contrast import RULE as EGFR_CONTRAST
from knowledge.guidelines.rules.fleischner_2017 import RULE as FLEISCHNER
from knowledge.guidelines.rules.gbm_mgmt_stupp import RULE as GBM
from knowledge.guidelines.rules.irecist import RULE as IRECIST
from knowledge.guidelines.rules.li_rads_2018 import RULE as LI_RADS
from knowledge.guidelines.rules.lugano_2014_ct import RULE as LUGANO_CT
from knowledge.guidelines.rules.lung_rads_2022 import RULE as LUNG_RADS
from knowledge.guidelines.rules.mrecist import RULE as MRECIST
from knowledge.guidelines.rules.nsclc_first_line import RULE as NSCLC
from knowledge.guidelines.rules.o_rads_us_v2022 import RULE as O_RADS
from knowledge.guidelines.rules.pi_rads_v2_1 import RULE as PI_RADS
from knowledge.guidelines.rules.rano_2_0 import RULE as RANO
from knowledge.guidelines.rules.recist_1_1 import RULE as RECIST
from knowledge.guidelines.rules.table import Table, read_table
from knowledge.guidelines.rules.tnm_breast_8 import RULE as TNM_BREAST
from knowledge.guidelines.rules.tnm_kidney_8 import RULE as TNM_KIDNEY
from knowledge.guidelines.rules.tnm_lung_9 import RULE as TNM_LUNG
from knowledge.guidelines.rules.volume_doubling_time import RULE as DOUBLING
from knowledge.guidelines.rules.who_cns_2021_glioma import RULE as WHO_GLIOMA

TABLES = [read_table(p).rule for p in sorted(Path(__file__).parent.glob("*.yaml"))]
RULES: dict[str, Rule] = {
    r.name: r
    for r in (GBM, WHO_GLIOMA, EGFR_CONTRAST, RANO, RECIST, FLEISCHNER, DOUBLING, LUNG_RADS, *nodule_models.RULES, LI_RADS, BCLC,
              CHILD_PUGH, ALBI, PI_RADS, TI_RADS, BOSNIAK, O_RADS, IRECIST, MRECIST, LUGANO_CT, TNM_LUNG, TNM_BREAST, TNM_KIDNEY,
              ASTRO, *gpa.RULES, NSCLC, *TABLES)
}  # fmt: skip
"""The rules in the box."""


def rule(name: str) -> Rule:
    """The rule of that name in the box. Raises NotFound."""
    if name not in RULES:
        raise NotFound(f"there is no rule {name!r}", f"the rules are {sorted(RULES)}")
    return RULES[name]


__all__ = ["RULES", "Outcome", "Rule", "Table", "read_table", "rule"]
