"""Training: the same bits for the same seed, early stopping, no test row, and an error that names rows."""

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_rows, make_workspace

from staytuned import tasks
from staytuned.data.sides import TEST, TRAIN, VALIDATION, row_hashes, rows_of, unseen_by
from staytuned.errors import DataError, MissingError, TrainingError
from staytuned.files import read_json, sha256
from staytuned.modelling.device import make_deterministic, pick_device
from staytuned.modelling.examples import Examples, list_array
from staytuned.modelling.heads import backbone
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.stages import encode, evaluate, split, train
from staytuned.tasks import Metric, Side
from staytuned.training import loop
from staytuned.training.loop import fit, is_better, steps_in, validate
from staytuned.training.order import shuffled_batches
from staytuned.training.state import Point, Weights
from staytuned.training.step import uphill
from staytuned.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with 160 encoded rows."""
    workspace = make_workspace(tmp_path_factory.mktemp("loop") / "workspace")
    encode_rows(workspace, 160)
    return workspace


def encode_rows(workspace: Workspace, count: int) -> None:
    """What training reads, of rows that count as accepted."""
    rows = [
        {"row": row["id"], "text": row["text"], "text_pair": None, "label": row["label"]}
        | {"source": "shop", "group": row["document"], "batch": "0"}
        for row in make_rows(count)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), workspace.accepted)
    params = Params.read(workspace.params)
    split.run(workspace, params)
    encode.run(workspace, params)


@pytest.fixture
def params(workspace: Workspace) -> Params:
    return tuned(Params.read(workspace.params), epochs=1)


def tuned(params: Params, **changes: Any) -> Params:
    """The same params with other values in the section train."""
    return params.model_copy(update={"train": params.train.model_copy(update=changes)})


def examples_of(workspace: Workspace, side: str) -> Examples:
    return Examples.read(workspace.encoded / f"{side}.arrow")


def validation_side(workspace: Workspace) -> Side:
    return Side(rows_of(workspace, VALIDATION), examples_of(workspace, VALIDATION))


def fitted(workspace: Workspace, params: Params) -> tuple[Weights, Point, list[Point], int]:
    """Weights and best point, all points, and the number of steps of a training of the base model."""
    make_deterministic(params.train.seed, params.train.threads)
    points: list[Point] = []
    steps: list[None] = []
    weights, best = fit(
        tasks.load(params),
        fresh_model(workspace),
        examples_of(workspace, TRAIN),
        validation_side(workspace),
        params.train,
        points.append,
        lambda: steps.append(None),
    )
    return weights, best, points, len(steps)


def fresh_model(workspace: Workspace) -> torch.nn.Module:
    task = tasks.load(Params.read(workspace.params))
    return task.model(backbone(task.kind, workspace.root / "base-models" / "tiny", 0.0, pretrained=True), 0.0)


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingError, match=r"train\.device is 'cuda', but torch sees no GPU; set it"):
        pick_device("cuda")
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")


def test_where_an_epoch_has_fewer_steps_than_evaluations_each_step_is_evaluated(
    workspace: Workspace, params: Params
) -> None:
    _, _, points, steps = fitted(
        workspace, tuned(params, epochs=6, batch_size=1000, evaluations_per_epoch=4, patience=100)
    )
    assert steps == 6 and [point.step for point in points] == [1, 2, 3, 4, 5, 6]


def test_one_seed_gives_one_sha256_of_the_weights_and_another_seed_another(
    workspace: Workspace, params: Params
) -> None:
    hashes = []
    for seed in (7, 7, 8):
        train.run(workspace, tuned(params, seed=seed))
        hashes.append(sha256(workspace.candidate / "model.safetensors"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_no_test_row_in_training(workspace: Workspace, params: Params) -> None:
    """The stage does as well where the test rows are not even there, and records whom it was trained on."""
    train.run(workspace, params)
    before = sha256(workspace.candidate / "model.safetensors")
    file, hidden = workspace.encoded / f"{TEST}.arrow", workspace.root / "hidden.arrow"
    file.rename(hidden)
    train.run(workspace, params)
    hidden.rename(file)
    assert sha256(workspace.candidate / "model.safetensors") == before
    seen = numpy.fromfile(workspace.candidate / "trained_on.u64", dtype="<u8")
    learned, test = pandas.concat([rows_of(workspace, side) for side in (TRAIN, VALIDATION)]), rows_of(workspace, TEST)
    assert seen.tolist() == row_hashes(learned).tolist()
    assert len(test) and unseen_by(test, [workspace.candidate]).all()
    assert not unseen_by(learned, [workspace.candidate]).any()


def test_the_candidate_is_a_folder_without_a_pickle_that_gives_logits(workspace: Workspace, params: Params) -> None:
    train.run(workspace, params)
    assert {path.name for path in workspace.candidate.iterdir()} == {
        "config.json",
        "model.safetensors",
        "staytuned.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "trained_on.u64",
    }
    about = read_json(workspace.candidate / "staytuned.json")
    assert about["task"] == params.section("task")
    assert about["train"] == params.section("train")
    assert about["base"]["sha256"] == about["encoding"]
    assert about["batches"] == ["0"]
    texts = ["the lamp is great", "a broken desk again", ""]
    logits = numpy.stack(Predictor(workspace.candidate).outputs(frame_of(texts)))
    assert logits.shape == (3, 3)
    assert numpy.isfinite(logits).all()


def test_the_curve_has_a_line_for_each_evaluation(workspace: Workspace, params: Params) -> None:
    train.run(workspace, tuned(params, epochs=2))
    with workspace.curve.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    steps = steps_in(len(examples_of(workspace, TRAIN)), tuned(params, epochs=2).train)
    assert [int(row["step"]) for row in rows] == [round(steps * k / 4) for k in (1, 2, 3, 4)]
    assert [float(row["epoch"]) for row in rows] == pytest.approx([0.5, 1, 1.5, 2], abs=0.26)
    assert float(rows[-1]["learning_rate"]) == 0
    with workspace.step_losses.open(encoding="utf-8", newline="") as handle:
        losses = {int(row["step"]): float(row["step_loss"]) for row in csv.DictReader(handle)}
    assert list(losses) == list(range(1, steps + 1))
    since = range(int(rows[-2]["step"]) + 1, steps + 1)
    assert float(rows[-1]["train_loss"]) == pytest.approx(numpy.mean([losses[step] for step in since]), rel=1e-5)


def test_training_stops_after_as_many_evaluations_without_improvement_as_patience_allows(
    workspace: Workspace, params: Params
) -> None:
    idle = tuned(params, epochs=50, learning_rate=1e-12, head_learning_rate=1e-12, patience=2)
    _, best, points, steps = fitted(workspace, idle)
    assert len(points) == 3  # the first is the best; two more were waited for
    assert best == points[0]
    assert steps == points[-1].step < steps_in(len(examples_of(workspace, TRAIN)), idle.train)


def test_the_weights_returned_are_those_of_the_best_evaluation(workspace: Workspace, params: Params) -> None:
    # a rate that overshoots: the last evaluation is not the best
    rates = {"learning_rate": 0.1, "head_learning_rate": 0.1}
    weights, best, points, _ = fitted(workspace, tuned(params, epochs=6, patience=99, **rates))
    later = points[points.index(best) + 1 :]
    assert later
    assert all(p.validation_score <= best.validation_score and p.validation_loss >= best.validation_loss for p in later)
    model = fresh_model(workspace)
    model.load_state_dict(weights)
    found = validate(tasks.load(params), model, validation_side(workspace), torch.device("cpu"))
    assert found == pytest.approx((best.validation_loss, best.validation_score), abs=1e-6)


@pytest.mark.parametrize(
    ("score", "loss", "better"),
    [(0.7, 0.5, True), (0.7, 0.7, True), (0.5, 0.5, True), (0.5, 0.7, False), (0.6, 0.6, False), (0.6, 0.5, True)],
)
def test_an_evaluation_is_better_by_its_score_or_by_its_loss(score: float, loss: float, better: bool) -> None:
    best, point = (
        Point(step, step, 1.0, 1e-4, validation_loss=lost, validation_score=scored)
        for step, lost, scored in ((1, 0.6, 0.6), (2, loss, score))
    )
    assert is_better(point, best, Metric("macro_f1", "macro-F1")) == better
    opposite = [replace(p, validation_score=-p.validation_score) for p in (point, best)]
    assert is_better(*opposite, Metric("mae", "mean absolute error", higher_is_better=False)) == better


def test_a_loss_that_is_no_number_ends_training_and_names_the_rows(workspace: Workspace, params: Params) -> None:
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) at step 2, whose batch .* lower train\.learning_rate"
    ) as caught:
        fitted(workspace, tuned(params, epochs=3, learning_rate=1e30))
    names = examples_of(workspace, TRAIN).names
    named = [name for name in names if f"'{name}'" in str(caught.value)]
    assert 0 < len(named) <= params.train.batch_size


def test_a_model_is_not_judged_on_a_row_that_it_was_trained_on(workspace: Workspace, params: Params) -> None:
    """With another salt a row that an older model learned from may stand on the test side, or one of its group; and
    after a withdrawal a text may come again under another name.
    """
    train.run(workspace, params)
    test, train_side = rows_of(workspace, TEST), rows_of(workspace, TRAIN)
    seen = workspace.candidate / "trained_on.u64"
    again = test.head(1).assign(row="another", group="another", text=test["text"].head(1).str.upper() + "!")
    of_group = test[~test["group"].isin(test["group"].head(1))].head(1).assign(row="a third", text="a text of its own")
    seen.write_bytes(row_hashes(pandas.concat([train_side, again, of_group])).tobytes())
    evaluate.run(workspace, params)
    report, kept = read_json(workspace.evaluation / "evaluation.json"), 1 + test["group"].isin(of_group["group"]).sum()
    assert report["test"]["kept_from_judging"] == kept
    assert report["test"]["rows"] == len(test) - kept
    seen.write_bytes(row_hashes(test).tobytes())
    with pytest.raises(DataError, match=rf"each of the {len(test)} test rows was trained on by candidate"):
        evaluate.run(workspace, params)


def test_no_evaluation_before_the_best_was_as_good_by_score_and_by_loss(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([(0.50, 0.800), (0.60, 0.810), (0.58, 0.740), (0.70, 0.745)])  # loss and score
    monkeypatch.setattr(loop, "validate", lambda *_: next(measured))
    _, best, _, _ = fitted(workspace, tuned(params, epochs=4, patience=9, evaluations_per_epoch=1))
    assert (best.validation_loss, best.validation_score) == (0.60, 0.810)


def test_of_a_source_with_more_test_rows_than_may_judge_a_sample_does(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    encode_rows(workspace, 600)
    params = tuned(Params.read(workspace.params), epochs=1)
    train.run(workspace, params)
    count = len(examples_of(workspace, TEST))
    limited = params.model_copy(
        update={"evaluate": params.evaluate.model_copy(update={"max_rows_per_source": count - 1})}
    )
    evaluate.run(workspace, limited)
    test = read_json(workspace.evaluation / "evaluation.json")["test"]
    assert test["rows"] + test["not_drawn"] == count
    assert 0 < test["rows"] < count
    page = " ".join((workspace.evaluation / "report.html").read_text().split())
    assert f"{test['not_drawn']} others were not drawn" in page


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), max_size=300),
    size=st.integers(1, 9),
    seed=st.lists(st.integers(0, 2**31), min_size=2, max_size=2),
)
def test_shuffled_batches_take_every_row_once(lengths: list[int], size: int, seed: list[int]) -> None:
    batches = shuffled_batches(numpy.array(lengths, dtype=int), size, seed)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in batches)
    assert len(batches) == -(-len(lengths) // size)
    assert batches == shuffled_batches(numpy.array(lengths, dtype=int), size, seed)


def test_another_epoch_takes_the_rows_in_another_order() -> None:
    lengths = numpy.arange(1, 65)
    assert shuffled_batches(lengths, 4, [7, 0]) != shuffled_batches(lengths, 4, [7, 1])


@given(lengths=st.lists(st.integers(1, 60), max_size=80), tokens=st.integers(1, 200))
def test_batches_by_length_take_every_example_once_within_their_tokens(lengths: list[int], tokens: int) -> None:
    ids = list_array([[0] * length for length in lengths])
    names = pyarrow.array([str(place) for place in range(len(lengths))], pyarrow.string())
    batches = Examples(pyarrow.table({"row": names, "input_ids": ids})).batches_by_length(tokens)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= tokens
    longest = [max(lengths[place] for place in batch) for batch in batches]
    assert all(one >= other for one, other in pairwise(longest))


def test_a_sharpness_aware_step_goes_along_the_gradient_found_uphill_and_starts_from_where_it_was() -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    (weight**2).sum().backward()  # gradient (6, 8), of norm 10
    with uphill([weight], 0.5):
        assert weight.tolist() == pytest.approx([3.3, 4.4])
    assert weight.tolist() == pytest.approx([3.0, 4.0])
