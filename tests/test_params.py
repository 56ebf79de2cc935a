"""params.yaml: every error at once, each with its key and what would be right."""

from pathlib import Path
from typing import Any

import pydantic
import pytest
from ruamel.yaml import YAML

from staytuned.errors import MissingError, ParamsError
from staytuned.params import Params
from staytuned.start import init

OURS = Path(__file__).parents[1] / "params.yaml"
GONE = object()  # in a change: take the key out


def write(path: Path, changes: dict[str, Any]) -> Path:
    """The project's own params with some keys changed, by dotted name."""
    yaml = YAML()
    params = yaml.load(OURS)
    for name, value in changes.items():
        *sections, key = name.split(".")
        section = params
        for part in sections:
            section = section[part]
        if value is GONE:
            del section[key]
        else:
            section[key] = value
    yaml.dump(params, path)
    return path


def errors(folder: Path, changes: dict[str, Any]) -> list[str]:
    """The lines of the error, without the heading that counts them."""
    with pytest.raises(ParamsError) as caught:
        Params.read(write(folder / "params.yaml", changes))
    heading, *lines = str(caught.value).splitlines()
    assert heading == f"{folder / 'params.yaml'} has {len(lines)} error(s):"
    return [line.strip() for line in lines]


def test_the_projects_own_params_are_right() -> None:
    params = Params.read(OURS)
    assert params.task.labels == ["negative", "neutral", "positive"]
    assert params.train.learning_rate == 1e-4


CASES = [
    # tasks are what is installed, and have metrics and columns of their own
    ({"task.name": "poetry"}, "task.name: there is no task 'poetry'; installed are dialogue, language-modelling,"),
    ({"gate.bounds": {"f2": 0.5}}, "gate.bounds.f2: the task has no such metric; known: macro_f1, accuracy, calib"),
    ({"gate.margins": {"f2": 0.5}}, "gate.margins.f2: the task has no such metric; known: macro_f1, accuracy, calib"),
    (
        {"gate.margins": {"macro_f1": 0.1}},
        "gate.margins.macro_f1: is the task's first metric, whose margin is gate.mar",
    ),
    ({"gate.bounds": {"accuracy": "high"}}, "gate.bounds.accuracy: is 'high'; should be a valid number"),
    # unknown keys, with what is close, or with all that is known
    ({"train.learning_rte": 1e-4}, "train.learning_rte: unknown key; did you mean 'learning_rate'?"),
    ({"valdate": {}}, "valdate: unknown key; did you mean 'validate'?"),
    ({"split.colour": 1}, "split.colour: unknown key; known here: salt, validation, test, near_duplicate"),
    ({"ingest.columns.txt": "t"}, "ingest.columns.txt: unknown key; did you mean 'text'?"),
    (
        {"task.label_from_rating.negativ_below": 0},
        "task.label_from_rating.negativ_below: unknown key; did you mean 'negative_below'?",
    ),
    # triggers, the watch, alerts; an address may hold a secret, so that none is shown
    ({"triggers.drift.windows": 0}, "triggers.drift.windows: is 0; should be greater than or equal to 1"),
    ({"triggers.drift.alarms": 2}, "triggers.drift.windows: is 1, fewer than the alarms asked for; raise it, or lower"),
    ({"watch.cron": "daily"}, "watch.cron: is 'daily'; cron wants five fields: minute, hour, day, month, day of the"),
    ({"alerts.urls": ["json://one/", "token"]}, "alerts.urls: has no address at place 1: https://appriseit.com"),
    # missing
    ({"gate.margin": GONE}, "gate.margin: is missing; add it"),
    ({"gate.margins": GONE}, "gate.margins: is missing; add it"),
    ({"gate.classes": GONE}, "gate.classes: is missing; add it"),
    ({"gate.sources": GONE}, "gate.sources: is missing; add it, as `staytuned init DIR` writes it"),
    ({"gate": GONE}, "gate: is missing; add it"),  # and nothing of the task, whose options are known all the same
    ({"ingest": GONE}, "ingest: is missing; add it"),
    ({"validate": GONE}, "validate: is missing; add it"),
    # types: nothing is converted in silence
    ({"train.epochs": 2.5}, "train.epochs: is 2.5; should be a valid integer"),
    ({"train.epochs": "3"}, "train.epochs: is '3'; should be a valid integer"),
    ({"train.seed": True}, "train.seed: is True; should be a valid integer"),
    ({"train.learning_rate": "fast"}, "train.learning_rate: is 'fast'; should be a valid number"),
    ({"task.labels": [1, "a", "b"]}, "task.labels.0: is 1; should be a valid string"),
    ({"model": None}, "model: is None; should be a valid dictionary or instance of Model"),
    # a frozen encoder leaves nothing to adapt, and a head that is too small to share
    ({"train.frozen": "head"}, "train.frozen: is 'head'; should be 'encoder'"),
    (
        {"train.frozen": "encoder", "train.lora": {"rank": 2, "alpha": 4}},
        "train.frozen and train.lora are both set: a frozen encoder has no adapters; set one to null",
    ),
    ({"train.frozen": "encoder", "train.processes": 2}, "train.processes: must be 1 where train.frozen is set, not 2"),
    ({"train.sharded": True}, "train.sharded: must be false where train.processes is 1, and where train.lora is set"),
    # bounds
    ({"train.learning_rate": 0.0}, "train.learning_rate: is 0.0; should be greater than 0"),
    ({"train.clip": float("inf")}, "train.clip: is inf; should be a finite number"),
    ({"gate.min_gain": float("nan")}, "gate.min_gain: is nan; should be a finite number"),
    (
        {"validate.quarantine_budget": 1.5},
        "validate.quarantine_budget: is 1.5; should be less than or equal to 1",
    ),
    ({"encode.max_tokens": 2}, "encode.max_tokens: is 2; should be greater than or equal to 4"),
    ({"train.device": "tpu"}, "train.device: is 'tpu'; should be 'auto', 'cpu' or 'cuda'"),
    ({"registry.model": "a/b"}, "registry.model: is 'a/b'; String should match pattern"),
    ({"registry.ledger_url": "mysql://host/db"}, "registry.ledger_url: is 'mysql://host/db'; write postgresql+psy"),
    ({"registry.ledger_url": "sqlite:///ledger.db"}, "registry.ledger_url: is 'sqlite:///ledger.db'; write postgresql"),
    (
        {"registry.ledger_url": "postgresql+psycopg://me:secret@host/db"},
        "registry.ledger_url: holds a password, which every run would record; set PGPASSWORD",
    ),
    (
        {"registry.ledger_url": "postgresql+psycopg://me:se/cr@et@host/db"},
        "registry.ledger_url: holds a password, which every run would record; set PGPASSWORD",
    ),
    (
        {"registry.ledger_url": "postgresql+psycopg://host/db?password=secret"},
        "registry.ledger_url: holds a password, which every run would record; set PGPASSWORD",
    ),
    (
        {"registry.tracking_uri": "http://me:secret@host:5000"},
        "registry.tracking_uri: holds a password, which every run would record; set MLFLOW_TRACKING_USERNAME and",
    ),
    ({"alerts.urls": "slack://secret"}, "alerts.urls: should be a valid list"),
    # values that make no sense
    ({"task.labels": ["a", "a", "b"]}, "task.labels: repeats ['a']; name each once"),
    ({"ingest.encodings": ["utf-9"]}, "ingest.encodings: holds 'utf-9', which Python does not know; utf-8 is one"),
    ({"ingest.encodings": ["utf-16"]}, "ingest.encodings: holds 'utf-16', which has line ends of its own; convert"),
    ({"ingest.columns.keep": ["rating", "batch"]}, "ingest.columns.keep: holds ['batch'], which staytuned uses itself"),
    ({"ingest.columns.keep": ["rating", "rating"]}, "ingest.columns.keep: repeats ['rating']; name each once"),
    # contradictions name both keys
    (
        {"split.validation": 0.5, "split.test": 0.5},
        "split.test: and split.validation make 1 together, which leaves no row to train on; lower one of the two",
    ),
    (
        {"task.label_from_rating.positive_above": -1.0},
        "task.label_from_rating.positive_above: is -1.0, under task.label_from_rating.negative_below, which is -0.5",
    ),
    (
        {"evaluate.max_rows_per_source": 500},
        "evaluate.max_rows_per_source: is 500, so that as few as half of them may judge, but gate.sources.min_rows is "
        "300; raise the one to 600, or lower the other",
    ),
    (
        {"ingest.columns.label": "label"},
        "ingest.columns.label and task.label_from_rating are both set; a label has one origin, so set exactly one",
    ),
    (
        {"task.label_from_rating": None},
        "ingest.columns.label and task.label_from_rating are both null; a label has one origin, so set exactly one",
    ),
    (
        {"task.labels": ["bad", "good"]},
        "task.label_from_rating: needs three labels, but task.labels has 2; change one of the two",
    ),
    (
        {"ingest.columns.keep": []},
        "task.label_from_rating.column: is 'rating', which ingest.columns.keep lacks; add it there, or name another",
    ),
]


@pytest.mark.parametrize(
    ("task", "options", "margins", "said"),
    [
        ("text-generation", {"metric": "chrf"}, {"rouge_l": 0.05}, []),
        ("text-generation", {"metric": "chrf"}, {"chrf": 0.05}, ["gate.margins.chrf: is the task's first metric"]),
        ("language-modelling", {"objective": "masked"}, {"bits_per_byte": 0.1}, ["gate.margins.bits_per_byte: the ta"]),
        ("several-tasks", {}, {"topic.accuracy": 0.1}, []),
        ("several-tasks", {}, {"accuracy": 0.1}, ["gate.margins.accuracy: the task has no such metric; known: topic."]),
        ("text-classification", {}, None, []),
        ("sentence-pairs", {}, None, []),
    ],
)
def test_margins_are_of_the_metrics_that_the_task_has_under_its_options(
    tmp_path: Path, task: str, options: dict[str, Any], margins: dict[str, float] | None, said: list[str]
) -> None:
    file = init(tmp_path / "workspace", task).params
    params = YAML().load(file)
    if margins is None:  # those of the example
        assert params["gate"]["margins"] == YAML().load(OURS)["gate"]["margins"] != {}
        return
    params["task"].update(options)
    params["gate"]["bounds"] = {}
    params["gate"]["margins"] = margins
    YAML().dump(params, file)
    try:
        Params.read(file)
        found = []
    except ParamsError as error:
        found = str(error).splitlines()[1:]
    assert len(found) == len(said)
    assert all(line.strip().startswith(start) for line, start in zip(found, said, strict=True))


@pytest.mark.parametrize(("changes", "said"), CASES, ids=[said.split(";")[0] for _, said in CASES])
def test_each_error_names_its_key_and_what_would_be_right(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (line,) = errors(tmp_path, changes)
    assert line.startswith(said)


def test_every_error_is_told_at_once(tmp_path: Path) -> None:
    together: dict[str, Any] = {
        "task.labels": ["a", "b"],  # contradicts label_from_rating
        "model.bse": "x",
        "ingest.columns.keep": ["raters"],  # lacks the rating
        "ingest.columns.label": "label",  # contradicts label_from_rating
        "ingest.example": "poem",
        "validate.chunk_rows": 0,
        "split.validation": 0.6,
        "split.test": 0.6,  # contradicts split.validation
        "split.salt": "x",
        "train.epochs": GONE,
        "train.epoch": 3,
        "registry": 7,
    }
    lines = errors(tmp_path, together)
    assert sorted(line.split(": ")[0].split(" ")[0] for line in lines) == [
        "ingest.columns.label",
        "ingest.example",
        "model.bse",
        "registry",
        "split.salt",
        "split.test",
        "task.label_from_rating",
        "task.label_from_rating.column",
        "train.epoch",  # and not that train.epochs is missing
        "validate.chunk_rows",
    ]


@pytest.mark.parametrize(
    ("beside", "contradiction"),
    [
        (
            {"split.near_duplicate": 2.0, "split.validation": 0.6, "split.test": 0.6},
            "split.test: and split.validation",
        ),
        ({"ingest.example": "poem", "ingest.columns.label": "label"}, "ingest.columns.label and"),
        ({"task.label_from_rating.colum": "x", "task.labels": ["a", "b"]}, "task.label_from_rating: needs three"),
    ],
)
def test_no_error_hides_a_contradiction_beside_it(tmp_path: Path, beside: dict[str, Any], contradiction: str) -> None:
    lines = errors(tmp_path, beside)
    assert len(lines) == 2
    assert any(line.startswith(contradiction) for line in lines)


@pytest.mark.parametrize(
    ("written", "read"),
    [("5e-05", 5e-5), ("1.0e-4", 1e-4), ("1e-4", 1e-4), ("3E-5", 3e-5), (".5", 0.5), ("2", 2.0)],
)
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, written: str, read: float) -> None:
    """DVC writes ``-S train.learning_rate=5e-5`` as 5e-05, which is a string in YAML 1.1."""
    text = OURS.read_text(encoding="utf-8")
    assert "learning_rate: 1.0e-4" in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("learning_rate: 1.0e-4", f"learning_rate: {written}"), encoding="utf-8")
    assert Params.read(path).train.learning_rate == read


def test_yes_and_no_may_be_labels(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = OURS.read_text(encoding="utf-8")
    path.write_text(text.replace("[negative, neutral, positive]", "[no, off, yes]"), encoding="utf-8")
    assert Params.read(path).task.labels == ["no", "off", "yes"]


def test_params_do_not_change_after_reading() -> None:
    params = Params.read(OURS)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        params.train.epochs = 5
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        params.train = params.train


def test_a_section_as_plain_values() -> None:
    values = YAML(typ="safe", pure=True).load(OURS)
    params = Params.read(OURS)
    values["alerts"] = {}  # its addresses may hold secrets
    assert {name: params.section(name) for name in values} == values


@pytest.mark.parametrize(
    "content",
    [b"", b"just words", b"- a\n- b", b"train: {epochs: 3", b"train: 1\ntrain: 2", b"\xff\xfe\x00"],
    ids=["empty", "words", "list", "open brace", "key twice", "bytes"],
)
def test_a_file_that_holds_no_params_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=str(path)):
        Params.read(path)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"params\.yaml is missing; `staytuned init DIR` writes one"):
        Params.read(tmp_path / "params.yaml")
