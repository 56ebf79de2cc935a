"""What tasks have in common whose model's own head predicts tokens."""

from typing import TYPE_CHECKING, Any

import numpy

from staytuned.modelling.examples import NOTHING, Examples
from staytuned.tasks import Batch, Task

if TYPE_CHECKING:
    import torch


class Generative(Task):
    """Examples have ``input_ids`` and ``labels``; the model says the loss in nats of each label that is a token."""

    def batch(self, examples: Examples, places: list[int], random: numpy.random.Generator | None) -> Batch:
        """Token ids, their mask, labels."""
        return self.batch_of(examples.lists("input_ids", places), examples.lists("labels", places))

    def batch_of(self, inputs: list[numpy.ndarray], labels: list[numpy.ndarray]) -> Batch:
        """Labels go into the model, so that nothing the size of the vocabulary has to leave it."""
        from staytuned.modelling.heads import mask_of, padded

        targets = padded(labels, NOTHING)
        return Batch({"input_ids": padded(inputs), "attention_mask": mask_of(inputs), "labels": targets}, targets)

    def model(self, backbone: Any, dropout: float) -> "torch.nn.Module":
        """The model as it is."""
        from staytuned.modelling.language import TokenLoss

        return TokenLoss(backbone)

    def loss(self, outputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Mean over the target tokens of a batch."""
        return outputs.sum() / (targets != NOTHING).sum().clamp(min=1)

    def terms(self, batch: Batch) -> int:
        """Tokens that are learned from."""
        return int((batch.targets != NOTHING).sum())

    def outputs(self, outputs: "torch.Tensor", batch: Batch) -> list[numpy.ndarray]:
        """The loss of each target token."""
        rows = zip(outputs.float().cpu().numpy(), (batch.targets != NOTHING).cpu().numpy(), strict=True)
        return [losses[is_target] for losses, is_target in rows]
