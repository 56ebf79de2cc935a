"""Drift for people: what moved, which words and sources, which rows; one page that loads nothing from elsewhere."""

import base64
import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy
import pandas

from staytuned.drift.checks import domain_scores
from staytuned.drift.views import Compared, texts_of, words_in
from staytuned.drift.words import telling_words
from staytuned.files import replacing, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS, EXAMPLES, CHARACTERS, BINS, BARS = 15, 10, 300, 30, 12
COLOURS = {"reference": "#7a8ca3", "window": "#c8553d"}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>staytuned: drift</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.25rem .8rem;border-bottom:1px solid #ddd;
text-align:right;vertical-align:top}th:first-child,td:first-child,.text{text-align:left}img{max-width:100%}
.alarm{color:#b3261e;font-weight:600}.range{color:#777;font-size:85%;white-space:nowrap}.text{overflow-wrap:anywhere}
</style>
<h1>Drift{% if file %} of {{ file }}{% endif %}</h1>
{% if not file %}<p>What was decided: <a href="../decision.html">the decision</a>.</p>{% endif %}
<p{% if alarm %} class="alarm"{% endif %}>{{ said }}</p>
{% if checks %}
<p>{{ window.rows }} newest rows in {{ window.groups }} groups{% if window.asked is defined and
window.asked != window.rows %} ({{ window.asked }} of them of groups and texts that the champion had not seen: answers
and quality are of these){% endif %}, against {{ reference.rows }} rows in
{{ reference.groups }} groups of the batches that the champion knew. A check gives the alarm from its threshold on; p is
how often it is at least so large where nothing drifted, by windows drawn at random.</p>
<table><tr><th>check<th>value<th>threshold<th>p<th></tr>
{% for check in checks.values() %}<tr{% if check.alarm %} class="alarm"{% endif %}><td>{{ check.title }}
<td>{{ "%.3f" % check.value }}<td>{{ "–" if check.threshold is none else "%.3f" % check.threshold }}
<td>{{ "%.3f" % check.p }}<td>{{ "drift" if check.alarm }}</tr>{% endfor %}</table>
{% for name, why in skipped.items() %}<p>Not checked: {{ name }}; {{ why }}.</p>{% endfor %}
<h2>How good the champion is</h2>
<table><tr><th><th>reference<th>new rows</tr>
<tr><td>{{ metric.title }}, measured<td>{{ figure(reference.metric) }}
<td>{{ figure(window.metric, window.change) }}</tr>
<tr><td>accuracy<td>{{ figure(reference.accuracy) }}<td>{{ accuracy }}</tr></table>
<h2>What moved</h2>
{% for title, picture in pictures.items() %}<h3>{{ title }}</h3><img alt="{{ title }}"
src="data:image/png;base64,{{ picture }}">{% endfor %}
<h2>Words</h2>
<p>More often in the new rows: {{ more | join(", ") or "none" }}.</p>
<p>Less often: {{ less | join(", ") or "none" }}.</p>
<h2>Sources</h2>
<table><tr><th>source<th>reference<th>new rows<th>like the new rows</tr>
{% for row in sources %}<tr><td>{{ row.source }}<td>{{ row.reference }}<td>{{ row.window }}
<td>{{ "%.3f" % row.score }}</tr>{% endfor %}</table>
<h2>New rows most unlike the reference</h2>
<table><tr><th>text<th>source<th>label<th>answer<th>score</tr>
{% for row in examples %}<tr><td class="text">{{ row.text }}<td>{{ row.source }}<td>{{ row.label }}<td>{{ row.answer }}
<td>{{ "%.3f" % row.score }}</tr>{% endfor %}</table>
{% endif %}</html>
"""


def write_pages(folder: Path, report: dict[str, Any], rows: Compared | None) -> None:
    """Write ``report.html`` and its pictures; without rows a page of one sentence.

    Args:
        folder: Where to.
        report: What was found.
        rows: As they were looked at.
    """
    seen: dict[str, Any] = {}
    if rows:
        member = numpy.bincount(rows.groups, rows.in_window) > 0
        scores = domain_scores(rows.vectors, rows.groups, member[None])[0]
        texts = pandas.Series(texts_of(rows.frame))
        more, less = telling_words(texts[~rows.in_window], texts[rows.in_window], WORDS)
        seen = {"more": more, "less": less, "sources": _sources(rows, scores), "examples": _examples(rows, scores)}
        seen["pictures"] = _pictures(folder, report, rows, scores, texts)
    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    said = {"accuracy": accuracy_in_words(report), "figure": _figure}
    page = template.render(**report, **seen, **said)
    write_text(folder / "report.html", page)


def accuracy_in_words(report: dict[str, Any]) -> str:
    """The champion's accuracy on the new rows: as its confidence has it and, where labels have come, as they do."""
    estimate, measured = report["estimated_accuracy"], report["window"]["accuracy"]
    said = []
    if estimate:
        said.append(f"estimated without labels {_figure(estimate['value'], estimate['change'])}")
    if measured is not None:
        said.append(f"with the labels that came: {_figure(measured)}")
    elif estimate and report["alarm"]:
        said.append("beside this alarm it may be far off; label some of these rows to know")
    return "; ".join(said) or _figure(None)


def _figure(value: float | None, change: list[float] | None = None) -> str:
    """A figure and, where it is known, how far it is from that of the reference."""
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({change[0]:+.3f} to {change[1]:+.3f} against the reference)" if change else "")


def _sources(rows: Compared, scores: numpy.ndarray) -> list[dict[str, Any]]:
    """Rows of each source on either side, and their mean score, most like the window first."""
    table = pandas.DataFrame({"source": rows.frame["source"], "window": rows.in_window, "score": scores})
    found = [
        {
            "source": source,
            "reference": int((~part["window"]).sum()),
            "window": int(part["window"].sum()),
            "score": float(part["score"].mean()),
        }
        for source, part in table.groupby("source")
    ]
    return sorted(found, key=lambda row: (-row["score"], row["source"]))


def _examples(rows: Compared, scores: numpy.ndarray) -> list[dict[str, Any]]:
    """The rows of the window that are least like the reference."""
    answers = dict(zip(rows.answers.places, rows.answers.names, strict=True)) if rows.answers else {}
    order = [place for place in (-scores).argsort(kind="stable") if rows.in_window[place]][:EXAMPLES]
    texts = texts_of(rows.frame)
    return [
        {
            "text": texts[place][:CHARACTERS],
            "source": rows.frame["source"][place],
            "label": rows.frame["label"][place] or "",
            "answer": answers.get(place, ""),
            "score": float(scores[place]),
        }
        for place in order
    ]


def _pictures(
    folder: Path, report: dict[str, Any], rows: Compared, scores: numpy.ndarray, texts: pandas.Series
) -> dict[str, str]:
    """A picture for each check, by its title, as text for the page."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    frame, inside = rows.frame, rows.in_window
    draw: dict[str, Any] = {
        "domain_classifier": lambda axes: _histogram(axes, scores, inside, "score of the classifier"),
        "embeddings": lambda axes: _map(axes, rows.vectors, inside),
        "text_length": lambda axes: _histogram(axes, texts.str.len().to_numpy(), inside, "characters"),
        "unknown_words": lambda axes: _new_words(axes, texts, inside),
        "labels": lambda axes: _bars(axes, frame["label"].fillna("").to_numpy(), inside),
    }
    said = rows.answers
    if said:
        theirs = inside[said.places]
        draw["answers"] = lambda axes: _bars(axes, said.names, theirs)
        draw["confidence"] = lambda axes: _histogram(axes, said.confidence, theirs, "probability of the answer")
    found = {}
    for name, about in report["checks"].items():
        figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
        draw[name](axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars, not on them
        with replacing(folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=100, metadata={"Software": None})  # nothing of the machine in it
        pyplot.close(figure)
        found[about["title"]] = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
    return found


def _histogram(axes: "Axes", values: Any, inside: numpy.ndarray, title: str) -> None:
    edges = numpy.histogram_bin_edges(values, BINS)
    for name, part in (("reference", values[~inside]), ("window", values[inside])):
        weights = numpy.full(len(part), 1 / max(1, len(part)))
        axes.hist(part, edges.tolist(), weights=weights, alpha=0.6, label=name, color=COLOURS[name])
    axes.set_xlabel(title)
    axes.set_ylabel("share of the rows")


def _map(axes: "Axes", vectors: numpy.ndarray, inside: numpy.ndarray) -> None:
    """The two directions in which the embeddings differ most (principal components)."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = numpy.linalg.eigh(centred.T @ centred)
    flat = centred @ directions[:, -2:]
    for name, part in (("reference", flat[~inside]), ("window", flat[inside])):
        axes.scatter(part[:, 1], part[:, 0], s=6, alpha=0.5, label=name, color=COLOURS[name])
    axes.set_xticks([])
    axes.set_yticks([])


def _bars(axes: "Axes", values: Any, inside: numpy.ndarray) -> None:
    """Shares of names, the most frequent ones."""
    names = pandas.Series(values).value_counts().index[:BARS]
    _pairs(axes, list(names), [[(part == name).mean() for name in names] for part in (values[~inside], values[inside])])


def _new_words(axes: "Axes", texts: pandas.Series, inside: numpy.ndarray) -> None:
    """Words that the reference lacks, those in most rows of the window."""
    words = [set(words_in(text)) for text in texts]
    known = set().union(*itertools.compress(words, ~inside))
    counts = Counter(word for held in itertools.compress(words, inside) for word in sorted(held - known))
    names = [word for word, _ in counts.most_common(BARS)]
    if not names:
        axes.text(0.5, 0.5, "no word is new", ha="center", transform=axes.transAxes)
    _pairs(axes, names, [[0.0] * len(names), [counts[name] / inside.sum() for name in names]])


def _pairs(axes: "Axes", names: list[str], shares: list[list[float]]) -> None:
    places = numpy.arange(len(names))
    for step, (name, share) in enumerate(zip(COLOURS, shares, strict=True)):
        axes.bar(places + 0.4 * step - 0.2, share, 0.4, label=name, color=COLOURS[name])
    axes.set_xticks(places, [name[:16] for name in names], rotation=30, ha="right")
    axes.set_ylabel("share of the rows")
