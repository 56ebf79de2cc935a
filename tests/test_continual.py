"""Training on from the champion: what it learns, what it remembers to have learned, and what it refuses."""

import shutil

import numpy
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import make_rows, make_workspace, set_params

from staytuned.data.sides import TRAIN, TRAINED_ON, row_hashes, rows_of
from staytuned.errors import DataError, ParamsError
from staytuned.files import read_json, sha256, write_json
from staytuned.modelling.examples import Examples, list_array
from staytuned.params import Params
from staytuned.stages import encode, split, train
from staytuned.training.continual import mean_with, with_replay
from staytuned.workspace import Workspace


def arrive(workspace: Workspace, *seeds: int) -> Params:
    """Encode 120 rows of each seed, as if they had been accepted."""
    rows = [
        {"row": row["id"], "text_pair": None, "source": "shop", "group": row["document"], "batch": str(seed)}
        | {name: row[name] for name in ("text", "label")}
        for seed in seeds
        for row in make_rows(120, seed)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), workspace.accepted)
    params = Params.read(workspace.params)
    split.run(workspace, params)
    encode.run(workspace, params)
    return params


def make_champion(workspace: Workspace) -> None:
    """Let training go on from the model that was trained last."""
    start = workspace.pin / "start"
    shutil.copytree(workspace.candidate, start)
    write_json(start / "start.json", {"version": 1, "weights": sha256(start / "model.safetensors")})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose champion learned the rows of seed 0; those of seed 1 have arrived since."""
    workspace = make_workspace(tmp_path_factory.mktemp("continual") / "workspace")
    train.run(workspace, arrive(workspace, 0))
    make_champion(workspace)
    set_params(workspace, train__start="champion")
    arrive(workspace, 0, 1)
    return workspace


@pytest.fixture
def workspace(trained: Workspace, tmp_path) -> Workspace:
    return Workspace(shutil.copytree(trained.root, tmp_path / "workspace"))


def rows_learned(workspace: Workspace, seed: int) -> pandas.DataFrame:
    rows = rows_of(workspace, TRAIN)
    return rows[rows["row"].str.startswith((f"{seed}-", f"shop:{seed}-"))]


def rows_called(names: list[str]) -> pandas.DataFrame:
    return pandas.DataFrame({"row": names, "group": names, "text": names, "text_pair": None})


def test_it_learns_all_new_rows_and_as_many_old_ones_as_asked(workspace: Workspace) -> None:
    set_params(workspace, train__replay=0.5)
    train.run(workspace, Params.read(workspace.params))
    about = read_json(workspace.candidate / "staytuned.json")
    new = len(rows_learned(workspace, 1))
    assert about["rows"] == new + round(0.5 * new)
    assert about["learned"] == len(rows_of(workspace, TRAIN))
    assert about["start"]["version"] == 1


def test_what_the_champion_learned_counts_as_learned_whether_replayed_or_not(workspace: Workspace) -> None:
    set_params(workspace, train__replay=0.0)
    train.run(workspace, Params.read(workspace.params))
    learned = numpy.fromfile(workspace.candidate / TRAINED_ON, dtype="<u8")
    for seed in (0, 1):
        assert numpy.isin(row_hashes(rows_learned(workspace, seed)), learned).all()


def test_it_starts_at_the_champions_weights_and_not_at_the_base_models(workspace: Workspace) -> None:
    rates = {"train__learning_rate": 1e-9, "train__champion_share": 0.0}
    set_params(workspace, train__epochs=1, train__sharpness=0.0, **rates)
    train.run(workspace, Params.read(workspace.params))
    champion, found = (
        load_file(folder / "model.safetensors") for folder in (workspace.pin / "start", workspace.candidate)
    )
    assert all(numpy.allclose(champion[name], found[name], atol=1e-5) for name in champion)


def test_it_is_the_mean_of_what_it_learned_and_the_champion(workspace: Workspace) -> None:
    made = {}
    for share in (0.0, 0.4):
        set_params(workspace, train__champion_share=share)
        train.run(workspace, Params.read(workspace.params))
        made[share] = load_file(workspace.candidate / "model.safetensors")
    champion = load_file(workspace.pin / "start" / "model.safetensors")
    moved = [name for name in champion if not numpy.allclose(champion[name], made[0.0][name], atol=1e-4)]
    assert moved
    for name in champion:
        assert numpy.allclose(0.4 * champion[name] + 0.6 * made[0.0][name], made[0.4][name], atol=1e-6)


def test_whole_numbers_among_the_weights_have_no_mean() -> None:
    champion, learned = ({"weight": torch.tensor([value]), "steps": torch.tensor([7])} for value in (1.0, 2.0))
    mean = mean_with(champion, learned, 0.25)
    assert mean["weight"].tolist() == [1.75]
    assert mean["steps"].tolist() == [7]


def test_the_same_start_gives_the_same_bits(workspace: Workspace) -> None:
    params = Params.read(workspace.params)
    train.run(workspace, params)
    first = sha256(workspace.candidate / "model.safetensors")
    train.run(workspace, params)
    assert sha256(workspace.candidate / "model.safetensors") == first


def test_without_a_new_row_it_says_so(workspace: Workspace) -> None:
    arrive(workspace, 0)
    with pytest.raises(DataError, match=r"training rows is new to the champion.*set train.start to 'base'"):
        train.run(workspace, Params.read(workspace.params))


def test_a_champion_of_other_labels_is_no_start(workspace: Workspace) -> None:
    about = read_json(workspace.pin / "start" / "staytuned.json")
    about["task"]["labels"] = ["bad", "good", "plain"]
    write_json(workspace.pin / "start" / "staytuned.json", about)
    with pytest.raises(ParamsError, match=r"trained with another task; set train.start to 'base'"):
        train.run(workspace, Params.read(workspace.params))


@given(
    windows=st.lists(st.integers(1, 3), min_size=2, max_size=30),
    known=st.integers(0, 29),
    replay=st.floats(0, 3),
    seed=st.integers(0, 9),
)
def test_every_window_of_a_chosen_row_is_taken_and_no_row_twice(
    tmp_path_factory: pytest.TempPathFactory, windows: list[int], known: int, replay: float, seed: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "champion"
    folder.mkdir(exist_ok=True)
    names = [f"row {number}" for number, count in enumerate(windows) for _ in range(count)]
    examples = Examples(pyarrow.table({"row": names, "input_ids": list_array([[1]] * len(names))}))
    old = min(known, len(windows) - 1)
    (folder / TRAINED_ON).write_bytes(row_hashes(rows_called([f"row {n}" for n in range(old)])).tobytes())
    taken = with_replay(examples, folder, replay, seed)
    rows = [taken.names[places[0]] for places in taken.by_row]
    assert len(rows) == len(set(rows))
    assert [len(places) for places in taken.by_row] == [windows[int(row.split()[1])] for row in rows]
    new = {f"row {number}" for number in range(old, len(windows))}
    assert new <= set(rows)
    assert len(rows) == len(new) + min(old, round(replay * len(new)))
