"""Which models can be judged beside each other: those that give the same answers, of the same tokens."""

from collections.abc import Iterable
from pathlib import Path

from staytuned.errors import ParamsError
from staytuned.files import read_json
from staytuned.tasks import Task, trained


def check_answers(task: Task, folder: Path) -> None:
    """Refuse a model, given by its folder, of other answers, such as a champion from before a label was added.

    Raises:
        ParamsError: it learned another task, or other labels.
    """
    theirs, ours = ([one.options.name, one.answers] for one in (trained(folder), task))
    if theirs != ours:
        part = 0 if theirs[0] != ours[0] else 1
        raise ParamsError(
            f"task is not what the champion learned: {theirs[part]} then, {ours[part]} now, and models of other "
            "answers cannot be compared; set it back, or make a workspace of its own for it: `staytuned init DIR`"
        )


def check_tokens(folders: Iterable[Path]) -> None:
    """Refuse models that part texts into other tokens: of more and easier ones each is foreseen better.

    Raises:
        ParamsError: two tokenizers have other vocabularies.
    """
    first, *others = (read_json(folder / "tokenizer.json")["model"] for folder in folders)
    if any(other != first for other in others):
        raise ParamsError(
            "model.base parts texts into other tokens than the champion does, so that their perplexities cannot be "
            "compared; set it back, or make a workspace of its own for it: `staytuned init DIR`"
        )
