"""The evaluation for people: tables, pictures and one page that holds them all."""

import base64
import csv
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy

matplotlib.use("Agg")
from matplotlib import pyplot

from staytuned.files import replacing, write_text
from staytuned.workspace import Workspace

SHOWN = 20  # labels in the picture of confusions; of more, those with most mistakes
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>staytuned: evaluation</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.25rem .8rem;border-bottom:1px solid #ddd;
text-align:right;white-space:nowrap}th:first-child,td:first-child,.text{text-align:left}img{max-width:100%}
.text{white-space:normal}.range{color:#777;font-size:85%}
</style>
<h1>Evaluation</h1>
<p>{{ test.rows }} test rows in {{ test.groups }} groups{% if test.kept_from_judging %}; {{ test.kept_from_judging }}
more were kept out, since a model was trained on them{% endif %}{% if test.not_drawn %}; {{ test.not_drawn }}
others were not drawn (evaluate.max_rows_per_source){% endif %}. Ranges are {{ "%.0f" % (100 * test.confidence) }} %
intervals, bootstrapped by group.</p>
<p>What was decided on it: <a href="../decision.html">the decision</a>.</p>
<h2>Models</h2>
<table><tr><th>model{% for metric in metrics %}<th>{{ metric.title }}{% endfor %}</tr>
{% for name, model in models.items() %}<tr><td>{{ titles[name] }}{% if model.version %}, version {{ model.version }}
{% endif %}{% for metric in metrics %}<td>{{ "%.3f" % model.metrics[metric.name] }}
<span class="range">{{ "%.3f" % model.intervals[metric.name][0] }}–{{ "%.3f" % model.intervals[metric.name][1] }}</span>
{% endfor %}</tr>{% endfor %}</table>
<h2>Candidate against</h2>
<table><tr><th>{% for metric in metrics %}<th>{{ metric.title }}
{%- if not metric.higher_is_better %} (less is better){% endif %}{% endfor %}</tr>
{% for name, pair in comparisons.items() %}<tr><td>{{ titles[name] }}{% for metric in metrics %}
<td>{{ "%+.3f" % pair[metric.name].difference }} <span class="range">{{ "%+.3f" % pair[metric.name].interval[0] }} to
{{ "%+.3f" % pair[metric.name].interval[1] }}</span>{% endfor %}</tr>{% endfor %}</table>
{% if per_class %}<h2>Candidate, per class</h2>
<table><tr><th>class{% for column in columns %}<th>{{ column }}{% endfor %}{% for rival in rivals %}
<th>F1 against {{ titles[rival] }}{% endfor %}</tr>
{% for name, row in per_class.items() %}<tr><td>{{ name }}{% for column in columns %}
<td>{{ row[column] if row[column] is integer else "%.3f" % row[column] }}{% endfor %}{% for rival in rivals %}
<td>{% if classes.get(name, {})[rival] %}{{ "%+.3f" % classes[name][rival].difference }} <span class="range">
{{- "%+.3f" % classes[name][rival].interval[0] }} to {{ "%+.3f" % classes[name][rival].interval[1] }}</span>{% else %}–
{%- endif %}{% endfor %}</tr>{% endfor %}</table>
{% endif %}
<h2>Candidate, per source</h2>
<table><tr><th>source<th>rows{% for metric in metrics %}<th>{{ metric.title }}{% endfor %}</tr>
{% for name, row in models.candidate.slices.items() %}<tr><td>{{ name }}<td>{{ row.rows }}
{% for metric in metrics %}<td>{{ "%.3f" % row.metrics[metric.name] }}{% endfor %}</tr>{% endfor %}</table>
{% if behaviour %}<h2>Behaviour</h2>
<table><tr><th>check<th>passed<th>asked for<th class="text">some that fail</tr>
{% for name, check in behaviour.items() %}<tr><td>{{ name }}<td>{{ check.passed }} of {{ check.cases }}
<td>{{ "%.0f" % (100 * check.share) }} %
<td class="text">{{ check.failed[:3] | join(" · ") }}{% endfor %}</table>{% endif %}
{% for title, picture in pictures.items() %}<h2>{{ title }}</h2><img alt="{{ title }}"
src="data:image/png;base64,{{ picture }}">{% endfor %}</html>
"""


def write_pages(workspace: Workspace, report: dict[str, Any]) -> None:
    """Write ``report.html`` with its pictures, and ``per_class.csv`` where the task tells classes apart."""
    folder = workspace.evaluation
    details = report["models"]["candidate"]["details"]
    per_class, confusion = details.get("per_class", {}), details.get("confusion")
    columns = list(next(iter(per_class.values()), {}))
    if per_class:
        with (folder / "per_class.csv").open("w", encoding="utf-8", newline="") as handle:
            table = csv.writer(handle)
            table.writerow(["class", *columns])
            for name, row in per_class.items():
                values = (row[column] for column in columns)
                table.writerow([name, *(value if isinstance(value, int) else f"{value:.6f}" for value in values)])
    names = {"Learning curve": "learning_curve.png"}
    if confusion:
        _confusion(folder / "confusion.png", **confusion)
        names = {"Confusion matrix": "confusion.png"} | names
    _learning_curve(folder / "learning_curve.png", workspace.curve, report["metrics"][0]["title"])
    pictures = {title: base64.b64encode((folder / name).read_bytes()).decode() for title, name in names.items()}
    titles = {
        "base": f"before: {report['before']}",
        "candidate": "candidate, fine-tuned",
        "champion": "champion",
        "best": "best version before this run",
    }
    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    rivals = [name for name in report["comparisons"] if name != "base" and report["classes"].keys() & per_class.keys()]
    page = template.render(
        **report, per_class=per_class, columns=columns, rivals=rivals, pictures=pictures, titles=titles
    )
    write_text(folder / "report.html", page)


def _confusion(path: Path, labels: list[str], counts: list[list[int]], of: str) -> None:
    table = numpy.array(counts)
    shares = table / numpy.maximum(1, table.sum(axis=1, keepdims=True))  # so that rare labels show as well
    shown = most_mistaken(table)
    names = [labels[place] for place in shown]
    size = max(4.0, 0.7 * len(names) + 2)
    figure, axes = pyplot.subplots(figsize=(size, size), layout="constrained")
    axes.imshow(shares[numpy.ix_(shown, shown)], cmap="Blues", vmin=0, vmax=1)
    for i, true in enumerate(shown):
        for j, predicted in enumerate(shown):
            colour = "white" if shares[true, predicted] > 0.5 else "black"
            axes.text(j, i, str(table[true, predicted]), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    if len(names) < len(labels):
        axes.set_title(f"the {len(names)} of {len(labels)} labels with most mistakes")
    axes.set_xlabel(f"predicted\nnumbers of {of}\ncolour: share of a line")
    axes.set_ylabel("true")
    _close(figure, path)


def most_mistaken(table: numpy.ndarray) -> numpy.ndarray:
    """Places of the labels that are most often taken for others, or others for them: ``SHOWN`` at most, in order."""
    mistakes = table.sum(axis=0) + table.sum(axis=1) - 2 * table.diagonal()
    return numpy.sort(numpy.argsort(-mistakes, kind="stable")[:SHOWN])


def _learning_curve(path: Path, curve: Path, title: str) -> None:
    with curve.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    steps = [float(row["step"]) for row in rows]
    figure, (loss, quality) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, name, label in (
        (loss, "train_loss", "train loss"),
        (loss, "validation_loss", "validation loss"),
        (quality, "validation_score", f"validation {title}"),
    ):
        axes.plot(steps, [float(row[name]) for row in rows], marker="o", label=label)
    for axes in (loss, quality):
        axes.set_xlabel("step")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    _close(figure, path)


def _close(figure: Any, path: Path) -> None:
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})  # nothing of the machine in the file
    pyplot.close(figure)
