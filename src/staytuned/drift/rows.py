"""Which rows are compared: the reference, out of the champion's batches, and the window, out of those since."""

import pandas
import pyarrow
import pyarrow.parquet

from staytuned.data.sides import KEPT_OUT
from staytuned.sections import Drift
from staytuned.workspace import Workspace

LEAST = {"reference": 20, "window": 5}  # groups: 53,130 ways to draw 5 of 25; of fewer, one group decides


def reference_and_window(
    workspace: Workspace, known: list[str], options: Drift
) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """The newest rows of the champion's batches and the newest of later ones, in the order of arrival.

    Of both whole groups, as of the split, and rows of all its sides: what the base model and the labels say of a row
    does not depend on who was trained on it. Rows that were kept out of the sides are left out.

    Args:
        workspace: With accepted rows and their split.
        known: The champion's batches, the first 16 digits of each.
        options: How many rows.
    """
    table = pyarrow.parquet.read_table(workspace.accepted)
    split = pyarrow.parquet.read_table(workspace.split, columns=["side", "group"]).to_pandas()
    is_known = table["batch"].to_pandas().isin(known)
    found = []
    for here, limit in ((is_known, options.reference), (~is_known, options.window)):
        groups = split["group"][here & (split["side"] != KEPT_OUT)]
        places = groups.index[newest(groups, limit)]
        frame = table.take(pyarrow.array(places)).to_pandas()
        found.append(frame.assign(group=groups[places].to_numpy()))
    return found[0], found[1]


def newest(groups: pandas.Series, limit: int) -> pandas.Series:
    """Which rows are of the newest whole groups, up to ``limit`` rows; a group that is larger than that is passed over.

    The newest group is the one with the newest row.
    """
    sizes, taken, rows = groups.value_counts(), set[str](), 0
    for group in groups.iloc[::-1].drop_duplicates():
        if rows + sizes[group] <= limit:
            taken.add(group)
            rows += sizes[group]
        elif taken:
            break
    return groups.isin(taken)
