"""A base model and a task: those that do not fit are refused in words, before any work."""

import json
from pathlib import Path
from typing import Any

import pytest

from staytuned.entry_points import task_class
from staytuned.errors import ParamsError
from staytuned.models import check_fits

KINDS = {
    "encoder": "AutoModel",
    "decoder": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "both": "AutoModelForSeq2SeqLM",
}


@pytest.mark.parametrize(
    ("made", "about", "fits"),
    [
        ("BertModel", {"model_type": "bert"}, "encoder"),
        ("BertForSequenceClassification", {"model_type": "bert"}, "encoder"),
        ("BertForMaskedLM", {"model_type": "bert"}, "encoder masked"),
        ("BertForPreTraining", {"model_type": "bert"}, "encoder masked"),
        ("LlamaForCausalLM", {"model_type": "llama"}, "encoder decoder"),
        ("GPT2LMHeadModel", {"model_type": "gpt2"}, "encoder decoder"),
        ("T5ForConditionalGeneration", {"model_type": "t5", "is_encoder_decoder": True}, "both"),
        ("MarianMTModel", {"model_type": "marian", "is_encoder_decoder": True}, "both"),
        ("T5EncoderModel", {"model_type": "t5", "is_encoder_decoder": True}, ""),
        (None, {"model_type": "t5", "is_encoder_decoder": True}, "both"),
        (None, {"model_type": "bert"}, "encoder decoder masked"),  # it does not say; transformers will
    ],
)
def test_what_fits(tmp_path: Path, made: str | None, about: dict[str, Any], fits: str) -> None:
    config = about | ({"architectures": [made]} if made else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = []
    for word, kind in KINDS.items():
        try:
            check_fits(tmp_path, kind, "some-task", {})
            found.append(word)
        except ParamsError:
            pass
    assert " ".join(found) == fits
    check_fits(tmp_path, "AutoModelForImageClassification", "a-task-of-another-package", {})


def test_the_error_says_what_it_is_what_is_needed_and_what_would_do(tmp_path: Path) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ParamsError) as raised:
        check_fits(tmp_path, "AutoModelForSeq2SeqLM", "text-generation", {})
    assert str(raised.value) == (
        f"model.base: {tmp_path} holds a LlamaForCausalLM of type 'llama', a decoder, but task.name 'text-generation' "
        "needs an encoder-decoder, such as google-t5/t5-small; change one of the two"
    )


@pytest.mark.parametrize(
    ("made", "about", "name", "options", "cure"),
    [
        ("BertForMaskedLM", {}, "language-modelling", {}, "set task.objective to 'masked'"),
        ("LlamaForCausalLM", {}, "language-modelling", {"objective": "masked"}, "set task.objective to 'causal'"),
        ("T5ForConditionalGeneration", {"is_encoder_decoder": True}, "text-generation", {}, "'encoder-decoder'"),
        ("LlamaForCausalLM", {}, "text-generation", {"model": "encoder-decoder"}, "set task.model to 'decoder'"),
        ("BertModel", {}, "text-generation", {}, "change one of the two"),
    ],
)
def test_where_an_option_would_make_it_fit_the_error_says_which(
    tmp_path: Path, made: str, about: dict[str, Any], name: str, options: dict[str, Any], cure: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(about | {"model_type": "any", "architectures": [made]}))
    maker = task_class(name)
    task = maker(maker.Options.model_validate({"name": name, **maker.start["task"], **options}))
    with pytest.raises(ParamsError, match=f"{cure}$"):
        check_fits(tmp_path, task.kind, name, task.kinds)
