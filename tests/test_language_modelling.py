"""Language modelling: each token of a text is read once and judged once; bits per byte by hand; a model that learns."""

import json
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_rows, set_params
from tiny_generators import make_decoder, make_masked, travel
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from staytuned.data.readers import Reader
from staytuned.errors import ParamsError
from staytuned.files import read_json
from staytuned.modelling.examples import NOTHING, Examples
from staytuned.modelling.heads import backbone
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.sections import Columns
from staytuned.start import init
from staytuned.tasks.language_modelling import LanguageModelling, Options, masked

WORDS = "the lamp is grey and the desk is bright number again today " + " ".join(row["text"] for row in make_rows(60))
TEXT = "the lamp is grey"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("base") / "tiny", WORDS)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_masked(tmp_path_factory.mktemp("base") / "tiny", WORDS)


def adapted(objective: str, base: Path, max_tokens: int) -> tuple[LanguageModelling, Tokenizer]:
    task = LanguageModelling(Options(name="language-modelling", objective=objective))
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.read(base)
    task.adapt(tokenizer, max_tokens)
    return task, tokenizer


def examples_of(task: LanguageModelling, tokenizer: Tokenizer, *texts: str) -> Examples:
    table = task.encode(tokenizer, frame_of(list(texts)))
    return Examples(table.append_column("row", table["place"].cast("string")))


def lists(examples: Examples, name: str) -> list[list[int]]:
    return [row.tolist() for row in examples.lists(name, range(len(examples)))]


# Rows


def test_a_text_file_has_a_row_for_each_paragraph(tmp_path: Path) -> None:
    file = tmp_path / "novel.txt"
    file.write_bytes("\r\n\n一个 灯 😀\r\nline two\r\n \t\n\nthe last".encode())
    nothing = {"text_pair": None, "label": None, "id": None, "source": None, "group": None, "keep": []}
    reader = Reader(file, Columns(text="text", **nothing), ["utf-8"], LanguageModelling.formats)
    found = [(row["line"], row["text"]) for row in reader.rows()]
    assert found == [("4", "一个 灯 😀\nline two"), ("7", "the last")]


# Causal


@pytest.mark.parametrize(
    ("max_tokens", "read", "labels"),
    [
        (8, [["<|endoftext|>", "the", "Ġlamp", "Ġis"]], [["the", "Ġlamp", "Ġis", "Ġgrey"]]),
        (3, [["<|endoftext|>", "the", "Ġlamp"], ["Ġis"]], [["the", "Ġlamp", "Ġis"], ["Ġgrey"]]),
        (2, [["<|endoftext|>", "the"], ["Ġlamp", "Ġis"]], [["the", "Ġlamp"], ["Ġis", "Ġgrey"]]),
    ],
)
def test_blocks_of_a_row_and_the_next_token_as_label(
    decoder: Path, max_tokens: int, read: list[list[str]], labels: list[list[str]]
) -> None:
    task, tokenizer = adapted("causal", decoder, max_tokens)
    examples = examples_of(task, tokenizer, TEXT)
    assert [[tokenizer.id_to_token(i) for i in row] for row in lists(examples, "input_ids")] == read
    assert [[tokenizer.id_to_token(i) for i in row] for row in lists(examples, "labels")] == labels


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.text("the lamp😀电池\n", max_size=30), min_size=1, max_size=4), max_tokens=st.integers(1, 9))
def test_no_block_holds_two_rows_and_the_labels_of_a_row_are_its_tokens(
    decoder: Path, texts: list[str], max_tokens: int
) -> None:
    task, tokenizer = adapted("causal", decoder, max_tokens)
    examples = examples_of(task, tokenizer, *texts)
    assert len(examples.by_row) == len(texts)
    labels = lists(examples, "labels")
    for text, places in zip(texts, examples.by_row, strict=True):
        together = [token for place in places for token in labels[place] if token != NOTHING]
        assert together == tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(together) == text
    assert examples.lengths.max() <= max_tokens
    assert [len(row) for row in labels] == examples.lengths.tolist()


def test_bits_per_byte_and_perplexity_by_hand(decoder: Path) -> None:
    task, tokenizer = adapted("causal", decoder, 64)
    texts = [TEXT, "电池 😀", ""]
    model = task.model(backbone(task.kind, decoder, 0.0, pretrained=True), 0.0).eval()
    frame = frame_of(texts)
    said = task.predict(model, tokenizer, frame, examples_of(task, tokenizer, *texts))
    plain = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32)
    losses, counts = [], []
    for text in texts[:2]:
        ids = torch.tensor([[0, *tokenizer.encode(text).ids]])
        with torch.inference_mode():
            losses.append(float(plain(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1))
        counts.append(ids.shape[1] - 1)
    assert counts == [4, len("电池 😀".encode())]  # bytes without a piece of their own
    assert [row.tolist() for row in said] == [
        [pytest.approx(losses[0], rel=1e-5), 4, 16],
        [pytest.approx(losses[1], rel=1e-5), 11, 11],
        [0, 0, 0],
    ]
    table = task.table(said)
    assert table["bits_per_byte"] == pytest.approx([losses[0] / math.log(2) / 16, losses[1] / math.log(2) / 11, 0])
    assert table["perplexity"] == pytest.approx([math.exp(losses[0] / 4), math.exp(losses[1] / 11), 1])
    score = task.score(frame, said)
    assert score == {
        "bits_per_byte": pytest.approx(sum(losses) / math.log(2) / 27),
        "perplexity": pytest.approx(math.exp(sum(losses) / 15)),
    }


def test_what_leaves_the_model_is_one_number_a_token_and_the_loss_is_their_mean(decoder: Path) -> None:
    task, tokenizer = adapted("causal", decoder, 3)
    examples = examples_of(task, tokenizer, TEXT, "")
    model = task.model(backbone(task.kind, decoder, 0.0, pretrained=True), 0.0).eval()
    batch = task.batch(examples, [0, 1, 2], None)
    assert batch.targets.tolist()[1:] == [[batch.targets[1, 0].item(), -100, -100], [-100, -100, -100]]
    with torch.inference_mode():
        said = model(**batch.inputs)
    outputs = task.outputs(said, batch)
    assert [len(row) for row in outputs] == [3, 1, 0]
    assert float(task.loss(said, batch.targets)) == pytest.approx(numpy.concatenate(outputs).mean())


def test_a_tokenizer_that_has_nothing_to_put_before_a_text_is_refused(encoder: Path, tmp_path: Path) -> None:
    about = read_json(encoder / "tokenizer.json")
    about["added_tokens"] = [token for token in about["added_tokens"] if token["content"] == "[MASK]"]
    about["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(about))
    task, tokenizer = adapted("causal", tmp_path, 8)
    with pytest.raises(ParamsError, match=r"has none of the special tokens <s>, .*; name a base model with one"):
        task.encode(tokenizer, frame_of([TEXT]))


# Masked


def test_windows_of_a_row_each_with_the_tokens_around_a_text(encoder: Path) -> None:
    task, tokenizer = adapted("masked", encoder, 5)
    examples = examples_of(task, tokenizer, TEXT, "")
    pieces = [[tokenizer.id_to_token(i) for i in row] for row in lists(examples, "input_ids")]
    assert pieces == [["[CLS]", "the", "Ġlamp", "Ġis", "[SEP]"], ["[CLS]", "Ġgrey", "[SEP]"], ["[CLS]", "[SEP]"]]
    assert lists(examples, "special") == [[1, 0, 0, 0, 1], [1, 0, 1], [1, 1]]
    assert examples.by_row == [[0, 1], [2]]
    assert task.batch(examples, [2], None).targets.tolist() == [[-100, -100]]


def test_what_is_hidden_in_judging_depends_on_the_text_alone(encoder: Path) -> None:
    task, tokenizer = adapted("masked", encoder, 32)
    examples = examples_of(task, tokenizer, TEXT, " ".join([TEXT] * 5), TEXT)
    first, again = task.batch(examples, [0, 1, 2], None), task.batch(examples, [2, 1], None)
    assert first.inputs["input_ids"][[2, 1]].equal(again.inputs["input_ids"])
    assert first.targets[[2, 1]].equal(again.targets)
    assert first.targets[0].equal(first.targets[2])
    learned = [task.batch(examples, [1], numpy.random.default_rng(seed)).targets for seed in (1, 1, 2)]
    assert learned[0].equal(learned[1])
    assert not learned[0].equal(learned[2])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(5, 99), st.booleans()), min_size=1, max_size=40), st.none() | st.integers(0, 9))
def test_only_hidden_tokens_have_labels_and_special_ones_are_never_hidden(
    row: list[tuple[int, bool]], seed: int | None
) -> None:
    ids, special = numpy.array([one for one, _ in row], numpy.int32), numpy.array([int(two) for _, two in row])
    read, labels = masked(ids, special, 3, 100, None if seed is None else numpy.random.default_rng(seed))
    hidden = labels != NOTHING
    assert hidden.any() == (special == 0).any()
    assert not special[hidden].any()
    assert labels[hidden].tolist() == ids[hidden].tolist()
    assert read[~hidden].tolist() == ids[~hidden].tolist()


def test_the_shares_of_the_paper() -> None:
    ids = numpy.full(100_000, 7, numpy.int32)
    read, labels = masked(ids, numpy.zeros_like(ids), 3, 1000, numpy.random.default_rng(0))
    hidden = labels == 7
    assert hidden.mean() == pytest.approx(0.15, abs=0.005)
    assert (read[hidden] == 3).mean() == pytest.approx(0.8, abs=0.01)
    assert (read[hidden] == 7).mean() == pytest.approx(0.1, abs=0.01)


def test_a_masked_model_has_no_bits_per_byte(tmp_path: Path, encoder: Path) -> None:
    task, _ = adapted("masked", encoder, 32)
    assert [metric.name for metric in task.metrics] == ["perplexity"]
    assert task.kind == "AutoModelForMaskedLM"
    assert task.measure(numpy.array([4.0, 2.0, 9.0])) == {"perplexity": pytest.approx(math.exp(2))}
    workspace = init(tmp_path / "workspace", "language-modelling")
    set_params(workspace, task__objective="masked")
    with pytest.raises(ParamsError, match=r"gate.bounds.bits_per_byte: the task has no such metric; known: perplexity"):
        Params.read(workspace.params)


# The whole road


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (make_decoder, {}),
        (make_masked, {"task__objective": "masked", "gate__bounds": {"perplexity": 100.0}}),
    ],
)
def test_from_rows_to_a_model_that_foresees_better_than_its_base(
    tmp_path: Path, make: Any, changes: dict[str, Any]
) -> None:
    workspace = init(tmp_path / "workspace", "language-modelling")
    make(workspace.root / "base-models" / "tiny", WORDS)
    small = {
        "model__base": "tiny",
        "encode__max_tokens": 12,
        "train__epochs": 4,
        "train__learning_rate": 1e-2,
        "train__threads": 1,
        "evaluate__bootstrap": 100,
    }
    set_params(workspace, **small | changes)
    report = travel(workspace, [{"text": row["text"]} for row in make_rows(240)])
    assert report["before"] == "the base model as it is"
    base, candidate = (report["models"][name]["metrics"] for name in ("base", "candidate"))
    assert candidate["perplexity"] < 0.2 * base["perplexity"]
    assert list(candidate) == (["bits_per_byte", "perplexity"] if not changes else ["perplexity"])
    predictor = Predictor(workspace.candidate)
    fluent, strange = (predictor.predict(frame_of([text]))[0] for text in (TEXT, "grey the lamp is is"))
    assert fluent.tolist()[1:] == ([4, 16] if not changes else [1, 16])
    if not changes:
        assert predictor.task.table([fluent])["perplexity"] < predictor.task.table([strange])["perplexity"]
