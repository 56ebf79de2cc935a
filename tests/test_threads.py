"""Parts of a batch in threads of their own: the same gradient, the same bits each time, and no thread that waits."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import examples_of, fitted, fresh_model, params, tuned, workspace  # noqa: F401 - fixtures
from test_unpadded import AFTER_PADDING, FROM_ZERO, batch, model_of

from staytuned import tasks
from staytuned.data.sides import TRAIN
from staytuned.modelling.dropout import drawn_from
from staytuned.modelling.embeddings import kept_embeddings
from staytuned.modelling.heads import with_quick_layers
from staytuned.modelling.language import TokenLoss
from staytuned.modelling.threads import apart, by_lists, count, in_threads
from staytuned.modelling.unpadded import last_states
from staytuned.params import Params
from staytuned.tasks import Batch
from staytuned.training import adamw
from staytuned.training.step import _gradient, clip, make_optimizer, parted, takes_threads, train_step
from staytuned.workspace import Workspace


@pytest.fixture(autouse=True)
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def learnt(workspace: Workspace, params: Params, threads: int, **changes: Any) -> tuple[Any, ...]:
    """The loss on a batch, and gradients by the names of weights."""
    torch.set_num_threads(threads)
    torch.manual_seed(3)
    task, model, options = tasks.load(params), fresh_model(workspace), tuned(params, **changes).train
    optimizer = make_optimizer(model, options)
    examples = examples_of(workspace, TRAIN)
    drawn = task.batch(examples, list(range(13)), numpy.random.default_rng(0))
    optimizer.catch_up([drawn.inputs["input_ids"]])
    loss = _gradient(task, model, drawn, options)
    slopes = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return loss, {name: slope.to_dense() for name, slope in slopes.items()}


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """The small tensors of these tests are dealt out to threads like large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("staytuned.modelling.threads.FEW", 0)
        yield


def test_results_come_in_the_order_of_the_parts_and_the_count_of_threads_is_as_before() -> None:
    seen = list(in_threads(lambda part: (part, torch.get_num_threads()), range(9)))
    assert seen == [(part, 1) for part in range(9)]
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda part: 1 / part, [1, 0, 2]))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("changes", [{}, {"micro_batch": 5}], ids=["whole", "in parts"])
def test_the_gradient_of_parts_in_threads_is_that_of_the_batch(
    workspace: Workspace, params: Params, changes: dict[str, Any]
) -> None:
    assert takes_threads(tasks.load(params), fresh_model(workspace), params.train)
    one, two = learnt(workspace, params, 1), learnt(workspace, params, 2, **changes)
    torch.testing.assert_close(two, one)


def test_two_trainings_in_threads_have_the_same_bits(workspace: Workspace, params: Params) -> None:
    several = tuned(params, threads=2, epochs=2, sharpness=0.05)
    first, second = (fitted(workspace, several) for _ in range(2))
    assert first[2] == second[2]
    assert all(torch.equal(value, second[0][name]) for name, value in first[0].items())


@pytest.mark.parametrize("kind", [*FROM_ZERO, *AFTER_PADDING])
def test_in_a_thread_all_random_numbers_are_its_own(kind: str) -> None:
    """Or what comes out would depend on which thread is the first to draw."""
    changes = {name: 0.5 for name in model_of(kind).config.to_dict() if name.endswith(("dropout", "dropout_prob"))}
    model = with_quick_layers(model_of(kind, **changes)).train()
    before = torch.get_rng_state()
    with drawn_from(1):
        one = last_states(model, **batch(model))
    assert torch.equal(torch.get_rng_state(), before)
    with drawn_from(1):
        torch.testing.assert_close(last_states(model, **batch(model)), one, atol=0, rtol=0)
    with drawn_from(2):
        assert not torch.equal(last_states(model, **batch(model)), one)
        last_states(model, **{name: values[1:2, :19] for name, values in batch(model).items()})  # of one row too
    assert torch.equal(torch.get_rng_state(), before)


def test_where_another_draws_or_the_loss_compares_rows_a_batch_stays_whole(
    workspace: Workspace, params: Params
) -> None:
    task, model = tasks.load(params), fresh_model(workspace)
    assert not takes_threads(task, TokenLoss(masked_model()), params.train)
    assert not takes_threads(task, model, tuned(params, lora={"rank": 2, "alpha": 4}).train)
    torch.set_num_threads(1)
    assert not takes_threads(task, model, params.train)


def masked_model() -> Any:
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return transformers.BertForMaskedLM(config)


def test_a_language_model_may_be_asked_in_several_threads() -> None:
    """Each has labelled tokens of its own."""
    model = TokenLoss(masked_model()).eval()
    ids = torch.arange(60).view(4, 15) % 50
    parts = [ids.where(torch.rand(ids.shape) < share, -100) for share in (0.1, 0.5, 0.9)] * 8

    def ask(labels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            said: torch.Tensor = model(labels=labels, input_ids=ids, attention_mask=torch.ones_like(ids))
        return said

    wanted = [ask(labels) for labels in parts]
    for one, other in zip(in_threads(ask, parts), wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_embeddings_do_not_depend_on_the_number_of_threads(workspace: Workspace) -> None:
    base, examples = workspace.root / "base-models" / "tiny", examples_of(workspace, TRAIN)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(kept_embeddings(base, [examples], None)[0])
    assert numpy.array_equal(found[0], found[1]) and numpy.array_equal(found[0], found[2])


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 5))
def test_a_batch_is_parted_whole_and_evenly(lengths: list[int], count: int) -> None:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    parts = parted(Batch({"attention_mask": mask}, torch.arange(len(lengths))), count)
    assert sorted(torch.cat([part.targets for part in parts]).tolist()) == list(range(len(lengths)))
    tokens = [int(part.inputs["attention_mask"].sum()) for part in parts]
    assert len(parts) == min(count, len(lengths)) and max(tokens) - min(tokens) <= max(lengths)


def test_rows_of_the_embedding_are_brought_up_to_date_once_before_threads_read_them(
    workspace: Workspace, params: Params
) -> None:
    """Steps in threads leave the weights that steps in one leave."""
    ends = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(3)
        task, model, options = tasks.load(params), fresh_model(workspace), tuned(params, learning_rate=1e-4).train
        optimizer, examples = make_optimizer(model, options), examples_of(workspace, TRAIN)
        for start in range(0, 60, 6):
            places = [place % len(examples) for place in range(start, start + 6)]
            train_step(task, model, optimizer, task.batch(examples, places, numpy.random.default_rng(0)), options)
        optimizer.settle()
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, atol=1e-4, rtol=1e-3)


@given(st.lists(st.integers(0, 60), max_size=30), st.integers(1, 4))
def test_each_tensor_is_in_one_list_and_no_list_is_much_longer_than_the_others(sizes: list[int], number: int) -> None:
    torch.set_num_threads(number)
    lists = by_lists(list, [torch.empty(size) for size in sizes])
    assert sorted(place for places in lists for place in places) == list(range(len(sizes)))
    sums = [sum(sizes[place] for place in places) for places in lists]
    assert max(sums) - min(sums) <= max(sizes, default=0)
    assert all(lists) or len(lists) == 1
    torch.set_num_threads(2)


def test_small_tensors_are_not_worth_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("staytuned.modelling.threads.FEW", 100)
    assert by_lists(list, [torch.empty(size) for size in (49, 50)]) == [[0, 1]]
    assert len(by_lists(list, [torch.empty(size) for size in (50, 51)])) == 2


def test_apart_operations_take_one_thread_and_parts_as_many_as_before() -> None:
    with apart():
        assert (torch.get_num_threads(), count()) == (1, 2)
        threads = {*in_threads(lambda _: threading.get_ident(), range(50)), threading.get_ident()}
        assert len(threads) > 1
        assert (torch.get_num_threads(), count()) == (1, 2)
    assert (torch.get_num_threads(), count()) == (2, 2)


def test_a_step_shares_no_operation_between_threads(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside another program, one that does takes several times as long."""
    seen = set[tuple[str, int]]()

    def watched(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            seen.add((name, torch.get_num_threads()))
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    for module, name in ((adamw, "adamw"), (adamw.AdamW, "_make_up"), (torch.nn.utils, "get_total_norm")):
        watched(module, name)
    task, model, options = tasks.load(params), fresh_model(workspace), tuned(params, sharpness=0.05).train
    optimizer = make_optimizer(model, options)
    examples = examples_of(workspace, TRAIN)
    for start in (0, 4):
        drawn = task.batch(examples, list(range(start, start + 13)), numpy.random.default_rng(0))
        train_step(task, model, optimizer, drawn, options)
    assert seen == {("adamw", 1), ("_make_up", 1), ("get_total_norm", 1)}


@pytest.mark.parametrize("limit", [1e-3, 1e3], ids=["above the limit", "below it"])
def test_gradients_are_clipped_as_torch_clips_them(limit: float) -> None:
    ours, theirs = ([torch.nn.Parameter(torch.zeros(size)) for size in (7, 300, 2, 41)] for _ in range(2))
    for one, other in zip(ours, theirs, strict=True):
        one.grad = torch.randn(one.shape)
        other.grad = one.grad.clone()
    clip(ours, limit)
    torch.nn.utils.clip_grad_norm_(theirs, limit)
    torch.testing.assert_close([one.grad for one in ours], [other.grad for other in theirs])
