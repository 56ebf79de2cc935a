"""The order in which training takes the examples."""

import numpy

WINDOW = 16  # batches that are shuffled together before they are sorted by length


def shuffled_batches(lengths: numpy.ndarray, size: int, seed: list[int]) -> list[list[int]]:
    """All examples once, in random batches of ``size`` with little padding.

    They are shuffled, sorted by length within windows of ``WINDOW`` batches, cut, and the batches shuffled.
    """
    random = numpy.random.default_rng(seed)
    order = random.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), size * WINDOW):
        window = order[start : start + size * WINDOW]
        window = window[numpy.argsort(lengths[window], kind="stable")]
        batches += [window[i : i + size].tolist() for i in range(0, len(window), size)]
    return [batches[place] for place in random.permutation(len(batches))]
