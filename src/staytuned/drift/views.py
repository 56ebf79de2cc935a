"""What the checks look at, and which checks there are."""

from dataclasses import dataclass

import numpy
import pandas
import regex  # type: ignore[import-untyped]

from staytuned.drift import checks
from staytuned.drift.calibration import Check
from staytuned.modelling.words import WORD

WORDS = regex.compile(WORD)


@dataclass(frozen=True)
class Answers:
    """What the champion said of rows whose groups it was not trained on."""

    places: numpy.ndarray  # of these rows
    names: numpy.ndarray
    confidence: numpy.ndarray  # probability of each


@dataclass(frozen=True)
class Compared:
    """Rows of the reference, then those of the window, and what is known of each."""

    frame: pandas.DataFrame
    in_window: numpy.ndarray
    vectors: numpy.ndarray  # embeddings of the texts
    labelled: bool  # with labels out of a closed set
    answers: Answers | None = None  # None: there are too few rows to ask for, or the task has none that compare

    @property
    def groups(self) -> numpy.ndarray:
        """The number of each row's group; one that is in reference and window counts as two."""
        side = pandas.Series(self.in_window, self.frame.index).map({True: " window", False: " reference"})
        numbers: numpy.ndarray = pandas.factorize(self.frame["group"] + side)[0]
        return numbers


def texts_of(frame: pandas.DataFrame) -> list[str]:
    """What is read of each row: its text, and the second one, if there are two."""
    pairs = zip(frame["text"], frame["text_pair"], strict=True)
    return [text if pair is None or pandas.isna(pair) else f"{text}\n{pair}" for text, pair in pairs]


def words_in(text: str) -> list[str]:
    """The words of a text without case, as often as they stand there."""
    found: list[str] = WORDS.findall(text.casefold())
    return found


def checks_of(rows: Compared) -> dict[str, Check]:
    """All checks that the rows allow, by name."""
    groups, texts = rows.groups, texts_of(rows.frame)
    words = [words_in(text) for text in texts]
    every_word = numpy.array([word for text in words for word in text])
    groups_of_words = numpy.repeat(groups, [len(text) for text in words])
    lengths = numpy.array([len(text) for text in texts])
    found = {
        "domain_classifier": Check("told apart by a classifier", checks.domain_classifier, rows.vectors, groups),
        "embeddings": Check("meaning of the texts", checks.mean_discrepancy, rows.vectors, groups),
        "text_length": Check("length of the texts", checks.kolmogorov_smirnov, lengths, groups),
        "unknown_words": Check("unknown words", checks.unknown_words, every_word, groups_of_words),
    }
    if rows.labelled:
        has = rows.frame["label"].notna().to_numpy()
        labels = numpy.array(rows.frame["label"][has].tolist(), str)  # to_numpy(str) would cut them
        found["labels"] = Check("shares of the labels", checks.total_variation, labels, groups[has])
    if rows.answers:
        theirs = groups[rows.answers.places]
        found["answers"] = Check("shares of the answers", checks.total_variation, rows.answers.names, theirs)
        found["confidence"] = Check(
            "confidence of the answers", checks.kolmogorov_smirnov, rows.answers.confidence, theirs
        )
    return found
