"""The comparison: all methods on the same rows, what each costs, and what is left out said."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from test_prompting import make_decoder
from tiny import make_rows, make_workspace, set_params

from staytuned import cli, tasks
from staytuned.compare import compare
from staytuned.compare_pages import show
from staytuned.data.sides import TEST, TRAIN, VALIDATION, row_hashes, rows_of
from staytuned.errors import DataError, MissingError, ParamsError
from staytuned.files import read_json, sha256
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.intervals import draw, interval, resampled
from staytuned.params import Params
from staytuned.predictor import Predictor
from staytuned.prompting.descriptions import by_descriptions
from staytuned.prompting.embedder import Embedder
from staytuned.registry.ledger import PROMOTION, Ledger
from staytuned.stages import encode, split, train
from staytuned.start import init
from staytuned.workspace import Workspace

DESCRIPTIONS = {"negative": "awful broken dull", "positive": "great lovely solid"}
NO_CHAMPION = "there is no champion yet: full fine-tuning is left out; `staytuned run` trains one"
NO_DECODER = "compare.decoder is null: zero-shot and few-shot by prompt are left out"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with 300 split rows, a candidate, a decoder among the base models, and no champion."""
    workspace = make_workspace(tmp_path_factory.mktemp("compare") / "workspace")
    make_decoder(workspace.root / "base-models" / "teller")
    set_params(
        workspace,
        compare__descriptions=DESCRIPTIONS,
        compare__shots=[4, 16],
        compare__template="{examples}the {text} is",
        compare__cost_per_hour=3.6,
        train__epochs=3,
    )
    rows = [
        {"row": row["id"], "text": row["text"], "text_pair": None, "label": row["label"]}
        | {"source": "shop", "group": row["document"], "batch": "0"}
        for row in make_rows(300)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), workspace.accepted)
    params = Params.read(workspace.params)
    for stage in (split, encode, train):
        stage.run(workspace, params)
    return workspace


@pytest.fixture
def workspace(trained: Workspace, tmp_path: Path) -> Workspace:
    """A copy, to spoil."""
    return Workspace(shutil.copytree(trained.root, tmp_path / "copy", symlinks=True))


@pytest.fixture(scope="module")
def report(trained: Workspace) -> dict[str, Any]:
    return compare(trained)


def promote(workspace: Workspace) -> Path:
    """Make the candidate champion, as version 1."""
    folder = workspace.var / "versions" / "1"
    shutil.copytree(workspace.candidate, folder)
    ledger = Ledger(workspace.ledger)
    with ledger.lease("test") as fence:
        ledger.append(PROMOTION, fence, key="key", version=1, weights="weights", best=None, before=None, why=["first"])
    return folder


def quality(report: dict[str, Any]) -> list[tuple[str, int, Any, Any]]:
    """What does not depend on the clock."""
    return [(one["method"], one["labels"], one["metrics"], one["intervals"]) for one in report["methods"]]


def test_without_champion_and_decoder_the_rest_is_compared_and_that_is_said(
    trained: Workspace, report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    show(report)
    assert [(one["method"], one["labels"]) for one in report["methods"]] == [
        ("zero-shot, embeddings", 0),
        ("contrastive, 4 shots", 12),
        ("contrastive, 16 shots", 48),
    ]
    assert report["notes"] == [NO_CHAMPION, NO_DECODER]
    assert report["rows"] == len(rows_of(trained, TEST))
    assert report == read_json(trained.reports / "comparison.json")
    assert (trained.reports / "comparison.png").read_bytes().startswith(b"\x89PNG")
    shown = " ".join(capsys.readouterr().out.split())
    for words in (*(one["method"] for one in report["methods"]), NO_CHAMPION, NO_DECODER):
        assert words in shown


def test_quality_is_that_of_the_test_rows_with_the_bootstrap_of_the_evaluation(
    trained: Workspace, report: dict[str, Any]
) -> None:
    params, test = Params.read(trained.params), rows_of(trained, TEST)
    task = tasks.load(params)
    make_deterministic(7, 1)
    embed = Embedder(trained.root / "base-models" / "tiny", 32)
    unlabelled = rows_of(trained, VALIDATION)["text"].tolist()  # all of them: there are fewer than 200
    sentences = ["awful broken dull", "This text is about neutral.", "great lovely solid"]
    said = by_descriptions(embed, sentences, unlabelled)(test["text"].tolist())
    groups = test["group"].tolist()
    drawn = task.measure(resampled(task.statistics(test, said), groups, draw(groups, 200, 7)))
    found = report["methods"][0]
    assert found["metrics"] == pytest.approx(task.score(test, said))
    assert found["intervals"]["macro_f1"] == pytest.approx(interval(drawn["macro_f1"], len(set(groups)), 0.95))


def test_cost_is_time_at_the_price_of_the_machine(report: dict[str, Any]) -> None:
    for one in report["methods"]:
        assert one["seconds_to_make"] > 0
        assert one["cost_per_1000"] == pytest.approx(one["seconds_per_1000"] / 1000)  # 3.6 an hour: 0.001 a second


def test_the_same_rows_and_seed_give_the_same_quality_to_the_last_digit(
    workspace: Workspace, report: dict[str, Any]
) -> None:
    assert quality(compare(workspace)) == quality(report)


def test_the_champion_is_full_fine_tuning_on_the_same_rows(workspace: Workspace) -> None:
    champion = promote(workspace)
    report = compare(workspace)
    last, test = report["methods"][-1], rows_of(workspace, TEST)
    task = tasks.load(Params.read(workspace.params))
    assert (last["method"], last["labels"]) == ("full fine-tuning", len(rows_of(workspace, TRAIN)))
    assert last["metrics"] == pytest.approx(task.score(test, Predictor(champion).predict(test)))
    assert last["seconds_to_make"] is None
    assert report["notes"][0].endswith("validation rows chose when to stop; how long it took is not recorded")
    assert report["notes"][1:] == [NO_DECODER]
    assert report["kept_from_judging"] == 0


def test_no_method_is_judged_on_a_row_that_the_champion_was_trained_on(workspace: Workspace) -> None:
    seen, test = promote(workspace) / "trained_on.u64", rows_of(workspace, TEST)
    seen.write_bytes(row_hashes(test.head(3)).tobytes())
    report, kept = compare(workspace), int(test["group"].isin(test["group"].head(3)).sum())
    assert (report["kept_from_judging"], report["rows"]) == (kept, len(test) - kept)
    seen.write_bytes(row_hashes(test).tobytes())
    with pytest.raises(DataError, match=rf"the champion was trained on each of the {len(test)} test rows; ingest"):
        compare(workspace)


def test_a_champion_of_other_labels_is_left_out_and_that_is_said(workspace: Workspace) -> None:
    promote(workspace)
    set_params(workspace, task__labels=["positive", "neutral", "negative"])
    report = compare(workspace)
    assert report["methods"][-1]["method"] == "contrastive, 16 shots"
    assert report["notes"][0] == (
        "the champion is for another task or other labels (text-classification, negative, neutral, positive): full "
        "fine-tuning is left out"
    )


def test_a_decoder_is_prompted_without_examples_and_with_them(workspace: Workspace) -> None:
    set_params(workspace, compare__decoder="teller", compare__shots=[4])
    report = compare(workspace)
    assert [(one["method"], one["labels"]) for one in report["methods"]] == [
        ("zero-shot, embeddings", 0),
        ("zero-shot, prompt", 0),
        ("few-shot, prompt", 12),
        ("contrastive, 4 shots", 12),
    ]
    assert report["notes"] == [NO_CHAMPION]


def test_an_encoder_is_no_decoder(workspace: Workspace) -> None:
    set_params(workspace, compare__decoder="tiny")
    with pytest.raises(ParamsError, match=r"compare\.decoder: 'tiny' is a BertModel, not a decoder, such as"):
        compare(workspace)


def test_a_description_of_no_label_is_refused(workspace: Workspace) -> None:
    set_params(workspace, compare__descriptions={"positiv": "great"})
    with pytest.raises(ParamsError, match=r"describes positiv, which task\.labels lacks; known: negative, neutral, po"):
        compare(workspace)


def test_another_task_is_refused(tmp_path: Path) -> None:
    workspace = init(tmp_path / "workspace", "token-classification")
    with pytest.raises(ParamsError, match="'token-classification'; `staytuned compare` knows 'text-classification' al"):
        compare(workspace)


def test_before_the_first_run_it_says_what_to_do(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    with pytest.raises(MissingError, match=r"no .*accepted\.parquet yet; `staytuned run` makes it"):
        compare(workspace)


def test_files_of_two_runs_are_not_mixed(workspace: Workspace) -> None:
    accepted = pyarrow.parquet.read_table(workspace.accepted)
    pyarrow.parquet.write_table(accepted.slice(1), workspace.accepted)
    with pytest.raises(MissingError, match=r"split\.parquet is of other rows than .*; `staytuned run` mends that"):
        compare(workspace)
    pyarrow.parquet.write_table(accepted, workspace.accepted)
    set_params(workspace, task__labels=["bad", "neutral", "positive"], compare__descriptions={})
    with pytest.raises(MissingError, match=r"accepted\.parquet holds negative, which task\.labels lacks; `staytuned r"):
        compare(workspace)


@pytest.mark.parametrize("template", ["text {text}", "{text} {examples}", "{examples} {text} {examples}", "{examples}"])
def test_a_template_has_a_place_for_examples_and_one_for_the_text_after_it(workspace: Workspace, template: str) -> None:
    set_params(workspace, compare__template=template)
    with pytest.raises(ParamsError, match=r"compare\.template: needs \{examples\} once and, after it, \{text\}, where"):
        Params.read(workspace.params)


def test_the_command_shows_the_table_with_a_dash_for_what_is_not_recorded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(workspace)
    monkeypatch.setenv("COLUMNS", "80")
    before = {path: sha256(path) for path in (workspace.accepted, workspace.split, workspace.params, workspace.ledger)}
    arguments = cli.parser().parse_args(["compare"])
    arguments.command(workspace, arguments)
    shown = capsys.readouterr().out.splitlines()
    (line,) = [line for line in shown if line.startswith("full fine-tuning ")]
    report = read_json(workspace.reports / "comparison.json")
    last = report["methods"][-1]
    low, high = last["intervals"]["macro_f1"]
    assert line.split()[2:7] == [
        f"{last['labels']}",
        f"{last['metrics']['macro_f1']:.3f}",
        f"{low:.3f}–{high:.3f}",
        f"{last['metrics']['accuracy']:.3f}",
        "–",
    ]
    assert max(map(len, shown)) <= 80
    assert {path: sha256(path) for path in before} == before
