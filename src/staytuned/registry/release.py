"""Release: decide on the candidate, register it, prove that it reloads, let the alias follow the ledger."""

import hashlib
import json
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from staytuned import pipeline
from staytuned.errors import RegistryError
from staytuned.files import read_json, replacing_folder, sha256, write_json
from staytuned.params import Params
from staytuned.progress import busy
from staytuned.registry import ledger as kinds
from staytuned.registry.alias import CHALLENGER, CHAMPION
from staytuned.registry.decision_page import write_page
from staytuned.registry.evidence import Standing
from staytuned.registry.forgetting import measured
from staytuned.registry.gate import Decision, decide
from staytuned.registry.ledger import Entry, Ledger, overtaken
from staytuned.registry.pin import has_weights, wanted, written
from staytuned.registry.promotion import GATE, move, promotions, rolled_back, unconfirmed, witness
from staytuned.registry.reload import Reload
from staytuned.registry.versions import Registry
from staytuned.workspace import Workspace

if TYPE_CHECKING:
    import pandas

LAST_STEP = {"PROMOTE": kinds.CONFIRMATION, "HOLD": kinds.CHALLENGE, "BLOCK": kinds.DECISION}  # that ends an outcome
TIMED = 32  # rows that are timed
TOLERANCE = 1e-5  # largest difference of an output that passes

CARD = """# {{ model }}

Three facts first: {{ task }}{% if labels %} with the labels {{ labels | join(", ") }}{% endif %}; fine-tuned from
`{{ base.name }}` ({{ base.sha256[:12] }}); decision of the gate: {{ decision.outcome }}.

|{% for metric in metrics %} | {{ metric.title }}{% endfor %} |
|---|{% for metric in metrics %}---|{% endfor %}
{% for name, found in models.items() %}| {{ name }} |
{%- for metric in metrics %} {{ "%.3f" % found.metrics[metric.name] }} |{% endfor %}
{% endfor %}`base` is what there was before: {{ before }}.

Measured on {{ test.rows }} held-out rows in {{ test.groups }} groups; trained on {{ rows }} rows.

Reasons: {{ decision.reasons | join("; ") }}

Meant for texts like those of the sources {{ models.candidate.slices.keys() | join(", ") }}; other sources were not
measured. How to build it again: the files under `lineage` of its run.
"""


@dataclass(frozen=True)
class Release:
    """What came of a candidate."""

    key: str
    decision: Decision
    version: int | None  # None: blocked, not registered
    alias: str | None  # that the version has now
    moved: bool = False  # whether it became champion by this


def key_of(workspace: Workspace, params: Params) -> str:
    """What a decision is about: the state of the pipeline, the policy, the model's name."""
    lock = workspace.lock.read_bytes() if workspace.lock.exists() else b""
    policy = json.dumps([params.section("gate"), params.registry.model], sort_keys=True)
    return hashlib.sha256(lock + policy.encode()).hexdigest()


def finished(workspace: Workspace, params: Params) -> Release | None:
    """What came of the present state, if nothing is left to do: DVC is clean, and the ledger holds its decision
    and all that follows from it. Asks neither Prefect nor MLflow.
    """
    ledger, key = Ledger.of(workspace, params), key_of(workspace, params)
    entry = ledger.last(kinds.DECISION, key)
    if entry is None or unconfirmed(ledger):
        return None
    decision = Decision(entry.facts["outcome"], entry.facts["reasons"])
    last = ledger.last(LAST_STEP[decision.outcome], key) or _standing(ledger, entry)
    if last is None or pipeline.stale(workspace):
        return None
    version, champion = last.facts.get("version"), wanted(ledger)["champion"]
    if champion and champion["version"] == version:
        return Release(key, decision, version, CHAMPION)
    return Release(key, decision, version, CHALLENGER if decision.outcome == "HOLD" else None)


def release(workspace: Workspace, params: Params, registry: Registry, run_id: str, reload: Reload) -> Release:
    """Take the candidate from its report to its alias; a road that was cut goes on where it was.

    Args:
        workspace: With the candidate and its report.
        params: Of the workspace.
        registry: Where it is registered.
        run_id: The run of MLflow that it is logged to.
        reload: Proves a version (``reload.reloader``).

    Raises:
        BusyError: another is moving the champion, or has moved it since the candidate was judged.
        RegistryError: the registry or the DVC remote does not answer, or the reloaded model differs.
    """
    ledger, key = Ledger.of(workspace, params), key_of(workspace, params)
    entry = ledger.last(kinds.DECISION, key) or _decided(workspace, params, ledger, run_id, key)
    decision = Decision(entry.facts["outcome"], entry.facts["reasons"])
    write_json(workspace.reports / "decision.json", {"key": key, **asdict(decision)})
    report = read_json(workspace.evaluation / "evaluation.json")
    if decision.outcome == "BLOCK":
        write_page(workspace, ledger.entries(), report, decision, None)
        outcome = Release(key, decision, None, None)
    else:
        version = _registered(workspace, params, registry, ledger, entry, report, run_id, reload)
        write_page(workspace, ledger.entries(), report, decision, version)
        if decision.outcome == "PROMOTE":
            moved = _standing(ledger, entry) is None
            if moved:
                _promote(workspace, registry, ledger, entry, report, version)
            outcome = Release(key, decision, version, CHAMPION, moved)
        else:
            registry.set_alias(CHALLENGER, version)
            ledger.append(kinds.CHALLENGE, key=key, version=version)
            outcome = Release(key, decision, version, CHALLENGER)
    witness(registry, ledger)
    return outcome


def _standing(ledger: Ledger, decided: Entry) -> Entry | None:
    """The champion's promotion, where the decision is on the champion itself, judged again: then nothing moves."""
    last = ledger.last(kinds.PROMOTION)
    stands = last and decided.facts["outcome"] == "PROMOTE" and decided.facts["weights"] == last.facts["weights"]
    return last if stands else None


def _decided(workspace: Workspace, params: Params, ledger: Ledger, run_id: str, key: str) -> Entry:
    """The gate's decision, in the ledger. What was rolled back comes back by hand alone."""
    pin = wanted(ledger)
    judged = written(workspace) or {}
    if any(judged.get(name) != pin[name] for name in pin):
        raise overtaken(promotions(ledger)[-1])
    standing = Standing(*(pin[name]["version"] if pin[name] else None for name in ("champion", "best")))
    file = workspace.evaluation / "evaluation.json"
    report = read_json(file)
    if params.gate.max_milliseconds is not None:
        report["milliseconds"] = _milliseconds(workspace, params)
    decision = decide(report, standing, params.gate)
    weights = sha256(workspace.candidate / "model.safetensors")
    undone = rolled_back(ledger, weights)
    if undone and decision.outcome == "PROMOTE":
        reason = (
            f"these are the weights of version {undone.facts['before']}, which {undone.who} rolled back "
            f"({undone.when}): {'; '.join(undone.facts['why'])}"
        )
        decision = Decision("HOLD", [reason, *decision.reasons])
    facts: dict[str, Any] = {"weights": weights, "run": run_id, "report": sha256(file), "champion": standing.champion}
    facts["tokens"] = read_json(workspace.candidate / "staytuned.json")["tokens"]
    facts["measured"] = measured(report)
    return ledger.append(kinds.DECISION, key=key, **facts, **asdict(decision))


def _registered(
    workspace: Workspace,
    params: Params,
    registry: Registry,
    ledger: Ledger,
    entry: Entry,
    report: dict[str, Any],
    run_id: str,
    reload: Reload,
) -> int:
    """The candidate's version, registered and proved."""
    key, weights = entry.facts["key"], entry.facts["weights"]
    decision = Decision(entry.facts["outcome"], entry.facts["reasons"])
    with busy("copying data to the DVC remote"):
        pipeline.push(workspace)  # never a registration whose data is not there
    there = registry.versions()
    version: int | None = next(  # an old champion, judged again, is registered, if nobody has deleted it
        (
            move.facts["version"]
            for move in reversed(promotions(ledger))
            if move.facts["weights"] == weights and move.facts["version"] in there
        ),
        registry.version_of(key),
    )
    if version is None:
        with busy("registering the candidate"):
            card = _card(workspace, params, report, decision)
            version = registry.register(run_id, key, weights, *_example(workspace), card)
    with busy("reloading it in a fresh process"):
        _prove(workspace, reload, version)
    return version


def _promote(
    workspace: Workspace, registry: Registry, ledger: Ledger, entry: Entry, report: dict[str, Any], version: int
) -> None:
    kept, new = workspace.version(version), {"version": version, "weights": entry.facts["weights"]}
    if not has_weights(kept, new["weights"]):  # the number may be another model's, of a registry that was before
        with replacing_folder(kept) as folder:
            shutil.copytree(workspace.candidate, folder, dirs_exist_ok=True)
    last = ledger.last(kinds.PROMOTION)
    best = _best(report, last.facts["best"] if last else None, new)
    before, why = entry.facts["champion"], entry.facts["reasons"]
    move(workspace, registry, ledger, key=entry.facts["key"], **new, best=best, before=before, cause=GATE, why=why)


def _best(report: dict[str, Any], before: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The best version ever: the new one, if it scored higher on the same rows than the best before it."""
    if before is None:
        return new
    models, metric = report["models"], report["metrics"][0]
    rival = models["best"] if "best" in models else models["champion"]
    gain = models["candidate"]["metrics"][metric["name"]] - rival["metrics"][metric["name"]]
    return new if (gain if metric["higher_is_better"] else -gain) > 0 else before


def _prove(workspace: Workspace, reload: Reload, version: int) -> None:
    """The registered version, reloaded elsewhere, must say of some test rows what the candidate said of them."""
    import numpy
    import pandas

    examples = read_json(workspace.evaluation / "examples.json")
    expected = numpy.array(examples["outputs"], numpy.float32)
    found = reload(version, pandas.DataFrame(examples["rows"], dtype="object"))
    if found.shape != expected.shape:
        raise RegistryError(
            f"version {version}, reloaded in a fresh process, gives {len(found)} outputs instead of {len(expected)}; "
            "it was not promoted"
        )
    difference = float(numpy.abs(expected - found).max())
    if not difference <= TOLERANCE:
        raise RegistryError(
            f"version {version}, reloaded in a fresh process, differs by {difference:g} in an output (at most "
            f"{TOLERANCE:g} passes); it was not promoted"
        )


def _example(workspace: Workspace) -> tuple["pandas.DataFrame", "pandas.DataFrame"]:
    """Two rows as a caller of the model gives them, and what it answers."""
    import pandas

    examples = read_json(workspace.evaluation / "examples.json")
    answers = pandas.DataFrame(examples["answers"])
    rows = pandas.DataFrame(examples["rows"], dtype="object").head(len(answers))
    return rows[examples["columns"]], answers


def _milliseconds(workspace: Workspace, params: Params) -> float:
    """Median time that the candidate takes for one row by itself."""
    import torch

    from staytuned.data.sides import TEST, rows_of
    from staytuned.predictor import Predictor

    torch.set_num_threads(params.train.threads)
    rows = rows_of(workspace, TEST).head(TIMED)
    predictor, found = Predictor(workspace.candidate), list[float]()
    for place in [0, *range(len(rows))]:  # the first once more: it warms up
        begun = time.perf_counter()
        predictor.predict(rows.iloc[[place]].reset_index(drop=True))
        found.append(1000 * (time.perf_counter() - begun))
    return statistics.median(found[1:])


def _card(workspace: Workspace, params: Params, report: dict[str, Any], decision: Decision) -> str:
    import jinja2

    from staytuned import tasks

    about = read_json(workspace.candidate / "staytuned.json")
    template = jinja2.Environment().from_string(CARD)
    return template.render(
        model=params.registry.model,
        task=params.task.name,
        labels=tasks.load(params).classes,
        base=about["base"],
        rows=about.get("learned", about["rows"]),
        decision=decision,
        **report,
    )
