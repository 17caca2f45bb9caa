"""An answer as one HTML page with its pictures: `consilium ask --out`."""

import base64
from pathlib import Path

from jinja2 import Environment, select_autoescape

from agent.answer import Answer
from knowledge.evidence import Evidence, ImageRef
from knowledge.studies import nifti, render
from serving.house import House

_PAGE = """<!doctype html>
<html lang="{{ answer.language }}"><head><meta charset="utf-8"><title>Consilium: {{ question }}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#16191d}
figure{margin:1rem 0;background:#000;color:#ddd;padding:.5rem}img{width:100%;image-rendering:pixelated}
figcaption{font-size:.85rem}.note{background:#fff3d6;padding:.5rem .75rem}a{color:#0b5cad}li{margin:.3rem 0}
small{color:#555}</style></head><body>
<p class="note">Research use only; not a medical device.</p>
<h1>{{ question }}</h1>
{% if answer.lead or answer.abstained %}<p><strong>{{ answer.lead or answer.text.split("\\n\\n")[0] }}</strong></p>{% endif %}
{% for s in answer.statements %}<p>{{ s.text }} {% for i in s.evidence %}<a href="#{{ i }}">[{{ i }}]</a> {% endfor %}</p>{% endfor %}
{% if answer.missing %}<h2>Missing</h2><ul>{% for m in answer.missing %}<li>{{ m.what }}: {{ m.why }}.
With it: {{ m.would_change }}.</li>{% endfor %}</ul>{% endif %}
<h2>Evidence</h2>
{% for e, picture in evidence %}<div id="{{ e.id }}"><p><strong>[{{ e.id }}]</strong> {{ e.kind }}: {{ e.statement }}</p>
{% if picture %}<figure><img alt="{{ e.title }}" src="data:image/png;base64,{{ picture }}">
<figcaption>{{ e.title }} · {{ e.source.model }} {{ e.source.model_version }} · frame {{ e.source.frame }}</figcaption></figure>{% endif %}</div>
{% endfor %}
<p><small>{{ answer.provenance.software }} · planner {{ answer.provenance.planner.kind }} {{ answer.provenance.planner.model }} ·
corpus {{ answer.provenance.corpus }} · prompts {{ answer.provenance.prompts }}</small></p></body></html>
"""


def write_page(house: House, question: str, answer: Answer, folder: Path) -> Path:
    """Write `answer.html` into `folder`; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    shown: set[tuple[str, int | None]] = set()
    rows = [(e, _picture(house, e, shown)) for e in answer.evidence]
    page = Environment(autoescape=select_autoescape(default=True)).from_string(_PAGE)
    path = folder / "answer.html"
    path.write_text(page.render(question=question, answer=answer, evidence=rows), encoding="utf-8")
    return path


def _picture(house: House, evidence: Evidence, shown: set[tuple[str, int | None]]) -> str | None:
    """The frame of an image fact, each frame once."""
    source = evidence.source
    if not isinstance(source, ImageRef) or (source.series_uid, source.frame) in shown:
        return None
    shown.add((source.series_uid, source.frame))
    series = next(s for s in house.archive.study(source.study_id).series if s.series_uid == source.series_uid)
    stack, mask = house.viewer.stack(series.id), None
    if source.mask:
        mask = nifti.read_mask(house.archive.derived(series.id) / source.mask.rsplit("/", 1)[1]).aligned_with(stack)
    return base64.b64encode(render.png(stack, source.frame or 0, None, mask)).decode()
