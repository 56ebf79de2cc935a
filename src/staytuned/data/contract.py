"""The data contract of a task as a Great Expectations suite, and the pages that show how rows fared."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # before the import: it reads this once


@dataclass(frozen=True)
class Contract:
    """What a row must be to be used."""

    labels: list[str]
    max_characters: int
    columns: list[str]


class Checkpoint:
    """A Great Expectations checkpoint over the contract, writing Data Docs into a folder."""

    def __init__(self, contract: Contract, pages: Path) -> None:
        import great_expectations as gx
        from great_expectations.checkpoint import UpdateDataDocsAction

        self.contract = contract
        self.pages = pages
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        for site in list(context.get_site_names()):
            context.delete_data_docs_site(site)
        context.add_data_docs_site("pages", _site(pages))
        suite = context.suites.add(gx.ExpectationSuite(name="contract", expectations=_expectations(contract)))
        self._assets = context.data_sources.add_pandas("batches")
        self._context = context
        self._gx = gx
        self._suite = suite
        self._actions = [UpdateDataDocsAction(name="pages", site_names=["pages"])]

    def reasons(self, name: str, frame: pandas.DataFrame) -> dict[int, list[str]]:
        """Validate the rows of ``frame`` (index 0..n-1) under the name ``name``.

        Returns:
            For each row that breaks the contract, by its place in the frame, why.
        """
        gx = self._gx
        batch = self._assets.add_dataframe_asset(name).add_batch_definition_whole_dataframe("rows")
        definition = self._context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=self._suite)
        )
        checkpoint = gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            actions=self._actions,
            result_format={"result_format": "COMPLETE", "partial_unexpected_count": 20},
        )
        outcome = self._context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
        found: dict[int, list[str]] = {}
        for validation in outcome.run_results.values():
            for result in validation.results:
                reason = str(result.expectation_config.meta["reason"])
                for row in result.result.get("unexpected_index_list") or []:
                    found.setdefault(int(row), []).append(_with_value(reason, frame, int(row)))
        self._context.checkpoints.delete(name)
        self._context.validation_definitions.delete(name)
        self._assets.delete_asset(name)
        return found


def _expectations(contract: Contract) -> list[Any]:
    """The suite: each expectation's meta holds the reason that a quarantined row is given."""
    import great_expectations.expectations as gxe

    labels = ", ".join(contract.labels)

    def because(reason: str) -> dict[str, str]:
        return {"reason": reason}

    return [
        gxe.ExpectTableColumnsToMatchSet(
            column_set=contract.columns, exact_match=False, meta=because("a column is missing")
        ),
        gxe.ExpectColumnValuesToBeNull(column="problem", meta=because("could not be read whole: {problem}")),
        gxe.ExpectColumnValuesToNotBeNull(column="row", meta=because("has no id")),
        gxe.ExpectColumnValuesToBeNull(column="duplicate", meta=because("id {duplicate} was there before")),
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
        gxe.ExpectColumnValuesToNotBeNull(column="label", meta=because("has no label")),
        gxe.ExpectColumnValuesToBeInSet(
            column="label", value_set=contract.labels, meta=because(f"label {{label}} is none of {labels}")
        ),
    ]


def _with_value(reason: str, frame: pandas.DataFrame, row: int) -> str:
    named = re.search(r"\{(\w+)\}", reason)
    return reason.replace(named[0], repr(str(frame.at[row, named[1]]))[:80]) if named else reason


def _site(pages: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(pages)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


# The pages come with styles, scripts and pictures from five hosts. They go; these few rules stay.
STYLE = """<style>
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.6rem 0;width:100%}td,th{border:1px solid #ccc;padding:.3rem .5rem;
text-align:left;vertical-align:top;overflow-wrap:anywhere}th{background:#f2f2f2}a{color:#0b57d0}
ul{padding-left:1.2rem}.badge{background:#eee;border-radius:.3rem;padding:.1rem .4rem;margin-right:.2rem}
.modal,.navbar-toggler,#ge-cta-footer,.cooltip .top,button,svg,img{display:none}
</style>"""


def close_pages(pages: Path) -> None:
    """Take everything out of the pages that a browser would load from elsewhere."""
    for page in pages.rglob("*.html"):
        page.write_text("".join(_closed(page.read_text(encoding="utf-8"))), encoding="utf-8")


def _closed(html: str) -> Iterator[str]:
    html = re.sub(r"<script\b.*?</script\s*>", "", html, flags=re.DOTALL | re.IGNORECASE)
    html = re.sub(r"<(?:link|img|iframe)\b[^>]*>", "", html, flags=re.IGNORECASE)
    html = re.sub(r"""\s(?:href|src|action)\s*=\s*["'](?:https?:)?//[^"']*["']""", "", html, flags=re.IGNORECASE)
    html = re.sub(r"@import[^;]*;|url\(\s*['\"]?(?:https?:)?//[^)]*\)", "", html, flags=re.IGNORECASE)
    yield html.replace("</head>", f"{STYLE}</head>", 1)
