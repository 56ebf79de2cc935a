"""Base models by hub name: a local folder, then an installed package, then the hub; known by their content."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import make_base
from transformers import GPT2Config

from staytuned.errors import MissingError
from staytuned.files import read_json
from staytuned.modelling.heads import backbone
from staytuned.models import find_base, fingerprint

LOOK = """
import sys
from pathlib import Path
from staytuned.errors import MissingError
from staytuned.models import find_base
try:
    find_base(sys.argv[1], [Path(folder) for folder in sys.argv[2:]])
except MissingError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


def copy(tiny: Path, folder: Path) -> Path:
    return Path(shutil.copytree(tiny, folder))


def install(tiny: Path, site: Path, package: str) -> Path:
    """A package that carries weights, as pip lays it out."""
    module = package.replace("-", "_")
    weights = copy(tiny, site / module / "model")
    about = site / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    files = [path.relative_to(site) for path in (*weights.iterdir(), about / "METADATA")]
    (about / "RECORD").write_text("".join(f"{path},,\n" for path in files))
    return weights


@pytest.mark.parametrize("place", ["some-org/some-tiny", "some-tiny"])
def test_a_local_folder_by_the_whole_name_or_its_last_part(tmp_path: Path, tiny: Path, place: str) -> None:
    here = copy(tiny, tmp_path / "models" / place)
    assert find_base("some-org/some-tiny", [tmp_path / "empty", tmp_path / "models"]) == here


def test_folders_are_looked_in_in_turn_and_before_packages(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = install(tiny, tmp_path / "site", "carries-some-tiny")
    monkeypatch.syspath_prepend(tmp_path / "site")
    first, second = tmp_path / "first", tmp_path / "second"
    assert find_base("org/some-tiny", [first, second]) == packaged
    copy(tiny, second / "some-tiny")
    assert find_base("org/some-tiny", [first, second]) == second / "some-tiny"
    copy(tiny, first / "some-tiny")
    assert find_base("org/some-tiny", [first, second]) == first / "some-tiny"


def test_the_base_of_the_example_comes_with_an_installed_package() -> None:
    found = find_base("sentence-transformers/all-MiniLM-L6-v2", [])
    assert read_json(found / "config.json")["hidden_size"] == 384
    assert (found / "tokenizer.json").is_file()


def look(home: Path, name: str, *folders: Path, site: Path | None = None) -> str:
    """What a process that may not go online says of a model that is nowhere."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "PYTHONPATH": str(site or "")}
    command = [sys.executable, "-c", LOOK, name, *map(str, folders)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_offline_the_error_names_every_place_that_was_looked_in(tmp_path: Path, tiny: Path) -> None:
    pickled = copy(tiny, tmp_path / "models" / "some-huge")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")  # no pickle is ever loaded
    site = tmp_path / "site"
    install(tiny, site, "some-huge")
    (site / "some_huge" / "model" / "model.safetensors").unlink()
    install(tiny, site, "awesome-huge")  # ends with the letters, but is another name
    said = look(tmp_path / "home", "org/some-huge", tmp_path / "models", site=site).splitlines()
    assert said[0] == "base model 'org/some-huge' (model.base) was not found; looked in"
    assert said[1:5] == [
        f"  {tmp_path / 'models' / 'org/some-huge'}",
        f"  {tmp_path / 'models' / 'some-huge'}",
        "  package some-huge",
        "  its local cache and the hub itself",
    ]
    assert said[5].startswith("the hub said: ")
    assert said[6] == "put it into one of the folders, install a package that carries it, or go online once"


def test_a_name_that_the_hub_would_not_take_is_not_found_either(tmp_path: Path) -> None:
    assert "base model 'a/b/c' (model.base) was not found" in look(tmp_path, "a/b/c")


def test_the_fingerprint_is_of_the_content_not_of_the_name_or_place(tmp_path: Path, tiny: Path) -> None:
    elsewhere = copy(tiny, tmp_path / "other")
    (elsewhere / "README.md").write_text("words")
    assert fingerprint(elsewhere) == fingerprint(tiny)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"])
def test_another_byte_in_a_file_that_matters_is_another_fingerprint(tmp_path: Path, tiny: Path, name: str) -> None:
    changed = copy(tiny, tmp_path / "changed")
    with (changed / name).open("ab") as handle:
        handle.write(b" ")
    assert fingerprint(changed) != fingerprint(tiny)


@pytest.mark.parametrize(("name", "said"), [("model.safetensors", "header"), ("config.json", "model type `future`")])
def test_a_base_model_that_cannot_be_loaded_is_named(tmp_path: Path, tiny: Path, name: str, said: str) -> None:
    broken = copy(tiny, tmp_path / "broken")
    (broken / name).write_text('{"model_type": "future"}')
    with pytest.raises(MissingError, match=rf"the model in {broken} cannot be loaded: .*{said}.* in model\.base"):
        backbone("AutoModel", broken, 0.0, pretrained=True)


def test_dropout_is_set_by_whatever_name_a_model_has_for_it(tmp_path: Path) -> None:
    GPT2Config(n_embd=8, n_head=1, n_layer=1, vocab_size=16, n_positions=8).save_pretrained(tmp_path)
    model = backbone("AutoModelForCausalLM", tmp_path, 0.3, pretrained=False)
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]
    assert layers and {layer.p for layer in layers} == {0.3}
