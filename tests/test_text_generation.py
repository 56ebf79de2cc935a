"""Text generation: the very tokens that are learned, answers that depend on nothing else, metrics of kept libraries."""

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
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from safetensors.torch import load_file, save_file
from shell import staytuned
from tiny import BAD, GOOD, THINGS, make_rows, set_params
from tiny_generators import make_decoder, make_encoder_decoder, travel
from tokenizers import Tokenizer

from staytuned.errors import ParamsError
from staytuned.files import read_json, write_json
from staytuned.modelling import text_metrics
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone, load_weights
from staytuned.modelling.language import base_model, generate
from staytuned.params import Params
from staytuned.predictor import Predictor, frame_of
from staytuned.start import init
from staytuned.tasks import Side
from staytuned.tasks.text_generation import Options, TextGeneration

PROMPT = "say: {text}\nshort:"
WORDS = "say: short: the lamp is grey and bright again note 1 . buy leave it " + " ".join(
    row["text"] for row in make_rows(60)
)
END = "<|endoftext|>"
TINY: dict[str, Any] = {  # params that learn ``praise_rows`` in seconds
    "model__base": "tiny",
    "task__prompt": "{text}\n",
    "task__max_target_tokens": 6,
    "encode__max_tokens": 32,
    "train__epochs": 6,
    "train__learning_rate": 1e-2,
    "train__threads": 1,
    "evaluate__bootstrap": 100,
}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("base") / "tiny", WORDS)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder_decoder(tmp_path_factory.mktemp("base") / "tiny", WORDS)


def task_of(model: str = "decoder", most: int = 6, **changes: Any) -> TextGeneration:
    options = {"prompt": PROMPT, "metric": "rouge_l", "bleu_words": "13a"} | changes
    return TextGeneration(Options(name="text-generation", model=model, max_target_tokens=most, **options))


def adapted(task: TextGeneration, base: Path, max_tokens: int = 40) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    task.read(base)
    task.adapt(tokenizer, max_tokens)
    return tokenizer


def labelled(*rows: tuple[str, str | None]) -> pandas.DataFrame:
    return pandas.DataFrame(rows, columns=["text", "label"], dtype="str")


def encoded(task: TextGeneration, tokenizer: Tokenizer, *rows: tuple[str, str | None]) -> list[dict[str, Any]]:
    """Examples with their tokens as words; labels that are none as a dot."""
    found = task.encode(tokenizer, labelled(*rows)).to_pylist()
    for row in found:
        for name in ("input_ids", "labels"):
            row[name] = ["." if number == -100 else tokenizer.id_to_token(number) for number in row[name]]
    return found


def examples_of(task: TextGeneration, tokenizer: Tokenizer, frame: pandas.DataFrame) -> Examples:
    table = task.encode(tokenizer, frame)
    return Examples(table.append_column("row", table["place"].cast("string")))


# Examples

HEAD, TAIL = ["say", ":"], ["Ċ", "short", ":"]
LAMP = ["Ġthe", "Ġlamp", "Ġis", "Ġgrey"]


def test_a_decoder_learns_the_target_and_its_end_and_nothing_of_the_prompt(decoder: Path) -> None:
    task = task_of()
    [row] = encoded(task, adapted(task, decoder), ("the lamp is grey", "grey lamp"))
    prompt = [*HEAD, *LAMP, *TAIL]
    assert row == {
        "place": 0,
        "input_ids": [*prompt, "grey", "Ġlamp"],
        "labels": ["."] * (len(prompt) - 1) + ["grey", "Ġlamp", END],
        "prompt": len(prompt),
        "truncated": False,
    }


@pytest.mark.parametrize("model", ["decoder", "encoder-decoder"])
def test_each_label_costs_what_all_logits_say_and_nothing_is_predicted_where_there_is_none(
    decoder: Path, both: Path, model: str
) -> None:
    base = decoder if model == "decoder" else both
    task = task_of(model)
    rows = labelled(("the lamp", "bright"), ("the lamp is grey and bright", "buy it"), ("note", None))
    batch = task.batch(examples_of(task, adapted(task, base), rows), [0, 1, 2], None)
    judge = base_model(task.kind, base)
    seen: list[tuple[int, ...]] = []
    judge.encoder.lm_head.register_forward_hook(lambda layer, read, logits: seen.append(tuple(logits.shape)))
    labels = batch.inputs["labels"]
    with torch.inference_mode():
        said = judge(**batch.inputs)
        inputs = {name: value for name, value in batch.inputs.items() if name != "labels"}
        if model == "encoder-decoder":
            inputs["decoder_input_ids"] = judge.encoder.prepare_decoder_input_ids_from_labels(labels)
        logits = judge.encoder(**inputs).logits
    wanted = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(said, wanted)
    assert (said > 0).tolist() == (labels >= 0).tolist()
    assert seen == [(int((labels >= 0).sum()), logits.shape[2]), logits.shape]


def test_an_encoder_decoder_reads_the_prompt_and_learns_the_target(both: Path) -> None:
    task = task_of("encoder-decoder")
    [row] = encoded(task, adapted(task, both), ("the lamp is grey", "grey lamp"))
    assert row == {
        "place": 0,
        "input_ids": [*HEAD, *LAMP, *TAIL, "</s>"],
        "labels": ["grey", "Ġlamp", "</s>"],
        "prompt": 10,
        "truncated": False,
    }


def test_a_t5_whose_output_is_not_its_embeddings_is_loaded_as_it_was_trained(tmp_path: Path) -> None:
    """T5 1.1 and Flan-T5 are such; transformers ties the two where it makes a model with random weights."""
    make_encoder_decoder(tmp_path / "base", WORDS)
    config = read_json(tmp_path / "base" / "config.json")
    write_json(tmp_path / "base" / "config.json", config | {"tie_word_embeddings": False})
    weights = load_file(tmp_path / "base" / "model.safetensors")
    other = {"lm_head.weight": torch.randn_like(weights["shared.weight"])}
    save_file(weights | other, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    trained = backbone("AutoModelForSeq2SeqLM", tmp_path / "base", 0.0, pretrained=True).eval()
    trained.config.save_pretrained(tmp_path / "kept")
    loaded = backbone("AutoModelForSeq2SeqLM", tmp_path / "kept", 0.0, pretrained=False).eval()
    load_weights(loaded, trained.state_dict())
    words = {"input_ids": torch.tensor([[5, 6, 1]]), "decoder_input_ids": torch.tensor([[0, 7]])}
    assert torch.equal(loaded(**words).logits, trained(**words).logits)


@pytest.mark.parametrize("model", ["decoder", "encoder-decoder"])
def test_a_row_to_predict_has_a_prompt_and_no_label_also_where_its_text_is_empty(
    decoder: Path, both: Path, model: str
) -> None:
    task = task_of(model)
    rows = encoded(task, adapted(task, decoder if model == "decoder" else both), ("the lamp", None), ("", None))
    assert [set(row["labels"]) for row in rows] == [{"."}, {"."}]
    assert [len(row["input_ids"]) for row in rows] == [row["prompt"] for row in rows]
    assert rows[1]["input_ids"][:6] == ["say", ":", "Ġ", *TAIL]


def test_too_long_a_text_is_cut_at_its_end_and_the_prompt_around_it_stays(decoder: Path, both: Path) -> None:
    task = task_of()  # 16 tokens, less 6 for the target
    [row] = encoded(task, adapted(task, decoder, 16), ("the lamp is grey and bright again", "grey"))
    assert row["input_ids"] == [*HEAD, *LAMP, "Ġand", *TAIL, "grey"]
    assert row["truncated"] is True
    task = task_of("encoder-decoder")
    [row] = encoded(task, adapted(task, both, 10), ("the lamp is grey and bright again", "grey"))
    assert row["input_ids"] == [*HEAD, *LAMP, *TAIL, "</s>"]


@settings(deadline=None, max_examples=50)
@given(text=st.text("the lamp😀电池\n ", max_size=60), max_tokens=st.integers(13, 40))
def test_whatever_the_text_the_prompt_fits_and_begins_and_ends_as_it_should(
    decoder: Path, text: str, max_tokens: int
) -> None:
    task = task_of()
    tokenizer = adapted(task, decoder, max_tokens)
    [row] = task.encode(tokenizer, labelled((text, "the lamp is grey and bright again"))).to_pylist()
    assert len(row["input_ids"]) <= max_tokens
    prompt = tokenizer.decode(row["input_ids"][: row["prompt"]])
    read = prompt.removeprefix("say: ").removesuffix("\nshort:")
    assert prompt == f"say: {read}\nshort:"
    assert text.startswith(read)
    if row["prompt"] + 6 <= max_tokens - 12:  # a character takes four tokens at most, and a blank may join its word
        assert read == text


def test_a_target_that_is_cut_keeps_its_end(decoder: Path, both: Path) -> None:
    long = "the lamp is grey and bright again"
    for model, base, end in (("decoder", decoder, END), ("encoder-decoder", both, "</s>")):
        task = task_of(model, most=4)
        [row] = encoded(task, adapted(task, base), ("the lamp", long))
        assert [token for token in row["labels"] if token != "."] == ["the", "Ġlamp", "Ġis", end]
        assert row["truncated"] is True


def test_chinese_and_emoji_come_back_whole(decoder: Path) -> None:
    task = task_of(most=40)
    tokenizer = adapted(task, decoder, 80)
    [row] = task.encode(tokenizer, labelled(("灯 😀", "电池很好 👍🏽"))).to_pylist()
    assert tokenizer.decode(row["input_ids"][: row["prompt"]]) == "say: 灯 😀\nshort:"
    assert tokenizer.decode([number for number in row["labels"] if number != -100]) == "电池很好 👍🏽"


def test_a_prompt_that_leaves_no_room_and_options_that_cannot_be(tmp_path: Path, decoder: Path) -> None:
    with pytest.raises(ParamsError, match=r"task.prompt alone takes 6 tokens, and there is room for 6 \(encode"):
        adapted(task_of(), decoder, 12)
    workspace = init(tmp_path / "workspace", "text-generation")
    set_params(workspace, task__prompt="no hole", encode__max_tokens=64)
    with pytest.raises(ParamsError) as raised:
        Params.read(workspace.params)
    assert str(raised.value).splitlines()[1:] == [
        "  task.prompt: is 'no hole'; it must hold {text} once, where the text is to stand",
        "  task.max_target_tokens: is 64, which leaves no room for a prompt in encode.max_tokens, which is 64; "
        "change one of the two",
    ]


def test_a_blank_target_is_a_fault() -> None:
    frame = labelled(("a", "b"), ("a", " \n"), ("a", None))
    assert task_of().faults(frame) == [None, r"label is blank: ' \n'", None]


# Generation

TEXTS = ["the lamp", "the lamp is grey and bright again", "电池 😀", "", "my phone came dull today number 7"]


@pytest.mark.parametrize("model", ["decoder", "encoder-decoder"])
def test_an_answer_is_the_same_alone_among_others_and_again(decoder: Path, both: Path, model: str) -> None:
    task, base = task_of(model, most=8), decoder if model == "decoder" else both
    tokenizer = adapted(task, base, 64)
    loaded = base_model(task.kind, base)

    def said(texts: list[str]) -> list[str]:
        frame = frame_of(texts)
        return task.predict(loaded, tokenizer, frame, examples_of(task, tokenizer, frame))

    together = said(TEXTS)
    assert together == said(TEXTS) == [said([text])[0] for text in TEXTS]
    assert together == said(TEXTS[::-1])[::-1]
    assert len(set(together)) > 1
    targets = labelled(*[(text, "grey lamp") for text in TEXTS])  # what is to be found is not looked at
    assert task.predict(loaded, tokenizer, targets, examples_of(task, tokenizer, targets)) == together


def test_each_token_is_the_likeliest_after_those_before_and_the_end_ends(decoder: Path) -> None:
    model = base_model("AutoModelForCausalLM", decoder).encoder
    prompts = [numpy.array([5, 260, 7]), numpy.array([300, 9, 8, 7, 6])]
    by_hand = []
    for prompt in prompts:
        ids = prompt.tolist()
        for _ in range(8):
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        by_hand.append(ids[len(prompt) :])
    never = 1  # that no answer holds
    assert never not in by_hand[0] + by_hand[1]
    assert generate(model, prompts, never, 8) == by_hand
    end = by_hand[0][3]
    assert generate(model, prompts, end, 8)[0] == by_hand[0][: by_hand[0].index(end)]
    assert generate(model, [], never, 8) == []


# Metrics

PAIRS = [
    ("the lamp is grey", "the lamp is grey"),
    ("a lamp, grey and bright", "the grey lamp is bright today"),
    ("", "the lamp"),
    ("电池很好。", "电池不好。"),
    ("Buy it!", "don't buy it, it's 1,000.5 too much"),
]
SAID, WANTED = map(list, zip(*PAIRS, strict=True))


@pytest.mark.parametrize("words", ["13a", "char"])
def test_the_figures_are_those_of_sacrebleu_and_rouge_score(words: str) -> None:
    task = task_of(bleu_words=words)
    frame = labelled(*[("a grey lamp", wanted) for wanted in WANTED])
    found = task.score(frame, SAID)
    assert found["bleu"] == BLEU(tokenize=words).corpus_score(SAID, [WANTED]).score > 5
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(SAID, [WANTED]).score, rel=1e-12)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    for ours, theirs in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        values = [scorer.score(wanted, said)[theirs].fmeasure for said, wanted in PAIRS]
        assert found[ours] == pytest.approx(sum(values) / 5, rel=1e-12)
    assert found["length"] == sum(map(len, SAID)) / sum(map(len, WANTED))
    # of the, lamp, is, grey; a, lamp, grey, and, bright; 电 池 很 好; buy, it
    assert found["copied"] == (2 + 3) / (4 + 5 + 4 + 2)


TEXT = st.text("ab c.,'电", max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_sums_over_rows_give_the_figures_of_sacrebleu_on_the_corpus(pairs: list[tuple[str, str]]) -> None:
    said, wanted = map(list, zip(*pairs, strict=True))
    sums = text_metrics.chrf_statistics(said, wanted).sum(axis=0)
    assert float(text_metrics.chrf(sums)) == pytest.approx(CHRF().corpus_score(said, [wanted]).score, abs=1e-9)
    sums = text_metrics.bleu_statistics(said, wanted, "13a").sum(axis=0)
    assert float(text_metrics.bleu(sums)) == BLEU().corpus_score(said, [wanted]).score


def test_many_draws_are_measured_at_once() -> None:
    task = task_of()
    frame = labelled(*[("a grey lamp", wanted) for wanted in WANTED])
    statistics = task.statistics(frame, SAID)
    draws = numpy.stack([statistics.sum(axis=0), statistics[:2].sum(axis=0), statistics[1:].sum(axis=0)])
    measured = task.measure(draws)
    for place, rows in enumerate([slice(None), slice(2), slice(1, None)]):
        alone = task.score(frame[rows].reset_index(drop=True), SAID[rows])
        assert {name: values[place] for name, values in measured.items()} == pytest.approx(alone)


@pytest.mark.parametrize(
    ("metric", "before", "said"),
    [
        ("rouge_l", "the first sentence", ["One lamp.", "今天很好。", "no end", "U.S. lamps?", ""]),
        ("chrf", "a copy of the input", ["One lamp. Two.", "今天很好。明天也好。", " no end", "U.S. lamps? Yes", ""]),
    ],
)
def test_what_rules_and_what_there_was_before(tmp_path: Path, metric: str, before: str, said: list[str]) -> None:
    task = task_of(metric=metric)
    assert task.metrics[0].name == metric
    assert sorted(task.metrics) == sorted(TextGeneration.metrics)
    assert task.before == before
    rows = [(text, "x") for text in ("One lamp. Two.", "今天很好。明天也好。", " no end", "U.S. lamps? Yes", "")]
    side = Side(labelled(*rows), None)  # type: ignore[arg-type]
    if metric == "rouge_l":
        said = ["One lamp.", "今天很好。", "no end", "U.S.", ""]  # a point and a blank end a sentence
    assert task.predict_before(tmp_path, side, side) == said


# The whole road


def praise_rows(count: int) -> list[dict[str, str]]:
    chance = random.Random(0)
    rows = []
    for number in range(count):
        good, thing = chance.random() < 0.5, chance.choice(THINGS)
        text = f"note {number} . the {thing} is {chance.choice(GOOD if good else BAD)}"
        rows.append({"text": text, "label": "buy it again" if good else "leave it"})
    return rows


@pytest.mark.parametrize(
    ("model", "make", "metric"),
    [("decoder", make_decoder, "rouge_l"), ("encoder-decoder", make_encoder_decoder, "chrf")],
)
def test_from_rows_to_a_model_that_answers(tmp_path: Path, model: str, make: Any, metric: str) -> None:
    workspace = init(tmp_path / "workspace", "text-generation")
    make(workspace.root / "base-models" / "tiny", WORDS)
    set_params(
        workspace,
        **TINY,
        task__model=model,
        task__metric=metric,
    )
    report = travel(workspace, praise_rows(300))
    base, candidate = (report["models"][name]["metrics"] for name in ("base", "candidate"))
    assert report["metrics"][0]["name"] == metric
    assert candidate["rouge_l"] > 0.9 > 0.3 > base["rouge_l"]
    assert candidate["chrf"] > 90 > 40 > base["chrf"]
    predictor = Predictor(workspace.candidate)
    said = predictor.predict(frame_of(["note 7 . the kettle is lovely", "note 8 . the desk is noisy"]))
    assert said == ["buy it again", "leave it"]
    assert predictor.task.table(said) == {"text": said}
    assert predictor.task.say(said[0]) == "buy it again"


@pytest.mark.slow
def test_the_whole_road_from_rows_to_a_version_that_answers(tmp_path: Path, prefect_server: str) -> None:
    workspace = init(tmp_path / "workspace", "text-generation")
    make_decoder(workspace.root / "base-models" / "tiny", WORDS)
    set_params(workspace, **TINY, gate__min_test_rows=20)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in praise_rows(300)), encoding="utf-8")
    staytuned(workspace, "ingest", str(rows))
    assert "PROMOTE" in staytuned(workspace, "run").stdout
    assert staytuned(workspace, "predict", "note 7 . the kettle is lovely").stdout == "buy it again\tversion 1\n"
