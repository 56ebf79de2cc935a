"""Which test rows judge: of a large source a sample, which new rows join and none leaves."""

import random

import pandas
from hypothesis import given
from hypothesis import strategies as st

from staytuned.data.sides import TEST, that_judge, with_lots

lots_of_sources = st.lists(st.tuples(st.sampled_from(["film", "tweet"]), st.integers(1, 16)), min_size=1, max_size=200)


def frame_of(lots: list[tuple[str, int]]) -> pandas.DataFrame:
    """Lots of so many rows of a source; a lot's first row has a name that stays when lots are added."""
    names = [f"{source} {number}" for number, (source, _) in enumerate(lots)]
    rows = [(number, source, place) for number, (source, count) in enumerate(lots) for place in range(count)]
    return pandas.DataFrame(
        {
            "row": [f"{names[number]} {place}" for number, _, place in rows],
            "source": [source for _, source, _ in rows],
            "lot": [number for number, _, _ in rows],
        }
    )


@given(lots_of_sources, st.integers(1, 1000))
def test_a_source_that_is_small_enough_judges_whole_and_of_another_whole_lots_do(
    lots: list[tuple[str, int]], most: int
) -> None:
    frame = frame_of(lots)
    frame["judges"] = that_judge(frame, most)
    assert (frame.groupby("lot")["judges"].nunique() == 1).all()
    for _, of_source in frame.groupby("source"):
        assert of_source["judges"].all() or len(of_source) > most
        assert of_source["judges"].any()


@given(lots_of_sources)
def test_without_a_limit_all_judge(lots: list[tuple[str, int]]) -> None:
    assert that_judge(frame_of(lots), None).all()


@given(lots_of_sources, lots_of_sources, st.integers(1, 1000))
def test_none_joins_again_and_none_leaves_until_there_are_too_many(
    lots: list[tuple[str, int]], later: list[tuple[str, int]], most: int
) -> None:
    whole = frame_of([*lots, *later])
    whole["after"] = that_judge(whole, most)
    old = frame_of(lots)
    old["before"], old["after"] = that_judge(old, most), whole["after"][: len(old)]
    assert not (old["after"] & ~old["before"]).any()
    for source, of_source in old.groupby("source"):
        if (of_source["before"] & ~of_source["after"]).any():
            here = whole[whole["source"] == source]
            assert of_source["before"].sum() + len(here[here["lot"] >= len(lots)]) > most


def test_a_small_source_in_a_batch_of_a_large_one_judges_whole() -> None:
    sources = ["film"] * 5000 + ["tweet"] * 300
    random.Random(7).shuffle(sources)
    names = [f"row {number}" for number in range(len(sources))]
    rows = pandas.DataFrame({"row": names, "group": names, "batch": "one", "source": sources})
    judges = that_judge(with_lots(rows, TEST), 2000)
    assert judges[rows["source"] == "tweet"].all()
    assert 1000 < judges[rows["source"] == "film"].sum() <= 2000


def test_it_is_the_same_in_every_run_and_of_many_lots_half_of_the_limit_at_least() -> None:
    frame = frame_of([("film", 16)] * 440)
    chosen = that_judge(frame, 2000)
    assert 1000 < chosen.sum() <= 2000
    assert sorted(set(frame["lot"][chosen]))[:5] == [6, 7, 9, 15, 19]
