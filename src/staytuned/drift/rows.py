"""Which rows are compared: the reference, out of the champion's batches, and the window, out of those since."""

import pandas
import pyarrow
import pyarrow.parquet

from staytuned.data.sides import KEPT_OUT, lots
from staytuned.sections import Drift
from staytuned.workspace import Workspace

LEAST = {"reference": 20, "window": 5}  # groups: 53,130 ways to draw 5 of 25; of fewer, one group decides


def reference_and_window(
    workspace: Workspace, known: list[str], options: Drift
) -> tuple[pandas.DataFrame, pandas.DataFrame, pandas.DataFrame, int]:
    """The newest rows of the champion's batches and the newest of later ones, in the order of arrival; and their lots.

    Of both whole groups, as of the split, and rows of all its sides: what the base model and the labels say of a row
    does not depend on who was trained on it. Rows that were kept out of the sides are left out. The third are all rows
    that are asked about together with one of these, themselves too, with the number of their ``lot``. The last
    is how many rows there are of later batches.

    Args:
        workspace: With accepted rows and their split.
        known: The champion's batches, the first 16 digits of each.
        options: How many rows.
    """
    table = pyarrow.parquet.read_table(workspace.accepted)
    split = pyarrow.parquet.read_table(workspace.split, columns=["side", "group"]).to_pandas()
    arrived = {name: table[name].to_pandas() for name in ("batch", "source")}
    split = split.assign(**arrived)[split["side"] != KEPT_OUT]
    is_known = split["batch"].isin(known)
    chosen = []
    for here, limit in ((is_known, options.reference), (~is_known, options.window)):
        groups = split["group"][here]
        chosen.append(groups[newest(groups, limit)])
    lot = lots(split)
    together = lot[lot.isin(lot[pandas.concat(chosen).index])]
    return _taken(table, chosen[0]), _taken(table, chosen[1]), _taken(table, together), int((~is_known).sum())


def _taken(table: pyarrow.Table, column: pandas.Series) -> pandas.DataFrame:
    """The rows whose places are the index of a column, with that column."""
    frame: pandas.DataFrame = table.take(pyarrow.array(column.index)).to_pandas()
    return frame.assign(**{str(column.name): column.to_numpy()})


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
