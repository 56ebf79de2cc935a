"""params.yaml as one frozen, typed object. Every error is reported at once, before any work."""

import difflib
import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationError,
    create_model,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from staytuned.entry_points import task_class
from staytuned.errors import MissingError, ParamsError, StaytunedError
from staytuned.policy import Gate, Triggers
from staytuned.sections import (
    Alerts,
    Compare,
    Drift,
    Encode,
    Evaluate,
    Ingest,
    Model,
    Registry,
    Section,
    Split,
    TaskOptions,
    Train,
    Validate,
    Watch,
)

T = TypeVar("T", bound="Params")


class Params(Section):
    """The whole of params.yaml."""

    task: SerializeAsAny[TaskOptions]
    model: Model
    ingest: Ingest
    validate_: Annotated[Validate, Field(alias="validate")]
    split: Split
    encode: Encode
    train: Train
    evaluate: Evaluate
    drift: Drift
    gate: Gate
    triggers: Triggers
    watch: Watch
    alerts: Alerts
    compare: Compare
    registry: Registry

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check ``path``.

        Raises:
            MissingError: there is no such file.
            ParamsError: with every error in the file, a line each.
        """
        if not path.is_file():
            raise MissingError(f"{path} is missing; `staytuned init DIR` writes one to start from")
        try:  # YAML 1.2, as DVC reads it: 5e-05 is a number there
            raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        except MarkedYAMLError as error:  # its own text shows the line, which may hold a secret
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            raise ParamsError(f"{path} is not valid YAML: line {line}: {error.problem}") from None
        except (YAMLError, UnicodeDecodeError) as error:
            raise ParamsError(f"{path} is not valid YAML: {error}") from None
        known, lines = _with_task(cls, raw)
        try:
            params = known.model_validate(raw)
        except ValidationError as error:
            lines = _told(known, error.errors()) + lines
        if lines:
            raise ParamsError(f"{path} has {len(lines)} error(s):\n" + "\n".join(lines))
        return params

    def section(self, name: str) -> dict[str, Any]:
        """One section as plain values, for records."""
        value: dict[str, Any] = json.loads(self.model_dump_json(by_alias=True))[name]
        return value


def _with_task(model: type[T], raw: Any) -> tuple[type[T], list[str]]:
    """The params with the options of the task that they name, and what sections say against each other.

    That is looked for in the raw values, so that no other error hides it.
    """
    try:
        task = task_class(raw["task"]["name"])
    except MissingError as error:
        return create_model(model.__name__, __base__=model, task=(Any, ...)), [f"  task.name: {error}"]
    except (KeyError, TypeError):
        return model, []  # a key is missing, which is said elsewhere
    found = []
    with suppress(KeyError, TypeError, AttributeError):
        found += task.Options.contradictions(raw)
    with suppress(KeyError, TypeError, AttributeError):
        found += _against_training(task, raw["task"]["name"], raw["train"])
    with suppress(KeyError, TypeError, AttributeError):
        unmapped = [name for name in task.columns if raw["ingest"]["columns"].get(name, "") is None]
        found += [
            f"ingest.columns.{name}: is null, but task.name {raw['task']['name']!r} needs it; name a column"
            for name in unmapped
        ]
    with suppress(KeyError, TypeError, AttributeError):
        of_metrics = {f"gate.{key}": raw["gate"].get(key, {}) for key in ("bounds", "margins")}
        of_metrics["gate.sources.bounds"] = raw["gate"].get("sources", {}).get("bounds", {})
        found += _against_metrics(_metrics(task, raw["task"]), of_metrics)
    with suppress(KeyError, TypeError):
        most, least = raw["evaluate"]["max_rows_per_source"], raw["gate"]["sources"]["min_rows"]
        if most is not None and most < 2 * least:
            found.append(
                f"evaluate.max_rows_per_source: is {most}, so that as few as half of them may judge, but "
                f"gate.sources.min_rows is {least}; raise the one to {2 * least}, or lower the other"
            )
    with_task = create_model(model.__name__, __base__=model, task=(task.Options, ...))
    return with_task, [f"  {line}" for line in found]


def _metrics(task: Any, options: Any) -> list[str]:
    """Names of the task's metrics under these options or, where those are wrong, under any."""
    metrics = task.metrics
    with suppress(ValidationError, StaytunedError):
        metrics = task(task.Options.model_validate(options)).metrics
    return [metric.name for metric in metrics] if isinstance(metrics, tuple) else []


def _against_metrics(names: list[str], of_metrics: dict[str, Any]) -> list[str]:
    """What bounds and margins say against the metrics."""
    if not names:
        return []
    found = [
        f"{key}.{name}: the task has no such metric; known: {', '.join(names)}"
        for key, of_key in of_metrics.items()
        for name in of_key
        if name not in names
    ]
    if names[0] in of_metrics["gate.margins"]:
        found.append(f"gate.margins.{names[0]}: is the task's first metric, whose margin is gate.margin; take it out")
    return found


def _against_training(task: Any, name: str, train: dict[str, Any]) -> list[str]:
    """What the section train says against the task, and against itself."""
    found = []
    if not task.divisible and (train.get("micro_batch"), train.get("processes")) != (None, 1):
        found.append("train: micro_batch must be null and processes 1: task.name's loss compares the rows of a batch")
    if train.get("sharded") and (train.get("processes") == 1 or train.get("lora") is not None):
        found.append("train.sharded: must be false where train.processes is 1, and where train.lora is set")
    if train.get("frozen") is None:
        return found
    if not task.freezable:
        found.append(
            f"train.frozen: must be null: the model of task.name {name!r} has no head that reads an encoder's last "
            "states alone"
        )
    if train.get("lora") is not None:
        found.append("train.frozen and train.lora are both set: a frozen encoder has no adapters; set one to null")
    if train.get("processes", 1) != 1:
        found.append(
            f"train.processes: must be 1 where train.frozen is set, not {train['processes']!r}: the head is too small "
            "to share"
        )
    return found


def _told(model: type[BaseModel], items: list[Any]) -> list[str]:
    """Pydantic's errors in words; a key that is only misspelt is not told once more as missing."""
    meant = {(*item["loc"][:-1], close) for item in items for close in _close(model, item)}
    return [_say(model, item) for item in items if item["type"] != "missing" or item["loc"] not in meant]


def _close(model: type[BaseModel], item: Any) -> list[str]:
    """The known key that an unknown one may stand for."""
    if item["type"] != "extra_forbidden":
        return []
    return difflib.get_close_matches(str(item["loc"][-1]), _keys_beside(model, item["loc"]), n=1)


def _say(model: type[BaseModel], item: Any) -> str:
    """One pydantic error in words: the key, what is wrong, what would be right."""
    key = ".".join(str(part) for part in item["loc"]) or "the file"
    if item["type"] == "extra_forbidden":
        known, close = _keys_beside(model, item["loc"]), _close(model, item)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"  {key}: unknown key; {hint if known else 'take it out'}"
    if item["type"] == "missing":
        return f"  {key}: is missing; add it, as `staytuned init DIR` writes it"
    if item["type"] == "value_error":
        return f"  {key}: {item['ctx']['error']}"
    value = "" if item["loc"][:1] == ("alerts",) else f"is {item['input']!r}; "  # an address may hold a secret
    return f"  {key}: {value}{item['msg'].removeprefix('Input ')}"


def _keys_beside(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that the section around ``path`` knows; none where the keys are the user's own."""
    for part in path[:-1]:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        annotation = fields[str(part)].annotation if str(part) in fields else None
        options = getattr(annotation, "__args__", (annotation,))
        sections = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return [field.alias or name for name, field in model.model_fields.items()]
