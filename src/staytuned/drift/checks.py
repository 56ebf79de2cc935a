"""Statistics of two samples, of many partings of the same rows at once; bigger means more drift.

Each is a pure function of what the rows hold, of the group (document) of each, and of partings: of shape
(partings, groups), true where a group is in the window; the other groups are the reference. It gives a number for each
parting. What is dear is done once for all partings, by sums over groups.
"""

from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FOLDS = 5
PENALTY = 0.02  # of the ridge, for each row: of the size of the variances of embeddings, which are of length 1


def kolmogorov_smirnov(values: numpy.ndarray, groups: numpy.ndarray, windows: numpy.ndarray) -> numpy.ndarray:
    """The largest distance of the two distributions of a number (Smirnov 1948)."""
    inside, outside = _shares(values, groups, windows)
    distance: numpy.ndarray = numpy.abs((inside - outside).cumsum(axis=1)).max(axis=1)
    return distance


def total_variation(values: numpy.ndarray, groups: numpy.ndarray, windows: numpy.ndarray) -> numpy.ndarray:
    """Half the sum of the differences of the shares of each name: what share would have to change."""
    inside, outside = _shares(values, groups, windows)
    distance: numpy.ndarray = numpy.abs(inside - outside).sum(axis=1) / 2
    return distance


def _shares(values: numpy.ndarray, groups: numpy.ndarray, windows: numpy.ndarray) -> tuple[numpy.ndarray, ...]:
    """Share of each distinct value, in their order, among the rows of the window and the others."""
    counts = _counts(values, groups, windows.shape[1])
    inside = windows @ counts
    outside = counts.sum(axis=0) - inside
    one, other = (part / numpy.maximum(part.sum(axis=1, keepdims=True), 1) for part in (inside, outside))
    return one, other


def _counts(values: numpy.ndarray, groups: numpy.ndarray, count: int) -> "csr_array":
    """How often each distinct value is in each group."""
    from scipy.sparse import csr_array  # a run without a champion has no use for it

    distinct, number = numpy.unique(values, return_inverse=True)
    ones = numpy.ones(len(values))
    return csr_array((ones, (groups, number)), shape=(count, len(distinct)))


def unknown_words(words: numpy.ndarray, groups: numpy.ndarray, windows: numpy.ndarray) -> numpy.ndarray:
    """Share of the window's words that the reference lacks, above what any new group brings.

    What any brings is seen in the reference itself: the share of its words that no other of its groups has. So the
    difference is nought on average where nothing drifts, however large the reference is.

    Args:
        words: Each word of each row, one after the other.
        groups: The group of each of them.
        windows: The partings.
    """
    counts = _counts(words, groups, windows.shape[1])
    inside = windows @ counts
    outside = counts.sum(axis=0) - inside
    having = (~windows).astype(float) @ (counts > 0).astype(float)  # groups of the reference, by word
    unknown = (inside * (having == 0)).sum(axis=1) / numpy.maximum(inside.sum(axis=1), 1)
    usual = (outside * (having == 1)).sum(axis=1) / numpy.maximum(outside.sum(axis=1), 1)
    excess: numpy.ndarray = unknown - usual
    return excess


def mean_discrepancy(vectors: numpy.ndarray, groups: numpy.ndarray, windows: numpy.ndarray) -> numpy.ndarray:
    """Maximum mean discrepancy of embeddings (Gretton et al. 2012, equation 5: the biased one), its root.

    The kernel is Gaussian, as wide as the median distance of two rows (section 8).
    """
    kernel = numpy.maximum(_distances(vectors), 0)
    width = numpy.median(kernel[numpy.triu_indices(len(kernel), k=1)]) or 1.0
    numpy.exp(kernel / (-2 * width), out=kernel)
    member = _members(groups, windows.shape[1])
    between = member @ (member @ kernel).T  # sums of the kernel over pairs of groups
    inside = windows.astype(float)
    product = inside @ between
    both, one = (product * inside).sum(axis=1), product.sum(axis=1)
    neither, across = between.sum() - 2 * one + both, one - both
    rows = inside @ member.sum(axis=1)
    others = numpy.maximum(len(groups) - rows, 1)
    rows = numpy.maximum(rows, 1)
    squared = both / rows**2 + neither / others**2 - 2 * across / (rows * others)
    root: numpy.ndarray = numpy.sqrt(numpy.maximum(squared, 0))
    return root


def _distances(vectors: numpy.ndarray) -> numpy.ndarray:
    """Squared distance of each pair of rows."""
    lengths = (vectors**2).sum(axis=1)
    squared: numpy.ndarray = lengths[:, None] + lengths - 2 * vectors @ vectors.T
    return squared


def domain_classifier(vectors: numpy.ndarray, groups: numpy.ndarray, windows: numpy.ndarray) -> numpy.ndarray:
    """How well unseen rows of the window can be told from unseen others: area under the ROC curve, less a half.

    A classifier two-sample test (Lopez-Paz & Oquab 2017), with ridge regression, on ``domain_scores``.
    """
    mixed = numpy.random.default_rng(0).permutation(len(groups))  # equal scores must favour no part
    order = mixed[domain_scores(vectors, groups, windows)[:, mixed].argsort(axis=1)]
    member = numpy.take_along_axis(windows, groups[order], axis=1)
    rows = member.sum(axis=1)
    pairs = numpy.maximum(rows * (len(groups) - rows), 1)
    ranks = member @ numpy.arange(1.0, len(groups) + 1)
    area: numpy.ndarray = (ranks - rows * (rows + 1) / 2) / pairs - 0.5
    return area


def domain_scores(vectors: numpy.ndarray, groups: numpy.ndarray, windows: numpy.ndarray) -> numpy.ndarray:
    """How much each row is like the window, by a classifier that saw no row of its group, shape (partings, rows).

    The classifier is a ridge regression of membership on embeddings, cross-validated with the same folds of groups for
    all partings: then one system of equations a fold serves them all.
    """
    inside, fold = windows.T.astype(vectors.dtype), _folds(groups, windows.shape[1])
    scores = numpy.zeros((len(groups), len(windows)), vectors.dtype)
    for number in range(FOLDS):
        held = fold == number
        if not held.any() or held.all():
            continue
        middle = vectors[~held].mean(axis=0)
        centred = vectors[~held] - middle
        square = centred.T @ centred
        square.flat[:: len(square) + 1] += PENALTY * len(centred)
        sums = _members(groups[~held], windows.shape[1]) @ centred
        weights = numpy.linalg.solve(square, sums.T @ inside)
        scores[held] = (vectors[held] - middle) @ weights
    return scores.T


def _members(groups: numpy.ndarray, count: int) -> "csr_array":
    """1 where a row is of a group, shape (groups, rows)."""
    from scipy.sparse import csr_array

    ones = numpy.ones(len(groups), numpy.float32)
    return csr_array((ones, (groups, numpy.arange(len(groups)))), shape=(count, len(groups)))


def _folds(groups: numpy.ndarray, count: int) -> numpy.ndarray:
    """The fold of each row: whole groups in a fixed random order, cut into parts of like many rows."""
    order = numpy.random.default_rng(0).permutation(count)
    rows = numpy.bincount(groups, minlength=count)[order]
    before = rows.cumsum() - rows
    fold = numpy.empty(count, int)
    fold[order] = before * FOLDS // max(1, len(groups))
    of_row: numpy.ndarray = fold[groups]
    return of_row
