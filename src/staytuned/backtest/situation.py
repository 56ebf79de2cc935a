"""What the triggers are told at an arrival of a backtest: the same that the drift stage finds."""

from typing import Any, NamedTuple

import numpy
import pandas

from staytuned.backtest.history import History, Version, model_of, predict
from staytuned.data.sides import TEST
from staytuned.drift.answers import Said, answered
from staytuned.drift.rows import newest
from staytuned.drift.triggers import Situation, estimated, measured
from staytuned.stages.drift import empty_report, look, measure_sizes


class Trained(NamedTuple):
    """What is remembered of each training; the weights of all would not fit into memory after some hundred arrivals."""

    arrival: int
    tokens: int


def situation_of(
    history: History, champion: Version, alarms: list[bool], trained: list[Trained], arrival: int
) -> Situation:
    """What is known when ``arrival`` has come; there is no clock in a backtest, so the model's age is not.

    Args:
        history: All rows.
        champion: That the new rows are held against.
        alarms: Of its earlier windows.
        trained: All trainings so far.
        arrival: The last that has come.
    """
    report = look_at(history, champion, arrival)
    last = trained[-1]
    came = history.everything["arrival"]
    return Situation(
        champion=champion.number,
        age=None,
        new_rows=int(came.between(last.arrival + 1, arrival).sum()),
        tried_rows=int(came.between(champion.arrival + 1, last.arrival).sum()),
        alarms=(*alarms, *([report["alarm"]] if report["enough"] else [])),
        measured=measured(report) if report["enough"] else None,
        estimated=estimated(report) if report["enough"] else None,
        cost=last.tokens,
        spent=sum(training.tokens for training in trained),
    )


def look_at(history: History, champion: Version, arrival: int) -> dict[str, Any]:
    """The report of the drift stage on the rows that have come since the champion was trained."""
    rows, options = history.everything, history.params.drift
    known, new = rows["arrival"] <= champion.arrival, rows["arrival"].between(champion.arrival + 1, arrival)
    places = [
        rows.index[here][newest(rows["group"][here], limit)]
        for here, limit in ((known, options.reference), (new, options.window))
    ]
    reference, window = (rows.loc[here].reset_index(drop=True) for here in places)
    report = empty_report(champion.number, history.task.metrics[0])
    measure_sizes(report, reference, window)
    if report["enough"]:
        model = model_of(history, history.params.train, champion)

        def say(frame: pandas.DataFrame) -> Said:
            rows = frame.reset_index(drop=True)
            return answered(history.task, predict(history, model, rows), rows)

        vectors = history.vectors[numpy.concatenate(places)]
        trained_on = set(rows["group"][known & (rows["side"] != TEST)])
        of_reference, of_window = (frame["group"].isin(trained_on).to_numpy() for frame in (reference, window))
        look(history.params, history.task, reference, window, (~of_reference, ~of_window), vectors, say, report)
    return report
