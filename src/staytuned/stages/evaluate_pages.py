"""The evaluation for people: tables, pictures and one page that holds them all."""

import base64
import csv
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from staytuned.workspace import Workspace

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>staytuned: evaluation</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.25rem .8rem;border-bottom:1px solid #ddd;
text-align:right}th:first-child,td:first-child{text-align:left}img{max-width:100%}.range{color:#777;font-size:85%}
</style>
<h1>Evaluation</h1>
<p>{{ test.rows }} test rows in {{ test.groups }} groups{% if test.kept_from_judging %}; {{ test.kept_from_judging }}
more were kept out, since a model was trained on them{% endif %}. Ranges are {{ "%.0f" % (100 * test.confidence) }} %
intervals, bootstrapped by group.</p>
<h2>Models</h2>
<table><tr><th>model<th>accuracy<th>macro-F1<th>calibration error</tr>
{% for name, model in models.items() %}<tr><td>{{ titles[name] }}{% if model.version %}, version {{ model.version }}
{% endif %}{% for metric in ("accuracy", "macro_f1") %}<td>{{ "%.3f" % model[metric] }}
<span class="range">{{ "%.3f" % model.intervals[metric][0] }}–{{ "%.3f" % model.intervals[metric][1] }}</span>
{% endfor %}<td>{{ "%.3f" % model.calibration_error }}</tr>{% endfor %}</table>
<h2>Candidate against</h2>
<table><tr><th><th>accuracy<th>macro-F1</tr>
{% for name, pair in comparisons.items() %}<tr><td>{{ titles[name] }}{% for metric in ("accuracy", "macro_f1") %}
<td>{{ "%+.3f" % pair[metric].difference }} <span class="range">{{ "%+.3f" % pair[metric].interval[0] }} to
{{ "%+.3f" % pair[metric].interval[1] }}</span>{% endfor %}</tr>{% endfor %}</table>
<h2>Candidate, per class</h2>
<table><tr><th>class<th>precision<th>recall<th>F1<th>rows</tr>
{% for name, row in models.candidate.per_class.items() %}<tr><td>{{ name }}<td>{{ "%.3f" % row.precision }}
<td>{{ "%.3f" % row.recall }}<td>{{ "%.3f" % row.f1 }}<td>{{ row.support }}</tr>{% endfor %}</table>
<h2>Candidate, per source</h2>
<table><tr><th>source<th>rows<th>accuracy<th>macro-F1</tr>
{% for name, row in models.candidate.slices.items() %}<tr><td>{{ name }}<td>{{ row.rows }}
<td>{{ "%.3f" % row.accuracy }}<td>{{ "%.3f" % row.macro_f1 }}</tr>{% endfor %}</table>
{% for title, picture in pictures.items() %}<h2>{{ title }}</h2><img alt="{{ title }}"
src="data:image/png;base64,{{ picture }}">{% endfor %}</html>
"""
TITLES = {
    "base": "before: frozen embeddings, logistic regression",
    "candidate": "candidate, fine-tuned",
    "champion": "champion",
    "best": "best version ever",
}


def write_pages(workspace: Workspace, report: dict[str, Any]) -> None:
    """Write ``per_class.csv``, ``confusion.png``, ``learning_curve.png`` and ``report.html``."""
    folder = workspace.evaluation
    candidate = report["models"]["candidate"]
    with (folder / "per_class.csv").open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["class", "precision", "recall", "f1", "support"])
        for name, row in candidate["per_class"].items():
            table.writerow([name, *(f"{row[key]:.6f}" for key in ("precision", "recall", "f1")), row["support"]])
    _confusion(folder / "confusion.png", list(candidate["per_class"]), candidate["confusion"])
    _learning_curve(folder / "learning_curve.png", workspace.curve)
    pictures = {
        title: base64.b64encode((folder / name).read_bytes()).decode()
        for title, name in (("Confusion matrix", "confusion.png"), ("Learning curve", "learning_curve.png"))
    }
    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    page = template.render(**report, pictures=pictures, titles=TITLES)
    (folder / "report.html").write_text(page, encoding="utf-8")


def _confusion(path: Path, labels: list[str], counts: list[list[int]]) -> None:
    size = max(4.0, 0.7 * len(labels) + 2)
    figure, axes = pyplot.subplots(figsize=(size, size), layout="constrained")
    axes.imshow(counts, cmap="Blues")
    darkest = max(map(max, counts)) or 1
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            colour = "white" if count > darkest / 2 else "black"
            axes.text(j, i, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    _close(figure, path)


def _learning_curve(path: Path, curve: Path) -> None:
    with curve.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    steps = [float(row["step"]) for row in rows]
    figure, (loss, quality) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, names in (
        (loss, ("train_loss", "validation_loss")),
        (quality, ("validation_accuracy", "validation_macro_f1")),
    ):
        for name in names:
            axes.plot(steps, [float(row[name]) for row in rows], marker="o", label=name.replace("_", " "))
        axes.set_xlabel("step")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    _close(figure, path)


def _close(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})  # nothing of the machine in the file
    pyplot.close(figure)
