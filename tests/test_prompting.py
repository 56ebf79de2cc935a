"""Labels by descriptions, prompts and contrast: the very prompts and scores, no label preferred, the same bytes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from tiny import BAD, GOOD, PLAIN, make_base, make_rows
from tokenizers import Tokenizer, processors
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from staytuned.errors import MissingError, ParamsError
from staytuned.prompting.calibration import label_bias
from staytuned.prompting.contrastive import by_contrast, pair_loss
from staytuned.prompting.decoder import Decoder, Similar, by_prompt
from staytuned.prompting.descriptions import TEMPERATURE, by_descriptions
from staytuned.prompting.embedder import Embedder
from staytuned.prompting.labelled import Labelled

LABELS = ["negative", "neutral", "positive"]
DESCRIPTIONS = ["awful broken dull", "grey square metal", "great lovely solid"]
TEMPLATE = "one of {labels}\n\n{examples}text {text}\nlabel"
WORDS = ["great", "number 42", "phone"]  # labels that the tiny vocabulary spells with 1, 3 and 1 tokens


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("prompting") / "tiny")


@pytest.fixture(scope="module")
def embed(base: Path) -> Embedder:
    return Embedder(base, 32)


def make_decoder(folder: Path, kind: str = "gpt2") -> Path:
    """A decoder of two layers, 16 wide, that reads 128 tokens, with the words of the tiny encoder."""
    tokenizer = Tokenizer.from_file(str(make_base(folder.with_name(f"{folder.name}-words")) / "tokenizer.json"))
    tokenizer.post_processor = processors.Sequence([])
    torch.manual_seed(0)
    size = tokenizer.get_vocab_size()
    model: Any
    if kind == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=128, initializer_range=0.5)
        )
    else:
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = LlamaConfig(vocab_size=size, max_position_embeddings=128, initializer_range=0.5, **shape)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def decoder_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("decoders") / request.param, request.param)


def decoder_in(folder: Path, template: str = TEMPLATE, max_tokens: int = 32) -> Decoder:
    return Decoder(folder, template, WORDS, max_tokens)


def labelled(count: int, seed: int = 0) -> Labelled:
    rows = make_rows(count, seed)
    return Labelled([row["text"] for row in rows], numpy.array([LABELS.index(row["label"]) for row in rows]), LABELS)


# Calibration

logits = st.integers(1, 12).flatmap(
    lambda rows: st.integers(2, 5).flatmap(lambda classes: arrays(float, (rows, classes), elements=st.floats(-4, 4)))
)


@given(logits)
def test_after_calibration_no_label_is_preferred(values: numpy.ndarray) -> None:
    mean = softmax(values + label_bias(values), axis=1).mean(axis=0)
    assert mean == pytest.approx(numpy.full(len(mean), 1 / len(mean)), abs=1e-6)


@given(logits, st.lists(st.floats(-50, 50), min_size=5, max_size=5))
def test_what_a_model_says_of_a_label_whatever_the_text_makes_no_difference(
    values: numpy.ndarray, preference: list[float]
) -> None:
    shifted = values + numpy.array(preference[: values.shape[1]])
    one, other = (softmax(logits + label_bias(logits), axis=1) for logits in (values, shifted))
    assert one == pytest.approx(other, abs=1e-6)


def test_a_preference_is_divided_out() -> None:
    values = numpy.log([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    assert softmax(values + label_bias(values), axis=1) == pytest.approx(numpy.full((2, 3), 1 / 3))


# Rows


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(0, 99))
def test_a_few_rows_are_as_many_of_each_class_and_fewer_are_among_more(numbers: list[int], seed: int) -> None:
    rows = Labelled([f"text {place}" for place in range(len(numbers))], numpy.array(numbers), LABELS)
    parts = [rows.few(count, seed) for count in (1, 2, 5)]
    for part, count in zip(parts, (1, 2, 5), strict=True):
        assert [sum(part.numbers == number) for number in range(3)] == [
            min(count, numbers.count(number)) for number in range(3)
        ]
        assert [numbers[int(text.split()[1])] for text in part.texts] == part.numbers.tolist()
    assert all(set(less.texts) <= set(more.texts) for less, more in pairwise(parts))


def test_another_seed_takes_other_rows() -> None:
    rows = labelled(60)
    assert rows.few(8, 7).texts == rows.few(8, 7).texts != rows.few(8, 8).texts


# Descriptions


def test_a_text_is_judged_by_the_cosine_with_each_description(embed: Embedder) -> None:
    unlabelled, texts = labelled(30).texts, labelled(10, seed=1).texts
    found = by_descriptions(embed, DESCRIPTIONS, unlabelled)(texts)
    anchors, vectors, before = embed(DESCRIPTIONS), embed(texts), embed(unlabelled)
    bias = label_bias(before @ anchors.T / TEMPERATURE)
    expected = softmax(vectors @ anchors.T / TEMPERATURE + bias, axis=1)
    assert numpy.stack(found) == pytest.approx(expected, abs=1e-5)
    assert {row.dtype for row in found} == {numpy.dtype("float64")}


def test_descriptions_are_calibrated_on_the_unlabelled_texts(embed: Embedder) -> None:
    unlabelled = labelled(50).texts
    mean = numpy.mean(by_descriptions(embed, DESCRIPTIONS, unlabelled)(unlabelled), axis=0)
    assert mean == pytest.approx(numpy.full(3, 1 / 3), abs=1e-6)


def test_a_description_has_its_own_label(embed: Embedder) -> None:
    said = by_descriptions(embed, DESCRIPTIONS, labelled(50).texts)(DESCRIPTIONS)
    assert [int(row.argmax()) for row in said] == [0, 1, 2]


def test_an_embedding_has_length_1_and_stops_at_the_limit(base: Path) -> None:
    short, long = Embedder(base, 6)(["the lamp is great", "the lamp is great again and again"])
    assert numpy.linalg.norm([short, long], axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert short == pytest.approx(long)


# Prompts


def test_a_prompt_is_the_template_filled(decoder_folder: Path) -> None:
    decoder = decoder_in(decoder_folder)
    assert decoder.prompt("a grey lamp", []) == "one of great, number 42, phone\n\ntext a grey lamp\nlabel"
    assert decoder.prompt("a grey lamp", [("my phone", "phone"), ("swift", "great")]) == (
        "one of great, number 42, phone\n\n"
        "text my phone\nlabel phone\n\n"
        "text swift\nlabel great\n\n"
        "text a grey lamp\nlabel"
    )


def test_texts_are_cut_and_what_looks_like_a_place_in_them_stays(decoder_folder: Path) -> None:
    decoder = decoder_in(decoder_folder, max_tokens=3)
    assert decoder.prompt("a grey lamp again", [("my phone is slow", "phone")]).endswith(
        "text my phone is\nlabel phone\n\ntext a grey lamp\nlabel"
    )
    assert decoder_in(decoder_folder).prompt("{labels}{text}", []).endswith("text {labels}{text}\nlabel")


def test_a_score_is_the_log_probability_of_the_labels_tokens_after_the_prompt(decoder_folder: Path) -> None:
    """As the model gives it when it reads prompt and label in one go."""
    decoder = decoder_in(decoder_folder)
    texts, examples = ["a grey lamp", "the radio is noisy today"], [[("my phone", "phone")], []]
    kind = LlamaForCausalLM if decoder_folder.name == "llama" else GPT2LMHeadModel
    model = kind.from_pretrained(decoder_folder).eval()
    tokenizer = Tokenizer.from_file(str(decoder_folder / "tokenizer.json"))
    expected = numpy.zeros((2, 3))
    lengths = set()
    for i, (text, shown) in enumerate(zip(texts, examples, strict=True)):
        prompt = tokenizer.encode(decoder.prompt(text, shown)).ids
        for j, word in enumerate(WORDS):
            answer = tokenizer.encode(word).ids
            lengths.add(len(answer))
            with torch.no_grad():
                said = model(torch.tensor([prompt + answer])).logits[0].double().log_softmax(dim=-1)
            expected[i, j] = sum(float(said[len(prompt) - 1 + k, token]) for k, token in enumerate(answer))
    assert lengths == {1, 3}
    assert decoder.scores(texts, examples) == pytest.approx(expected, abs=1e-4)


def test_labels_of_one_token_need_no_second_pass(decoder_folder: Path) -> None:
    words = ["great", "phone", "lamp"]
    short = Decoder(decoder_folder, TEMPLATE.replace("{labels}", "words"), words, 32)
    longer = Decoder(decoder_folder, TEMPLATE.replace("{labels}", "words"), [*words, "number 42"], 32)
    assert short.scores(["a desk"], [[]]) == pytest.approx(longer.scores(["a desk"], [[]])[:, :3], abs=1e-5)


def test_a_prompt_that_the_decoder_cannot_read_is_refused(decoder_folder: Path) -> None:
    decoder = decoder_in(decoder_folder, max_tokens=200)
    with pytest.raises(
        ParamsError, match=r"compare\.decoder: reads at most 128 tokens, but a prompt .* has \d+; lower"
    ):
        decoder.scores(["lamp " * 120], [[]])


def test_prompts_are_calibrated_on_the_unlabelled_texts_and_give_the_same_bytes_again(decoder_folder: Path) -> None:
    unlabelled = labelled(20).texts
    decoder = decoder_in(decoder_folder)
    said, again = (numpy.stack(by_prompt(decoder, unlabelled)(unlabelled)) for _ in range(2))
    assert said.mean(axis=0) == pytest.approx(numpy.full(3, 1 / 3), abs=1e-6)
    assert said.tobytes() == again.tobytes()


def test_examples_are_balanced_like_the_text_and_in_an_order_that_the_seed_fixes(embed: Embedder) -> None:
    rows = labelled(60)
    texts = [*rows.texts[:5], "a swift chair again"]
    shown = Similar(embed, rows, seed=7)(texts)
    orders = [[label for _, label in examples] for examples in shown]
    assert sorted(orders[0]) == sorted(LABELS * 2)
    assert all(order == orders[0] for order in orders)
    assert shown == Similar(embed, rows, seed=7)(texts)
    assert any([label for _, label in Similar(embed, rows, seed)(texts)[0]] != orders[0] for seed in (8, 9))
    for text, examples in zip(texts, shown, strict=True):
        likeness = (embed(rows.texts) @ embed([text])[0]).tolist()
        for number, label in enumerate(LABELS):
            best = sorted((place for place in range(60) if rows.numbers[place] == number), key=lambda p: -likeness[p])
            assert {one for one, its in examples if its == label} == {rows.texts[place] for place in best[:2]}
    assert all((rows.texts[place], LABELS[rows.numbers[place]]) in shown[place] for place in range(5))


def test_with_one_row_of_a_label_each_label_has_one_example(embed: Embedder) -> None:
    rows = Labelled(["awful lamp", "broken lamp", "grey lamp", "great lamp"], numpy.array([0, 0, 1, 2]), LABELS)
    (examples,) = Similar(embed, rows, seed=7)(["a lamp"])
    assert sorted(label for _, label in examples) == LABELS


def test_examples_change_what_a_decoder_says(decoder_folder: Path, embed: Embedder) -> None:
    texts, rows = labelled(6, seed=1).texts, Labelled(["a great lamp", "my phone"], numpy.array([0, 2]), WORDS)
    decoder = decoder_in(decoder_folder)
    without, shown = by_prompt(decoder, texts)(texts), by_prompt(decoder, texts, Similar(embed, rows, 7))(texts)
    assert numpy.abs(numpy.stack(without) - numpy.stack(shown)).max() > 1e-3


# Contrast


def test_the_loss_of_pairs_weighs_those_within_and_those_between_classes_alike() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    loss = pair_loss(vectors, torch.tensor([0, 0, 1]))  # cosines: within 0.6; between 0 and 0.8
    assert float(loss) == pytest.approx(((1 - 0.6) ** 2 + (0**2 + 0.8**2) / 2) / 2)
    assert float(pair_loss(vectors[[0, 2]], torch.tensor([0, 1]))) == 0


def test_contrast_on_8_rows_a_class_beats_descriptions(base: Path, embed: Embedder) -> None:
    rows, test = labelled(300), labelled(200, seed=1)
    learned = by_contrast(Embedder(base, 32), rows.few(8, 7), 6e-3, 7)(test.texts)
    described = by_descriptions(embed, DESCRIPTIONS, rows.texts)(test.texts)
    right = [int((numpy.stack(said).argmax(axis=1) == test.numbers).sum()) for said in (learned, described)]
    assert right[0] > right[1] + 20
    assert numpy.sum(learned, axis=1) == pytest.approx(1)
    assert {row.dtype for row in learned} == {numpy.dtype("float64")}


def test_one_seed_gives_the_same_bytes_and_another_seed_others(base: Path) -> None:
    rows, texts = labelled(60).few(16, 7), labelled(5, seed=1).texts
    said = [numpy.stack(by_contrast(Embedder(base, 32), rows, 1e-3, seed)(texts)).tobytes() for seed in (7, 7, 8)]
    assert said[0] == said[1] != said[2]


def test_a_class_without_a_row_has_probability_0(base: Path) -> None:
    rows = Labelled([f"{word} lamp" for word in (*BAD, *GOOD)], numpy.array([0] * 6 + [2] * 6), LABELS)
    said = numpy.stack(by_contrast(Embedder(base, 32), rows, 1e-3, 7)([f"{word} lamp" for word in PLAIN]))
    assert said[:, 1].tolist() == [0] * 6
    assert said.sum(axis=1) == pytest.approx(1)


def test_a_model_without_a_fast_tokenizer_is_named(base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    with pytest.raises(MissingError, match=rf"{tmp_path} has no tokenizer\.json; name a model with one"):
        Embedder(tmp_path, 32)
