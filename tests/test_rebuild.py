"""A registered version can be built again from what it carries, and it is said what was compared."""

import shutil

import pytest
from shell import staytuned
from test_bad_road import refused
from tiny import make_rows, set_params, write_csv

from staytuned.files import read_json, write_json
from staytuned.registry.lineage import tolerances
from staytuned.workspace import Workspace

pytestmark = pytest.mark.slow

NONE = {"macro_f1": 0.0, "accuracy": 0.0, "calibration_error": 0.0}  # on this machine nothing differs


def test_on_the_same_machine_the_weights_are_the_same_to_the_last_bit_whatever_became_of_the_workspace(
    road: Workspace,
) -> None:
    set_params(road, train__seed=8)  # the version carries its own
    shutil.rmtree(road.candidate)
    shutil.rmtree(road.batches)
    (carried,) = (road.var / "mlflow-artifacts").rglob("code/staytuned/__init__.py")
    carried.write_text(carried.read_text() + "\nprint('by the code that the version carries')\n")
    before = road.ledger.read_bytes()
    done = staytuned(road, "rebuild", "1", road.root.parent / "rebuilt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version 1 was built again: the SHA-256 of the weights is the same" in done.stdout
    assert done.stdout.count("by the code that the version carries") >= 4  # of each stage
    rebuilt = Workspace(road.root.parent / "rebuilt")
    assert read_json(rebuilt.candidate / "staytuned.json")["train"]["seed"] == 7
    assert road.ledger.read_bytes() == before and not road.candidate.exists()
    assert (rebuilt.root / ".gitignore").read_text() == "*\n"  # no repository around it is to take its rows
    refused(staytuned(road, "rebuild", "1", rebuilt.root), 65, "is not empty")


def test_elsewhere_the_metrics_are_compared_and_it_is_said_why(road: Workspace) -> None:
    (lineage,) = (road.var / "mlflow-artifacts").rglob("lineage.json")
    write_json(lineage, read_json(lineage) | {"processor": "another", "device": "NVIDIA A100"})
    done = staytuned(road, "rebuild", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "so the metrics are compared: processor is " in done.stdout and "not another" in done.stdout
    assert "the device is cpu, not NVIDIA A100" in done.stdout
    assert "version 1 was built again, and is worth the same: macro-F1" in done.stdout
    assert "; accuracy " in done.stdout and "; calibration error " in done.stdout
    write_json(lineage, read_json(lineage) | {"processor": "another", "tolerance": {**NONE, "accuracy": -1.0}})
    refused(staytuned(road, "rebuild", "1"), 69, "version 1 cannot be built again: macro-F1")


def test_elsewhere_the_first_metric_may_be_off_by_the_margin_and_others_by_half_their_interval() -> None:
    report = {
        "metrics": [{"name": "f1"}, {"name": "accuracy"}],
        "models": {"candidate": {"intervals": {"f1": [0.1, 0.9], "accuracy": [0.6, 0.7]}}},
    }
    assert tolerances(report, 0.02) == {"f1": 0.02, "accuracy": pytest.approx(0.05)}


def test_a_version_that_went_on_from_a_champion_is_built_again_from_that_champion(road: Workspace) -> None:
    set_params(road, train__start="champion")
    rows = write_csv(road.root / "more.csv", make_rows(200, seed=1))
    for words in (["ingest", rows], ["run"], ["rollback", "--why", "to see"], ["rebuild", "2"]):
        done = staytuned(road, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "version 2 was built again: the SHA-256 of the weights is the same" in done.stdout


def test_without_its_data_or_without_such_a_version_a_rebuild_is_refused(road: Workspace) -> None:
    refused(staytuned(road, "rebuild", "9"), 66, "the registry has no version 9")
    shutil.rmtree(road.var / "remote")
    refused(staytuned(road, "rebuild", "1"), 66, "the DVC remote does not have what")
