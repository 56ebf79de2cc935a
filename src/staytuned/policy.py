"""The sections of params.yaml that decide: what a champion must show, and when a retraining is due."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from staytuned.sections import Count, Name, Positive, Section

Margin = Annotated[float, Field(ge=0)]


class Sources(Section):
    """What a champion must show on each source by itself."""

    min_rows: Count
    margin: Margin
    bounds: dict[Name, float]


class Classes(Section):
    """What a candidate may lose on each class."""

    min_support: Count
    margin: Margin


class Gate(Section):
    """What a champion must show."""

    bounds: dict[Name, float]
    min_gain: float
    margin: Margin
    margins: dict[Name, Margin]
    min_test_rows: Count
    sources: Sources
    classes: Classes
    max_megabytes: Positive | None
    max_milliseconds: Positive | None


class DriftTrigger(Section):
    """Retrain when this many of the last windows gave an alarm."""

    alarms: Count
    windows: Count

    @field_validator("windows")
    @classmethod
    def _enough(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("alarms", 1):
            raise ValueError(f"is {value}, fewer than the alarms asked for; raise it, or lower alarms")
        return value


class Triggers(Section):
    """When a retraining is due; null: that trigger is off."""

    max_age_days: Positive | None
    new_rows: Count | None
    drift: DriftTrigger | None
    quality_drop: Margin | None
    estimated_drop: Margin | None
    retry_growth: Annotated[float, Field(ge=1)]
    cost_ceiling: Count | None
