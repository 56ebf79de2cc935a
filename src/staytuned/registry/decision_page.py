"""The decision for people: what the gate said, what was registered, and what each version knows of each source."""

from typing import Any

from staytuned.data.batches import manifest
from staytuned.files import read_json, write_text
from staytuned.registry.forgetting import columns, falls
from staytuned.registry.gate import Decision
from staytuned.registry.ledger import Entry
from staytuned.workspace import Workspace

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>staytuned: decision</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.25rem .8rem;
border-bottom:1px solid #ddd;text-align:right}th:first-child,td:first-child{text-align:left}
.small{color:#777;font-size:85%;white-space:nowrap}
</style>
<h1>{{ decision.outcome }}</h1>
<p>{% if version %}Registered as version {{ version }}.{% else %}Nothing was registered; the champion, if any, stays.
{%- endif %}
Of the training, step {{ best.step }} (epoch {{ "%.1f" % best.epoch }}) was kept: validation score
{{ "%.3f" % best.validation_score }}.{% if start %} The candidate is the mean of these weights and those of version
{{ start.version }}, from which it went on, at {{ "%g" % share }} (<code>train.champion_share</code>).{% endif %}</p>
<ul>{% for reason in decision.reasons %}<li>{{ reason }}{% endfor %}</ul>
<p><a href="evaluation/report.html">The evaluation</a> · <a href="drift/report.html">what drifted</a> ·
<a href="data-docs/index.html">Data Docs</a></p>
<h2>What each version knows: {{ metric }}</h2>
<p>Versions that were scored in this run stand with today's figures; older ones with those of the day on which they were
candidates. The first column compares on the same test rows only: the candidate beside the best of the others, + where
it is better. The gate asks for it, with intervals, against champion and best version
(<code>gate.sources.margin</code>).</p>
{% for kind, rows in places.items() %}
<div class="wide"><table><tr><th>{{ kind }}<th>beside the best
{%- for column in matrix|reverse %}<th>{{ column.title }}<br>
<span class="small">{{ column.when }}</span>{% endfor %}</tr>
{% for name, title in rows.items() %}<tr><td>{{ title }}
<td>{% if name in below[kind] %}{{ "%+.3f" % (0 - below[kind][name][0]) }}<br>
<span class="small">{{ below[kind][name][1] }}</span>{% else %}–{% endif %}{% for column in matrix|reverse %}<td>
{%- if name in column.figures[kind] %}{{ "%.3f" % column.figures[kind][name][1] }}<br>
<span class="small">{{ "%d" % column.figures[kind][name][0] }} rows</span>{% else %}–{% endif %}{% endfor %}</tr>
{% endfor %}</table></div>{% endfor %}</html>
"""


def write_page(
    workspace: Workspace, entries: list[Entry], report: dict[str, Any], decision: Decision, version: int | None
) -> None:
    """Write ``reports/decision.html``.

    Args:
        workspace: Whose candidate was judged.
        entries: Of the ledger.
        report: The evaluation.
        decision: What the gate made of it.
        version: The candidate's, where it was registered.
    """
    import jinja2

    matrix, metric = columns(entries, report), report["metrics"][0]
    last, about = matrix[-1].figures, read_json(workspace.candidate / "staytuned.json")
    start = about["start"]
    batches = {batch.batch[:16]: f"{batch.file}, {batch.arrived[:10]}" for batch in manifest(workspace)}
    page = jinja2.Environment(autoescape=True).from_string(PAGE)
    text = page.render(
        decision=decision,
        version=version,
        best=about["best"],
        start=start,
        share=start and about["train"]["champion_share"],
        metric=metric["title"],
        matrix=matrix,
        places={
            "sources": {name: name for name in last["sources"]},
            "batches": {name: title for name, title in batches.items() if name in last["batches"]},
        },
        below={kind: falls(kind, matrix, metric["higher_is_better"]) for kind in last},
    )
    write_text(workspace.decision_page, text)
