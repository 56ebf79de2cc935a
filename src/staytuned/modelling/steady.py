"""What an encoder says of texts: many are read at a time, and of each the bits do not depend on the others.

Two things let the states of a text depend on what is read beside it: the shape of the products of matrices, and how
wide a row is padded inside attention. So the encoder always reads the same number of tokens, the rest filled up with
padding tokens, and a row is padded by its own length alone.
"""

from collections.abc import Callable, Iterator

import numpy
import torch

from staytuned.modelling.heads import mask_of, padded
from staytuned.modelling.threads import in_threads
from staytuned.modelling.unpadded import first_position, steady_states
from staytuned.progress import bar

ROOM = 1024  # tokens that the encoder reads at once, no more and no fewer
INPUTS = ("input_ids", "token_type_ids")  # of an encoder, beside the mask

Block = tuple[list[numpy.ndarray], int]  # texts, and how many tokens are left


def read_steadily(
    encoder: torch.nn.Module,
    texts: list[numpy.ndarray],
    read: Callable[[torch.Tensor], torch.Tensor],
    what: str,
) -> Iterator[numpy.ndarray]:
    """What ``read`` makes of the last states of each text, in their order, whatever texts there are besides.

    A model that takes batches with padding only, and one on a GPU, reads each text alone.

    Args:
        encoder: Of transformers; its dropout is off.
        texts: Each of shape (inputs, tokens): the first or both of ``INPUTS``.
        read: Takes states on the processor, of shape (1, tokens, hidden).
        what: Shown beside the bar.
    """
    device = next(encoder.parameters()).device
    on_processor = device.type == "cpu"

    @torch.inference_mode()
    def read_block(block: Block) -> list[numpy.ndarray]:
        states = _states(encoder, *block, device)
        said = [read(own[None, : text.shape[1]]) for text, own in zip(block[0], states, strict=False)]
        return [one.numpy().copy() for one in said]  # as they are they keep states of the whole block in memory

    blocks = list(_blocks(texts, ROOM if on_processor and first_position(encoder.config) is not None else 0))
    with bar() as display:
        shown = display.add_task(what, total=len(texts))
        for found in in_threads(read_block, blocks) if on_processor else map(read_block, blocks):
            yield from found
            display.advance(shown, len(found))


def _states(encoder: torch.nn.Module, texts: list[numpy.ndarray], left: int, device: torch.device) -> torch.Tensor:
    """The states of texts, and of as many tokens besides as are ``left``; shape (texts and more, tokens, hidden)."""
    longest = max(text.shape[1] for text in texts)
    filler = [numpy.zeros((len(texts[0]), min(longest, left - at)), int) for at in range(0, left, longest)]
    rows = [*texts, *filler]
    inputs = {name: padded([row[place] for row in rows]) for place, name in enumerate(INPUTS[: len(texts[0])])}
    mask = mask_of([row[0] for row in rows])
    return steady_states(encoder, mask.to(device), **{name: one.to(device) for name, one in inputs.items()}).cpu()


def _blocks(texts: list[numpy.ndarray], room: int) -> Iterator[Block]:
    """Texts in turn, as many as there is room for; without room, each alone."""
    block, left = list[numpy.ndarray](), room
    for text in texts:
        if block and text.shape[1] > left:
            yield block, left
            block, left = [], room
        block.append(text)
        left -= text.shape[1]
    if block:
        yield block, left
