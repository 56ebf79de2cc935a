"""Chats: lists of turns, and the template that makes text of them."""

import json
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from staytuned.errors import ParamsError
from staytuned.files import read_json

ROLES = ("system", "user", "assistant")
REPLY = "assistant"
DAY = datetime(2000, 1, 1)  # that templates write into a chat as today: the same rows are the same on any day
Turn = dict[str, str]
PLAIN = (
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}{% if turn.role == 'assistant' %}{{ eos_token }}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def turns_of(text: str) -> list[Turn]:
    """The turns of a chat; a text that is none is what a user says."""
    found = listed(text)
    if found is None:
        return [{"role": "user", "content": text}]
    return [{"role": str(turn.get("role")), "content": str(turn.get("content"))} for turn in found]


def listed(text: str) -> list[dict[str, Any]] | None:
    """What a text lists in JSON, whatever its turns hold; None where it is no list of turns."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and found and all(isinstance(turn, dict) for turn in found) else None


def fault(text: str) -> str | None:
    """Why a text is no chat to learn from, as ``kind: what it holds``."""
    turns = listed(text)
    if turns is None:
        return f"text is no JSON list of turns: {text[:80]!r}"
    for turn in turns:
        if turn.get("role") not in ROLES:
            return f"the role of a turn is none of {', '.join(ROLES)}: {turn.get('role')!r}"
        content = turn.get("content")
        if not isinstance(content, str) or not content.strip():
            return f"a turn is blank: {turn['role']!r} says {content!r}"
        if "\0" in content:
            return f"a turn holds NUL: {turn['role']!r} says {content[:80]!r}"
    roles = [turn["role"] for turn in turns]
    twice = next((one for one, other in pairwise(roles) if one == other), None)
    if twice:
        return f"two turns of one role in a row: {twice!r}"
    if "system" in roles[1:]:
        return f"a system turn is not the first: turn {roles.index('system', 1) + 1}"
    if roles[roles[0] == "system" :][:1] == [REPLY]:
        return f"the chat begins with a reply: {roles!r}"
    return None if roles[-1] == REPLY else f"the chat does not end with a reply: {roles[-1]!r}"


@dataclass(frozen=True)
class Template:
    """Text of turns, by a template in Jinja, as tokenizers carry them."""

    source: str
    tokens: dict[str, str]  # such as eos_token, which templates use by name

    @classmethod
    def read(cls, folder: Path) -> "Template | None":
        """The template of a model folder, from chat_template.jinja or tokenizer_config.json, where there is one."""
        about: dict[str, Any] = {}
        if (folder / "tokenizer_config.json").is_file():
            about = read_json(folder / "tokenizer_config.json")
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else about.get("chat_template")
        if isinstance(source, list):  # several, by name
            source = next((one["template"] for one in source if one["name"] == "default"), None)
        tokens = {name: value for name, value in about.items() if name.endswith("_token") and value}
        plain = {name: value["content"] if isinstance(value, dict) else value for name, value in tokens.items()}
        return cls(source, {name: value for name, value in plain.items() if isinstance(value, str)}) if source else None

    def render(self, turns: list[Turn], reply: bool = False) -> str:
        """The text of turns; with ``reply``, up to where the next reply begins.

        Templates come with models: they run in the sandbox that transformers has for them.

        Raises:
            ParamsError: the template does not take them.
        """
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

        try:
            compiled = _compile_jinja_template(self.source)  # which is kept, and used by what renders
            compiled.globals["strftime_now"] = DAY.strftime
            rendered = render_jinja_template(
                [turns], chat_template=self.source, add_generation_prompt=reply, **self.tokens
            )
        except (TemplateError, TypeError) as error:
            raise ParamsError(f"the chat template of model.base does not take {turns}: {error}") from error
        text: str = rendered[0][0]
        return text

    def pieces(self, turns: list[Turn]) -> list[tuple[str, bool]]:
        """The text of turns in pieces, and whether each is a reply; what follows the last reply leads to the next.

        Raises:
            ParamsError: the template changes what it wrote of earlier turns.
        """
        pieces, done = list[tuple[str, bool]](), ""

        def add(text: str, is_reply: bool) -> None:
            nonlocal done
            if not text.startswith(done):
                raise ParamsError("the chat template of model.base rewrites earlier turns; name another base model")
            pieces.append((text[len(done) :], is_reply))
            done = text

        for place, turn in enumerate(turns):
            if turn["role"] == REPLY:
                add(self.render(turns[:place], reply=True), False)
                add(self.render(turns[: place + 1]), True)
        if turns[-1]["role"] != REPLY:
            add(self.render(turns, reply=True), False)
        return pieces
