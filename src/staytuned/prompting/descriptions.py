"""Zero-shot by descriptions: a text has the label whose description is most like it."""

from staytuned.prompting import Predict
from staytuned.prompting.calibration import label_bias
from staytuned.prompting.embedder import Embedder
from staytuned.tasks.text_classification import softmax

TEMPERATURE = 0.05  # of cosines; sentence encoders are trained with it, as 1 / 20


def by_descriptions(embed: Embedder, descriptions: list[str], unlabelled: list[str]) -> Predict:
    """Labels by the cosine between the embeddings of a text and of each label's description.

    Chang et al. 2008, Importance of Semantic Representation: Dataless Classification.

    Args:
        embed: The base encoder.
        descriptions: A sentence for each label, in the order of the labels.
        unlabelled: Texts that say which labels the encoder prefers.
    """
    anchors = embed(descriptions).astype("float64").T / TEMPERATURE
    bias = label_bias(embed(unlabelled) @ anchors)
    return lambda texts: list(softmax(embed(texts) @ anchors + bias))
