"""What a report advises: emergencies that aren't marked, advice without time or kind, and advice that a computed guideline gives otherwise."""

import re
from collections.abc import Iterator
from typing import Any

from knowledge.evidence import Fact, Kind, Origin, RuleRef
from knowledge.language import glossed
from knowledge.records.model import Report
from knowledge.records.reading import read
from knowledge.records.reports import Sentence
from knowledge.records.stated import stated
from tools.conflicts import quoted
from tools.reporting.checks.model import CLOSING, Context, Issue
from tools.urgent import emergency

_TOLD = re.compile(
    r"\b(communicat|notif|inform|phon|telephon|called|discussed with|alerted|critical (?:result|finding)|urgent|immediate|emergen|stat\b|benachrichtigt|telefonisch|"
    r"umgehend|notfall|dringend|urgente|comunicad|avisad|appel|communiqué|prévenu|通知|告知|紧急|危急)",
    re.I,
)
_FOLLOW = re.compile(
    r"follow[\s-]?up|\bkontrolle|verlaufskontrolle|contrôle|seguimiento|复查|随访|\brepeat\b|\bsurveillance\b|\bre-?evaluat", re.I
)
_KIND = re.compile(
    r"\b(ct|mri?|pet|ultrasound|us|sonograph\w*|mammogra\w*|biops\w*|fna|aspiration|tissue|resection|surg\w*|board|mdt|refer\w*|consult\w*|psa|afp|screening|irm|scanner|"
    r"tc|rm|ecograf\w*|échograph\w*|urolog\w*|oncolog\w*|chirurg\w*|ablation|angiograph\w*|x-?ray|radiograph\w*|mrt)\b|穿刺|活检|增强|超声|手术",
    re.I,
)
_VAGUE = re.compile(
    r"\b(clinical correlation|correlat\w+ clinically|as clinically indicated|if clinically indicated|suggest correlation)\b", re.I
)
_MONTHS = {"day": 1 / 30.4, "tag": 1 / 30.4, "jour": 1 / 30.4, "día": 1 / 30.4, "天": 1 / 30.4, "week": 7 / 30.4, "woche": 7 / 30.4, "semaine": 7 / 30.4,
           "semana": 7 / 30.4, "周": 7 / 30.4, "year": 12.0, "jahr": 12.0, "an": 12.0, "año": 12.0, "年": 12.0}  # fmt: skip
_SPAN = re.compile(
    r"(\d+)\s*(?:(?:-|–|to|bis|à|a)\s*(\d+)\s*)?-?(day|week|month|year|tag|woche|monat|jahr|jour|semaine|mois|an|día|semana|mes|año|天|周|个月|月|年)",
    re.I,
)


def critical(context: Context) -> Iterator[Issue]:
    """An emergency that the report states and neither concludes nor says to have been passed on."""
    whole = context.report.text
    for sentence in context.body:
        if not emergency(sentence.text, context.language):
            continue
        passed_on = bool(_TOLD.search(whole))
        concluded = any(emergency(s.text, context.language) for s in context.body if s.part in CLOSING)
        if passed_on and concluded:
            continue
        lacks = [
            *([] if concluded else ["the conclusion doesn't name it"]),
            *([] if passed_on else ["nothing says who was told"]),
        ]
        yield Issue(kind="critical", severity="critical", start=sentence.start, end=sentence.end,
                    message=f"A critical result: {' and '.join(lacks)}.",
                    suggestion="Critical result communicated to [name] by [name] on [date, time].")  # fmt: skip
        return


def unclear(context: Context) -> Iterator[Issue]:
    """Advice without saying what, or when."""
    for sentence in _advice(context):
        vague = _VAGUE.search(sentence.text)
        follow = _FOLLOW.search(sentence.text)
        timed = _SPAN.search(sentence.text) or re.search(
            r"\b(annual|yearly|routine|jährlich|anual|annuel\w*|every)\b", sentence.text, re.I
        )
        what = _KIND.search(glossed(sentence.text, context.language)) or _KIND.search(sentence.text)
        negated = re.search(r"\b(no|not|without)\b[^.;]{0,30}(follow|necessary|needed|required)", sentence.text, re.I)
        if negated:
            continue
        if vague and not what:
            yield Issue(kind="recommendation", severity="minor", start=sentence.start + vague.start(), end=sentence.start + vague.end(),
                        message="The advice doesn't say what to look for or do.", suggestion="Name the question, the examination and the time.")  # fmt: skip
        elif follow and not (timed and what):
            lacks = " and ".join([*([] if what else ["which examination"]), *([] if timed else ["when"])])
            yield Issue(kind="recommendation", severity="major", start=sentence.start, end=sentence.end,
                        message=f"The advice doesn't say {lacks}.", suggestion="Follow-up [examination] in [months], as [guideline, version] has it.")  # fmt: skip


def _advice(context: Context) -> list[Sentence]:
    """Sentences that advise: by their verb, or in the conclusion by an examination and a time."""
    found = []
    for sentence in context.body:
        closing = sentence.part in (*CLOSING, "RECOMMENDATION")
        reading = read(sentence.text).recommends or bool(_VAGUE.search(sentence.text))
        none = closing and bool(re.search(r"\bno (?:routine |further )?(?:follow|imaging)", sentence.text, re.I))
        timed = none or (closing and bool(_SPAN.search(sentence.text)) and bool(_KIND.search(sentence.text)))
        if reading or timed:
            found.append(sentence)
    return found


def against_rules(context: Context) -> Iterator[Issue]:
    """Advice that the computed guideline gives otherwise, where the report states the facts that it needs."""
    yield from _breast(context)
    yield from _nodule(context)
    yield from _by_category(context)


_MANAGEMENT = {
    "additional_imaging_or_priors": r"\badditional (?:imaging|views?|workup)|\bprior examinations|\bdiagnostic mammogra",
    "tissue_diagnosis": r"\bbiops|\btissue (?:diagnosis|sampling)|\bcore needle|\bhistolog\w+ (?:work|confirm|clarif)",
    "short_interval_follow_up": r"\b(?:6|six)[\s-]?months?\b|\bshort[\s-]interval",
    "routine_screening": r"\broutine (?:screening|follow|annual|mammogra)|\bannual (?:screening|mammogra)|\bscreening in (?:12|24|one|two)",
    "surgical_excision": r"\bsurgical excision|\bexcision\b",
}


def _breast(context: Context) -> Iterator[Issue]:
    spec = {"type": "enum", "values": ["0", "1", "2", "3", "4A", "4B", "4C", "5", "6"]}
    told = stated("assessment_category", [context.report], spec)
    if told is None:
        return
    for sentence in _advice(context):
        english = glossed(sentence.text, context.language)
        managed = next((n for n, p in _MANAGEMENT.items() if re.search(p, english, re.I)), None)
        if managed is None:
            continue
        rule = context.rules.rule("bi_rads_concordance")
        outcome = rule.apply({"assessment_category": told.value, "stated_management": managed})
        if outcome.category == "discordant":
            yield _by_rule(context, "bi_rads_concordance", {"assessment_category": told.value, "stated_management": managed}, outcome.recommendation,
                           told.sentence, sentence, f"BI-RADS {told.value} and the advice don't go together: {outcome.recommendation}")  # fmt: skip
        return


def nodule_advice(context: Context) -> tuple[dict[str, Any], str, Sentence] | None:
    """What Fleischner 2017 says of the nodule that a report describes for the first time: its facts, the advice for both risks, the sentence."""
    english = glossed(context.report.text, context.language) if context.language != "en" else context.report.text
    elsewhere = re.search(r"thyroid|lung-?\s?rads|\bknown (?:\w+ )?(?:cancer|malignan)|screening", english, re.I)
    if (
        not re.search(r"\bnodul", english, re.I)
        or elsewhere
        or not re.search(r"\blobe|lung|pulmonary|chest|thora", english, re.I)
    ):
        return None
    told = stated("nodule_type", [context.report], {"type": "enum", "values": ["solid", "part_solid", "ground_glass"]})
    lesions = [
        m
        for m in context.mentions
        if m.finding == "lesion" and m.there and m.sizes and m.sizes[0].mm and re.search(r"\bnodul", m.english, re.I)
    ]
    followed = re.search(r"\bunchanged|\bfollow-?up of|\bpreviously|\bbefore\)|\bstable\b", english, re.I)
    if told is None or not lesions or followed or any(s.prior for m in lesions for s in read(m.sentence.text).sizes):
        return None  # the table is for a nodule that is seen first
    axes = lesions[0].sizes[0].mm  # the mean of both axes, as Fleischner 2017 measures; the one that is given otherwise
    facts: dict[str, Any] = {"nodule_type": told.value, "size_mm": round(sum(axes[:2]) / len(axes[:2]), 1)}
    apart = {(m.sites, m.sides, round(m.sizes[0].mm[0])) for m in lesions if m.sentence.part not in CLOSING}
    facts["multiplicity"] = "multiple" if len(apart) > 1 or any((m.count or 0) > 1 for m in lesions) else "single"
    if context.age_years is not None:
        facts["age_years"] = context.age_years
    both = [context.rules.rule("fleischner_2017").apply({**facts, "risk": risk}) for risk in ("low", "high")]
    if any(o.refusal for o in both):
        return None
    low, high = (o.category or o.recommendation for o in both)
    return facts, low if low == high else f"{low} (low risk), {high} (high risk)", lesions[0].sentence


def _nodule(context: Context) -> Iterator[Issue]:
    found = nodule_advice(context)
    if found is None:
        return
    facts, advice, where = found
    for sentence in _advice(context):
        if not re.search(r"\bct\b|follow|tomogra|kontrolle|contrôle|scanner|\btc\b|复查|随访", sentence.text, re.I):
            continue
        span = months(sentence.text)
        none = bool(
            re.search(r"\bno (?:routine |further )?(?:follow|imaging)|\bnot (?:necessary|needed|required)", sentence.text, re.I)
        )
        if span is None and not none:
            continue
        if not any(_agrees(span, none, text) for text in re.split(r" \(low risk\), ", advice)):
            yield _by_rule(context, "fleischner_2017", facts, advice, where, sentence, f"By Fleischner 2017: {advice}.")
        return


def months(text: str) -> tuple[float, float] | None:
    """The first span of time that a text names, in months."""
    match = _SPAN.search(text)
    if match is None:
        return None
    unit = next(
        (f for w, f in _MONTHS.items() if match.group(3).lower().startswith(w) and not match.group(3).lower().startswith("mo")),
        1.0,
    )
    low = float(match.group(1)) * unit
    return low, float(match.group(2)) * unit if match.group(2) else low


def _agrees(span: tuple[float, float] | None, none: bool, advice: str) -> bool:
    """Whether a report's interval is one that the advice names first."""
    if re.search(r"no routine follow-up", advice):
        return none
    if none or span is None:
        return "optional" in advice if none else True
    wanted = months(advice)
    return wanted is None or (wanted[0] - 0.5 <= span[0] and span[1] <= wanted[1] + 0.5)


_LUNG_RADS = re.compile(r"\blung-?\s?rads(?:\s*(?:category|score|v?2022))*\s*:?\s*(1|2|3|4a)\b", re.I)
_PI_RADS = re.compile(r"\bpi-?\s?rads(?:\s*(?:category|score|v?2\.1))*\s*:?\s*([1-5])\b", re.I)
_WAIT = {
    "1": (12, "LDCT in 12 months"),
    "2": (12, "LDCT in 12 months"),
    "3": (6, "LDCT in 6 months"),
    "4A": (3, "LDCT in 3 months"),
}
"""Management of the Lung-RADS v2022 categories (knowledge/guidelines, lung_rads_2022)."""


def _by_category(context: Context) -> Iterator[Issue]:
    """A Lung-RADS or PI-RADS category with advice that belongs to another."""
    text = context.report.text
    lung = _LUNG_RADS.search(text)
    advice = _advice(context)
    if lung:
        wanted, words = _WAIT[lung.group(1).upper()]
        for sentence in advice:
            span = months(re.sub(_LUNG_RADS, "", sentence.text))
            if span and not span[0] - 1 <= wanted <= span[1] + 1:
                yield Issue(kind="recommendation", severity="major", start=sentence.start, end=sentence.end,
                            message=f"Lung-RADS {lung.group(1).upper()} goes with {words}.", suggestion=words)  # fmt: skip
                return
    prostate = _PI_RADS.search(text)
    if prostate:
        high, low = int(prostate.group(1)) >= 4, int(prostate.group(1)) <= 2
        for sentence in [s for s in context.body if s.part in (*CLOSING, "RECOMMENDATION")]:
            biopsy = re.search(r"\bbiops", sentence.text, re.I)
            denied = re.search(r"\bno (?:targeted )?biops|\bbiopsy (?:is )?not\b|\broutine (?:psa|follow)", sentence.text, re.I)
            if (high and denied) or (low and biopsy and not denied and "targeted" in sentence.text.lower()):
                usual = "targeted biopsy" if high else "usually no targeted biopsy"
                yield Issue(kind="recommendation", severity="major", start=sentence.start, end=sentence.end,
                            message=f"PI-RADS {prostate.group(1)} goes with {usual}.", suggestion=usual)  # fmt: skip
                return


def _by_rule(
    context: Context, name: str, facts: dict[str, Any], advice: str, where: Sentence, sentence: Sentence, message: str
) -> Issue:
    rule = context.rules.rule(name)
    origin: Fact = quoted(context.report, where)
    source: Any = origin.source
    origins = {n: Origin(kind="report", statement=origin.statement, source=source) for n in facts}
    fact = Fact(kind=Kind.RULE, title=rule.spec["title"], statement=f"By {rule.spec['title']} ({rule.spec['version']}): {advice.rstrip('.')}.",
                value={"category": None, "recommendation": advice, "values": {}, "checked": rule.checked},
                source=RuleRef(rule=name, document=rule.document, section=rule.section, inputs=facts, origins=origins))  # fmt: skip
    return Issue(
        kind="recommendation",
        severity="major",
        start=sentence.start,
        end=sentence.end,
        message=message,
        suggestion=advice,
        facts=[fact],
    )


def as_report(text: str, number: str, patient_id: str, day: str | None) -> Report:
    """A text under check as a report, so that its characters can be cited."""
    return Report(id=number, handle="the text", patient_id=patient_id, title="Report under check", date=day, text=text)
