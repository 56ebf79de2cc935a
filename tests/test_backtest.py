"""Backtests: each policy on the same arrivals of the tiny road, judged on rows that it never learned from."""

import csv
from pathlib import Path
from typing import Any

import pytest
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned import road
from staytuned.backtest.history import History, learn
from staytuned.backtest.pages import difference, rows_of
from staytuned.backtest.policies import policy_of
from staytuned.backtest.run import backtest
from staytuned.backtest.simulate import simulate
from staytuned.backtest.situation import Trained, look_at, situation_of
from staytuned.data.sides import TEST, TRAIN
from staytuned.errors import DataError, ParamsError
from staytuned.params import Params
from staytuned.workspace import Workspace

POLICIES = ["never", "scratch", "periodic-2", "staytuned"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Four arrivals: two of a shop, two of a film site whose every text has words that the shop never had."""
    folder = tmp_path_factory.mktemp("backtest")
    workspace = make_workspace(folder / "workspace")
    set_params(workspace, train__start="champion", train__epochs=2, drift__draws=100, gate__margin=0.5)
    set_params(workspace, gate__sources__margin=1.0, evaluate__bootstrap=100)
    set_params(workspace, gate__bounds={"macro_f1": 0.1}, gate__min_gain=0.9)
    for source in ("shop", "film"):
        rows = make_rows(240, source=source)
        for row in rows[: 0 if source == "shop" else None]:
            row |= {"id": f"film {row['id']}", "document": f"film {row['document']}"}
            row["text"] = f"desk lamp chair {row['text']} radio camera drill"
        for part in (0, 1):
            here = [row for row in rows if int(row["document"].split("-")[1]) % 2 == part]
            road.ingest(workspace, write_csv(folder / f"{source}-{part}.csv", here))
    return workspace


@pytest.fixture(scope="module")
def report(workspace: Workspace) -> dict[str, Any]:
    return backtest(workspace, POLICIES, [1])


@pytest.fixture(scope="module")
def history(workspace: Workspace, report: dict[str, Any]) -> History:
    return History.read(workspace, Params.read(workspace.params))


def run_of(report: dict[str, Any], policy: str) -> list[dict[str, Any]]:
    return next(run["arrivals"] for run in report["runs"] if run["policy"] == policy)


def trainings(report: dict[str, Any], policy: str) -> list[bool]:
    return [line["trained"] is not None for line in run_of(report, policy)]


def test_each_policy_trains_when_it_says(report: dict[str, Any]) -> None:
    assert trainings(report, "never") == [True, False, False, False]
    assert trainings(report, "scratch") == [True, True, True, True]
    assert trainings(report, "periodic-2") == [True, False, True, False]


def test_staytuned_trains_where_rows_drift_and_says_why(report: dict[str, Any]) -> None:
    line = run_of(report, "staytuned")[2]
    assert line["trained"]
    assert any("drift in 1 of the last 1 windows" in reason for reason in line["reasons"])
    assert line["outcome"] == "PROMOTE"  # the gain over the base model is not asked for


def test_a_first_batch_that_nothing_can_be_learned_from_is_refused_by_name(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    rows = make_rows(240)
    first = [row for row in rows if row["document"] == rows[0]["document"]]
    for name, here in (("first", first), ("second", [row for row in rows if row not in first])):
        road.ingest(workspace, write_csv(tmp_path / f"{name}.csv", here))
    with pytest.raises(DataError, match=r"first\.csv, has no row for .* let it be larger"):
        backtest(workspace, ["never"], [1])


def test_all_start_from_the_same_first_model(report: dict[str, Any]) -> None:
    assert len({str(run["arrivals"][0]["metrics"]) for run in report["runs"]}) == 1


def test_tokens_are_what_the_trainings_read(report: dict[str, Any], history: History) -> None:
    lengths, arrival = history.sides[TRAIN].examples.lengths, history.arrival[TRAIN]
    for number, line in enumerate(run_of(report, "scratch")):
        assert line["tokens"] == lengths[arrival <= number].sum() * history.params.train.epochs * 2  # with sharpness


def test_it_is_judged_on_all_test_rows_of_the_sources_seen_and_of_no_other(
    report: dict[str, Any], history: History
) -> None:
    sources = history.sides[TEST].frame["source"]
    rows = [line["rows"] for line in run_of(report, "never")]
    assert rows == [int((sources == "shop").sum())] * 2 + [len(sources)] * 2


def test_a_run_that_is_done_is_not_done_again(workspace: Workspace, report: dict[str, Any]) -> None:
    files = {path: path.stat().st_mtime_ns for path in (workspace.var / "backtest").iterdir()}
    assert len(files) == len(POLICIES)
    again = backtest(workspace, POLICIES, [1])
    assert {path: path.stat().st_mtime_ns for path in (workspace.var / "backtest").iterdir()} == files
    assert again["runs"] == report["runs"]


def test_to_tune_how_training_goes_on_costs_only_the_policy_that_does(
    workspace: Workspace, report: dict[str, Any]
) -> None:
    before = set((workspace.var / "backtest").iterdir())
    replay = Params.read(workspace.params).train.replay
    set_params(workspace, train__replay=0.5)
    other = backtest(workspace, POLICIES, [1])
    assert len(set((workspace.var / "backtest").iterdir()) - before) == 1
    assert [run_of(other, name) == run_of(report, name) for name in POLICIES] == [True, True, True, False]
    set_params(workspace, train__replay=replay)
    assert backtest(workspace, POLICIES, [1])["runs"] == report["runs"]


def test_the_same_seed_gives_the_same_run(history: History, report: dict[str, Any]) -> None:
    policy = policy_of("periodic-2", "base")
    assert [lines["periodic-2"] for lines in simulate(history, [policy], 1)] == run_of(report, "periodic-2")


def test_policies_that_learn_the_same_rows_afresh_share_the_training(
    history: History, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []

    def counted(history: History, rows: Any, arrival: int, *rest: Any) -> Any:
        learned.append(arrival)
        return learn(history, rows, arrival, *rest)

    monkeypatch.setattr("staytuned.backtest.simulate.learn", counted)
    names = ["never", "scratch", "periodic-2"]
    arrivals = list(simulate(history, [policy_of(name, "base") for name in names], 1))
    assert learned == [0, 1, 2, 3]
    assert [[lines[name] for lines in arrivals] for name in names] == [run_of(report, name) for name in names]


def test_no_champion_of_the_workspace_comes_of_it(workspace: Workspace, report: dict[str, Any]) -> None:
    assert not workspace.ledger.exists()
    assert not workspace.candidate.exists()


def test_table_and_chart_hold_every_arrival(workspace: Workspace, report: dict[str, Any]) -> None:
    folder = workspace.reports / "backtest"
    with (folder / "backtest.csv").open(encoding="utf-8", newline="") as handle:
        assert len(list(csv.DictReader(handle))) == len(POLICIES) * 4
    assert (folder / "backtest.png").stat().st_size > 10_000
    shares = {row["policy"]: row["share"] for row in rows_of(report)}
    assert shares["scratch"] == 1.0 > shares["staytuned"] > shares["never"] > 0


def test_a_difference_has_an_interval_over_the_seeds() -> None:
    def run(policy: str, seed: int, value: float) -> dict[str, Any]:
        return {"policy": policy, "seed": seed, "arrivals": [{"metrics": {"f1": value}, "tokens": 1, "trained": 1}]}

    runs = [run("one", seed, 0.5 + seed / 10) for seed in (1, 2, 3)] + [run("other", seed, 0.5) for seed in (1, 2, 3)]
    found = {"metrics": [{"name": "f1", "title": "F1"}], "runs": runs}
    assert difference(found, "one", "other", "f1") == pytest.approx((0.2, 0.2 - 0.24841, 0.2 + 0.24841), abs=1e-4)


def test_the_window_is_what_came_since_the_champion(history: History) -> None:
    first = learn(history, history.until(TRAIN, 0), 0, None, 1, 1)
    found = look_at(history, first, 1)
    assert not found["alarm"]
    assert found["window"]["rows"] == int((history.everything["arrival"] == 1).sum())
    situation = situation_of(history, first, [], [Trained(0, first.tokens)], 2)
    assert situation.new_rows == int(history.everything["arrival"].between(1, 2).sum())
    assert situation.alarms == (True,)


def test_an_unknown_policy_is_refused_before_any_work(workspace: Workspace) -> None:
    with pytest.raises(
        ParamsError, match="there is no policy 'sometimes'; known: never, scratch, periodic-N, staytuned"
    ):
        backtest(workspace, ["sometimes"], [1])


def test_one_batch_is_no_history(tmp_path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    road.ingest(workspace, write_csv(tmp_path / "rows.csv", make_rows(60)))
    with pytest.raises(DataError, match="a backtest needs at least 2 batches, and there are 1; ingest more"):
        backtest(workspace, ["never"], [1])
