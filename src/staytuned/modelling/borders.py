"""Tokens at the ends of a text, where the tokenizer itself puts none."""

from typing import TYPE_CHECKING

from staytuned.errors import ParamsError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# As the families of decoders name them. What stands between two texts in pre-training serves as either.
STARTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>", "</s>", "[CLS]", "[BOS]")
ENDS = ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "[SEP]", "[EOS]")
MASKS = ("[MASK]", "<mask>")


def special_token(tokenizer: "Tokenizer", names: tuple[str, ...]) -> int:
    """The id of the first of these names that the tokenizer knows as a special token.

    Raises:
        ParamsError: it knows none.
    """
    special = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for name in names:
        if name in special:
            return special[name]
    raise ParamsError(
        f"the tokenizer of model.base has none of the special tokens {', '.join(names)}; name a base model with one"
    )
