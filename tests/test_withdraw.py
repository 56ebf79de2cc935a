"""A batch that should never have come in is taken out, and the road goes on without its rows."""

from pathlib import Path

import pytest
from shell import staytuned
from tiny import make_rows, make_workspace, set_params, write_csv

from staytuned import road as commands
from staytuned.data import batches
from staytuned.errors import BudgetError, DataError, MissingError
from staytuned.files import read_json
from staytuned.params import Params
from staytuned.registry.ledger import WITHDRAWAL, Ledger
from staytuned.stages import validate
from staytuned.workspace import Workspace


def take_in(workspace: Workspace, path: Path) -> str:
    return commands.ingest(workspace, path)[0].batch[:16]


def accepted_rows(workspace: Workspace) -> int:
    validate.run(workspace, Params.read(workspace.params))
    return int(read_json(workspace.reports / "validation.json")["accepted"])


@pytest.mark.xdist_group("great expectations")
def test_a_wrong_batch_is_taken_out_and_may_come_in_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    take_in(workspace, write_csv(tmp_path / "good.csv", make_rows(20)))
    wrong = write_csv(tmp_path / "wrong.csv", [row | {"label": "meh"} for row in make_rows(20, seed=1)])
    name = take_in(workspace, wrong)
    with pytest.raises(BudgetError, match=rf"batch {name} \(wrong\.csv\) .*\n.*`staytuned withdraw BATCH --why TEXT`"):
        accepted_rows(workspace)
    pointer = (workspace.root / "data" / "batches.dvc").read_text()

    commands.withdraw(workspace, name, "another team's labels")
    assert f"withdrew batch {name}, 20 rows of wrong.csv" in capsys.readouterr().out
    assert accepted_rows(workspace) == 20
    index = (workspace.data_docs / "index.html").read_text()
    assert "good.csv" in index and "wrong.csv" not in index and "<td>20</td>" in index  # both had shared a page
    assert (workspace.root / "data" / "batches.dvc").read_text() != pointer
    entry = Ledger(workspace.ledger).entries()[-1]
    assert entry.kind == WITHDRAWAL
    assert entry.facts == {"batch": name, "file": "wrong.csv", "rows": 20, "why": ["another team's labels"]}

    assert take_in(workspace, wrong) == name
    assert [batch.file for batch in batches.manifest(workspace)] == ["good.csv", "wrong.csv"]


@pytest.mark.xdist_group("great expectations")
def test_where_nobody_is_there_to_ask_a_new_batch_over_the_budget_is_set_aside_and_an_old_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    params = Params.read(workspace.params)
    take_in(workspace, write_csv(tmp_path / "good.csv", make_rows(20)))
    wrong = write_csv(tmp_path / "wrong.csv", [row | {"label": "meh"} for row in make_rows(20, seed=1)])
    name = take_in(workspace, wrong)
    assert not commands.set_aside(workspace, params)  # there were never other rows: is it the rows, or the params?
    commands.withdraw(workspace, name, "not yet")
    accepted_rows(workspace)
    take_in(workspace, wrong)
    with pytest.raises(BudgetError):
        accepted_rows(workspace)
    with workspace.hold():
        assert commands.set_aside(workspace, params)
    assert [batch.file for batch in batches.manifest(workspace)] == ["good.csv"]
    why = "20 bad rows of 20: 20 × label is none of negative, neutral, positive: 'meh'"
    entry = Ledger(workspace.ledger).entries()[-1]
    assert entry.facts == {"batch": name, "file": "wrong.csv", "rows": 20, "why": [f"set aside: {why}"]}
    told = capsys.readouterr().err
    assert f"refused file: batch {name} (wrong.csv) was set aside, more than validate.quarantine_budget: {why}" in told
    assert accepted_rows(workspace) == 20

    (workspace.reports / "validation.json").unlink()  # as DVC does before a validation, which may fail at once
    assert not commands.set_aside(workspace, params)
    set_params(workspace, validate__max_characters=3)
    with pytest.raises(BudgetError):
        accepted_rows(workspace)
    assert not commands.set_aside(workspace, params)


def test_the_example_does_not_come_back_by_itself_where_it_was_withdrawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    set_params(workspace, ingest__example="product")
    name = take_in(workspace, write_csv(tmp_path / "product.csv", make_rows(20)))
    commands.withdraw(workspace, name, "not ours")
    assert "no batch is left: `staytuned ingest FILE` adds one" in capsys.readouterr().out
    with pytest.raises(DataError, match=f"the last batch, {name}, was withdrawn; add one with `staytuned ingest FILE`"):
        commands.first_batch(workspace, Params.read(workspace.params))


def test_what_cannot_be_withdrawn_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    name = take_in(workspace, write_csv(tmp_path / "good.csv", make_rows(20)))
    with pytest.raises(MissingError, match=rf"there is no batch ''; known.*\n  {name}  20 rows of good.csv"):
        commands.withdraw(workspace, "", "no such batch")
    with pytest.raises(DataError, match="--why is blank"):
        commands.withdraw(workspace, name, " ")
    assert len(batches.manifest(workspace)) == 1 and Ledger(workspace.ledger).entries() == []


def test_a_withdrawal_that_was_cut_off_is_given_again(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    for seed in range(2):
        name = take_in(workspace, write_csv(tmp_path / f"{seed}.csv", make_rows(20, seed=seed)))
    batches.path_of(workspace, name).unlink()  # as far as it came
    with pytest.raises(DataError, match="if `staytuned withdraw` was cut off, give that command again"):
        batches.check_manifest(workspace)
    commands.withdraw(workspace, name, "again")
    batches.check_manifest(workspace)


@pytest.mark.slow
def test_a_batch_that_the_champion_learned_from_is_taken_out_and_the_next_run_trains_without_it(
    road: Workspace, tmp_path: Path
) -> None:
    rows = [row | {"label": "positive"} for row in make_rows(60, seed=7)]
    name = take_in(road, write_csv(tmp_path / "wrong.csv", rows))
    assert staytuned(road, "run").returncode in (0, 4)
    done = staytuned(road, "withdraw", name, "--why", "all were called positive")
    assert done.returncode == 0, done.stdout + done.stderr
    done = staytuned(road, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert name not in read_json(road.candidate / "staytuned.json")["batches"]
    assert "wrong.csv" not in (road.data_docs / "index.html").read_text()  # the rows are as in the first run again
    shown = staytuned(road, "history", COLUMNS="400").stdout
    assert f"withdrawal of batch {name}: 60 rows of wrong.csv\n      all were called positive" in shown
    assert "nothing to do" in staytuned(road, "run").stdout
