"""Sentence retrieval: a loss over the passages of a batch, and ranks among all passages that are judged."""

import math
from itertools import product
from pathlib import Path

import numpy
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import BAD, GOOD, PLAIN, THINGS, make_base, set_params, write_csv
from tokenizers import Tokenizer

from staytuned.data.batches import add
from staytuned.data.readers import Reader
from staytuned.files import read_json
from staytuned.modelling.embeddings import embeddings
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.sections import TaskOptions
from staytuned.stages import encode, evaluate, split, train, validate
from staytuned.start import init
from staytuned.tasks import Side
from staytuned.tasks.sentence_retrieval import QUERIES, SentenceRetrieval, ranks
from staytuned.workspace import Workspace


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def task() -> SentenceRetrieval:
    return SentenceRetrieval(TaskOptions(name="sentence-retrieval"))


def adapted(task: SentenceRetrieval, base: Path, max_tokens: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.adapt(tokenizer, max_tokens)
    return tokenizer


def examples_of(task: SentenceRetrieval, tokenizer: Tokenizer, frame: pandas.DataFrame) -> Examples:
    table = task.encode(tokenizer, frame)
    return Examples(table.append_column("row", table["place"].cast("string")))


# Examples


def test_each_text_becomes_exactly_these_ids_each_cut_by_itself(task: SentenceRetrieval, base: Path) -> None:
    tokenizer = adapted(task, base, max_tokens=5)
    frame = frame_of(["The lamp", "a a a a", "a a a"], ["is grey today", "my", "my my my my"])
    examples = examples_of(task, tokenizer, frame)

    def pieces(column: str) -> list[str]:
        return [" ".join(map(tokenizer.id_to_token, ids)) for ids in examples.lists(column, range(3))]

    assert pieces("query_ids") == ["[CLS] the lamp [SEP]", "[CLS] a a a [SEP]", "[CLS] a a a [SEP]"]
    assert pieces("input_ids") == ["[CLS] is grey today [SEP]", "[CLS] my [SEP]", "[CLS] my my my [SEP]"]
    assert examples.column("truncated").tolist() == [False, True, True]
    assert task.faults(frame) == [None, None, None]
    empty = task.encode(tokenizer, frame[:0])
    assert (len(empty), empty.schema) == (0, task.encode(tokenizer, frame).schema)


def test_a_batch_holds_both_texts_padded_and_names_the_first_row_of_each_passage(
    task: SentenceRetrieval, base: Path
) -> None:
    tokenizer = adapted(task, base, 8)
    frame = frame_of(["a", "a a", "the", "is"], ["my", "grey lamp", "my", "grey lamp"])
    batch = task.batch(examples_of(task, tokenizer, frame), [3, 0, 1, 2], None)
    a, my, the, is_, grey, lamp = map(tokenizer.token_to_id, ["a", "my", "the", "is", "grey", "lamp"])
    assert {name: tensor.tolist() for name, tensor in batch.inputs.items()} == {
        "query_ids": [[2, is_, 3, 0], [2, a, 3, 0], [2, a, a, 3], [2, the, 3, 0]],
        "query_mask": [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]],
        "input_ids": [[2, grey, lamp, 3], [2, my, 3, 0], [2, grey, lamp, 3], [2, my, 3, 0]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]],
    }
    assert batch.targets.tolist() == [0, 1, 0, 1]


# Loss


def test_the_loss_is_the_cross_entropy_of_scaled_cosines_counted_by_hand(task: SentenceRetrieval) -> None:
    """Two queries along the axes; passages at 0.6 and 0.8 of them, and the other way round."""
    outputs = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [1.0, 0.0]]])
    first = math.log(math.exp(12) + math.exp(20)) - 12  # scores 20 * 0.6 (own) and 20 * 1
    second = math.log(math.exp(16) + math.exp(0)) - 0  # scores 20 * 0.8 and 20 * 0 (own)
    assert float(task.loss(outputs, torch.tensor([0, 1]))) == pytest.approx((first + second) / 2)


def test_a_passage_that_two_rows_have_is_no_wrong_answer_to_either(task: SentenceRetrieval) -> None:
    passage, other = [1.0, 0.0], [0.0, 1.0]
    outputs = torch.tensor([[[1.0, 0.0], passage], [[0.6, 0.8], passage], [[0.0, 1.0], other]])
    found = task.loss(outputs, torch.tensor([0, 0, 2]))
    scores = torch.tensor([[20.0, 0.0], [12.0, 16.0], [0.0, 20.0]])  # of the two passages that there are
    assert float(found) == pytest.approx(
        float(torch.nn.functional.cross_entropy(scores, torch.tensor([0, 0, 1]))), rel=1e-6
    )


# Metrics


def test_metrics_are_counted_by_hand(task: SentenceRetrieval) -> None:
    """Twelve passages on a quarter circle; the queries lie on the passages 0, 1, 11, but 1 and 11 belong to others."""
    angles = numpy.linspace(0, math.pi / 2, 12)
    passages = numpy.stack([numpy.cos(angles), numpy.sin(angles)], axis=1)
    queries = passages.copy()
    queries[2] = passages[0]  # finds 0 and 1 before its own
    queries[3] = passages[11]  # finds 11, 10, ... 4 before its own, the ninth
    queries[0] = passages[11]  # finds its own last
    frame = pandas.DataFrame({"text_pair": [f"passage {i}" for i in range(12)]}, dtype="str")
    predictions = list(numpy.stack([queries, passages], axis=1))
    rank = [12, 1, 3, 9, 1, 1, 1, 1, 1, 1, 1, 1]
    assert ranks(numpy.stack(predictions), frame["text_pair"]).tolist() == rank
    expected = {"mrr": (9 + 1 / 3 + 1 / 9 + 1 / 12) / 12, "recall_at_1": 9 / 12, "recall_at_10": 11 / 12}
    assert task.score(frame, predictions) == pytest.approx(expected)
    assert task.statistics(frame, predictions)[[0, 2]].tolist() == [[1 / 12, 0, 0, 1], [1 / 3, 0, 1, 1]]


def test_a_model_that_says_the_same_of_all_passages_has_found_none() -> None:
    embeddings = numpy.tile([1.0, 0.0], (5, 2, 1))
    assert ranks(embeddings, pd_series("a", "b", "c", "d", "e")).tolist() == [5] * 5
    assert ranks(embeddings, pd_series("a", "b", "a", "b", "a")).tolist() == [2] * 5  # a passage is one candidate


def pd_series(*passages: str) -> pandas.Series:
    return pandas.Series(passages, dtype="str")


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_rank_is_that_of_a_plain_sort(rows: int, different: int, seed: int) -> None:
    random = numpy.random.default_rng(seed)
    own = random.integers(different, size=rows)
    vectors = random.normal(size=(different, 3))
    queries = random.normal(size=(rows, 3))
    found = ranks(numpy.stack([queries, vectors[own]], axis=1), pd_series(*(f"passage {i}" for i in own)))
    for row, rank in enumerate(found):
        best_first = sorted(set(own), key=lambda i: -(queries[row] @ vectors[i]))
        assert best_first.index(own[row]) + 1 == rank


def test_more_queries_than_are_compared_at_a_time_have_the_same_ranks() -> None:
    random = numpy.random.default_rng(7)
    both = random.normal(size=(QUERIES + 3, 2, 4))
    passages = pd_series(*map(str, range(QUERIES + 3)))
    scores = both[:, 0] @ both[:, 1].T
    expected = (scores >= scores.diagonal()[:, None]).sum(axis=1)
    assert ranks(both, passages).tolist() == expected.tolist()


# The whole road


WORDS = GOOD + BAD + PLAIN


def row(thing: int, word: int, frame: int) -> dict[str, str]:
    """The passage speaks of the next thing and the next word: only training can tell which belong together."""
    text = ["the {} is {}", "my {} came {} today", "again a {} {}"][frame].format(THINGS[thing], WORDS[word])
    passage = f"{THINGS[(thing + 1) % len(THINGS)]} overall {WORDS[(word + 1) % len(WORDS)]}"
    return {"text": text, "text_pair": passage}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose candidate was evaluated."""
    workspace = init(tmp_path_factory.mktemp("road") / "workspace", "sentence-retrieval")
    make_base(workspace.root / "base-models" / "tiny")
    set_params(
        workspace,
        model__base="tiny",
        encode__max_tokens=16,
        train__epochs=12,
        train__batch_size=32,
        train__learning_rate=6e-3,
        train__dropout=0.0,
        train__threads=1,
        evaluate__bootstrap=100,
    )
    rows = [row(*which) for which in product(range(len(THINGS)), range(len(WORDS)), range(3))]
    params = Params.read(workspace.params)
    file = write_csv(workspace.root / "rows.csv", [*rows, rows[0] | {"text_pair": " "}])
    add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings))
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    return workspace


def test_the_road_needs_no_label_and_its_candidate_beats_what_was_before(workspace: Workspace) -> None:
    (batch,) = read_json(workspace.reports / "validation.json")["batches"]
    assert (batch["accepted"], batch["reasons"]) == (540, {"text_pair is blank": 1})
    models = read_json(workspace.evaluation / "evaluation.json")["models"]
    before, candidate = models["base"]["metrics"], models["candidate"]["metrics"]
    assert before["mrr"] < 0.3 < 0.6 < candidate["mrr"]


def test_what_was_before_is_the_frozen_embeddings(task: SentenceRetrieval, base: Path) -> None:
    frame = frame_of(["the lamp", "a desk is grey"], ["my lamp", "again"])
    examples = examples_of(task, adapted(task, base, 16), frame)
    said = task.predict_before(base, Side(frame, examples), Side(frame, examples))
    frozen = embeddings(backbone("AutoModel", base, 0.0, pretrained=True).eval(), examples)  # of the passages
    assert numpy.stack(said)[:, 1] == pytest.approx(frozen, abs=1e-6)
    assert task.table(said)["similarity"] == pytest.approx([float(query @ passage) for query, passage in said])


def test_the_candidate_finds_by_the_embeddings_loaded_from_its_folder(workspace: Workspace) -> None:
    predictor = Predictor(workspace.candidate)
    own, other = row(3, 5, 0), row(7, 2, 1)
    texts, passages = [own["text"], own["text"]], [own["text_pair"], other["text_pair"]]
    predictions = predictor.predict(frame_of(texts, passages))
    assert numpy.linalg.norm(numpy.stack(predictions), axis=2) == pytest.approx(numpy.ones((2, 2)))
    right, wrong = predictor.task.table(predictions)["similarity"]
    assert right > wrong + 0.2
    assert predictor.task.say(predictions[0]) == f"similarity\t{right:.3f}"
