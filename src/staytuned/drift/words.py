"""Which words tell two sets of texts apart, for people to look at."""

from collections import Counter
from collections.abc import Iterable

import numpy

from staytuned.drift.views import words_in

PRIOR = 500.0  # words that the two sets are thought to share beforehand


def telling_words(reference: Iterable[str], window: Iterable[str], most: int) -> tuple[list[str], list[str]]:
    """The words that the window has more of than the reference, and those it has less of, the most telling first.

    By the log-odds ratio with a Dirichlet prior of all words, in standard deviations (Monroe, Colaresi & Quinn 2008,
    section 3.5.1).
    """
    counts = [
        Counter(word for text in texts for word in words_in(text) if word[0].isalnum()) for texts in (reference, window)
    ]
    names = sorted(set().union(*counts))
    if not names:
        return [], []
    old, new = (numpy.array([count[name] for name in names], float) for count in counts)
    prior = PRIOR * (old + new) / (old + new).sum()
    odds = [numpy.log((part + prior) / (part.sum() + PRIOR - part - prior)) for part in (old, new)]
    score = (odds[1] - odds[0]) / numpy.sqrt(1 / (old + prior) + 1 / (new + prior))
    order = score.argsort(kind="stable")
    more = [names[place] for place in order[::-1][:most] if score[place] > 0]
    less = [names[place] for place in order[:most] if score[place] < 0]
    return more, less
