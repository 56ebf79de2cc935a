"""Checkpoints: whatever cuts a training off, it comes out the same; and none is used that does not fit."""

import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from shell import no_room
from test_loop import examples_of, tuned, validation_side, workspace  # noqa: F401 - a fixture

from staytuned import tasks
from staytuned.errors import DataError, TrainingError
from staytuned.files import read_json, sha256, write_json
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.heads import backbone
from staytuned.params import Params
from staytuned.sections import Checkpointing
from staytuned.stages import train
from staytuned.training import loop, origin
from staytuned.training.checkpoint import Checkpoints
from staytuned.training.loop import fit
from staytuned.training.state import Point, Weights
from staytuned.workspace import Workspace

DROPOUT = 0.1  # so that random numbers count


class Cut(Exception):
    """What ends a training before its time."""


@pytest.fixture(scope="module")
def params(workspace: Workspace) -> Params:
    """Three epochs of 4 steps, each with two evaluations."""
    return tuned(Params.read(workspace.params), epochs=3, dropout=DROPOUT)


def learn(
    workspace: Workspace,
    params: Params,
    store: Path | None = None,
    cut_after: int | None = None,
    every: int = 1,
    keep: int = 2,
) -> tuple[Weights, list[Point]]:
    """Weights and curve of a training, which is cut off after a step, or comes to its end."""
    make_deterministic(params.train.seed, params.train.threads)
    task = tasks.load(params)
    tiny = workspace.root / "base-models" / "tiny"
    model = task.model(backbone(task.kind, tiny, DROPOUT, pretrained=True), DROPOUT)
    points: list[Point] = []
    done = 0

    def step_done() -> None:
        nonlocal done
        done += 1
        if done == cut_after:
            raise Cut
        while store and not checkpoints.due(0):  # none is left out for want of time
            time.sleep(0.001)

    sides = examples_of(workspace, "train"), validation_side(workspace)
    if store is None:
        return fit(task, model, *sides, params.train, points.append, step_done)[0], points
    with closing(Checkpoints(store, {"rows": "these"}, Checkpointing(every_steps=every, keep=keep))) as checkpoints:
        return fit(task, model, *sides, params.train, points.append, step_done, checkpoints)[0], points


def cut(*arguments: object, **options: object) -> None:
    with pytest.raises(Cut):
        learn(*arguments, **options)  # type: ignore[arg-type]


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(workspace: Workspace, params: Params) -> tuple[Weights, list[Point]]:
    """What comes of a training that nothing cuts off, without checkpoints."""
    return learn(workspace, params)


@pytest.fixture(scope="module")
def left(workspace: Workspace, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a training that was cut off in its last epoch."""
    store = tmp_path_factory.mktemp("left")
    cut(workspace, params, store, cut_after=10)
    return store


@pytest.fixture
def store(left: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(left, tmp_path / "store"))


def checkpoints_in(store: Path) -> list[Path]:
    return sorted(store.glob("*/*.safetensors"))


@pytest.mark.parametrize("threads", [1, 2])
def test_cut_off_at_every_step_in_turn_weights_and_curve_come_out_the_same(
    workspace: Workspace, params: Params, tmp_path: Path, threads: int
) -> None:
    asked = tuned(params, threads=threads)
    whole = learn(workspace, asked)
    for step in range(1, 12):
        cut(workspace, asked, tmp_path, cut_after=step)
    weights, points = learn(workspace, asked, tmp_path, every=3)  # how often one is written is free to change
    assert points == whole[1] and same(weights, whole[0])


def test_only_the_steps_that_are_left_are_made(
    workspace: Workspace, params: Params, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, step = list[int](), loop.train_step

    def counted(*asked: Any) -> torch.Tensor:
        made.append(1)
        return step(*asked)

    monkeypatch.setattr(loop, "train_step", counted)
    last = int(checkpoints_in(store)[-1].stem)
    learn(workspace, params, store)
    assert len(made) == loop.steps_in(len(examples_of(workspace, "train")), params.train) - last > 0


def test_whatever_decides_the_bits_makes_another_training(
    workspace: Workspace, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def now(params: Params = params, base: str = "base", champion: Path | None = None) -> dict[str, Any]:
        return origin.origin_of(workspace, params, base, champion)

    before = now()
    assert now(tuned(params, checkpoints=Checkpointing(every_steps=9, keep=9))) == before
    champion = workspace.root / "champion"
    champion.mkdir()
    for name in ("model.safetensors", origin.TRAINED_ON):
        (champion / name).write_bytes(b"what it is made of")
    assert before not in (now(tuned(params, seed=8)), now(base="another"), now(champion=champion))
    for name in ("code_of", "surroundings", "name_of"):
        with monkeypatch.context() as patch:
            patch.setattr(origin, name, lambda *_: {"processor": "another"})
            assert now() != before, name
    with monkeypatch.context() as patch:
        patch.setattr(origin.importlib.metadata, "version", lambda _: "0")
        assert now() != before


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_manifest(file: Path) -> None:
    file.with_suffix(".json").unlink()


def shorten_manifest(file: Path) -> None:
    shorten(file.with_suffix(".json"))


@pytest.mark.parametrize(
    "spoil, said",
    [
        (shorten, "so it was cut or altered"),
        (alter, "so it was cut or altered"),
        (lose_manifest, "it has no manifest"),
        (shorten_manifest, "its manifest cannot be read"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_by_name_and_the_one_before_is_taken(
    workspace: Workspace,
    params: Params,
    whole: tuple[Weights, list[Point]],
    store: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: object,
    said: str,
) -> None:
    before, newest = checkpoints_in(store)
    spoil(newest)  # type: ignore[operator]
    weights, points = learn(workspace, params, store)
    errors = capsys.readouterr().err
    assert f"refused the checkpoint {newest}" in errors and said in errors
    assert f"training goes on from the checkpoint {before}" in errors
    assert points == whole[1] and same(weights, whole[0])


def test_where_none_is_whole_training_starts_anew(
    workspace: Workspace,
    params: Params,
    whole: tuple[Weights, list[Point]],
    store: Path,
) -> None:
    for file in checkpoints_in(store):
        alter(file)
    weights, points = learn(workspace, params, store)
    assert points == whole[1] and same(weights, whole[0])


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_are_kept(workspace: Workspace, params: Params, tmp_path: Path, keep: int) -> None:
    learn(workspace, params, tmp_path, keep=keep)
    files = checkpoints_in(tmp_path)
    assert len(files) == keep
    assert all(file.with_suffix(".json").exists() for file in files)
    assert len(list(tmp_path.glob("*/*"))) == 2 * keep


def test_on_a_full_disk_training_goes_on_and_says_so(
    workspace: Workspace,
    params: Params,
    whole: tuple[Weights, list[Point]],
    store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = [sha256(file) for file in checkpoints_in(store)]
    with no_room(above=4096):
        weights, points = learn(workspace, params, store)
    assert points == whole[1] and same(weights, whole[0])
    assert [sha256(file) for file in checkpoints_in(store)] == before
    errors = capsys.readouterr().err
    assert "without a new checkpoint training goes on: no room to write at" in errors, errors
    assert not list(store.rglob("*.tmp"))


def test_what_a_killed_process_left_half_written_is_cleared_away(
    workspace: Workspace,
    params: Params,
    store: Path,
) -> None:
    half = checkpoints_in(store)[-1].with_name(".0000000011.safetensors.1.tmp")
    half.write_bytes(b"half")
    learn(workspace, params, store)
    assert not half.exists()


def test_checkpoints_of_another_training_are_refused_by_name_where_they_stand_for_this_one(
    workspace: Workspace,
    params: Params,
    store: Path,
) -> None:
    for file in checkpoints_in(store):
        manifest = file.with_suffix(".json")
        write_json(manifest, read_json(manifest) | {"of": {"rows": "others", "train.seed": 8}})
    with pytest.raises(
        DataError, match=r"is of another training: rows is 'these' here, not 'others'; train.seed is None here, not 8"
    ):
        learn(workspace, params, store)


def test_checkpoints_of_a_superseded_training_are_named_and_removed(
    left: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(left, tmp_path / "store"))
    (old,) = store.iterdir()
    checkpoints = Checkpoints(store, {"rows": "those"}, Checkpointing(every_steps=1, keep=1))
    assert checkpoints.latest() is None
    assert not old.exists()
    said = f"removed {old}, checkpoints of another training: rows is 'those' here, not 'these'"
    assert said in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_not_put_away(
    workspace: Workspace,
    params: Params,
    tmp_path: Path,
) -> None:
    cut(workspace, params, tmp_path, cut_after=5)
    with pytest.raises(TrainingError, match=r"whose batch held the rows \["):
        learn(workspace, tuned(params, learning_rate=1e30, head_learning_rate=1e30), tmp_path)
    state = Checkpoints(tmp_path, {"rows": "these"}, Checkpointing(every_steps=1, keep=2)).latest()
    assert state and all(weight.isfinite().all() for weight in state["model"].values())


def test_the_stage_goes_on_by_itself_and_leaves_no_checkpoint(
    workspace: Workspace,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run() -> tuple[str, bytes, bytes]:
        train.run(workspace, often)
        weights = sha256(workspace.candidate / "model.safetensors")
        return weights, workspace.curve.read_bytes(), workspace.step_losses.read_bytes()

    often = tuned(params, checkpoints=Checkpointing(every_steps=2, keep=2))
    expected = run()

    def cut_off(*arguments: object) -> None:
        *rest, _, checkpoints, losses_seen = arguments
        done = iter(range(1, 8))
        fit(*rest, lambda: next(done), checkpoints, losses_seen)  # type: ignore[arg-type, call-arg]

    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", cut_off)
        with pytest.raises(StopIteration):
            train.run(workspace, often)
    assert checkpoints_in(workspace.checkpoints)
    assert run() == expected
    assert not checkpoints_in(workspace.checkpoints)
