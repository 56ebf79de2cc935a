"""AdamW whose rows make up for their steps: torch's own AdamW up to rounding, whenever they are read."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM, BertModel

from staytuned.training import adamw
from staytuned.training.adamw import AdamW, sparse_embeddings

WORDS, WIDTH = 30, 4


class Bag(torch.nn.Module):
    """The sum of some words, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(WORDS, WIDTH)
        self.layer = torch.nn.Linear(WIDTH, 2)

    def forward(self, ids: list[int]) -> torch.Tensor:
        return self.layer(self.words(torch.tensor(ids)).sum(dim=0)).square().sum()


class Side:
    """A model that learns, with a rate that falls."""

    def __init__(self, model: Bag, sparse: bool, steps: int) -> None:
        self.model = model
        model.words.sparse = sparse
        groups = [{"params": list(model.parameters()), "lr": 1e-2, "weight_decay": 0.1}]
        self.optimizer = AdamW(groups, [model.words]) if sparse else torch.optim.AdamW(groups, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / (steps + 1))

    def step(self, ids: list[int]) -> float:
        self.optimizer.zero_grad()
        loss = self.model(ids)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return float(loss)


Batches = st.lists(st.lists(st.integers(0, WORDS - 1), min_size=1, max_size=4), min_size=1, max_size=40)


@settings(deadline=None, max_examples=40)
@given(batches=Batches, sweep=st.sampled_from([3, 50]), reads=st.sets(st.integers(0, 39), max_size=3))
def test_rows_are_what_torch_makes_of_them_whenever_they_are_read(
    batches: list[list[int]], sweep: int, reads: set[int]
) -> None:
    model = Bag()
    ours, torchs = (Side(copy.deepcopy(model), sparse, len(batches)) for sparse in (True, False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adamw, "SWEEP", sweep)
        for number, ids in enumerate(batches):
            assert ours.step(ids) == pytest.approx(torchs.step(ids), abs=1e-5)
            if number in reads:
                some = torch.arange(number % 3, WORDS, 3)
                torch.testing.assert_close(ours.model.words(some), torchs.model.words(some))
    ours.optimizer.settle()
    for one, other in zip(ours.model.parameters(), torchs.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(ours.optimizer.state[one][name], torchs.optimizer.state[other][name])


def test_rows_that_momentum_no_longer_moves_decay_as_they_would_have() -> None:
    steps = adamw.STILL + 2 * adamw.SWEEP
    ours, torchs = (Side(Bag(), sparse, steps) for sparse in (True, False))
    for step in range(steps):
        for side in (ours, torchs):
            side.step([0, 1] if step < 3 else [2 + step % 5])
    behind = ours.model.words.weight.detach().clone()
    ours.optimizer.settle()
    assert not torch.equal(behind, ours.model.words.weight)
    torch.testing.assert_close(ours.model.words.weight, torchs.model.words.weight, atol=2e-6, rtol=1e-6)


def test_a_saved_optimizer_goes_on_with_the_same_bits() -> None:
    batches = [[number % 7, number * number % WORDS] for number in range(80)]
    whole = Side(Bag(), True, len(batches))
    for ids in batches:
        whole.step(ids)
    first = Side(Bag(), True, len(batches))
    for ids in batches[:61]:  # rows are behind
        first.step(ids)
    second = Side(Bag(), True, len(batches))
    second.model.load_state_dict(first.model.state_dict())
    saved = first.optimizer.state_dict()
    (table,) = (state for state in saved["state"].values() if "rows" in state)
    assert table["rows"].tolist() == sorted({word for ids in batches[:61] for word in ids})  # of the others nothing
    assert len(table["exp_avg"]) == len(table["exp_avg_sq"]) == len(table["rows"]) < WORDS
    saved["param_groups"] = json.loads(json.dumps(saved["param_groups"]))
    second.optimizer.load_state_dict(saved)
    second.schedule.load_state_dict(first.schedule.state_dict())
    for ids in batches[61:]:
        second.step(ids)
    for side in (whole, second):
        side.optimizer.settle()
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_only_a_table_that_no_other_layer_reads_has_sparse_gradients() -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    alone, tied = BertModel(BertConfig(**shape)), BertForMaskedLM(BertConfig(**shape))
    assert sparse_embeddings(alone) == [alone.get_input_embeddings()]
    assert sparse_embeddings(tied) == []
    both = torch.nn.ModuleList([alone, BertModel(BertConfig(**shape))])
    assert sparse_embeddings(both) == [alone.get_input_embeddings()]
    alone.requires_grad_(False)
    assert sparse_embeddings(alone) == []
