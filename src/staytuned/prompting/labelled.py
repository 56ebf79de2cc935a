"""The labelled rows that a method may look at."""

from dataclasses import dataclass

import numpy


@dataclass(frozen=True)
class Labelled:
    """Texts, the class number of each, and the names of all classes."""

    texts: list[str]
    numbers: numpy.ndarray
    classes: list[str]

    def few(self, count: int, seed: int) -> "Labelled":
        """``count`` rows of each class, or all where it has fewer; the seed decides which.

        Those of a smaller count are among those of a larger one.
        """
        order = numpy.random.default_rng(seed).permutation(len(self.texts))
        chosen = [order[self.numbers[order] == number][:count] for number in range(len(self.classes))]
        places = numpy.sort(numpy.concatenate(chosen))
        return Labelled([self.texts[place] for place in places], self.numbers[places], self.classes)
