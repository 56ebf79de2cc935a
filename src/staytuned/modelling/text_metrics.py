"""Metrics of texts that were generated, as sums over rows."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy

BLEU = (
    10  # statistics of a row: n-grams of 1 to 4 words that match, and that there are; words said, and of the reference
)
ORDERS = 6  # of the character n-grams of chrF
# A run of letters and digits; where words are not parted by spaces, each character.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation; of Chinese and Japanese, characters."""
    return WORD.findall(text.lower())


def rouge(predictions: Sequence[str], references: Sequence[str]) -> numpy.ndarray:
    """ROUGE-1, -2 and -L, F-measure, shape (rows, 3), without stemming (Lin 2004; the package rouge-score).

    It knows only words of a to z and digits: other scripts score 0.
    """
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, use_stemmer=False)
    scores = [scorer.score(target, said) for said, target in zip(predictions, references, strict=True)]
    return numpy.array([[score[kind].fmeasure for kind in kinds] for score in scores]).reshape(-1, 3)


def bleu_statistics(predictions: Sequence[str], references: Sequence[str], tokenizer: str) -> numpy.ndarray:
    """What ``bleu`` is made of, shape (rows, BLEU), by sacrebleu's tokenizer of that name."""
    from sacrebleu.metrics.bleu import BLEU as SacreBleu

    metric = SacreBleu(tokenize=tokenizer, force=True)
    scores = [metric.corpus_score([said], [[target]]) for said, target in zip(predictions, references, strict=True)]
    rows = [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores]
    return numpy.array(rows, numpy.float64).reshape(-1, BLEU)


def bleu(sums: numpy.ndarray) -> numpy.ndarray:
    """Corpus BLEU as sacrebleu has it, 0 to 100, shape (...), from sums of statistics, shape (..., BLEU)."""
    from sacrebleu.metrics.bleu import BLEU as SacreBleu

    def one(values: numpy.ndarray) -> float:
        numbers = values.round().astype(int).tolist()
        score = SacreBleu.compute_bleu(numbers[:4], numbers[4:8], numbers[8], numbers[9], smooth_method="exp")
        return float(score.score)

    return numpy.apply_along_axis(one, -1, sums)


def chrf_statistics(predictions: Sequence[str], references: Sequence[str]) -> numpy.ndarray:
    """Of each length of character n-grams how many were said, are in the reference, match: shape (rows, 3 * ORDERS)."""
    rows = []
    for said, target in zip(predictions, references, strict=True):
        row: list[int] = []
        for order in range(1, ORDERS + 1):
            ours, theirs = _ngrams(said, order), _ngrams(target, order)
            total = theirs.total()
            row += [ours.total() if total else 0, total, (ours & theirs).total()]
        rows.append(row)
    return numpy.array(rows, numpy.float64).reshape(-1, 3 * ORDERS)


def _ngrams(text: str, order: int) -> Counter[str]:
    """Whitespace does not count."""
    text = "".join(text.split())
    return Counter(text[place : place + order] for place in range(len(text) - order + 1))


def chrf(sums: numpy.ndarray) -> numpy.ndarray:
    """chrF2 of a corpus (Popović 2015, as sacrebleu has it), 0 to 100, shape (...), from sums of statistics.

    Precision and recall are means over the lengths of n-grams that occur on both sides; recall counts twice.
    """
    said, wanted, match = numpy.moveaxis(sums.reshape(*sums.shape[:-1], ORDERS, 3), -1, 0)
    occurs = (said > 0) & (wanted > 0)
    orders = numpy.maximum(occurs.sum(axis=-1), 1)
    precision = (occurs * match / numpy.maximum(said, 1)).sum(axis=-1) / orders
    recall = (occurs * match / numpy.maximum(wanted, 1)).sum(axis=-1) / orders
    below = 4 * precision + recall
    score: numpy.ndarray = 100 * 5 * precision * recall / numpy.where(below > 0, below, 1)
    return score


def copied(said: str, text: str) -> tuple[int, int]:
    """How many of the words that were said stand in the text, and how many there are."""
    known, ours = set(words(text)), words(said)
    return sum(word in known for word in ours), len(ours)


def distinct_bigrams(text: str) -> tuple[int, int]:
    """How many different pairs of neighbouring words there are in a text, and how many pairs (Li et al. 2016)."""
    ours = words(text)
    pairs = list(pairwise(ours))
    return len(set(pairs)), len(pairs)
