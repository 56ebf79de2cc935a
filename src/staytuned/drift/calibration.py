"""Thresholds by resampling whole groups: what the checks say where nothing drifted."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy

Statistic = Callable[[numpy.ndarray, numpy.ndarray, numpy.ndarray], numpy.ndarray]


@dataclass(frozen=True)
class Check:
    """One view of the rows of reference and window, and the statistic that compares the two."""

    title: str
    statistic: Statistic
    values: numpy.ndarray  # one a row, or a word
    groups: numpy.ndarray  # number of the group that each belongs to


@dataclass(frozen=True)
class Verdict:
    """What became of one check."""

    value: float
    threshold: float | None  # from which on it gives the alarm; None: no value of it can, on so few groups
    p: float  # how often it is at least so large where nothing drifted
    alarm: bool


def partings(rows: numpy.ndarray, window: numpy.ndarray, apart: numpy.ndarray, draws: int, seed: int) -> numpy.ndarray:
    """The window as it is, then windows of as many rows, of whole groups drawn from window and reference together.

    Where nothing drifted the groups could stand in any order, so that the first parting is one like the others: the
    permutation test, exact however few groups there are (Lehmann & Romano 2005, section 15.2).

    Args:
        rows: How many there are in each group.
        window: Which groups are in the window, shape (groups,).
        apart: Which groups change places among themselves alone, those of which less is known than of the others: of
            either kind the window has as many rows in each parting.
        draws: How many windows to draw.
        seed: Of the random order.

    Returns:
        Which groups are in the window, shape (1 + draws, groups).
    """
    random = numpy.random.default_rng(seed)
    drawn = numpy.zeros((draws, len(rows)), bool)
    for kind in (~apart, apart):
        if not (kind & window).any():
            continue
        order = random.permuted(numpy.tile(numpy.flatnonzero(kind), (draws, 1)), axis=1)
        sizes = rows[order]
        within = sizes.cumsum(axis=1) - sizes / 2 <= rows[kind & window].sum()  # the group at the edge, if most fits
        within[:, -1], within[:, 0] = False, True
        numpy.put_along_axis(drawn, order, within, axis=1)
    return numpy.concatenate([window[None], drawn])


def judge(checks: dict[str, Check], windows: numpy.ndarray, level: float) -> tuple[dict[str, Verdict], bool]:
    """What each check says of the window, and whether they say together that something drifted.

    The trigger is the smallest p of all checks, compared with the smallest p of each window that was drawn (Westfall &
    Young 1993, section 2.3): however much the checks overlap, it is wrong as often as ``level`` says. Of windows with
    the same smallest p, which are many, the one whose second is smaller goes first, and so on.

    Args:
        checks: By name.
        windows: From ``partings``.
        level: Share of false alarms.
    """
    table = numpy.stack([check.statistic(check.values, check.groups, windows) for check in checks.values()])
    p = numpy.stack([_tail(row) for row in table])
    smallest_first = numpy.sort(p, axis=0).T
    _, place, counts = numpy.unique(smallest_first, axis=0, return_inverse=True, return_counts=True)
    alarming = counts.cumsum()[place.ravel()] <= level * len(place.ravel())
    bound = smallest_first[alarming, 0].max(initial=0.0)
    found = {}
    for name, row, tail in zip(checks, table, p, strict=True):
        beyond = row[tail <= bound]
        threshold = float(beyond.min()) if len(beyond) else None
        found[name] = Verdict(float(row[0]), threshold, float(tail[0]), bool(alarming[0] and tail[0] <= bound))
    return found, bool(alarming[0])


def _tail(values: numpy.ndarray) -> numpy.ndarray:
    """Of each value: the share of all that are at least so large."""
    below = numpy.searchsorted(numpy.sort(values), values, "left")
    share: numpy.ndarray = 1 - below / len(values)
    return share
