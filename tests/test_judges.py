"""Which test rows judge: of a large source a sample, which new rows join and none leaves."""

import numpy
import pandas
from hypothesis import given
from hypothesis import strategies as st

from staytuned.data.sides import that_judge

sources = st.lists(st.tuples(st.sampled_from(["film", "tweet"]), st.integers(0, 300)), min_size=1, max_size=300)


def frame_of(rows: list[tuple[str, int]]) -> pandas.DataFrame:
    return pandas.DataFrame({"source": [source for source, _ in rows], "group": [f"{s} {g}" for s, g in rows]})


@given(sources, st.integers(1, 400))
def test_a_source_that_is_small_enough_judges_whole_and_of_another_whole_groups_do(
    rows: list[tuple[str, int]], most: int
) -> None:
    frame = frame_of(rows)
    frame["judges"] = that_judge(frame, most)
    for _, of_source in frame.groupby("source"):
        groups = of_source.groupby("group")["judges"]
        assert (groups.nunique() == 1).all()
        assert of_source["judges"].all() or len(of_source) > most
        assert of_source["judges"].any()


@given(sources, st.integers(1, 400))
def test_without_a_limit_all_judge_and_the_order_of_rows_decides_nothing(
    rows: list[tuple[str, int]], most: int
) -> None:
    frame = frame_of(rows)
    assert that_judge(frame, None).all()
    turned = that_judge(frame[::-1].reset_index(drop=True), most)
    assert numpy.array_equal(turned[::-1], that_judge(frame, most))


@given(sources, sources, st.integers(1, 400))
def test_of_those_that_judged_none_leaves_until_so_many_have_come_that_half_of_them_do(
    rows: list[tuple[str, int]], later: list[tuple[str, int]], most: int
) -> None:
    before, after = that_judge(frame_of(rows), most), that_judge(frame_of([*rows, *later]), most)
    frame = frame_of(rows).assign(before=before, after=after[: len(rows)])
    whole = frame_of([*rows, *later]).assign(after=after)
    assert not (frame["after"] & ~frame["before"]).any()
    for source, of_source in frame.groupby("source"):
        if not (of_source["before"] == of_source["after"]).all():
            left = of_source["group"][of_source["before"] & ~of_source["after"]]
            known = whole[(whole["source"] == source) & (whole["after"] | whole["group"].isin(left))]
            assert len(known) > most


def test_it_is_the_same_in_every_run_and_of_some_thousand_rows_half_of_the_limit_at_least() -> None:
    frame = frame_of([("film", number) for number in range(7000)])
    chosen = that_judge(frame, 2000)
    assert 1000 < chosen.sum() <= 2000
    assert chosen.nonzero()[0][:5].tolist() == [1, 6, 8, 11, 16]
