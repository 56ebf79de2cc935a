"""Dialogue: every reply of a chat is learned and nothing else, by the model's own chat template; replies are made."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import BAD, GOOD, THINGS, make_rows, predict_file, set_params
from tiny_generators import CHATML, make_decoder, travel
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from staytuned.errors import ParamsError
from staytuned.modelling.chat import PLAIN, Template, turns_of
from staytuned.modelling.examples import Examples
from staytuned.modelling.language import base_model
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.start import init
from staytuned.tasks.dialogue import Dialogue, Options, Said

WORDS = "user assistant system : is the lamp good ? yes no and bright again today be brief buy leave it " + " ".join(
    row["text"] for row in make_rows(60)
)
TURNS = ["is the lamp good?", "yes", "and bright?", "no"]


def chat(*contents: str, system: str | None = None) -> str:
    """A chat in JSON, of a user and the assistant in turn."""
    roles = ["user", "assistant"] * len(contents)
    turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return json.dumps(([{"role": "system", "content": system}] if system else []) + turns, ensure_ascii=False)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("base") / "tiny", WORDS, CHATML)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("base") / "tiny", WORDS)


def adapted(base: Path, max_tokens: int = 64, most: int = 8) -> tuple[Dialogue, Tokenizer]:
    task = Dialogue(Options(name="dialogue", max_reply_tokens=most))
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.read(base)
    task.adapt(tokenizer, max_tokens)
    return task, tokenizer


def encoded(task: Dialogue, tokenizer: Tokenizer, text: str) -> tuple[str, list[str], str]:
    """What is read with the last label, the labels as words, the prompt."""
    [row] = task.encode(tokenizer, frame_of([text])).to_pylist()
    read = tokenizer.decode(row["input_ids"], skip_special_tokens=False)
    labels = [tokenizer.decode([number], skip_special_tokens=False) for number in row["labels"] if number != -100]
    return read, labels, tokenizer.decode(row["prompt"], skip_special_tokens=False)


def examples_of(task: Dialogue, tokenizer: Tokenizer, *texts: str) -> Examples:
    table = task.encode(tokenizer, frame_of(list(texts)))
    return Examples(table.append_column("row", table["place"].cast("string")))


# Rows


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (chat("hi", "hello"), None),
        (chat("灯 😀", "好", "?", "!", system="be brief"), None),
        ("hello", "text is no JSON list of turns: 'hello'"),
        ('{"role": "user"}', 'text is no JSON list of turns: \'{"role": "user"}\''),
        ("[]", "text is no JSON list of turns: '[]'"),
        ('["hi"]', "text is no JSON list of turns: '[\"hi\"]'"),
        ("[" * 100_000, f"text is no JSON list of turns: {'[' * 80!r}"),
        ('[{"role": "bot", "content": "a"}]', "the role of a turn is none of system, user, assistant: 'bot'"),
        ('[{"content": "a"}]', "the role of a turn is none of system, user, assistant: None"),
        (chat("hi", " \n"), "a turn is blank: 'assistant' says ' \\n'"),
        (chat("hi", "a\0b"), "a turn holds NUL: 'assistant' says 'a\\x00b'"),
        ('[{"role": "user", "content": ["a"]}]', "a turn is blank: 'user' says ['a']"),
        ('[{"role": "assistant", "content": "a"}]', "the chat begins with a reply: ['assistant']"),
        (
            '[{"role": "system", "content": "a"}, {"role": "assistant", "content": "a"}]',
            "the chat begins with a reply: ['system', 'assistant']",
        ),
        (
            '[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]',
            "two turns of one role in a row: 'user'",
        ),
        (
            '[{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]',
            "a system turn is not the first: turn 2",
        ),
        (chat("hi"), "the chat does not end with a reply: 'user'"),
        (chat("hi", "hello", "and?"), "the chat does not end with a reply: 'user'"),
        ('[{"role": "system", "content": "a"}]', "the chat does not end with a reply: 'system'"),
        ("", None),  # the contract says that itself
        (None, None),
    ],
)
def test_each_fault_is_told_with_what_the_row_holds(text: str | None, fault: str | None) -> None:
    task = Dialogue(Options(name="dialogue", max_reply_tokens=8))
    assert task.faults(frame_of([text])) == [fault]  # type: ignore[list-item]


# What is learned


def test_every_reply_and_what_ends_it_is_learned_and_nothing_else(chatty: Path) -> None:
    task, tokenizer = adapted(chatty)
    read, labels, prompt = encoded(task, tokenizer, chat(*TURNS))
    before = (
        "<|im_start|>user\nis the lamp good?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
        "<|im_start|>user\nand bright?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert read == before + "no<|im_end|>"
    assert labels == ["yes", "<|im_end|>", "no", "<|im_end|>"]
    assert prompt == before


def test_the_very_ids_and_labels_of_a_short_chat(chatty: Path) -> None:
    task, tokenizer = adapted(chatty)
    [row] = task.encode(tokenizer, frame_of([chat("is", "yes")])).to_pylist()
    names = [
        "<|im_start|>",
        "user",
        "Ċ",
        "is",
        "<|im_end|>",
        "Ċ",
        "<|im_start|>",
        "assistant",
        "Ċ",
        "yes",
        "<|im_end|>",
    ]
    ids = [tokenizer.token_to_id(name) for name in names]
    assert row["input_ids"] == ids
    assert row["labels"] == [-100] * 8 + [ids[9], 2, -100]
    assert row["prompt"] == ids[:9]
    assert row["truncated"] is False


def test_a_tokenizer_without_a_template_gets_a_plain_one(plain: Path) -> None:
    task, tokenizer = adapted(plain)
    assert task.template is not None
    assert task.template.source == PLAIN
    read, labels, prompt = encoded(task, tokenizer, chat(*TURNS, system="be brief"))
    before = "system: be brief\nuser: is the lamp good?\nassistant: yes<|endoftext|>\nuser: and bright?\nassistant:"
    assert read == before + " no<|endoftext|>"
    assert labels == [" yes", "<|endoftext|>", " no", "<|endoftext|>"]
    assert prompt == before


def test_a_template_without_a_token_at_the_end_of_a_reply_gets_one(plain: Path) -> None:
    task, tokenizer = adapted(plain)
    source = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    task.template = Template(source + "{% if add_generation_prompt %}assistant:{% endif %}", {})
    task.adapt(tokenizer, 64)
    read, labels, _ = encoded(task, tokenizer, chat("lamp", "yes"))
    assert read == "user:lamp\nassistant:yes\n"
    assert labels == ["yes", "\n", "<|endoftext|>"]


def test_the_text_is_what_transformers_makes_of_the_chat(chatty: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(chatty)
    turns = turns_of(chat("灯 😀?", "好\n的", "ok", "bye", system="be brief"))
    ours = Template.read(chatty)
    assert ours is not None
    assert ours.render(turns) == theirs.apply_chat_template(turns, tokenize=False)
    asked = theirs.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    assert ours.render(turns[:-1], reply=True) == asked
    assert "".join(text for text, _ in ours.pieces(turns)) == ours.render(turns)


def test_a_template_of_its_own_file_goes_before_and_named_ones_by_default(tmp_path: Path) -> None:
    assert Template.read(tmp_path) is None
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d {{ eos_token }}"}]
    about = {"chat_template": named, "eos_token": {"content": "</s>", "lstrip": False}, "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    assert Template.read(tmp_path) == Template("d {{ eos_token }}", {"eos_token": "</s>"})
    (tmp_path / "chat_template.jinja").write_text("own {{ eos_token }}")
    found = Template.read(tmp_path)
    assert found is not None
    assert found.render([]) == "own </s>"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('no system') }}", r"does not take \[.*\]: no system"),
        ("{{ ''.__class__.__mro__ }}", r"does not take .* unsafe"),  # code that comes with a model stays in its box
        ("{{ messages | length }}", "rewrites earlier turns; name another base model"),
    ],
)
def test_templates_that_cannot_be_used(source: str, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        Template(source, {}).pieces(turns_of(chat(*TURNS)))


def test_a_template_that_writes_down_today_says_the_same_on_any_day() -> None:
    source = "{{ strftime_now('%d %b %Y') }}{% for turn in messages %}{{ turn.content }}{% endfor %}"
    assert Template(source, {}).render(turns_of(chat(*TURNS))).startswith("01 Jan 2000")


# Truncation

SYSTEM = "<|im_start|>system\nbe brief<|im_end|>\n"
FIRST = "<|im_start|>user\nis the lamp good?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
LAST = "<|im_start|>user\nand bright?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("max_tokens", "read", "labels"),
    [
        (37, SYSTEM + FIRST + LAST, 4),
        (36, SYSTEM + LAST, 2),
        (21, SYSTEM + LAST, 2),
        (20, (SYSTEM + LAST).removeprefix("<|im_start|>"), 2),
        (4, "\n", 2),
    ],
)
def test_the_oldest_turns_go_first_at_their_borders_and_the_system_stays(
    chatty: Path, max_tokens: int, read: str, labels: int
) -> None:
    task, tokenizer = adapted(chatty, max_tokens, most=2)
    text = chat(*TURNS, system="be brief")
    [row] = task.encode(tokenizer, frame_of([text])).to_pylist()
    assert tokenizer.decode(row["input_ids"], skip_special_tokens=False) == read + "no<|im_end|>"
    wanted = [tokenizer.id_to_token(number) for number in row["labels"] if number != -100]
    assert wanted == ["yes", "<|im_end|>", "no", "<|im_end|>"][4 - labels :]
    assert row["truncated"] is (max_tokens < 37)
    assert len(row["prompt"]) <= max_tokens - 2


@settings(deadline=None, max_examples=40)
@given(
    contents=st.lists(st.text("the lamp😀电\n", min_size=1, max_size=20), min_size=2, max_size=6),
    system=st.none() | st.text("be 😀", min_size=1, max_size=20),
    max_tokens=st.integers(10, 80),
)
def test_an_example_is_never_too_long_and_its_labels_are_its_next_tokens(
    chatty: Path, contents: list[str], system: str | None, max_tokens: int
) -> None:
    task, tokenizer = adapted(chatty, max_tokens)
    [row] = task.encode(tokenizer, frame_of([chat(*contents, system=system)])).to_pylist()
    assert 1 <= len(row["input_ids"]) <= max_tokens
    assert 1 <= len(row["prompt"]) <= max_tokens - 8
    assert len(row["labels"]) == len(row["input_ids"])
    for label, following in zip(row["labels"][:-1], row["input_ids"][1:], strict=True):
        assert label in (-100, following)


# Replies


def test_a_text_that_is_no_chat_is_what_a_user_says(chatty: Path) -> None:
    assert turns_of("hi 😀") == turns_of('[{"role": "user", "content": "hi 😀"}]')
    task, tokenizer = adapted(chatty)
    for text in ("is it good?", ""):
        [row] = task.encode(tokenizer, frame_of([text])).to_pylist()
        assert set(row["labels"]) == {-100}
        prompt = tokenizer.decode(row["prompt"], skip_special_tokens=False)
        assert prompt == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_a_chat_that_would_not_be_learned_from_is_answered_all_the_same(chatty: Path) -> None:
    task, tokenizer = adapted(chatty)
    for text in ('[{"role": "assistant", "content": "a"}]', '[{"role": "system", "content": "a"}]', '[{"content": 1}]'):
        said = task.predict(
            base_model(task.kind, chatty), tokenizer, frame_of([text]), examples_of(task, tokenizer, text)
        )
        assert [type(one.reply) for one in said] == [str]


def test_replies_do_not_depend_on_the_reply_that_is_there_or_on_other_chats(chatty: Path) -> None:
    task, tokenizer = adapted(chatty)
    model = base_model(task.kind, chatty)

    def said(*texts: str) -> list[Said]:
        return task.predict(model, tokenizer, frame_of(list(texts)), examples_of(task, tokenizer, *texts))

    texts = [chat("is it good?", "yes"), chat(*TURNS), "电池 😀"]
    together = said(*texts)
    assert [one.reply for one in together] == [said(text)[0].reply for text in texts]
    assert together == said(*texts)
    assert said(chat("is it good?", "no"))[0].reply == together[0].reply == said("is it good?")[0].reply
    assert [one.tokens for one in together] == [2, 4, 0]
    assert [task.from_json(json.loads(json.dumps(one))) for one in together] == together
    plainly = AutoModelForCausalLM.from_pretrained(chatty, dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode(task.template.render(turns_of(texts[0]))).ids])  # type: ignore[union-attr]
    with torch.inference_mode():
        chances = plainly(ids).logits.log_softmax(-1)[0]
    places = [ids.shape[1] - 3, ids.shape[1] - 2]  # of yes and of what ends it; a line end follows
    by_hand = -sum(float(chances[place - 1, ids[0, place]]) for place in places)
    assert together[0].loss == pytest.approx(by_hand, rel=1e-5)
    assert task.table(together)["perplexity"][0] == pytest.approx(math.exp(by_hand / 2), rel=1e-5)
    assert task.say(together[0]) == together[0].reply


def test_the_metrics_by_hand() -> None:
    task = Dialogue(Options(name="dialogue", max_reply_tokens=8))
    frame = frame_of([chat("a", "it is  good"), chat("a", "No!"), chat("a", "好")])
    said = [Said("it is good", 3.0, 3), Said("no no no no", 1.0, 1), Said("", 0.0, 0)]
    assert task.score(frame, said) == {
        "perplexity": math.exp(4 / 4),
        "exact_match": 1 / 3,
        "distinct_2": (2 + 1) / (2 + 3),
    }
    nothing = task.measure(numpy.array([0.0, 0, 0, 0, 0, 1]))
    assert nothing == {"perplexity": 1.0, "exact_match": 0.0, "distinct_2": 0.0}


def test_a_reply_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    workspace = init(tmp_path / "workspace", "dialogue")
    set_params(workspace, encode__max_tokens=64)
    with pytest.raises(ParamsError, match=r"task.max_reply_tokens: is 64, which leaves no room for a turn"):
        Params.read(workspace.params)


# The whole road


def chats(count: int) -> list[dict[str, Any]]:
    chance = random.Random(0)
    rows = []
    for number in range(count):
        good, thing = chance.random() < 0.5, chance.choice(THINGS)
        word = chance.choice(GOOD if good else BAD)
        asked = [f"my {thing} number {number}", "yes", f"is {word}", "buy it again" if good else "leave it"]
        rows.append({"messages": json.loads(chat(*asked))})
    return rows


def test_from_rows_to_a_model_that_replies(tmp_path: Path) -> None:
    workspace = init(tmp_path / "workspace", "dialogue")
    make_decoder(workspace.root / "base-models" / "tiny", WORDS)
    set_params(
        workspace,
        model__base="tiny",
        task__max_reply_tokens=6,
        encode__max_tokens=64,
        train__epochs=6,
        train__learning_rate=1e-2,
        train__threads=1,
        evaluate__bootstrap=100,
    )
    report = travel(workspace, chats(240))
    base, candidate = (report["models"][name]["metrics"] for name in ("base", "candidate"))
    assert report["before"] == "the base model as it is"
    assert candidate["perplexity"] < 1.2 < 10 < base["perplexity"]
    assert candidate["exact_match"] > 0.9 > base["exact_match"] == 0
    waits = json.dumps(json.loads(chat("my lamp number 7", "yes", "is lovely", "buy it again"))[:-1])
    broken = json.dumps([{"role": "pilot", "content": "my lamp"}])
    rows = [{"messages": text} for text in (waits, "my lamp is lovely", broken, "")]
    waiting, plain, strange, blank = predict_file(workspace, rows, tmp_path)
    empty = json.dumps([{"role": "user", "content": None}])
    said_nothing, none = Predictor(workspace.candidate).task.unanswerable(frame_of([empty, None]))  # type: ignore[list-item]
    assert "a turn is blank" in str(said_nothing) and none is None  # that a text lacks is said elsewhere
    assert waiting["reply"] == "buy it again" and plain["reply"]
    assert "the role of a turn is none of" in strange["problem"] and blank["problem"] == "no text"
    predictor = Predictor(workspace.candidate)
    texts = [chat("my lamp number 7", "yes", f"is {word}") for word in ("lovely", "noisy")]
    said = predictor.predict(frame_of(texts))
    assert [one.reply for one in said] == ["buy it again", "leave it"]
    assert predictor.task.table(said)["reply"] == ["buy it again", "leave it"]
    assert max(predictor.task.table(said)["perplexity"]) < 1.2  # of the reply before, which is there
