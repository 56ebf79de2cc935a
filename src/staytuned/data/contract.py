"""The data contract of a task as a Great Expectations suite, and the pages that show how rows fared."""

import gc
import logging
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from staytuned.data.data_docs import Validated, site, take_pages
from staytuned.errors import DataError

VALUE, PROBLEM = 80, 400  # characters in a reason: of a row's own value, of what was wrong where it was read
FAULT = "{fault}"  # the reason that the task gave
UNREAD = "could not be read whole"
REPEAT = "is a repeat of an earlier row"
Reasons = dict[str, str]  # of a row: by kind, with the row's own value


@dataclass(frozen=True)
class Contract:
    """What a row must be to be used."""

    max_characters: int
    columns: list[str]
    paired: bool  # a second text is needed
    unlabelled: str | None  # what is wrong with a row without a label, in words; None: nothing is


class _Raising(logging.Handler):
    """Great Expectations logs that a page could not be written, and goes on with half of it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise what it caught."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise error


class Checkpoint:
    """A Great Expectations checkpoint over the contract."""

    def __init__(self, contract: Contract) -> None:
        import great_expectations as gx
        from great_expectations.checkpoint import UpdateDataDocsAction

        log = logging.getLogger("great_expectations.render.renderer.site_builder")
        log.handlers, log.propagate = [_Raising()], False
        self._folder = tempfile.TemporaryDirectory()
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        for name in list(context.get_site_names()):
            context.delete_data_docs_site(name)
        context.add_data_docs_site("pages", site(Path(self._folder.name)))
        suite = context.suites.add(gx.ExpectationSuite(name="contract", expectations=_expectations(contract)))
        self._context = context
        self._gx = gx
        self._suite = suite
        self._actions = [UpdateDataDocsAction(name="pages", site_names=["pages"])]

    def reasons(self, name: str, frame: pandas.DataFrame) -> tuple[dict[int, Reasons], Validated]:
        """Validate the rows of ``frame`` (index 0..n-1) under the name ``name``.

        Returns:
            For each row that breaks the contract, by its place in the frame, why; and what Data Docs say of it all.
        """
        gx = self._gx
        source = self._context.data_sources.add_pandas(
            name
        )  # one for each frame: it keeps the frames that it was given
        batch = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("rows")
        definition = self._context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=self._suite)
        )
        checkpoint = gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            actions=self._actions,
            result_format={"result_format": "COMPLETE", "partial_unexpected_count": 20},
        )
        outcome = self._context.checkpoints.add(checkpoint).run(
            batch_parameters={"dataframe": frame}, run_id=gx.RunIdentifier(run_name=name)
        )
        results = [result for validation in outcome.run_results.values() for result in validation.results]
        found: dict[int, Reasons] = {}
        for result in results:
            reason = str(result.expectation_config.meta["reason"])
            rows = result.result.get("unexpected_index_list") or []
            if not result.success and not rows:  # it could not be checked: nothing may pass for it
                raise DataError(
                    f"{name}: could not check that no row {reason!r}: {result.exception_info or result.result}"
                )
            for row in map(int, rows):
                if reason == FAULT:
                    kind, _, value = str(frame.at[row, "fault"]).partition(": ")
                    why = f"{kind}: {value[:80]}"
                else:
                    kind, why = _kind(reason), _with_value(reason, frame, row)
                found.setdefault(row, {})[kind] = why
        for row, told in found.items():
            if UNREAD in told:  # the rest follows from it, but for a repeat
                found[row] = {kind: told[kind] for kind in (REPEAT, UNREAD) if kind in told}
        broken = sum(not result.success for result in results)
        pages = take_pages(Path(self._folder.name))
        done = Validated(name, list(frame["batch"].unique()), len(frame), len(found), broken, pages)
        self._context.checkpoints.delete(name)
        self._context.validation_definitions.delete(name)
        self._context.data_sources.delete(name)
        gc.collect()  # what it keeps refers to itself: without this, ten frames and more pile up
        return found, done


def _expectations(contract: Contract) -> list[Any]:
    """The suite: each expectation's meta holds the reason that a quarantined row is given."""
    import great_expectations.expectations as gxe

    def because(reason: str) -> dict[str, str]:
        return {"reason": reason}

    expectations = [
        gxe.ExpectTableColumnsToMatchSet(
            column_set=contract.columns, exact_match=False, meta=because("a column is missing")
        ),
        gxe.ExpectColumnValuesToBeNull(column="problem", meta=because(UNREAD + ": {problem}")),
        gxe.ExpectColumnValuesToNotBeNull(column="row", meta=because("has no id")),
        gxe.ExpectColumnValuesToBeNull(column="repeat", meta=because(REPEAT)),
        gxe.ExpectColumnValuesToBeNull(
            column="relabelled", meta=because("id {relabelled} was there before, with another label")
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="reworded", meta=because("id {reworded} was there before, with other content")
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="text", meta=because("text is null")),
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex=r"\S", meta=because("text is blank")),
        gxe.ExpectColumnValueLengthsToBeBetween(
            column="text",
            max_value=contract.max_characters,
            meta=because(f"text is longer than {contract.max_characters} characters"),
        ),
        gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex=r"\x00", meta=because("text holds NUL")),
        gxe.ExpectColumnValuesToNotMatchRegex(
            column="text",
            regex="\N{REPLACEMENT CHARACTER}",
            meta=because("text holds bytes that were not decoded"),
        ),
        gxe.ExpectColumnValuesToBeNull(column="fault", meta=because(FAULT)),
    ]
    if contract.paired:
        expectations += [
            gxe.ExpectColumnValuesToNotBeNull(column="text_pair", meta=because("text_pair is null")),
            gxe.ExpectColumnValuesToMatchRegex(column="text_pair", regex=r"\S", meta=because("text_pair is blank")),
        ]
    if contract.unlabelled:
        expectations.append(gxe.ExpectColumnValuesToNotBeNull(column="label", meta=because(contract.unlabelled)))
    return expectations


def _kind(reason: str) -> str:
    """A reason without the place for a value, for counting."""
    return " ".join(re.sub(r": \{\w+\}|\{\w+\}", "", reason, count=1).split())


def _with_value(reason: str, frame: pandas.DataFrame, row: int) -> str:
    named = re.search(r"\{(\w+)\}", reason)
    if not named:
        return reason
    longest = PROBLEM if named[1] == "problem" else VALUE
    return reason.replace(named[0], repr(str(frame.at[row, named[1]]))[:longest])
