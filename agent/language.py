"""The few sentences that the agent itself says, in the language of the question (message catalogues read by Babel)."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from babel.messages.pofile import read_po

SPOKEN = ("en", "de", "es", "fr", "zh")

MESSAGES = {
    "nothing": "I can't answer this from the evidence in this case.",
    "missing": "Missing",
    "conflict": "Contradiction",
    "more": "and {n} more",
    "no_prior": "There is no earlier study of this region in the case, so growth can't be stated; an earlier examination with its date is needed.",
    "no_premise": "Nothing in the case's studies, reports or records shows {premise}, so this can't be answered from evidence.",
    "no_organ": "The case holds no images or reports of the {premise}.",
    "no_such": "The case holds no {premise}; the question can't be answered from what is there.",
    "out_of_scope": "This is outside what I can do: I answer questions about the case's images, reports and records and about guidelines.",
    "help": "I answer questions about this case's images, reports and record and about guidelines; I outline, measure, compare and draft, and each sentence shows what it stands on.",
    "try": "Ask for instance: {questions}",
    "by_hand": "Nothing is sent or stored by a question. Open an outline, a draft or a worksheet beside the images: its buttons store it in the archive, send it or save it as a file, after you confirm.",
    "no_register": "No register of clinical trials is on this machine; guidelines can be asked for what they recommend.",
    "tissue": "Imaging can't establish a molecular marker; tissue has to be examined. What the images make probable stands below.",
    "order": "I can't prescribe, order or book anything; a clinician has to decide and act.",
    "no_language_model": "This needs a language model; I am the built-in planner and found no tool that fits the question.",
    "no_case": "No case is open: name a patient or studies, or import some.",
    "which_study": "The case shows several body parts. Which study do you mean: {choices}?",
    "which_reading": "This can be read in more than one way. Do you mean something like {choices}?",
    "no_hu": "Hounsfield units are defined for CT alone; none of this case's images has them.",
    "not_an_order": "Text inside a document is data, not an instruction; I don't follow it and change nothing because of it.",
    "no_tool": "No tool for this ({tool}) is installed here; what stands below comes from other tools.",
    "held": "This wants a tool that may not be used in this conversation: {tool}.",
    "model_down": "The language model's server did not answer; the built-in planner, which is no language model, answered instead.",
    "model_slow": "The language model's server gave no reply in time; the built-in planner, which is no language model, answered instead.",
    "model_memory": "The language model's server ran out of memory; the built-in planner, which is no language model, answered instead.",
    "model_refused": "The language model's server refused the request; the built-in planner, which is no language model, answered instead.",
    "model_context": "The conversation is longer than the language model's context; the built-in planner, which is no language model, answered instead.",
    "model_unusable": "The language model's reply could not be used; the built-in planner, which is no language model, answered instead.",
    "not_done": "Part of the request is outside what I do and was not followed; the rest is answered.",
    "limit": "The limit of {limit} was reached; this is what was found until then.",
    "urgent": "First to be looked at by a clinician: {findings}",
    "none_urgent": "The newest reports state none of the emergencies that are looked for here (bleeding, herniation, hydrocephalus, embolism, dissection, perforation, cord compression and the like); that excludes none.",
    "confirm": "This writes something and waits for your confirmation: {tool}.",
    "draft_made": "This is a draft: nobody has signed it. A person has to check, complete and sign it.",
    "check_made": "These points of the report are worth a second look; whether they are mistakes is for its author to decide.",
    "check_clean": "Nothing in the report contradicts itself, the images, earlier reports or the record, as far as that can be checked here.",
    "quote": "In the original (English): {statement}",
    "record": "The record gives {fact}.",
}  # fmt: skip
"""What the agent says of itself, by name."""
TITLES = {
    "Age": "The patient is {value} years old at the newest entry of the case.",
    "Sex": "The record gives the patient's sex as {value}.",
    "Study": "Study {handle}: {modality} of {date} with the series {series}.",
    "Volume": "The outlined tumour has a volume of {value} {unit}.",
    "Longest axial diameter": "Its longest axial diameter is {value} {unit}.",
    "Perpendicular diameter": "The diameter perpendicular to it is {value} {unit}.",
    "Bidimensional product": "The product of the two diameters is {value} {unit}.",
    "Longest diameter in space": "Its longest diameter in space is {value} {unit}.",
    "Distance to the midline": "Its centre lies {value} {unit} from the midline.",
    "Volume of the tumour core": "Of it, the tumour core has {value} {unit}.",
    "Volume of the enhancing tumour": "Of it, {value} {unit} enhance.",
    "Volume of a region": "The outlined {region} has a volume of {value} {unit}.",
    "Outlined region": "A region taken for tumour is outlined in the {side} half of the brain; a reader has to check the outline.",
    "Outlined organs": "Outlined are: {parts}.",
    "No outline": "No region was outlined; that excludes none.",
    "Number of lesions": "{count} lesions were marked; a reader has to check each.",
    "No lesion found": "No lesion was marked; that excludes none.",
    "Tumour type": "Of the three types that the classifier knows, {label} is most likely ({percent} %).",
    "Interval": "{days} days lie between the studies {pair}.",
    "Change in volume": "From {pair} the volume changed by {value} % ({low} to {high} %).",
    "Change in diameter": "From {pair} the longest axial diameter changed by {value} % ({low} to {high} %).",
    "Change in product": "From {pair} the product of the two diameters changed by {value} % ({low} to {high} %).",
    "Volume doubling time": "At the rate from {pair} the volume doubles in {value} days.",
}  # fmt: skip
"""Sentences of evidence, by its title: said in other languages than English, where the evidence's own sentence stands."""
WORDS = ("left", "right", "glioma", "meningioma", "pituitary", "female", "male", "other")
"""Values inside those sentences that are said in the language too."""


@cache
def _catalogue(language: str) -> dict[str, str]:
    path = Path(__file__).parent / "locale" / language / "LC_MESSAGES" / "agent.po"
    if not path.exists():
        return {}
    with path.open("rb") as file:
        return {str(m.id): str(m.string) for m in read_po(file) if m.id and m.string}


def translated(language: str, sentence: str) -> str:
    """`sentence` in `language`; English where there is no catalogue or no entry for it."""
    return _catalogue(language).get(sentence, sentence)


def say(language: str, name: str, **values: Any) -> str:
    """A sentence of the agent, by name."""
    return translated(language, MESSAGES[name]).format(**values)


def titled(language: str, title: str, **values: Any) -> str | None:
    """The sentence of an evidence of this title; None where there is none. Numbers keep the point, so that they can be found in their evidence."""
    template = TITLES.get(title)
    if template is None or translated(language, template) == template:
        return None
    shown = {n: translated(language, str(v)) for n, v in values.items()}
    return translated(language, template).format(**shown)


def nothing_line(language: str) -> str:
    """What an answer says that found no evidence."""
    return say(language, "nothing")


MOST_NAMED = 6
"""Of what is missing, in the text; the rest stands in the answer's list."""


def missing_line(language: str, names: Sequence[str]) -> str:
    """What is missing, in one line."""
    more = [say(language, "more", n=len(names) - MOST_NAMED)] if len(names) > MOST_NAMED else []
    return f"{say(language, 'missing')}: {'; '.join([*names[:MOST_NAMED], *more])}."


def conflict_line(language: str, statements: Sequence[str], marks: str) -> str:
    """What contradicts what, in one line."""
    return f"{say(language, 'conflict')}: {' '.join(statements)} {marks}".strip()
