"""What SQuAD has set: its files, the form of an answer, its score."""

import json
from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytuned.data.readers import Reader, Row
from staytuned.errors import DataError
from staytuned.sections import Columns
from staytuned.tasks.question_answering import Options, QuestionAnswering
from staytuned.tasks.squad import scores

COLUMNS = {"text": "question", "text_pair": "context", "label": "answers", "id": None, "source": None, "group": None}


TASK = QuestionAnswering(Options(name="question-answering", stride=3, max_answer_tokens=5))


def asked(question: str, context: str, label: str | None) -> pandas.DataFrame:
    """A row."""
    return pandas.DataFrame([(question, context, label)], columns=["text", "text_pair", "label"], dtype="str")


def read(path: Path) -> list[Row]:
    columns = Columns.model_validate(COLUMNS | {"keep": []})
    return list(Reader(path, columns, ["utf-8"], QuestionAnswering.formats).rows())


# Files

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Lamps",
            "paragraphs": [
                {
                    "context": "The lamp is grey. 灯是灰色的。",
                    "qas": [
                        {"id": "a", "question": "Which colour?", "answers": [{"text": "灰色", "answer_start": 20}]},
                        {
                            "id": 7,
                            "question": "Whose?",
                            "answers": [],
                            "plausible_answers": [{"text": "lamp", "answer_start": 4}],
                            "is_impossible": True,
                        },
                    ],
                },
                {"context": "A desk.", "qas": [{"id": "c", "question": "What?", "is_impossible": False}]},
            ],
        }
    ],
}


def test_squads_json_becomes_rows_numbered_by_question(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(SQUAD, indent=1))
    rows = read(tmp_path / "rows.json")
    named = ("row", "text", "text_pair", "label", "group", "line", "problem")
    assert [tuple(row[name] for name in named) for row in rows] == [
        (
            "data:a",
            "Which colour?",
            "The lamp is grey. 灯是灰色的。",
            '[{"text": "灰色", "answer_start": 20}]',
            "data:Lamps",
            "1",
            None,
        ),
        ("data:7", "Whose?", "The lamp is grey. 灯是灰色的。", "[]", "data:Lamps", "2", None),
        ("data:c", "What?", "A desk.", None, "data:Lamps", "3", None),
    ]


def test_documents_without_a_title_are_groups_by_their_content(tmp_path: Path) -> None:
    asked = [{"question": "What?", "answers": []}, {"question": "Who?", "answers": []}]
    data = [{"paragraphs": [{"context": text, "qas": asked}]} for text in ("a lamp", "a desk", "a lamp")]
    (tmp_path / "rows.json").write_text(json.dumps({"data": data}))
    rows = read(tmp_path / "rows.json")
    groups = [row["group"] for row in rows]
    assert groups[0] == groups[1] == groups[4] == groups[5] and groups[2] == groups[3] != groups[0]
    assert rows[0]["row"] == rows[4]["row"] != rows[1]["row"]  # the second is a duplicate


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(SQUAD)[:-9], r"after question 0 comes JSONDecodeError.*cut short"),
        ('[{"question": "What?"}]', r"after question 0 comes TypeError"),
        ('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1}]}]}]}', "after question 1 comes KeyError.*ques"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "rows.json")


def test_jsonl_as_the_data_sets_library_writes_squad_gives_the_same_labels(tmp_path: Path) -> None:
    context = "The lamp is grey."
    row = {"question": "Colour?", "context": context, "answers": {"text": ["grey"], "answer_start": [12]}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    frame = pandas.DataFrame(read(tmp_path / "rows.jsonl"))
    assert TASK.labels(frame).tolist() == ['[{"text": "grey", "start": 12}]']


# Rows


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ('[{"text": "grey", "start": 12}]', '[{"text": "grey", "start": 12}]'),
        ('[{"text": "grey", "answer_start": 12}]', '[{"text": "grey", "start": 12}]'),
        ('[{"text": " grey", "start": 11}]', '[{"text": "grey", "start": 12}]'),  # white space counted in
        ('[{"text": " grey ", "start": 12}]', '[{"text": "grey", "start": 12}]'),  # or left out of the place
        ("[]", "[]"),
        ('{"text": [], "answer_start": []}', "[]"),
        ("grey", "grey"),
    ],
)
def test_an_answer_is_kept_without_the_white_space_around_it(given: str, kept: str) -> None:
    frame = asked("Colour?", "The lamp is grey.", given)
    assert TASK.labels(frame).tolist() == [kept]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ('[{"text": "grey", "start": 12}, {"text": "lamp", "start": 4}]', None),
        ("[]", None),
        (None, None),  # the contract itself says that there is no label
        (
            '[{"text": "lamp", "start": 4}, {"text": "grey", "start": 11}]',
            "answer is not in its context: 'grey' at 11, where ' gre' stands",
        ),
        ('[{"text": "grey", "start": 99}]', "answer is not in its context: 'grey' at 99, where '' stands"),
    ],
)
def test_each_fault_is_told_with_what_the_row_holds(given: str | None, fault: str | None) -> None:
    assert TASK.faults(asked("Colour?", "The lamp is grey.", given)) == [fault]


@pytest.mark.parametrize(
    "given",
    [
        "grey",
        "5",
        '""',
        "{}",
        '["grey"]',
        '[{"text": "grey"}]',
        '[{"text": " ", "start": 0}]',
        '[{"text": "The", "start": -17}]',
        '[{"text": "The", "start": 0.0}]',
        '{"text": ["a"], "answer_start": []}',
    ],
)
def test_a_label_that_is_no_list_of_answers_is_shown(given: str) -> None:
    frame = asked("Colour?", "The lamp is grey.", given)
    assert TASK.labels(frame).tolist() == [given]
    assert TASK.faults(frame) == [f"label is no list of answers {{text, start}}: {given!r}"]


def test_where_all_questions_have_an_answer_one_without_is_refused() -> None:
    task = QuestionAnswering(Options(name="question-answering", stride=3, max_answer_tokens=5, unanswerable=False))
    rows = [asked("Colour?", "The lamp is grey.", label) for label in ("[]", '[{"text": "grey", "start": 12}]', None)]
    assert [task.faults(row)[0] for row in rows] == ["there is no answer, and task.unanswerable is false", None, None]
    assert [TASK.faults(row)[0] for row in rows] == [None, None, None]


def test_a_reason_shows_the_beginning_of_long_texts() -> None:
    given = json.dumps([{"text": "x" * 500, "start": 0}])
    (fault,) = TASK.faults(asked("What?", "y" * 500, given))
    assert fault == f"answer is not in its context: {'x' * 60!r} at 0, where {'y' * 60!r} stands"


# Judgement: F1 and exact match by hand, from the definition


@pytest.mark.parametrize(
    ("predicted", "true", "f1", "exact"),
    [
        ("the Eiffel Tower!", ["Eiffel tower"], 1, 1),  # case, article, punctuation
        ("Eiffel  Tower", ["an Eiffel-Tower"], 0, 0),  # without its hyphen the one word is another
        ("in Paris", ["Paris"], 2 / 3, 0),  # precision 1/2, recall 1
        ("la la land", ["la land"], 4 / 5, 0),  # words count as often as they stand: precision 2/3, recall 1
        ("north", ["south"], 0, 0),
        ("in the north", ["south", "the far north", "north"], 2 / 3, 0),  # the best of the answers
        ("north", ["south", "North."], 1, 1),
        ("", [], 1, 1),  # rightly none
        ("", ["north"], 0, 0),
        ("north", [], 0, 0),
        ("the", ["a"], 1, 1),  # an answer of articles alone counts for none, and so does such a prediction
        ("north", ["the", "north"], 1, 1),  # and is left aside where there are others
        ("theater", ["ater"], 0, 0),  # an article is a word of its own
        ("灰色的", ["灰色的"], 1, 1),
        ("灰色", ["灰色的"], 0, 0),  # words are what white space parts
        ("“north”", ["north"], 0, 0),  # punctuation is that of ASCII
    ],
)
def test_scores_are_those_of_squads_script(predicted: str, true: list[str], f1: float, exact: float) -> None:
    assert scores(predicted, true) == (pytest.approx(f1), exact)


sayings = st.text(st.sampled_from("ab th.!é "), max_size=12)


@given(sayings, sayings)
def test_f1_is_a_share_and_the_same_both_ways_and_1_where_the_match_is_exact(one: str, other: str) -> None:
    f1, exact = scores(one, [other])
    assert 0 <= f1 <= 1 and scores(other, [one]) == (f1, exact)
    assert exact <= f1
