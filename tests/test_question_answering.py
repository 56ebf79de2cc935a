"""Question answering: windows and their offsets to the very character, the span that is chosen, SQuAD's own score."""

import json
import random
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GOOD, PLAIN, THINGS, make_base, set_params
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
from staytuned.tasks.question_answering import Answer, Options, QuestionAnswering

LOW = float(torch.finfo(torch.float32).min)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


def made(stride: int = 3, most: int = 5, unanswerable: bool = True) -> QuestionAnswering:
    options = Options(name="question-answering", stride=stride, max_answer_tokens=most, unanswerable=unanswerable)
    return QuestionAnswering(options)


def adapted(task: QuestionAnswering, base: Path, max_tokens: int = 16) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.adapt(tokenizer, max_tokens)
    return tokenizer


def asked(*rows: tuple[str | None, str | None, str | None]) -> pandas.DataFrame:
    """Rows of question, context and label."""
    return pandas.DataFrame(rows, columns=["text", "text_pair", "label"], dtype="str")


def label(context: str, *answers: str) -> str:
    return json.dumps([{"text": text, "start": context.index(text)} for text in answers], ensure_ascii=False)


def examples_of(task: QuestionAnswering, tokenizer: Tokenizer, frame: pandas.DataFrame) -> Examples:
    table = task.encode(tokenizer, frame)
    return Examples(table.append_column("row", table["place"].cast("string")))


def windows_of(examples: Examples, name: str, place: int = 0) -> list[list[int]]:
    """A column over tokens, by window."""
    cuts = numpy.cumsum(examples.lists("windows", [place])[0])[:-1]
    return [part.tolist() for part in numpy.split(examples.lists(name, [place])[0], cuts)]


def lists(examples: Examples, name: str, place: int = 0) -> list[int]:
    found: list[int] = examples.lists(name, [place])[0].tolist()
    return found


# Windows

TWENTY = "lamp desk is the grey plain drill metal clock radio a my came today great dull slow noisy solid handy"


def test_a_context_is_cut_into_windows_that_share_the_stride(base: Path) -> None:
    task = made(stride=3)
    tokenizer = adapted(task, base, 16)
    words, frame = TWENTY.split(), asked(("chair is", TWENTY, None))
    examples = examples_of(task, tokenizer, frame)
    pieces = [[tokenizer.id_to_token(number) for number in ids] for ids in windows_of(examples, "input_ids")]
    front = ["[CLS]", "chair", "is", "[SEP]"]
    assert pieces == [
        [*front, *words[:11], "[SEP]"],
        [*front, *words[8:19], "[SEP]"],
        [*front, *words[16:], "[SEP]"],
    ]
    assert windows_of(examples, "type_ids") == [[0] * 4 + [1] * 12, [0] * 4 + [1] * 12, [0] * 4 + [1] * 5]
    places = zip(windows_of(examples, "starts"), windows_of(examples, "ends"), strict=True)
    texts = [[TWENTY[start:end] for start, end in zip(*pair, strict=True)] for pair in places]
    assert texts == [
        [*[""] * 4, *words[:11], ""],
        [*[""] * 4, *words[8:19], ""],
        [*[""] * 4, *words[16:], ""],
    ]


@pytest.mark.parametrize(
    ("answer", "firsts", "lasts", "truncated"),
    [
        ("lamp", [4, 0, 0], [4, 0, 0], False),  # at the very beginning
        ("handy", [0, 0, 7], [0, 0, 7], False),  # at the very end
        ("a", [14, 6, 0], [14, 6, 0], False),  # the last token of a window, and in the next
        ("radio a my", [0, 5, 0], [0, 7, 0], False),  # over the first window's end
        ("clock radio a", [12, 4, 0], [14, 6, 0], False),  # just what two windows share
        ("metal clock radio a my", [0, 0, 0], [0, 0, 0], True),  # longer than that, so that no window holds it
        ("drill metal", [10, 0, 0], [11, 0, 0], False),
        ("adio", [13, 5, 0], [13, 5, 0], False),  # part of a token: the tokens that hold it
    ],
)
def test_the_answer_is_marked_in_each_window_that_holds_it_whole(
    base: Path, answer: str, firsts: list[int], lasts: list[int], truncated: bool
) -> None:
    task = made(stride=3)
    tokenizer = adapted(task, base, 16)
    start = TWENTY.index(f" {answer} ") + 1 if f" {answer} " in TWENTY else TWENTY.index(answer)
    frame = asked(("chair is", TWENTY, json.dumps([{"text": answer, "start": start}])))
    examples = examples_of(task, tokenizer, frame)
    assert (lists(examples, "firsts"), lists(examples, "lasts")) == (firsts, lasts)
    assert examples.column("truncated").tolist() == [truncated]


def test_of_several_answers_a_window_has_the_first_that_it_holds(base: Path) -> None:
    task = made(stride=3)
    frame = asked(("chair is", TWENTY, label(TWENTY, "handy", "desk", "lamp")))
    examples = examples_of(task, adapted(task, base, 16), frame)
    assert (lists(examples, "firsts"), lists(examples, "lasts")) == ([5, 0, 7], [5, 0, 7])


def test_a_long_question_leaves_half_of_the_room_to_the_context(base: Path) -> None:
    task = made(stride=3)
    tokenizer = adapted(task, base, 16)
    frame = asked((TWENTY, "a great lamp", label("a great lamp", "lamp")), ("is", "a great lamp", "[]"))
    examples = examples_of(task, tokenizer, frame)
    pieces = [tokenizer.id_to_token(number) for number in lists(examples, "input_ids")]
    assert pieces == ["[CLS]", *TWENTY.split()[:6], "[SEP]", "a", "great", "lamp", "[SEP]"]
    assert examples.column("truncated").tolist() == [True, False]
    assert lists(examples, "firsts") == [10]


def test_rows_without_label_context_or_rows_are_encoded_too(base: Path) -> None:
    task = made()
    tokenizer = adapted(task, base)
    empty = task.encode(tokenizer, asked())
    rows = task.encode(tokenizer, frame_of(["is", "is"], ["a lamp", None]))
    assert empty.schema == rows.schema and len(empty) == 0
    examples = Examples(rows.append_column("row", rows["place"].cast("string")))
    assert [lists(examples, "ends", place) for place in (0, 1)] == [[0, 0, 0, 1, 6, 0], [0, 0, 0, 0]]
    assert [lists(examples, "firsts", place) for place in (0, 1)] == [[0], [0]]
    logits = [numpy.zeros((6, 2), numpy.float32), numpy.zeros((4, 2), numpy.float32)]
    none = task.decode(frame_of(["is", "is"], ["a lamp", None]), examples, logits)
    assert none == [Answer("", 0, 0, 0.0), Answer("", 0, 0, -numpy.inf)]


# Learning


def test_a_span_may_touch_the_context_and_position_0_only_and_nothing_else_carries_loss(base: Path) -> None:
    task = made(stride=3)
    context = "a great lamp"
    frame = asked(("chair is", context, label(context, "great lamp")), ("is", "desk", "[]"))
    examples = examples_of(task, adapted(task, base, 16), frame)
    batch = task.batch(examples, [0, 1], numpy.random.default_rng(0))
    #        [CLS] chair is [SEP] a great lamp [SEP]  and  [CLS] is [SEP] desk [SEP] and padding
    allowed = [[1, 0, 0, 0, 1, 1, 1, 0], [1, 0, 0, 1, 0, 0, 0, 0]]
    assert batch.inputs["allowed"].int().tolist() == allowed
    assert batch.inputs["attention_mask"].tolist() == [[1] * 8, [1] * 5 + [0] * 3]
    assert batch.targets.tolist() == [[5, 6, 0], [0, 0, 1]]
    torch.manual_seed(0)
    model = task.model(backbone("AutoModel", base, 0.0, pretrained=True), 0.0)
    outputs = model(**batch.inputs)
    outputs.retain_grad()
    loss = task.loss(outputs, batch.targets)
    loss.backward()
    carries = (outputs.grad != 0).all(dim=-1).int()
    assert outputs.grad is not None and carries.tolist() == allowed
    assert (outputs[~batch.inputs["allowed"]] == LOW).all()


def test_the_loss_is_the_mean_of_the_cross_entropies_of_both_ends(base: Path) -> None:
    logits = torch.full((1, 4, 2), LOW)
    logits[0, [0, 2, 3], 0] = torch.log(torch.tensor([0.5, 0.25, 0.25]))
    logits[0, [0, 2, 3], 1] = torch.log(torch.tensor([0.1, 0.1, 0.8]))
    expected = -(numpy.log(0.25) + numpy.log(0.8)) / 2
    assert made().loss(logits, torch.tensor([[2, 3, 0]])).item() == pytest.approx(expected, rel=1e-6)


def test_learning_takes_the_windows_with_the_answer_and_two_others_and_judging_all(base: Path) -> None:
    task = made(stride=3)
    long = " ".join(["grey"] * 60 + ["great"] + ["grey"] * 20)  # windows of 12 words, nine words on
    frame = asked(("chair", long, label(long, "great")), ("chair", "a desk", label("a desk", "desk")))
    examples = examples_of(task, adapted(task, base, 16), frame)
    firsts = lists(examples, "firsts")
    assert firsts == [0, 0, 0, 0, 0, 0, 9, 0, 0]
    seen = set()
    for seed in range(40):
        batch = task.batch(examples, [0, 1], numpy.random.default_rng(seed))
        assert batch.targets[:, 2].tolist() == [0, 0, 0, 1]
        assert sorted(batch.targets[:, 0].tolist()) == [0, 0, 4, 9]
        seen.update(map(tuple, batch.inputs["input_ids"].tolist()))
    again = task.batch(examples, [0, 1], numpy.random.default_rng(39))
    assert again.targets.tolist() == batch.targets.tolist()
    judged = task.batch(examples, [0, 1], None)
    assert judged.targets.tolist() == [[first, first, 0] for first in firsts] + [[4, 4, 1]]
    assert seen == set(map(tuple, judged.inputs["input_ids"].tolist()))  # each window's turn comes


def test_what_the_model_says_is_put_back_to_the_windows_of_each_row(base: Path) -> None:
    task = made(stride=3)
    frame = asked(("chair is", TWENTY, "[]"), ("is", "a desk", "[]"))
    examples = examples_of(task, adapted(task, base, 16), frame)
    batch = task.batch(examples, [1, 0], None)
    ids = batch.inputs["input_ids"].float()
    said = task.outputs(torch.stack([ids, -ids], dim=-1), batch)
    for place, values in zip([1, 0], said, strict=True):
        assert values[:, 0].tolist() == lists(examples, "input_ids", place)
        assert values[:, 1].tolist() == [-number for number in lists(examples, "input_ids", place)]


# Answers


def decoded(base: Path, context: str, logits: dict[tuple[int, int], tuple[float, float]], **options: Any) -> Answer:
    """The answer where all logits are 0, save those given by (window, token)."""
    task = made(stride=3, **options)
    frame = frame_of(["chair is"], [context])
    examples = examples_of(task, adapted(task, base, 16), frame)
    begins = [0, *numpy.cumsum(lists(examples, "windows"))]
    values = numpy.zeros((begins[-1], 2), numpy.float32)
    for (window, token), pair in logits.items():
        values[begins[window] + token] = pair
    (answer,) = task.decode(frame, examples, [values])
    assert isinstance(answer, Answer) and answer.text == context[answer.start : answer.end]
    return answer


def test_the_best_span_over_all_windows_is_the_answer(base: Path) -> None:
    found = decoded(base, TWENTY, {(0, 4): (2, 2), (1, 10): (3, 0), (1, 11): (0, 3), (2, 4): (1, 1)})
    assert found == Answer("great dull", TWENTY.index("great"), TWENTY.index("dull") + 4, 6.0)


def test_windows_compare_by_how_much_better_than_no_answer_they_are(base: Path) -> None:
    found = decoded(base, TWENTY, {(0, 0): (5, 5), (0, 4): (7, 7), (1, 10): (3, 3), (2, 0): (9, 9)})
    assert found == Answer("great", TWENTY.index("great"), TWENTY.index("great") + 5, 6.0)


def test_without_a_span_that_beats_position_0_there_is_no_answer(base: Path) -> None:
    none = {(window, 0): (4.0, 4.0) for window in range(3)}
    assert decoded(base, TWENTY, none | {(1, 10): (3, 4)}) == Answer("", 0, 0, -1.0)
    assert decoded(base, TWENTY, none | {(1, 10): (4, 5)}).text == "great"


def test_where_all_questions_have_an_answer_the_best_span_is_given(base: Path) -> None:
    none = {(window, 0): (4.0, 4.0) for window in range(3)}
    found = decoded(base, TWENTY, none | {(1, 10): (3, 4)}, unanswerable=False)
    assert (found.text, found.score) == ("great", -1.0)


def test_an_answer_neither_ends_before_it_starts_nor_is_too_long(base: Path) -> None:
    ends = {(0, 9): (5.0, 0.0), (0, 6): (0.0, 5.0)}  # the best end lies before the best start
    assert decoded(base, TWENTY, ends | {(0, 11): (0, 1)}).text == "plain drill metal"
    far = {(0, 4): (5.0, 0.0), (0, 7): (0.0, 5.0), (0, 6): (0.0, 1.0)}
    assert decoded(base, TWENTY, far, most=4).text == "lamp desk is the"
    assert decoded(base, TWENTY, far, most=3).text == "lamp desk is"


def test_question_and_marks_are_never_the_answer(base: Path) -> None:
    assert (
        decoded(base, "a great lamp", {(0, 1): (9, 9), (0, 3): (9, 9), (0, 7): (9, 9), (0, 5): (1, 1)}).text == "great"
    )


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("灯是灰色的，不是白色的。", "灰色"),
        ("המנורה אפורה מאוד", "אפורה"),
        ("المصباح رماديٌّ جدا", "رماديٌّ"),  # with marks at its end
        ("un cafe\N{COMBINING ACUTE ACCENT} noir", "cafe\N{COMBINING ACUTE ACCENT}"),
        ("un caf\N{LATIN SMALL LETTER E WITH ACUTE} noir", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("lamp 👨‍👩‍👧 desk", "👨‍👩‍👧"),
        ("lamp ❤️ desk", "❤️"),  # with a variation selector
        ("दीपक नीला है", "नीला"),
        ("a\N{NO-BREAK SPACE}lamp\r\n\tdesk", "lamp\r\n\tdesk"),
        ("ＬＡＭＰ ﬁne", "ﬁne"),
        ("costs $30.50, or more", "$30.50"),
    ],
)
def test_answers_are_the_characters_of_the_context(base: Path, context: str, answer: str) -> None:
    task = made(most=20)
    frame = asked(("chair is", context, label(context, answer)))
    examples = examples_of(task, adapted(task, base, 64), frame)
    assert examples.column("truncated").tolist() == [False]
    logits = numpy.zeros((int(examples.lengths[0]), 2), numpy.float32)
    logits[lists(examples, "firsts")[0], 0] = logits[lists(examples, "lasts")[0], 1] = 1
    (found,) = task.decode(frame, examples, [logits])
    start = context.index(answer)
    assert found == Answer(answer, start, start + len(answer), 2.0)


words = st.sampled_from(["lamp", "灯", "灰色", "אפורה", "❤️", "👍🏽", "cafe\u0301", "नीला", "desk.", "3.5", "x", "ﬁne"])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_the_windows_an_answer_of_whole_words_comes_back(base: Path, data: st.DataObject) -> None:
    parts = data.draw(st.lists(words, min_size=1, max_size=40))
    first = data.draw(st.integers(0, len(parts) - 1))
    last = data.draw(st.integers(first, min(first + 1, len(parts) - 1)))
    gaps = data.draw(st.lists(st.sampled_from([" ", "  ", "\n"]), min_size=len(parts), max_size=len(parts)))
    begins = numpy.cumsum([0, *(len(part) + len(gap) for part, gap in zip(parts, gaps, strict=True))])
    context = "".join(part + gap for part, gap in zip(parts, gaps, strict=True))
    start, end = int(begins[first]), int(begins[last]) + len(parts[last])
    answer = json.dumps([{"text": context[start:end], "start": start}])
    task = made(stride=7, most=20)
    frame = asked(("is", context, answer))
    assert task.faults(frame) == [None]
    examples = examples_of(task, adapted(task, base, 32), frame)
    windows = zip(windows_of(examples, "input_ids"), lists(examples, "firsts"), lists(examples, "lasts"), strict=True)
    logits = [numpy.zeros((len(ids), 2)) for ids, *_ in windows]
    held = 0
    for values, one, other in zip(logits, lists(examples, "firsts"), lists(examples, "lasts"), strict=True):
        if one:
            values[one, 0] = values[other, 1] = 1
            held += 1
    (found,) = task.decode(frame, examples, [numpy.concatenate(logits)])
    assert held and (found.start, found.end, found.text) == (start, end, context[start:end])


def test_a_prediction_in_words_and_in_columns() -> None:
    task = made()
    answers = [Answer("灰色", 2, 4, 1.25), Answer("", 0, 0, -3.0)]
    assert [task.say(answer) for answer in answers] == ["灰色\t1.250", "(no answer)\t-3.000"]
    assert task.table(answers) == {"answer": ["灰色", ""], "start": [2, 0], "end": [4, 0], "score": [1.25, -3.0]}


# Judgement


def test_metrics_are_means_over_rows_and_told_apart_by_whether_there_is_an_answer() -> None:
    task, context = made(), "a lamp in Paris"
    frame = asked(*[("Where?", context, label(context, "Paris"))] * 2, ("Who?", context, "[]"), ("Why?", context, "[]"))
    predictions = [Answer("in Paris", 7, 15, 1.0), Answer("Paris", 10, 15, 1.0), *[Answer("", 0, 0, -1.0)] * 2]
    assert task.score(frame, predictions) == pytest.approx({"f1": (2 / 3 + 1 + 1 + 1) / 4, "exact_match": 3 / 4})
    predictions[3] = Answer("lamp", 2, 6, 1.0)
    assert task.details(frame, predictions)["per_class"] == {
        "with an answer": {"f1": pytest.approx(5 / 6), "exact_match": 0.5, "support": 2},
        "without": {"f1": 0.5, "exact_match": 0.5, "support": 2},
    }


def test_before_is_the_first_sentence_with_most_words_of_the_question() -> None:
    context = "A lamp. The lamp is 3.5 feet high! It is grey.\nThe lamp is high 灯。The desk"
    frame = asked(("How high is the lamp?", context, None), ("桌?", context, None), ("The desk?", context, None))
    side: Any = type("Side", (), {"frame": frame})
    found = made().predict_before(Path(), side, side)
    assert [answer.text for answer in found] == ["The lamp is 3.5 feet high!", "A lamp.", "The desk"]
    assert [context[answer.start : answer.end] for answer in found] == [answer.text for answer in found]


# Params and the road


def test_params_that_cannot_work_are_refused_with_what_to_change(tmp_path: Path) -> None:
    workspace = init(tmp_path / "qa", "question-answering")
    assert Params.read(workspace.params).ingest.columns.text_pair == "context"
    set_params(workspace, encode__max_tokens=12, ingest__columns__group=None)
    with pytest.raises(ParamsError) as raised:
        Params.read(workspace.params)
    said = str(raised.value)
    assert "encode.max_tokens: is 12; a question with its context needs 16 or more" in said
    assert "task.stride: is 48, not under a quarter of encode.max_tokens, which is 12; change one of the two" in said
    assert "ingest.columns.group: is null, so that questions on one context could be on two sides" in said


def write_squad(path: Path, documents: int, seed: int) -> Path:
    """Four questions a document; what is good in the context is the answer, and a quarter have nothing good."""
    chance = random.Random(seed)
    data = []
    for document in range(documents):
        paragraphs = []
        for number in range(4):
            parts = [f"the {chance.choice(THINGS)} is {chance.choice(PLAIN)}" for _ in range(chance.randint(3, 8))]
            context, answers = " . ".join(parts), []
            if chance.random() < 0.75:
                good = f"the {chance.choice(THINGS)} is {chance.choice(GOOD)}"
                parts.insert(chance.randint(0, len(parts)), good)
                context, word = " . ".join(parts), good.split()[-1]
                answers = [{"text": word, "answer_start": context.index(word)}]
            name = f"{seed}-{document}-{number}"
            asked = {"id": name, "question": f"{chance.choice(THINGS)} number {chance.randrange(100_000):05d}"}
            paragraphs.append({"context": context, "qas": [asked | {"answers": answers, "is_impossible": not answers}]})
        data.append({"title": f"{seed}-{document}", "paragraphs": paragraphs})
    path.write_text(json.dumps({"version": "v2.0", "data": data}))
    return path


@pytest.mark.xdist_group("great expectations")  # one worker imports it
def test_the_whole_road_from_squads_json_to_answers(tmp_path: Path) -> None:
    workspace = init(tmp_path / "qa", "question-answering")
    make_base(workspace.root / "base-models" / "tiny")
    set_params(
        workspace,
        model__base="tiny",
        task__stride=4,
        encode__max_tokens=24,
        train__epochs=6,
        train__evaluations_per_epoch=1,
        train__learning_rate=6e-3,
        train__head_learning_rate=6e-3,
        train__dropout=0.0,
        train__threads=1,
        evaluate__bootstrap=200,
    )
    params = Params.read(workspace.params)
    rows = write_squad(tmp_path / "rows.json", 100, 1)
    add(workspace, Reader(rows, params.ingest.columns, ["utf-8"], QuestionAnswering.formats))
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    assert read_json(workspace.reports / "validation.json")["accepted"] == 400
    sides = read_json(workspace.reports / "encoding.json")["sides"]
    assert sides["train"]["rows"] == sides["train"]["examples"]
    report = read_json(workspace.evaluation / "evaluation.json")
    candidate, before = (report["models"][name]["metrics"] for name in ("candidate", "base"))
    assert before["f1"] < 0.5 and candidate["f1"] > 0.9 and candidate["exact_match"] > 0.9
    assert set(report["models"]["candidate"]["details"]["per_class"]) == {"with an answer", "without"}
    predictor = Predictor(workspace.candidate)
    more = write_squad(tmp_path / "new.json", 10, 2)
    new = pandas.DataFrame(Reader(more, params.ingest.columns, ["utf-8"], QuestionAnswering.formats).rows())
    answers = predictor.predict(new.assign(label=None))
    assert predictor.task.score(new, answers)["exact_match"] > 0.9
    none = [answer for answer in answers if not answer.text]
    assert none and all((answer.start, answer.end) == (0, 0) and answer.score <= 0 for answer in none)
