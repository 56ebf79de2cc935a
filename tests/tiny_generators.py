"""Tiny models that predict tokens, of some thousand weights, made in memory."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from staytuned.data.batches import add
from staytuned.data.readers import Reader
from staytuned.files import read_json
from staytuned.params import Params
from staytuned.stages import encode, evaluate, split, train, validate
from staytuned.workspace import Workspace

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DECODER = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ENCODER_DECODER = ["<pad>", "</s>"]
MASKED = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]


def byte_level(folder: Path, special: list[str], words: str) -> Tokenizer:
    """A byte-level tokenizer, whose pieces are bytes and the words given, with and without a blank before them."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens = [AddedToken(name, special=True) for name in special]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([word for word in words.split() for word in (word, f" {word}")] * 2, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, **about: object) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend", **about}))


def llama(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )


def make_decoder(folder: Path, words: str, template: str | None = None) -> Path:
    """A Llama, with a chat template or without."""
    tokenizer = byte_level(folder, DECODER, words)
    save(tokenizer, folder, **({"chat_template": template} if template else {}), eos_token="<|im_end|>")
    torch.manual_seed(0)
    LlamaForCausalLM(llama(tokenizer.get_vocab_size())).save_pretrained(folder)
    return folder


def make_encoder_decoder(folder: Path, words: str) -> Path:
    """A T5, whose tokenizer ends each text."""
    tokenizer = byte_level(folder, ENCODER_DECODER, words)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    save(tokenizer, folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        initializer_factor=1.0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def make_masked(folder: Path, words: str) -> Path:
    """A BERT with its head for masked tokens."""
    tokenizer = byte_level(folder, MASKED, words)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    save(tokenizer, folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def travel(workspace: Workspace, rows: list[dict[str, Any]]) -> Any:
    """The road from rows to the evaluation, which it returns."""
    file = workspace.root / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    params = Params.read(workspace.params)
    add(workspace, Reader(file, params.ingest.columns, params.ingest.encodings))
    for stage in (validate, split, encode, train, evaluate):
        stage.run(workspace, params)
    return read_json(workspace.evaluation / "evaluation.json")
