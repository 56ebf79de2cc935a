"""Classification of pairs: both sides read at once, neither lost, each in its place."""

import random
from pathlib import Path

import pandas
import pyarrow.parquet
import pytest
import torch
from tiny import BAD, GOOD, THINGS, make_base, predict_file, set_params, write_csv
from tokenizers import Tokenizer

from staytuned.data.batches import add
from staytuned.data.readers import Reader
from staytuned.errors import ParamsError
from staytuned.files import read_json
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.stages import encode, evaluate, split, train, validate
from staytuned.start import init
from staytuned.tasks.sentence_pairs import SentencePairs
from staytuned.tasks.text_classification import LabelOptions
from staytuned.workspace import Workspace

LABELS = ["entailment", "neutral", "contradiction"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def task() -> SentencePairs:
    return SentencePairs(LabelOptions(name="sentence-pairs", labels=LABELS))


def adapted(task: SentencePairs, base: Path, max_tokens: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.adapt(tokenizer, max_tokens)
    return tokenizer


def examples_of(task: SentencePairs, tokenizer: Tokenizer, frame: pandas.DataFrame) -> Examples:
    table = task.encode(tokenizer, frame)
    return Examples(table.append_column("row", table["place"].cast("string")))


@pytest.mark.parametrize(
    ("text", "pair", "pieces", "types", "cut"),
    [
        ("The lamp", "is grey", "[CLS] the lamp [SEP] is grey [SEP]", "0000111", False),
        ("a a a", "my my my", "[CLS] a a a [SEP] my my my [SEP]", "000001111", False),  # 9 tokens just fit
        ("a a a a a a a a", "my", "[CLS] a a a a a [SEP] my [SEP]", "000000011", True),
        ("a", "my my my my my my", "[CLS] a [SEP] my my my my my [SEP]", "000111111", True),
        ("a a a a a a a", "my my my my my", "[CLS] a a a [SEP] my my my [SEP]", "000001111", True),
    ],
)
def test_a_pair_becomes_exactly_these_ids_and_loses_of_its_longer_text_first(
    task: SentencePairs, base: Path, text: str, pair: str, pieces: str, types: str, cut: bool
) -> None:
    tokenizer = adapted(task, base, max_tokens=9)
    examples = examples_of(task, tokenizer, frame_of([text], [pair]))
    assert examples.lists("input_ids", [0])[0].tolist() == [tokenizer.token_to_id(one) for one in pieces.split()]
    assert examples.lists("type_ids", [0])[0].tolist() == [int(one) for one in types]
    assert examples.column("truncated").tolist() == [cut]


def test_a_pair_that_is_swapped_later_stands_on_the_same_side(tmp_path: Path, base: Path) -> None:
    workspace = init(tmp_path / "workspace", "sentence-pairs")
    set_params(workspace, task__labels=LABELS, model__base="tiny", ingest__example=None)
    pairs = [
        (f"{one} {GOOD[number % len(GOOD)]} {number}", f"the {BAD[number % len(BAD)]} {number * 7} {one}")
        for number, one in enumerate(THINGS * 20)
    ]
    for batch in (pairs, [(other, one) for one, other in pairs]):
        rows = [{"text": one, "text_pair": other, "label": LABELS[len(one) % 3]} for one, other in batch]
        path = write_csv(workspace.root / "rows.csv", rows)
        params = Params.read(workspace.params)
        add(workspace, Reader(path, params.ingest.columns, params.ingest.encodings))
        validate.run(workspace, params)
        split.run(workspace, params)
    placed = pyarrow.parquet.read_table(workspace.split).to_pandas()
    first, second = placed[: len(pairs)], placed[len(pairs) :]
    assert first["side"].nunique() == 3
    assert first["side"].tolist() == second["side"].tolist()
    assert first["group"].tolist() == second["group"].tolist()


def test_labels_are_numbers_in_their_order_none_without_and_unknown_ones_a_fault(
    task: SentencePairs, base: Path
) -> None:
    frame = frame_of(["a"] * 4, ["my"] * 4).assign(label=["contradiction", "entailment", None, "maybe"])
    assert task.labels(frame).tolist() == frame["label"].tolist()
    known = "label is none of entailment, neutral, contradiction"
    assert task.faults(frame) == [None, None, None, f"{known}: 'maybe'"]
    assert examples_of(task, adapted(task, base, 9), frame).column("class").tolist() == [2, 0, -1, -1]
    assert len(task.encode(adapted(task, base, 9), frame[:0])) == 0


def test_the_model_is_told_which_text_a_token_is_of(task: SentencePairs, base: Path) -> None:
    tokenizer = adapted(task, base, 9)
    batch = task.batch(examples_of(task, tokenizer, frame_of(["a a", "a"], ["my", "my"])), [0, 1], None)
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1] * 6, [1] * 5 + [0]]
    model = task.model(backbone("AutoModel", base, 0.0, pretrained=True), 0.0).eval()
    with torch.inference_mode():
        told = model(**batch.inputs)
        mixed = model(**batch.inputs | {"token_type_ids": 1 - batch.inputs["token_type_ids"]})
    assert (told - mixed).abs().min() > 1e-4


# The whole road


def row(number: int) -> dict[str, str]:
    """What the second text says against the first: neither word tells it, and the two in the other order do not."""
    chance = random.Random(number)
    label, first, second = chance.choice(
        [("entailment", BAD, GOOD), ("contradiction", GOOD, BAD), ("neutral", GOOD, GOOD), ("neutral", BAD, BAD)]
    )
    text = f"the {chance.choice(THINGS)} is {chance.choice(first)} number {number:05d}"
    return {"text": text, "text_pair": f"my {chance.choice(THINGS)} is {chance.choice(second)}", "label": label}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose candidate was evaluated."""
    workspace = init(tmp_path_factory.mktemp("road") / "workspace", "sentence-pairs")
    make_base(workspace.root / "base-models" / "tiny")
    set_params(
        workspace,
        model__base="tiny",
        encode__max_tokens=32,
        train__epochs=12,
        train__learning_rate=6e-3,
        train__head_learning_rate=6e-3,
        train__dropout=0.0,
        train__threads=1,
        evaluate__bootstrap=100,
    )
    bad = [row(number) | {"text_pair": blank} for number, blank in ((998, " "), (999, "\t\n"))]
    params = Params.read(workspace.params)
    file = write_csv(workspace.root / "rows.csv", [*map(row, range(500)), *bad])
    add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings))
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    return workspace


def test_the_road_quarantines_half_pairs_and_its_candidate_beats_what_was_before(workspace: Workspace) -> None:
    (batch,) = read_json(workspace.reports / "validation.json")["batches"]
    assert (batch["accepted"], batch["reasons"]) == (500, {"text_pair is blank": 2})
    models = read_json(workspace.evaluation / "evaluation.json")["models"]
    before, candidate = models["base"]["metrics"], models["candidate"]["metrics"]
    assert candidate["macro_f1"] > before["macro_f1"] + 0.2
    assert candidate["macro_f1"] > 0.9


def test_the_candidate_answers_by_both_texts_and_their_order_loaded_from_its_folder(workspace: Workspace) -> None:
    predictor = Predictor(workspace.candidate)
    good, bad = "the radio is lovely number 00077", "my clock is flimsy"
    frame = frame_of([good, "the clock is flimsy number 00077", good], [bad, "my radio is lovely", "my desk is solid"])
    assert predictor.task.table(predictor.predict(frame))["label"] == ["contradiction", "entailment", "neutral"]


def test_a_row_of_a_file_that_lacks_its_second_text_is_told_so(workspace: Workspace, tmp_path: Path) -> None:
    rows = [{"text": "the radio is lovely", "text_pair": pair} for pair in ("my clock is flimsy", " ")]
    answers = predict_file(workspace, rows, tmp_path)
    assert [answer["problem"] for answer in answers] == ["", "no text_pair"]


def test_a_workspace_without_a_second_column_is_refused(workspace: Workspace) -> None:
    set_params(workspace, ingest__columns__text_pair=None)
    with pytest.raises(ParamsError, match=r"ingest\.columns\.text_pair: is null, but task\.name 'sentence-pairs'"):
        Params.read(workspace.params)
