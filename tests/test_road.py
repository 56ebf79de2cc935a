"""The whole road, on a tiny model: what a user and a DVC user may count on."""

import csv
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy
import pandas
import pytest
import torch
import urllib3
from receiver import Receiver
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from shell import staytuned
from tiny import make_rows, make_workspace, set_params, tiny_params, write_csv

from staytuned.alerts import FURTHER
from staytuned.errors import RegistryError
from staytuned.files import read_json, sha256
from staytuned.params import Params
from staytuned.pipeline import stage_order
from staytuned.registry import pin, release, reload_check
from staytuned.registry.alias import alias_now
from staytuned.registry.ledger import CONFIRMATION, DECISION, PROMOTION, Ledger
from staytuned.registry.reload import reloader
from staytuned.registry.versions import Registry, database
from staytuned.workspace import Workspace

ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "DVC_NO_ANALYTICS": "1",
}
IDENTITY = {f"GIT_{who}_{what}": "tester@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def run(workspace: Workspace, *words: str, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=workspace.root, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outputs(workspace: Workspace) -> dict[str, str]:
    """Hash of each stage output, by DVC's own record."""
    stages = YAML(typ="safe").load(workspace.lock)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def versions(workspace: Workspace) -> int:
    return len(Registry(workspace, Params.read(workspace.params)).versions())


def champion(workspace: Workspace) -> int | None:
    return alias_now(workspace, Params.read(workspace.params), "champion")


def test_a_finished_road_has_a_champion_that_ledger_alias_and_local_copy_agree_on(finished_road: Workspace) -> None:
    ledger = Ledger(finished_road.ledger)
    assert [entry.kind for entry in ledger.entries()] == [DECISION, PROMOTION, CONFIRMATION]
    promoted = ledger.last(PROMOTION)
    assert promoted is not None and promoted.facts["version"] == champion(finished_road) == 1
    weights = finished_road.var / "versions" / "1" / "model.safetensors"
    assert promoted.facts["weights"] == sha256(weights) == sha256(finished_road.candidate / "model.safetensors")


def test_prefect_shows_a_finished_task_for_each_stage_and_for_the_release(
    finished_road: Workspace, prefect_server: str
) -> None:
    wanted = {"flow_runs": {"name": {"like_": "road-under-way"}}}
    tasks = urllib3.PoolManager().request("POST", f"{prefect_server}/task_runs/filter", json=wanted).json()
    states = {task["name"]: task["state_type"] for task in tasks}
    assert states == dict.fromkeys([*stage_order(finished_road), "release"], "COMPLETED")


def test_no_pickle_lies_anywhere_in_a_workspace(finished_road: Workspace) -> None:
    loaded = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}
    places = [finished_road.candidate, finished_road.var / "mlflow-artifacts", finished_road.var / "versions"]
    assert [path for place in places for path in place.rglob("*") if path.suffix in loaded] == []


def test_a_second_run_finds_nothing_to_do_and_registers_nothing(road: Workspace) -> None:
    again = staytuned(road, "run")
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert versions(road) == 1


def test_the_moved_workspace_predicts_and_its_registry_loads_the_champion(road: Workspace) -> None:
    said = staytuned(road, "predict", "the lamp is lovely")
    assert said.returncode == 0 and said.stdout.endswith("version 1\n"), said.stderr
    staytuned(road, "sync")
    code = (
        "import sys; from staytuned.workspace import Workspace; from staytuned.params import Params\n"
        "from staytuned.registry.versions import Registry\n"
        "space = Workspace.find(); registry = Registry(space, Params.read(space.params))\n"
        "model = registry.mlflow.pyfunc.load_model('models:/tiny@champion')\n"
        "import pandas; print(model.predict(pandas.DataFrame({'text': ['the lamp is lovely']})).label[0])"
    )
    assert run(road, sys.executable, "-c", code).strip() == said.stdout.split("\t")[0]


def test_a_local_copy_with_other_weights_is_fetched_again_before_it_is_pinned(road: Workspace) -> None:
    """As of a registry that was begun anew, whose numbers are those of other models; or torn by a power cut."""
    file, params = road.version(1) / "model.safetensors", Params.read(road.params)
    right = sha256(file)
    for wrong in (b"of another model", None):
        shutil.rmtree(road.pin)
        file.write_bytes(wrong) if wrong else file.unlink()
        assert pin.refresh(road, params, arrived=False)
        assert sha256(road.pin / "champion" / "model.safetensors") == sha256(file) == right


def test_each_proof_of_a_version_has_a_fresh_process_of_its_own(road: Workspace) -> None:
    registry = Registry(road, Params.read(road.params))
    examples = read_json(road.evaluation / "examples.json")
    with reloader(registry, threads=1) as reload:
        found = [reload(1, pandas.DataFrame(examples["rows"], dtype="object")) for _ in ("a release", "its retry")]
    assert numpy.array_equal(*found)
    assert found[0] == pytest.approx(examples["outputs"], abs=1e-5)


def test_a_version_that_answers_otherwise_when_it_is_reloaded_is_not_released(road: Workspace) -> None:
    expected = numpy.array(read_json(road.evaluation / "examples.json")["outputs"], numpy.float32)
    release._prove(road, lambda version, rows: expected, 2)
    wrong = [
        (expected + 2 * release.TOLERANCE, "version 2, reloaded in a fresh process, differs by"),
        (numpy.full_like(expected, numpy.nan), "differs by nan in an output"),
        (expected[1:], f"gives {len(expected) - 1} outputs instead of {len(expected)}; it was not promoted"),
    ]
    for found, said in wrong:
        with pytest.raises(RegistryError, match=said):
            release._prove(road, lambda version, rows, found=found: found, 2)


@pytest.mark.slow
def test_a_registered_model_that_is_not_the_candidate_is_not_promoted_again(road: Workspace) -> None:
    (file,) = (road.var / "mlflow-artifacts").rglob("model.safetensors")
    state = load_file(file)
    state["head.bias"] += torch.arange(3)
    save_file(state, file, metadata={"format": "pt"})
    set_params(road, gate__margin=0.5)  # another decision, on version 1
    done = staytuned(road, "run")
    assert done.returncode == 69 and "version 1, reloaded in a fresh process, differs by" in done.stderr


def test_a_proof_whose_release_was_killed_ends_before_it_has_imported_anything() -> None:
    command = [sys.executable, "-X", "importtime", "-I", reload_check.__file__, "rows.json", "outputs.npy"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0 and "threading" in done.stderr and "pandas" not in done.stderr


def test_a_second_text_is_refused_where_the_task_is_about_one(road: Workspace) -> None:
    done = staytuned(road, "predict", "a lovely lamp", "--pair", "an awful desk")
    assert done.returncode == 65 and "text-classification is about one text; leave --pair out" in done.stderr


def test_a_file_of_rows_is_labelled_row_by_row(road: Workspace) -> None:
    texts = ["a lovely lamp again", "  ", "awful desk overall"]
    for ids, name in ([{}] * 3, "row,"), ([{"id": f"n{number}"} for number in range(3)], "row,id,"):
        rows = write_csv(road.root / "new.csv", [one | {"text": text} for one, text in zip(ids, texts, strict=True)])
        done = staytuned(road, "predict", "--file", rows, "--out", road.root / "predictions.csv")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("1 of them unanswered: see `problem`\n")
        lines = (road.root / "predictions.csv").read_text().splitlines()
        assert lines[0] == name + "text,label,negative,neutral,positive,version,problem"
        assert len(lines) == 4 and lines[2].endswith("1,no text")
        assert lines[3].startswith("3,n2,awful" if "id" in name else "3,awful")


def test_a_folder_that_is_not_there_is_not_made_for_predictions(road: Workspace) -> None:
    rows = write_csv(road.root / "new.csv", make_rows(3))
    done = staytuned(road, "predict", "--file", rows, "--out", road.root / "missing" / "said.csv")
    assert done.returncode == 66 and "there is no folder" in done.stderr and "make it, or name another" in done.stderr
    assert not (road.root / "missing").exists()


def test_the_file_that_is_read_is_not_written(road: Workspace) -> None:
    rows = write_csv(road.root / "new.csv", make_rows(3))
    before = rows.read_bytes()
    done = staytuned(road, "predict", "--file", rows, "--out", rows)
    assert done.returncode == 65 and "is the file that is read; name another" in done.stderr
    assert rows.read_bytes() == before


def test_a_row_of_a_file_that_could_not_be_read_whole_gets_no_answer(road: Workspace) -> None:
    rows = road.root / "new.jsonl"
    rows.write_text(json.dumps({"text": "a lovely lamp again"}) + '\n{"text": \n', encoding="utf-8")
    done = staytuned(road, "predict", "--file", rows, "--out", road.root / "predictions.csv")
    assert done.stdout.endswith("1 of them unanswered: see `problem`\n"), done.stderr
    good, bad = csv.DictReader((road.root / "predictions.csv").read_text().splitlines())
    assert good["label"] and not good["problem"]
    assert not bad["label"] and bad["problem"].startswith("line 2 is not valid JSON")


@pytest.mark.slow
def test_dvc_repro_alone_gives_the_same_bytes_as_the_flow(finished_road: Workspace, tmp_path: Path) -> None:
    other = make_workspace(tmp_path / "other")
    assert staytuned(other, "ingest", finished_road.root / "rows.csv").returncode == 0
    run(other, "dvc", "repro")
    assert outputs(other) == outputs(finished_road)
    # and the flow goes on from there: it registers what was trained, and trains nothing again
    trained = (other.candidate / "model.safetensors").stat().st_mtime_ns
    done = staytuned(other, "run")
    assert done.returncode == 0 and champion(other) == 1, done.stdout + done.stderr
    assert (other.candidate / "model.safetensors").stat().st_mtime_ns == trained


@pytest.mark.slow
def test_a_run_whose_stages_were_all_cached_is_complete_in_mlflow(road: Workspace) -> None:
    set_params(road, gate__margin=0.5)  # another policy asks for another decision; nothing is trained again
    assert staytuned(road, "run").returncode == 0
    runs = json.loads(
        run(
            road,
            sys.executable,
            "-c",
            "import json, mlflow; mlflow.set_tracking_uri('sqlite:///var/mlflow.db')\n"
            "client = mlflow.MlflowClient(); found = client.search_runs(['1'])\n"
            "print(json.dumps([[r.info.status, sorted(r.data.metrics), len(r.data.params), "
            "sorted(f.path for f in client.list_artifacts(r.info.run_id)), "
            "[len(client.get_metric_history(r.info.run_id, name)) for name in ('train_loss', 'step_loss')]] "
            "for r in found]))",
        ).splitlines()[-1]
    )
    cached, first = runs
    assert set(first[1]) < set(cached[1])  # now with the champion beside the candidate
    assert cached[2] == first[2] and cached[4] == first[4]
    assert 1 < first[4][0] < first[4][1]  # evaluations, steps
    assert cached[0] == "FINISHED" and {"lineage", "reports"} <= set(cached[3])


def test_a_versions_page_in_mlflow_has_the_metrics_of_its_report(road: Workspace) -> None:
    registry = Registry(road, Params.read(road.params))
    client = registry.client
    (model,) = client.search_logged_models([registry.experiment])
    models = read_json(road.evaluation / "evaluation.json")["models"]
    reported = {f"{name}.{metric}": value for name in models for metric, value in models[name]["metrics"].items()}
    assert {metric.key: metric.value for metric in model.metrics} == pytest.approx(reported)
    assert all(len(client.get_metric_history(model.source_run_id, name)) == 1 for name in reported)


@pytest.mark.slow
def test_a_model_trained_on_from_the_champion_is_judged_beside_it(road: Workspace) -> None:
    set_params(road, train__start="champion")
    rows = write_csv(road.root / "more.csv", make_rows(200, seed=1))
    assert staytuned(road, "ingest", rows).returncode == 0
    before = Ledger(road.ledger).entries()
    done = staytuned(road, "run")
    assert done.returncode in (0, 4), done.stdout + done.stderr
    report = read_json(road.evaluation / "evaluation.json")
    assert report["models"]["champion"]["version"] == 1
    assert set(report["comparisons"]) == {"base", "champion"}
    assert Ledger(road.ledger).entries()[len(before)].kind == DECISION
    assert read_json(road.candidate / "staytuned.json")["start"]["version"] == 1
    assert (
        read_json(road.candidate / "staytuned.json")["rows"] < read_json(road.reports / "split.json")["sides"]["train"]
    )
    assert "nothing to do" in staytuned(road, "run").stdout  # a promotion alone calls for no further training


def test_a_road_cut_between_ledger_and_alias_is_brought_to_its_end_and_told(
    road: Workspace, receiver: Receiver
) -> None:
    ledger = Ledger(road.ledger)
    last = ledger.last(PROMOTION)
    assert last is not None
    with ledger.lease("it") as fence:  # the intent is written; the process dies before the alias moves
        ledger.append(PROMOTION, **last.facts | {"fence": fence, "before": 1})
    with closing(sqlite3.connect(database(road))) as db, db:
        db.execute("DELETE FROM registered_model_aliases")
    done = staytuned(road, "run", **{FURTHER: receiver.url})
    assert done.returncode == 0, done.stderr
    assert champion(road) == 1 and ledger.entries()[-1].kind == CONFIRMATION
    assert [got["title"] for got in receiver.got] == ["staytuned, tiny: promotion"]


def in_git(road: Workspace) -> Workspace:
    run(road, "git", "init", "-q")
    run(road, "git", "add", "-A")
    run(road, "git", "commit", "-qm", "start", **IDENTITY)
    return road


@pytest.mark.slow
@pytest.mark.parametrize("where", [[], ["--temp"]], ids=["in the workspace", "in a temporary folder"])
def test_dvc_experiments_see_uncommitted_changes_and_new_batches(road: Workspace, where: list[str]) -> None:
    in_git(road)
    base_models = [str(road.root / "base-models")]  # git does not carry them into the temporary folder
    set_params(road, train__epochs=2, model__folders=base_models)
    assert staytuned(road, "ingest", write_csv(road.root / "more.csv", make_rows(200, seed=1))).returncode == 0
    run(road, "dvc", "exp", "run", *where, "-S", "train.learning_rate=5e-5", **IDENTITY)
    shown = json.loads(run(road, "dvc", "exp", "show", "--json", **IDENTITY))
    found = shown[-1]["experiments"][0]["revs"][0]["data"]
    train = found["params"]["params.yaml"]["data"]["train"]
    assert (train["learning_rate"], train["epochs"]) == (5e-5, 2)
    assert found["deps"]["data/manifest.jsonl"]["size"] == road.manifest.stat().st_size
    assert found["metrics"]["reports/metrics.json"]["data"]["accuracy"] > 0
    assert run(road, "git", "log", "--oneline").count("\n") == 1  # nothing was committed


def test_lineage_holds_what_it_takes_to_build_the_version_again(road: Workspace) -> None:
    from staytuned.registry.lineage import collect

    in_git(road)
    set_params(road, gate__margin=0.4, alerts__urls=["json://token-of-mine"])
    (road.root / "note.txt").write_text("a file that git does not know yet\n")
    folder = road.root / "var" / "lineage"
    folder.mkdir()
    record = collect(road, Params.read(road.params), folder)
    assert record["commit"] and record["dirty"] and record["seed"] == 7 and len(record["base"]["sha256"]) == 64
    patch = (folder / "dirty.patch").read_text()
    assert "note.txt" in patch and "params.yaml" not in patch
    assert run(road, "git", "diff", "--cached", "--stat") == ""  # the user's index was not touched
    names = {path.name for path in folder.iterdir()}
    assert {"dvc.lock", "params.yaml", "manifest.jsonl", "batches.dvc", "champion.dvc", "packages.txt"} <= names
    assert not any("token-of-mine" in path.read_text() for path in folder.iterdir())
    assert "margin: 0.4" in (folder / "params.yaml").read_text()


def test_no_setting_of_git_lets_an_address_into_the_lineage(road: Workspace, tmp_path: Path) -> None:
    """A workspace in a subfolder whose name has a blank, for a user who has coloured or other diffs."""
    from staytuned.registry.lineage import git_state

    place, patch = tmp_path / "my own" / "workspace", tmp_path / "patch"
    place.mkdir(parents=True)
    shutil.copy(road.params, place)
    in_git(Workspace(tmp_path / "my own"))
    for name, value in {"color.ui": "always", "diff.noprefix": "true", "diff.external": "cat"}.items():
        run(Workspace(place), "git", "config", name, value)
    set_params(Workspace(place), alerts__urls=["json://token-of-mine"])
    commit, dirty = git_state(place, patch)
    assert (bool(commit), dirty, patch.read_text()) == (True, True, "")
    (place / "note.txt").write_text("a file that git does not know yet\n")
    assert git_state(place, patch) == (commit, True)
    assert patch.read_text().startswith("diff --git a/workspace/note.txt b/workspace/note.txt\n")
    run(Workspace(place), "git", "stash", "--include-untracked", "--quiet")
    assert git_state(place, patch) == (commit, False)


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server that keeps the artifacts itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "kept"),
    ]
    with (tmp_path / "server.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        patience = urllib3.Retry(total=500, backoff_factor=0.1, backoff_max=0.3)
        urllib3.PoolManager().request("GET", f"http://127.0.0.1:{port}/health", retries=patience)
        yield f"http://127.0.0.1:{port}"
        server.terminate()


@pytest.mark.slow
def test_one_setting_moves_the_registry_to_an_mlflow_server(
    finished_road: Workspace, tmp_path: Path, mlflow_server: str
) -> None:
    workspace = make_workspace(tmp_path / "served")
    set_params(workspace, registry__tracking_uri=mlflow_server)
    assert staytuned(workspace, "ingest", finished_road.root / "rows.csv").returncode == 0
    done = staytuned(workspace, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert champion(workspace) == 1 and not (workspace.var / "mlflow.db").exists()
    assert "nothing to do" in staytuned(workspace, "run").stdout


@pytest.mark.slow
def test_the_clone_is_a_workspace_whose_second_run_finds_nothing_to_do(
    finished_road: Workspace, tmp_path: Path
) -> None:
    source = Path(__file__).parents[1]
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=source, capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0")[:-1]:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target, follow_symlinks=False)
    clone = Workspace(tmp_path)
    tiny_params(clone)
    shutil.copytree(finished_road.root / "base-models", tmp_path / "base-models")
    run(clone, "git", "init", "-q")
    assert stage_order(clone) == ["validate", "split", "drift", "encode", "train", "evaluate"]
    assert staytuned(clone, "ingest", finished_road.root / "rows.csv").returncode == 0
    done = staytuned(clone, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    again = staytuned(clone, "run")
    assert "nothing to do" in again.stdout, again.stdout + again.stderr
    assert champion(clone) == 1


def test_the_data_of_a_registered_version_is_in_the_remote(finished_road: Workspace) -> None:
    pointer = YAML(typ="safe").load(finished_road.root / "data" / "batches.dvc")["outs"][0]["md5"]
    kept = finished_road.var / "remote" / "files" / "md5" / pointer[:2] / pointer[2:]
    assert kept.is_file() and len(json.loads(kept.read_text())) == 1
