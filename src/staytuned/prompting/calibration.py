"""What a model says of labels before it has read a text, taken out of what it says of texts."""

import numpy

ROUNDS = 1000
CLOSE = 1e-9  # how far from uniform the mean may stay


def label_bias(logits: numpy.ndarray) -> numpy.ndarray:
    """What to add to the logits of each label, shape (labels,), so that the labels are equally likely on average.

    A model prefers some labels whatever the text (Zhao et al. 2021, Calibrate Before Use, section 4), and more or less
    so with the domain (Fei et al. 2023, Mitigating Label Biases for In-context Learning). So the probability of each
    label is divided by its mean over texts of the domain, again and again until the means are equal (prior matching:
    Liusie et al. 2023, Mitigating Word Bias in Zero-shot Prompt-based Classifiers).

    Args:
        logits: Of unlabelled texts, shape (texts, labels).
    """
    bias = numpy.zeros(logits.shape[1])
    for _ in range(ROUNDS):
        biased = logits + bias
        chances = biased - numpy.logaddexp.reduce(biased, axis=1, keepdims=True)
        preferred = numpy.logaddexp.reduce(chances, axis=0) - numpy.log(len(logits) / len(bias))
        bias -= preferred
        if numpy.abs(preferred).max() < CLOSE:
            break
    return bias
