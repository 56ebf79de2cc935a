"""Spans of characters in, the very same out: by way of tags, pieces and windows, in any script."""

import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import THINGS, make_base, make_rows, set_params
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from staytuned.data.batches import add
from staytuned.data.readers import Reader
from staytuned.errors import ParamsError
from staytuned.files import read_json
from staytuned.modelling.examples import Examples
from staytuned.modelling.words import windows, words_of
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.stages import encode, evaluate, split, train, validate
from staytuned.start import init
from staytuned.tasks import Side
from staytuned.tasks.spans import spans_of
from staytuned.tasks.token_classification import Entity, Options, TokenClassification, likeliest_tags

TYPES = ["product", "place"]
OUT, B_PRODUCT, I_PRODUCT, B_PLACE, I_PLACE, NONE = 0, 1, 2, 3, 4, -100
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "the",
    "lamp",
    "in",
    "rome",
    ".",
    "ro",
    "##me",
    "0",
    "##4",
    "##2",
    "北",
    "京",
]


def task_of(pieces: str = "first", types: list[str] = TYPES, name: str = "token-classification") -> TokenClassification:
    return TokenClassification(Options(name=name, types=types, pieces=pieces))


def word_pieces(known: str = "") -> Tokenizer:
    """As BERT's: lower case, without accents, control characters and format characters; knows these characters too."""
    characters = sorted(set(normalizers.BertNormalizer().normalize_str(known)))
    pieces = [*PIECES, *(piece for one in characters for piece in (one, f"##{one}") if piece not in PIECES)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    return tokenizer


def byte_pieces() -> Tokenizer:
    """As RoBERTa's before any merge: a piece is a byte, and a blank belongs to the word after it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def long_pieces() -> Tokenizer:
    """As XLM-R's where it knows all: whatever holds no blank is one piece, the blank before it included."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def frame(*rows: tuple[str, list[Any] | None]) -> pandas.DataFrame:
    labels = [None if spans is None else json.dumps(spans) for _, spans in rows]
    return frame_of([text for text, _ in rows]).assign(label=pandas.Series(labels, dtype="object"))


def examples_of(
    task: TokenClassification, rows: pandas.DataFrame, tokenizer: Tokenizer | None = None, max_tokens: int = 64
) -> Examples:
    tokenizer = tokenizer or word_pieces()
    task.adapt(tokenizer, max_tokens)
    table = task.encode(tokenizer, rows)
    return Examples(table.append_column("row", table["place"].cast("string")))


def perfect(task: TokenClassification, examples: Examples) -> list[numpy.ndarray]:
    """Logits of a model that knows every tag, and says the wrong thing wherever it is not asked."""
    found = []
    for place in range(len(examples)):
        logits = numpy.zeros((examples.lengths[place], 2 * len(task.options.types) + 1))
        logits[:, B_PLACE] = 9
        at, tags = examples.lists("at", [place])[0], examples.lists("tags", [place])[0]
        logits[at] = numpy.eye(logits.shape[1])[tags] * 9
        found.append(logits)
    return found


def there_and_back(
    text: str, spans: list[Any], pieces: str = "first", tokenizer: Tokenizer | None = None, max_tokens: int = 64
) -> list[list[Any]]:
    task, rows = task_of(pieces), frame((text, spans))
    examples = examples_of(task, rows, tokenizer, max_tokens)
    return [[*entity[:3], entity.text] for entity in task.decode(rows, examples, perfect(task, examples))[0]]


# Which tokens carry loss


@pytest.mark.parametrize(
    ("pieces", "targets"),
    [
        ("first", [NONE, OUT, B_PRODUCT, I_PRODUCT, NONE, NONE, OUT, B_PLACE, OUT, NONE]),
        ("all", [NONE, OUT, B_PRODUCT, I_PRODUCT, I_PRODUCT, I_PRODUCT, OUT, B_PLACE, OUT, NONE]),
    ],
)
def test_these_tokens_carry_these_labels(pieces: str, targets: list[int]) -> None:
    task = task_of(pieces)
    rows = frame(("the lamp 042 in Rome.", [[4, 12, "product"], [16, 20, "place"]]), ("lamp", []))
    batch = task.batch(examples_of(task, rows), [0, 1], None)
    expected = ["[CLS]", "the", "lamp", "0", "##4", "##2", "in", "rome", ".", "[SEP]"]
    assert [PIECES[number] for number in batch.inputs["input_ids"][0]] == expected
    assert batch.targets.tolist() == [targets, [NONE, OUT] + [NONE] * 8]
    assert batch.inputs["attention_mask"].tolist() == [[1] * 10, [1] * 3 + [0] * 7]


def test_loss_is_the_mean_over_those_tokens_and_0_without_any() -> None:
    task = task_of()
    targets = torch.tensor([[NONE, B_PLACE, NONE], [NONE, OUT, OUT]])
    outputs = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    said = outputs.log_softmax(dim=2)
    expected = -(said[0, 1, B_PLACE] + said[1, 1, OUT] + said[1, 2, OUT]) / 3
    assert task.loss(outputs, targets).item() == pytest.approx(expected.item(), abs=1e-6)
    changed = outputs.clone()
    changed[:, 0] += 5 * torch.randn(5)
    assert task.loss(changed, targets) == task.loss(outputs, targets)
    assert task.loss(outputs, torch.full((2, 3), NONE)) == 0


# Tags


@pytest.mark.parametrize(
    ("text", "spans", "tags"),
    [
        ("lamp in rome", [[0, 4, "product"], [8, 12, "place"]], [B_PRODUCT, OUT, B_PLACE]),
        ("lamp rome", [[5, 9, "product"], [0, 4, "product"]], [B_PRODUCT, B_PRODUCT]),  # they touch; of one type
        ("the lamp rome", [[0, 13, "place"]], [B_PLACE, I_PLACE, I_PLACE]),
        ("the lamp", [], [OUT, OUT]),
        ("the lamp", None, [OUT, OUT]),  # a row to predict
        ("rome", [[0, 2, "place"]], [B_PLACE]),  # it cuts a word: the whole word is learned
        ("rome lamp", [[0, 2, "place"], [2, 9, "product"]], [B_PLACE, B_PRODUCT]),  # the first has the shared word
        ("rome", [[0, 2, "place"], [2, 4, "product"]], [B_PLACE]),  # and nothing is left for the second
    ],
)
def test_words_have_these_tags(text: str, spans: list[Any] | None, tags: list[int]) -> None:
    examples = examples_of(task_of(), frame((text, spans)))
    assert examples.lists("tags", [0])[0].tolist() == tags


def test_a_span_within_a_word_is_exact_where_all_pieces_are_tagged() -> None:
    text = "042 Rome"  # 0, ##4, ##2
    assert there_and_back(text, [[1, 2, "product"], [4, 8, "place"]], "all") == [
        [1, 2, "product", "4"],
        [4, 8, "place", "Rome"],
    ]
    assert there_and_back(text, [[1, 2, "product"], [4, 8, "place"]], "first") == [
        [0, 3, "product", "042"],
        [4, 8, "place", "Rome"],
    ]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ([OUT, OUT, OUT, OUT], []),
        ([B_PRODUCT, I_PRODUCT, OUT, B_PLACE], [(0, 8, "product"), (12, 16, "place")]),
        ([B_PRODUCT, B_PRODUCT, I_PRODUCT, OUT], [(0, 3, "product"), (4, 11, "product")]),
        ([B_PRODUCT, I_PRODUCT, B_PLACE, I_PLACE], [(0, 8, "product"), (9, 16, "place")]),
    ],
)
def test_tags_say_these_entities(tags: list[int], found: list[tuple[int, int, str]]) -> None:
    task, rows = task_of(), frame(("the lamp in rome", None))
    examples = examples_of(task, rows)
    logits = numpy.zeros((6, 5))
    logits[[1, 2, 3, 4], tags] = 2
    entities = task.decode(rows, examples, [logits])[0]
    assert [entity[:3] for entity in entities] == found
    assert all(entity.text == "the lamp in rome"[entity.start : entity.end] for entity in entities)
    assert [entity.score for entity in entities] == pytest.approx([numpy.e**2 / (numpy.e**2 + 4)] * len(found))


@pytest.mark.parametrize(
    ("logits", "tags"),
    [
        ([[3, 0, 0, 0, 0], [1, 0, 2, 0, 0]], [OUT, OUT]),  # I- after O is a doubt about the O
        ([[3, 2, 0, 0, 0], [1, 0, 3, 0, 0]], [B_PRODUCT, I_PRODUCT]),  # or about the I-
        ([[0, 0, 3, 0, 0]], [OUT]),
        ([[0, 3, 0, 0, 0], [0, 0, 1, 0, 2]], [B_PRODUCT, I_PRODUCT]),
        ([[0, 3, 0, 2, 0], [0, 0, 1, 0, 3]], [B_PLACE, I_PLACE]),
    ],
)
def test_tags_that_contradict_each_other_are_weighed(logits: list[list[float]], tags: list[int]) -> None:
    assert likeliest_tags(numpy.array(logits, float)).tolist() == tags


@given(st.lists(st.lists(st.floats(-9, 9), min_size=5, max_size=5), max_size=4))
def test_of_all_sequences_that_iob2_knows_the_likeliest_is_found(rows: list[list[float]]) -> None:
    logits = numpy.array(rows, float).reshape(-1, 5)
    follows = {(before, tag) for before in range(5) for tag in (OUT, B_PRODUCT, B_PLACE)}
    follows |= {(B_PRODUCT, I_PRODUCT), (I_PRODUCT, I_PRODUCT), (B_PLACE, I_PLACE), (I_PLACE, I_PLACE)}
    known = [tags for tags in product(range(5), repeat=len(rows)) if follows.issuperset(pairwise((OUT, *tags)))]
    found = tuple(likeliest_tags(logits).tolist())
    assert found in known
    assert sum(logits[range(len(rows)), found]) == pytest.approx(
        max(sum(logits[range(len(rows)), tags]) for tags in known), abs=1e-9
    )


def test_the_score_is_the_mean_of_the_words() -> None:
    task, rows = task_of(), frame(("the lamp in rome", None))
    logits = numpy.full((6, 5), -99.0)
    logits[1, [B_PRODUCT, OUT]] = numpy.log([0.6, 0.4])
    logits[2, [I_PRODUCT, OUT]] = numpy.log([0.9, 0.1])
    logits[3:, OUT] = 0
    (entity,) = task.decode(rows, examples_of(task, rows), [logits])[0]
    assert entity == Entity(0, 8, "product", "the lamp", pytest.approx(0.75))
    assert json.loads(task.table([[entity], []])["entities"][0]) == [
        {"start": 0, "end": 8, "type": "product", "text": "the lamp", "score": 0.75}
    ]
    assert task.table([[entity], []])["entities"][1] == "[]"
    assert task.say([]) == "[]"


# Characters of any script

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
SCRIPTS = [
    ("the lamp in Rome.", ["lamp", "Rome"]),
    ("我在北京和上海买灯。", ["北京", "上海", "灯"]),  # no blanks
    ("北京上海", ["北京", "上海"]),  # and no word between
    ("東京のランプ", ["東京", "ランプ"]),
    ("โคมไฟในกรุงเทพ", ["โคมไฟ", "กรุงเทพ"]),
    ("המנורה שלי מירושלים, תודה", ["מירושלים"]),
    ("اشتريت مِصْبَاحٌ في القاهرةِ.", ["مِصْبَاحٌ", "القاهرةِ"]),  # ends with an accent, which BERT drops
    ("la lámpara de Bogotá", ["lámpara", "Bogotá"]),
    ("cafe\u0301 Ro\u0308me\u0301", ["cafe\u0301", "Ro\u0308me\u0301"]),  # combining marks
    ("मुझे दिल्ली की बत्ती", ["दिल्ली", "बत्ती"]),
    (f"❤\ufe0f {FAMILY} {ENGLAND} 👍🏽 Rome", ["❤\ufe0f", FAMILY, ENGLAND, "👍🏽", "Rome"]),
    ("😀Rome😀", ["Rome"]),
    ("\u200fירושלים\u200f lamp", ["ירושלים"]),  # marks of direction belong to no word
    ("5€, $5 — 3.14…", ["5", "€", "$", "3.14", "…"]),
    ("𝕽𝖔𝖒𝖊 \U00020000 x", ["𝕽𝖔𝖒𝖊", "\U00020000"]),  # two UTF-16 units each
    ("\tRome\n\n  lamp\u00a0x ", ["Rome", "lamp"]),
    ("[SEP] Rome [CLS]", ["Rome"]),
]


def spans_in(text: str, found: list[str]) -> list[list[Any]]:
    spans, after = [], 0
    for number, part in enumerate(found):
        start = text.index(part, after)
        after = start + len(part)
        spans.append([start, after, TYPES[number % 2]])
    return spans


@pytest.mark.parametrize("pieces", ["first", "all"])
@pytest.mark.parametrize(("text", "found"), SCRIPTS)
def test_offsets_are_those_of_the_original_characters(text: str, found: list[str], pieces: str) -> None:
    spans = spans_in(text, found)
    expected = [[*span, part] for span, part in zip(spans, found, strict=True)]
    for tokenizer in (byte_pieces(), word_pieces(text)):
        assert there_and_back(text, spans, pieces, tokenizer, 256) == expected


@pytest.mark.parametrize(
    ("tokenizer", "text", "span", "found"),
    [
        (word_pieces(), "😀Rome😀 lamp", [1, 5, "place"], [0, 6, "place", "😀Rome😀"]),  # one [UNK]
        (long_pieces(), "lamp (Rome).", [6, 10, "place"], [5, 12, "place", "(Rome)."]),
        (long_pieces(), "我在北京", [2, 4, "place"], [0, 4, "place", "我在北京"]),
    ],
)
def test_a_span_is_found_as_what_its_pieces_cover(tokenizer: Tokenizer, text: str, span: Any, found: Any) -> None:
    assert there_and_back(text, [span], tokenizer=tokenizer) == [found]


def test_words_of_any_script() -> None:
    text = "Don't 北京ラ กข x_y \u200f3.5€ e\u0301t\u00ade\u0301"
    words = words_of(text)
    assert [text[start:end] for start, end in zip(words.starts, words.ends, strict=True)] == [
        *("Don", "'", "t", "北", "京", "ラ", "ก", "ข", "x", "_", "y", "3", ".", "5", "€", "e\u0301t", "e\u0301")
    ]


# Long texts


def test_a_long_text_is_read_in_windows_and_each_word_is_learned_once() -> None:
    """A window of 10 has room for 8, shares 2 with the next, and leaves it the second of them."""
    text = "the lamp in rome . " * 4  # 20 words
    task = task_of()
    examples = examples_of(task, frame((text, [[12, 16, "place"], [38, 54, "product"]]), ("lamp", [])), max_tokens=10)
    words = ["the", "lamp", "in", "rome", "."] * 4
    assert [[PIECES[number] for number in ids] for ids in examples.lists("input_ids", range(len(examples)))] == [
        ["[CLS]", *words[0:8], "[SEP]"],
        ["[CLS]", *words[6:14], "[SEP]"],
        ["[CLS]", *words[12:20], "[SEP]"],
        ["[CLS]", "lamp", "[SEP]"],
    ]
    assert examples.by_row == [[0, 1, 2], [3]]
    assert task.batch(examples, [0, 1, 2], None).targets.tolist() == [
        [NONE, OUT, OUT, OUT, B_PLACE, OUT, OUT, OUT, NONE, NONE],
        [NONE, NONE, OUT, OUT, OUT, B_PRODUCT, I_PRODUCT, I_PRODUCT, NONE, NONE],
        [NONE, NONE, I_PRODUCT, OUT, OUT, OUT, OUT, OUT, OUT, NONE],
    ]
    assert not examples.column("truncated").any()


def test_entities_across_windows_and_past_the_first_are_put_together() -> None:
    text = "the lamp in rome . " * 4
    spans = [
        [12, 16, "place"],
        [38, 54, "product"],
        [69, 73, "place"],
    ]  # the second begins in one window, ends in another
    assert there_and_back(text, spans, max_tokens=10) == [[*span, text[span[0] : span[1]]] for span in spans]


def test_a_word_longer_than_a_window_is_learned_by_its_first_piece() -> None:
    text = "0" + "4" * 30 + " rome"
    examples = examples_of(task_of(), frame((text, [[0, 31, "product"]])), max_tokens=10)
    assert [values.tolist() for values in examples.lists("at", range(len(examples)))] == [[1], [], [], [], [8]]
    assert there_and_back(text, [[0, 31, "product"]], max_tokens=10) == [[0, 31, "product", text[:31]]]


@given(pieces=st.integers(0, 200), size=st.integers(1, 40))
def test_a_piece_is_the_own_of_the_window_where_it_is_farthest_from_an_edge(pieces: int, size: int) -> None:
    found = windows(pieces, size)
    assert found[0][:2] == (0, min(pieces, size))
    assert found[-1][1] == pieces and all(end - start == size for start, end, _, _ in found[:-1])
    for piece in range(pieces):
        depths = [min(piece - start, end - 1 - piece) for start, end, _, _ in found]
        owners = [number for number, (_, _, own, after) in enumerate(found) if own <= piece < after]
        assert owners == [depths.index(max(depths))]


letters = st.text(st.sampled_from("ab e\u0301 北ラกש.,😀\u200d\u200f\n"), max_size=60)


@settings(deadline=None, max_examples=100)
@given(st.data(), letters, st.sampled_from(["first", "all"]), st.integers(4, 12))
def test_spans_of_whole_words_come_back_as_they_were(data: st.DataObject, text: str, pieces: str, size: int) -> None:
    task = task_of(pieces)
    for tokenizer in (word_pieces(text), byte_pieces(), long_pieces()):
        examples = examples_of(task, frame((text, [])), tokenizer, max_tokens=256)
        starts, ends = (examples.lists(name, [0])[0].tolist() for name in ("starts", "ends"))
        bounds = sorted(data.draw(st.sets(st.integers(0, len(starts)))))
        spans = [
            [starts[first], ends[after - 1], data.draw(st.sampled_from(TYPES))]
            for first, after in zip(bounds[::2], bounds[1::2], strict=False)
        ]
        assert there_and_back(text, spans, pieces, tokenizer, size) == [
            [*span, text[span[0] : span[1]]] for span in spans
        ]


# Params


def test_options_are_checked(tmp_path: Path) -> None:
    workspace = init(tmp_path / "workspace", "token-classification")
    set_params(workspace, task__types=["place", "place"], task__pieces="last", gate__bounds={"accuracy": 0.5})
    with pytest.raises(ParamsError) as error:
        Params.read(workspace.params)
    assert str(error.value).splitlines()[1:] == [
        "  task.types: repeats ['place']; name each once",
        "  task.pieces: is 'last'; should be 'first' or 'all'",
        "  gate.bounds.accuracy: the task has no such metric; known: f1, precision, recall, macro_f1",
    ]


def test_before_tags_each_word_as_it_mostly_was() -> None:
    task = task_of()
    train = frame(
        ("old rome", [[0, 8, "place"]]),
        ("old lamp", [[4, 8, "product"]]),
        ("Rome rome", [[0, 4, "place"], [5, 9, "place"]]),
        ("old rome", [[0, 8, "place"]]),
    )
    test = frame(("old rome lamp kettle Rome", None), ("rome", None), ("", None))
    found = task.predict_before(Path(), *(Side(rows, examples_of(task, rows)) for rows in (train, test)))
    assert [[(entity[:4], round(entity.score, 3)) for entity in row] for row in found] == [
        [
            ((0, 8, "place", "old rome"), 0.667),  # B-, of which 2 of 3; I-, of which 2 of 3
            ((9, 13, "product", "lamp"), 1.0),
            ((21, 25, "place", "Rome"), 1.0),
        ],
        [((0, 4, "place", "rome"), 0.667)],  # I- alone begins an entity
        [],
    ]


# The road


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    """Things, and numbers of two words, which no dictionary can know."""
    with path.open("w", encoding="utf-8") as handle:
        for row in make_rows(count, seed):
            text = row["text"]
            number = text.index("number")
            spans = [[text.index(thing), text.index(thing) + len(thing), "thing"] for thing in THINGS if thing in text]
            label = [*spans, [number, len(text), "number"]]
            handle.write(json.dumps({"text": text, "label": label, "group": row["document"]}) + "\n")
    return path


def test_the_road_to_a_candidate(tmp_path: Path) -> None:
    workspace = init(tmp_path / "workspace", "token-classification")
    make_base(workspace.root / "base-models" / "tiny")
    set_params(
        workspace,
        task__types=["thing", "number"],
        model__base="tiny",
        ingest__columns__group="group",
        validate__quarantine_budget=0.7,
        encode__max_tokens=12,
        train__epochs=6,
        train__learning_rate=6e-3,
        train__head_learning_rate=6e-3,
        train__dropout=0.0,
        train__threads=1,
        evaluate__bootstrap=100,
    )
    (workspace.root / "more.conll").write_text("my O\nlamp B-thing\n\nlamp I-thing\n\nlamp B-lamp\n")
    params = Params.read(workspace.params)
    for path in (write_rows(workspace.root / "rows.jsonl", 300), workspace.root / "more.conll"):
        add(workspace, Reader(path, params.ingest.columns, params.ingest.encodings, TokenClassification.formats))
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    quarantine = pandas.read_csv(workspace.quarantine, dtype=str)
    assert quarantine[["text", "label", "line", "reasons"]].values.tolist() == [
        [
            "lamp",
            '[[0, 4, "thing"]]',
            "4",
            "could not be read whole: 'line 4 has I-thing without its B-thing; tags must be IOB2'",
        ],
        ["lamp", '[[0, 4, "lamp"]]', "6", 'type is none of thing, number: [0, 4, "lamp"]'],
    ]
    sides = read_json(workspace.reports / "encoding.json")["sides"]
    assert sides["train"]["examples"] > sides["train"]["rows"] and sides["train"]["truncated"] == 0
    models = read_json(workspace.evaluation / "evaluation.json")["models"]
    assert models["base"]["metrics"]["f1"] < 0.7 and models["candidate"]["metrics"]["f1"] > 0.95
    assert models["base"]["details"]["per_class"]["number"]["f1"] == 0  # its digits are new each time
    predictor = Predictor(workspace.candidate)
    found = predictor.predict(frame_of(["my lamp is swift number 000977", "dull", " "]))
    assert [[entity[:4] for entity in row] for row in found] == [
        [(3, 7, "thing", "lamp"), (17, 30, "number", "number 000977")],
        [],
        [],
    ]
    assert spans_of(predictor.task.labels(frame(("lamp", [[0, 4, "thing"]])))[0]) == [(0, 4, "thing")]
