"""Top-only training: the frozen encoder reads each text once, whoever asks again, and the head alone learns."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
from safetensors.torch import load_file
from test_loop import encode_rows, examples_of, tuned
from tiny import make_base, make_rows, make_workspace, set_params
from tokenizers import Tokenizer

from staytuned.data.sides import TRAIN, VALIDATION
from staytuned.entry_points import task_class, task_names
from staytuned.errors import ParamsError
from staytuned.files import read_json, sha256
from staytuned.modelling import unpadded
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import EntityHead, TokenHead, backbone
from staytuned.params import Params
from staytuned.sections import Checkpointing
from staytuned.stages import train
from staytuned.start import init
from staytuned.tasks import Task
from staytuned.training import top_only as module
from staytuned.training.cost import tokens_of
from staytuned.training.loop import fit
from staytuned.training.top_only import top_only
from staytuned.workspace import Workspace

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with 120 encoded rows."""
    workspace = make_workspace(tmp_path_factory.mktemp("top") / "workspace")
    encode_rows(workspace, 120)
    return workspace


@pytest.fixture
def params(workspace: Workspace) -> Params:
    shutil.rmtree(workspace.states, ignore_errors=True)
    return tuned(Params.read(workspace.params), frozen="encoder", epochs=3, dropout=0.1, head_learning_rate=0.05)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts the encoder read, each time that it was asked."""
    counts = []

    def counted(model: TokenHead, device: torch.device, texts: list[numpy.ndarray]) -> Any:
        counts.append(len(texts))
        return ask(model, device, texts)

    ask = module._ask
    monkeypatch.setattr(module, "_ask", counted)
    return counts


def weights_of(workspace: Workspace, params: Params) -> str:
    train.run(workspace, params)
    return sha256(workspace.candidate / "model.safetensors")


def texts_in(workspace: Workspace) -> int:
    sides = [examples_of(workspace, side) for side in (TRAIN, VALIDATION)]
    return len({ids.tobytes() for side in sides for ids in side.lists("input_ids", range(len(side)))})


def test_the_head_learns_and_the_encoder_stays_as_it_was(workspace: Workspace, params: Params) -> None:
    train.run(workspace, tuned(params, epochs=20))
    base = load_file(workspace.root / "base-models" / "tiny" / "model.safetensors")
    found = load_file(workspace.candidate / "model.safetensors")
    assert all(found[f"encoder.{name}"].equal(value) for name, value in base.items() if "pooler" not in name)
    assert found["head.weight"].abs().max() > 0.1  # it began at 0.02
    losses = pandas.read_csv(workspace.curve)["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    tokens = read_json(workspace.candidate / "staytuned.json")["tokens"]
    assert tokens == examples_of(workspace, TRAIN).lengths.sum()  # of one epoch, not of twenty


def test_each_text_is_read_once_whatever_is_searched_for_and_only_new_ones_later(
    workspace: Workspace, params: Params, read: list[int], tmp_path: Path
) -> None:
    copy = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "copy", symlinks=True)))
    train.run(copy, params)
    before = texts_in(copy)
    for changes in ({"head_learning_rate": 1e-2}, {"epochs": 1}, {"dropout": 0.3}, {"seed": 8}):
        train.run(copy, tuned(params, **changes))
    assert read == [before]
    encode_rows(copy, 150)
    train.run(copy, params)
    assert read == [before, texts_in(copy) - before]


def test_whatever_was_kept_the_same_bits_come_out(workspace: Workspace, params: Params, read: list[int]) -> None:
    """With nothing kept, with all, with a piece torn, and with some texts read among others on another day."""
    expected = weights_of(workspace, params)
    assert weights_of(workspace, params) == expected
    (piece,) = workspace.states.iterdir()
    piece.write_bytes(piece.read_bytes()[:-9])
    assert weights_of(workspace, params) == expected
    shutil.rmtree(workspace.states)
    task, model = task_and_model(workspace, params)
    every = examples_of(workspace, TRAIN)
    top_only(task, model, [every.of_rows(range(5, len(every.by_row), 3))], workspace.states, CPU)
    assert weights_of(workspace, params) == expected
    assert read[0] == read[1] == sum(read[2:])


def task_and_model(workspace: Workspace, params: Params) -> tuple[Task, TokenHead]:
    task = task_class(params.task.name)(params.task)
    return task, task.model(backbone(task.kind, workspace.root / "base-models" / "tiny", 0.0, pretrained=True), 0.0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch takes, until the end of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_neither_what_is_read_beside_a_text_nor_threads_change_a_bit_of_its_states(
    tmp_path: Path, threads: Callable[[int], None]
) -> None:
    task = task_class("token-classification")(
        task_class("token-classification").Options(name="token-classification", types=["a"], pieces="first")
    )
    model = task.model(backbone("AutoModel", make_base(tmp_path / "tiny"), 0.1, pretrained=True), 0.1)
    chance = random.Random(1)
    texts = [numpy.array([[2, *chance.choices(range(5, 40), k=chance.randrange(1, 60)), 3]]) for _ in range(90)]
    texts.append(numpy.full((1, 300), 7))
    threads(1)
    expected = list(module._ask(model, CPU, texts))
    assert all(said.flags.owndata for said in expected)  # none keeps what was read beside it in memory
    for count in (1, 2, 1, 2):
        threads(count)
        order = chance.sample(range(len(texts)), chance.randrange(1, len(texts)))
        again = module._ask(model, CPU, [texts[place] for place in order])
        assert all(numpy.array_equal(said, expected[place]) for place, said in zip(order, again, strict=True))


def test_a_model_that_takes_padded_batches_reads_each_text_alone(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpadded, "FROM_ZERO", ())
    task, model = task_and_model(workspace, params)
    side = examples_of(workspace, VALIDATION)
    said = top_only(task, model, [side], workspace.states, CPU)._said
    batch = task.batch(side, [0], None)
    with torch.no_grad():
        states = model.eval().encoder(**batch.inputs).last_hidden_state
    text = next(module._texts(batch.inputs)).tobytes()
    assert torch.from_numpy(said[text]).equal(model.read(states, batch.inputs["attention_mask"])[0])


def test_cut_off_it_goes_on_from_a_checkpoint_that_holds_the_head_alone(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    often = tuned(params, checkpoints=Checkpointing(every_steps=2, keep=2))
    expected = weights_of(workspace, often)

    def cut_off(*arguments: Any) -> None:
        *rest, _, checkpoints, losses_seen = arguments
        done = iter(range(1, 8))
        fit(*rest, lambda: next(done), checkpoints, losses_seen)  # type: ignore[call-arg]

    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", cut_off)
        with pytest.raises(StopIteration):
            train.run(workspace, often)
    held = load_file(sorted(workspace.checkpoints.glob("*/*.safetensors"))[-1])
    assert {name for name in held if name.startswith(".model.")} == {".model.head.weight", ".model.head.bias"}
    assert weights_of(workspace, often) == expected
    assert "training goes on from the checkpoint" in capsys.readouterr().err


def test_on_from_the_champion_the_frozen_encoder_is_the_champions(
    workspace: Workspace, params: Params, read: list[int], tmp_path: Path
) -> None:
    copy = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "copy", symlinks=True)))
    train.run(copy, tuned(params, frozen=None))  # all weights learned
    shutil.copytree(copy.candidate, copy.pin / "start")
    (copy.pin / "start" / "start.json").write_text('{"version": 1}')
    encode_rows(copy, 200)
    train.run(copy, params)
    champion, found = (load_file(folder / "model.safetensors") for folder in (copy.pin / "start", copy.candidate))
    other = [name for name in champion if not champion[name].equal(found[name])]
    assert other == ["head.bias", "head.weight"]
    rows = read_json(copy.candidate / "staytuned.json")["rows"]
    assert sum(read) <= rows + len(examples_of(copy, VALIDATION)) < texts_in(copy)  # no row that is not replayed


def classified() -> pandas.DataFrame:
    return pandas.DataFrame(make_rows(9))[["text", "label"]].assign(text_pair="a lamp again")


def tagged() -> pandas.DataFrame:
    return classified().assign(label=json.dumps([[0, 1, "thing"]]))


def asked() -> pandas.DataFrame:
    answer = json.dumps([{"text": "lamp", "start": 2}])
    return classified().assign(text_pair="a lamp is great. " * 8, label=answer)


TASKS: list[tuple[str, dict[str, Any], Callable[[], pandas.DataFrame]]] = [
    ("text-classification", {"labels": ["positive", "neutral", "negative"], "label_from_rating": None}, classified),
    ("sentence-pairs", {"labels": ["positive", "neutral", "negative"]}, classified),
    ("token-classification", {"types": ["thing"], "pieces": "first"}, tagged),
    ("question-answering", {"stride": 4, "max_answer_tokens": 5}, asked),
]


@pytest.mark.parametrize(("name", "options", "rows"), TASKS)
def test_the_head_on_what_was_kept_says_what_the_model_says(
    tmp_path: Path, name: str, options: dict[str, Any], rows: Callable[[], pandas.DataFrame]
) -> None:
    base, made = make_base(tmp_path / "tiny"), task_class(name)
    task: Task = made(made.Options(name=name, **options))
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.adapt(tokenizer, 20)
    table = task.encode(tokenizer, rows())
    examples = Examples(table.append_column("row", table["place"].cast("string")))
    model = task.model(backbone(task.kind, base, 0.5, pretrained=True), 0.5)
    top = top_only(task, model, [examples], tmp_path / "states", CPU).eval()
    assert {parameter for parameter, _ in top.named_parameters()} == {"head.weight", "head.bias"}
    batch = task.batch(examples, [3, 0, 5], numpy.random.default_rng(0))
    for part in (batch, batch.rows(slice(1, 2))):  # in parts too, whose padding is that of the batch
        real = part.inputs["attention_mask"] > 0
        with torch.no_grad():
            ours, theirs = top(**part.inputs), model.eval()(**part.inputs)
        assert ours.shape == theirs.shape
        torch.testing.assert_close(*(said[real] if said.ndim == 3 else said for said in (ours, theirs)))


def test_a_head_of_another_kind_is_refused_in_words(workspace: Workspace, params: Params, tmp_path: Path) -> None:
    task, model = task_and_model(workspace, params)
    other = EntityHead(model.encoder, 3, 0.0)
    with pytest.raises(ParamsError, match=r"train.frozen is set, but EntityHead, .* is no TokenHead; set train.frozen"):
        top_only(task, other, [examples_of(workspace, TRAIN)], tmp_path, CPU)


def test_a_task_without_a_head_above_an_encoder_refuses_it_by_name_before_any_work(tmp_path: Path) -> None:
    refused = []
    for name in task_names():
        workspace = init(tmp_path / name, name)
        set_params(workspace, train__frozen="encoder")
        try:
            Params.read(workspace.params)
        except ParamsError as error:
            assert f"train.frozen: must be null: the model of task.name '{name}' has no head that reads" in str(error)
            refused.append(name)
    alone = ["dialogue", "language-modelling", "relation-extraction", "sentence-retrieval", "text-generation"]
    assert sorted(refused) == alone


def test_a_training_of_all_weights_costs_what_it_did(workspace: Workspace, params: Params) -> None:
    examples = examples_of(workspace, TRAIN)
    options = tuned(params, frozen=None, sharpness=0.0).train
    assert tokens_of(examples, options) == 3 * tokens_of(examples, params.train)
