"""Few-shot by contrast: an encoder is fine-tuned on pairs of rows, a logistic regression on its embeddings."""

import numpy
import torch
from sklearn.linear_model import LogisticRegression

from staytuned.modelling.heads import mask_of, mean_of_tokens, padded
from staytuned.progress import track
from staytuned.prompting import Predict
from staytuned.prompting.embedder import Embedder, encoded
from staytuned.prompting.labelled import Labelled

STEPS = 20  # 40 and 60 took longer and did no better on the example's validation rows
BATCH = 32  # rows of a step, as far as they can be parted equally among the classes


def by_contrast(embed: Embedder, rows: Labelled, rate: float, seed: int) -> Predict:
    """Labels by a logistic regression on embeddings that rows of one class share and rows of two do not.

    Tunstall et al. 2022, Efficient Few-Shot Learning Without Prompts, section 3. Pairs are all those of a step's rows,
    not a list drawn beforehand: many more for the same work.

    Args:
        embed: The base encoder, which is fine-tuned in place.
        rows: To learn from; a class without a row gets probability 0.
        rate: Learning rate of the encoder.
        seed: Decides which rows meet.
    """
    _tune(embed, rows, rate, seed)
    regression = LogisticRegression(max_iter=1000).fit(embed(rows.texts), rows.numbers)

    def predict(texts: list[str]) -> list[numpy.ndarray]:
        found = numpy.zeros((len(texts), len(rows.classes)))
        found[:, regression.classes_] = regression.predict_proba(embed(texts))
        return list(found)

    return predict


def _tune(embed: Embedder, rows: Labelled, rate: float, seed: int) -> None:
    """Move embeddings of one class together, to cosine 1, and those of two apart, to cosine 0."""
    random, examples = numpy.random.default_rng(seed), encoded(embed.tokenizer, rows.texts)
    optimizer = torch.optim.AdamW(embed.encoder.parameters(), lr=rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    for _ in track(range(STEPS), STEPS, "contrasting"):
        places = _balanced(rows.numbers, random)
        ids = examples.lists("input_ids", places)
        mask = mask_of(ids)
        states = embed.encoder(input_ids=padded(ids), attention_mask=mask).last_hidden_state
        vectors = torch.nn.functional.normalize(mean_of_tokens(states, mask), dim=1)
        loss = pair_loss(vectors, torch.from_numpy(rows.numbers[places]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        decay.step()


def _balanced(numbers: numpy.ndarray, random: numpy.random.Generator) -> list[int]:
    """Places of as many rows of each class, at least two; all where a class has fewer."""
    classes = numpy.unique(numbers)
    count = max(2, BATCH // len(classes))
    drawn = [random.permutation(numpy.flatnonzero(numbers == number))[:count] for number in classes]
    return [int(place) for place in numpy.concatenate(drawn)]


def pair_loss(vectors: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the cosines of all pairs from 1 within a class and from 0 else, both kinds alike.

    Args:
        vectors: Of length 1, shape (rows, hidden).
        numbers: Their classes, shape (rows,).
    """
    first, second = torch.triu_indices(len(vectors), len(vectors), offset=1)
    cosines = (vectors[first] * vectors[second]).sum(dim=1)
    same = numbers[first] == numbers[second]
    kinds = [((cosines[kind] - target) ** 2).mean() for kind, target in ((same, 1), (~same, 0)) if kind.any()]
    return torch.stack(kinds).mean()
