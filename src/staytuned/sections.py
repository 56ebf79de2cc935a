"""The sections of params.yaml: what each value is, and what it may be."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]


OWN_COLUMNS = frozenset(
    ("row", "text", "text_pair", "label", "source", "group", "line", "problem", "readmits", "batch")
).union(("fault", "key", "reasons"))


def distinct(names: list[str]) -> list[str]:
    """The names, none of them twice."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"repeats {repeated}; name each once")
    return names


class Section(BaseModel):
    """A part of params.yaml: no unknown key, no silent conversion, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TaskOptions(Section):
    """What is learned; each task adds options of its own."""

    name: Name

    @classmethod
    def contradictions(cls, raw: dict[str, Any]) -> list[str]:
        """What the section says against other sections, given the whole file; a missing key is said elsewhere."""
        return []


class Model(Section):
    """The base model."""

    base: Name
    folders: list[Name]


class Columns(Section):
    """Our columns by the names they have in the user's files."""

    text: Name
    text_pair: Name | None
    label: Name | None
    id: Name | None
    source: Name | None
    group: Name | None
    keep: list[Name]

    @field_validator("keep")
    @classmethod
    def _free(cls, value: list[str]) -> list[str]:
        taken = sorted(OWN_COLUMNS.intersection(value))
        if taken:
            raise ValueError(f"holds {taken}, which staytuned uses itself; rename them in the data")
        return distinct(value)


class Ingest(Section):
    """How files become batches."""

    example: Literal["product", "film", "tweet", "editorial"] | None
    encodings: Annotated[list[Name], Field(min_length=1)]
    columns: Columns

    @field_validator("encodings")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for encoding in value:
            try:
                newline = "\n".encode(encoding)
            except LookupError:
                raise ValueError(f"holds {encoding!r}, which Python does not know; utf-8 is one it does") from None
            if newline != b"\n":  # files are decoded line by line
                raise ValueError(f"holds {encoding!r}, which has line ends of its own; convert the files to utf-8")
        return value


class Validate(Section):
    """Which rows may be used."""

    max_characters: Count
    quarantine_budget: Share
    chunk_rows: Count


class Split(Section):
    """Which rows train, stop the training, and judge."""

    salt: Annotated[int, Field(ge=0)]
    validation: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]
    near_duplicate: Annotated[float, Field(gt=0, le=1)]

    @field_validator("test")
    @classmethod
    def _leaves_train(cls, value: float, info: ValidationInfo) -> float:
        validation = info.data.get("validation")
        if validation is not None and validation + value >= 1:
            raise ValueError(
                f"and split.validation make {validation + value:g} together, which leaves no row to train on; "
                "lower one of the two"
            )
        return value


class Encode(Section):
    """Text to token ids."""

    max_tokens: Annotated[int, Field(ge=4)]


class Lora(Section):
    """Low-rank adapters: what is learned beside frozen weights."""

    rank: Count
    alpha: Count


class Checkpointing(Section):
    """What a training that is cut off goes on from."""

    every_steps: Count
    keep: Count


class Train(Section):
    """Fine-tuning."""

    seed: Annotated[int, Field(ge=0)]
    threads: Count
    start: Literal["base", "champion"]
    replay: Annotated[float, Field(ge=0)]
    continued_rate: Positive
    champion_share: Annotated[float, Field(ge=0, lt=1)]
    processes: Count
    sharded: bool
    device: Literal["auto", "cpu", "cuda"]
    epochs: Count
    batch_size: Count
    micro_batch: Count | None
    learning_rate: Positive
    head_learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    warmup: Share
    dropout: Annotated[float, Field(ge=0, lt=1)]
    sharpness: Annotated[float, Field(ge=0)]
    lora: Lora | None
    frozen: Literal["encoder"] | None
    clip: Positive
    evaluations_per_epoch: Count
    patience: Count
    checkpoints: Checkpointing


class Evaluate(Section):
    """How candidate and champion are compared."""

    max_rows_per_source: Count | None
    bootstrap: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    seed: Annotated[int, Field(ge=0)]


class Drift(Section):
    """How new rows are compared with those that the champion knew."""

    reference: Count
    window: Count
    draws: Annotated[int, Field(ge=100)]
    level: Annotated[float, Field(gt=0, lt=0.5)]
    seed: Annotated[int, Field(ge=0)]


class Watch(Section):
    """What ``staytuned watch`` waits for."""

    cron: Name | None
    incoming: Name
    settle_seconds: Positive
    work_pool: Name | None

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str | None) -> str | None:
        if value is not None and len(value.split()) != 5:
            raise ValueError(f"is {value!r}; cron wants five fields: minute, hour, day, month, day of the week")
        return value


class Alerts(Section):
    """Who is told. Addresses hold secrets: they stand in no record of the params, and no error shows one."""

    urls: Annotated[list[Name], Field(exclude=True, repr=False)]

    @field_validator("urls")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for number, url in enumerate(value):
            if "://" not in url:
                raise ValueError(f"has no address at place {number}: https://appriseit.com lists them, as json://host/")
        return value


class Compare(Section):
    """What ``staytuned compare`` sets beside full fine-tuning."""

    descriptions: dict[Name, Name]
    shots: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
    decoder: Name | None
    template: Name
    cost_per_hour: Annotated[float, Field(ge=0)]
    seed: Annotated[int, Field(ge=0)]

    @field_validator("template")
    @classmethod
    def _has_places(cls, value: str) -> str:
        if value.count("{examples}") != 1 or "{text}" not in value.split("{examples}")[1]:
            raise ValueError("needs {examples} once and, after it, {text}, where the text goes")
        return value


class Registry(Section):
    """Where versions are kept."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    tracking_uri: Name | None
    ledger_url: Name | None

    @field_validator("tracking_uri", "ledger_url")
    @classmethod
    def _shareable(cls, value: str | None, info: ValidationInfo) -> str | None:
        scheme, _, place = (value or "").partition("://")
        ledger = info.field_name == "ledger_url"
        if scheme != "sqlite" and (":" in place.rpartition("@")[0] or "password=" in place.lower()):
            elsewhere = "PGPASSWORD or ~/.pgpass" if ledger else "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            raise ValueError(f"holds a password, which every run would record; set {elsewhere} instead")
        if value and ledger and not re.match(r"sqlite:////|postgresql\+psycopg://", value):
            raise ValueError(f"is {value!r}; write postgresql+psycopg://USER@HOST/DATABASE or sqlite:////ABSOLUTE/PATH")
        return value
