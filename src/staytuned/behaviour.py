"""Behavioural checks: what a model must be able to do, whatever its test rows say (CheckList, Ribeiro et al. 2020)."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from staytuned.errors import MissingError, ParamsError
from staytuned.sections import Name, Section, Share, distinct
from staytuned.tasks import Task

CASES = 100  # test rows that are changed, at most
SHOWN = 5  # failures that the report names

Answers = Callable[[list[str]], list[str]]


class Check(Section):
    """One check: texts with their label, pairs that must get one answer, or a change that may not change it."""

    name: Name
    share: Share  # of its cases that must pass
    label: Name | None = None
    texts: Annotated[list[Name], Field(min_length=1)] | None = None
    pairs: Annotated[list[Annotated[list[Name], Field(min_length=2, max_length=2)]], Field(min_length=1)] | None = None
    change: Literal["case", "typo", "spaces", "punctuation"] | None = None

    @model_validator(mode="after")
    def _is_one_of_three(self) -> "Check":
        kinds = [bool(self.texts), bool(self.pairs), bool(self.change)]
        if sum(kinds) != 1 or bool(self.texts) != bool(self.label):
            raise ValueError("needs one of: texts with label, pairs, change")
        return self


def read(path: Path, task: Task) -> list[Check]:
    """The checks of a file.

    Raises:
        MissingError: there is no such file.
        ParamsError: with every error in the file; a label that the task does not know is one.
    """
    if not path.is_file():
        raise MissingError(f"{path} is missing; write it again: `[]` stands for no checks")
    try:
        found = TypeAdapter(list[Check]).validate_python(
            YAML(typ="safe", pure=True).load(path.read_text("utf-8")) or []
        )
    except YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from None
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise ParamsError(f"{path} has {len(lines)} error(s):\n" + "\n".join(lines)) from None
    if found and not (task.can_be_part and task.classes):
        raise ParamsError(f"{path}: checks are for tasks that give one text a label; write `[]` there")
    try:
        distinct([check.name for check in found])  # of two with one name, one would not be asked
    except ValueError as error:
        raise ParamsError(f"{path}: {error}") from None
    strange = sorted({check.label for check in found if check.label} - set(task.classes))
    if strange:
        raise ParamsError(f"{path}: the label {strange[0]!r} is none of the task's; known: {', '.join(task.classes)}")
    return found


def examine(checks: list[Check], rows: pandas.DataFrame, answers: Answers, seed: int) -> dict[str, Any]:
    """Of each check: how many of its cases pass, how many must, and some that do not.

    Args:
        checks: From ``read``.
        rows: Test rows, of which some are changed.
        answers: The model: texts to labels.
        seed: Of the rows that are taken, and of the typos.
    """
    texts = rows["text"].sample(min(CASES, len(rows)), random_state=seed).tolist()
    cases = {check.name: _cases(check, texts, seed) for check in checks}
    asked = sorted({text for pairs in cases.values() for pair in pairs for text in pair if text is not None})
    said = dict(zip(asked, answers(asked), strict=True))  # each text once: several checks change the same ones
    return {check.name: _outcome(check, cases[check.name], said) for check in checks}


def _cases(check: Check, texts: list[str], seed: int) -> list[tuple[str, str | None]]:
    """Each text with the one whose answer it must get; None where a label is given."""
    if check.texts:
        return [(text, None) for text in check.texts]
    if check.pairs:
        return [(one, other) for one, other in check.pairs]
    chance = random.Random(seed)
    assert check.change
    return [(CHANGES[check.change](text, chance), text) for text in texts]


def _outcome(check: Check, cases: list[tuple[str, str | None]], said: dict[str, str]) -> dict[str, Any]:
    failed = [text for text, other in cases if said[text] != (check.label if other is None else said[other])]
    return {
        "passed": len(cases) - len(failed),
        "cases": len(cases),
        "share": check.share,
        "failed": failed[:SHOWN],
    }


def _typo(text: str, chance: random.Random) -> str:
    """Two neighbouring letters within a word change places."""
    places = [match.start() for match in re.finditer(r"(?<=\w)\w(?=\w\w)", text)]
    if not places:
        return text
    at = chance.choice(places)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "case": lambda text, chance: text.upper(),
    "typo": _typo,
    "spaces": lambda text, chance: "  " + text.replace(" ", "  "),
    "punctuation": lambda text, chance: text[:-1] if text.endswith(".") and len(text) > 1 else text + ".",
}
