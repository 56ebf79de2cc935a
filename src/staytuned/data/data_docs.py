"""Data Docs as pages that stand alone: nothing in them is loaded from elsewhere, and no script is needed."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2


@dataclass(frozen=True)
class Validated:
    """One checkpoint run: a batch, several small ones, or a part of a long one."""

    name: str
    batches: list[str]
    rows: int
    quarantined: int
    broken: int  # expectations
    pages: dict[str, str]  # by path: its own, and the contract's

    @property
    def page(self) -> str:
        """Path of its own."""
        return next(path for path in self.pages if path.startswith("validations/"))


HEAD = """<meta charset="utf-8"><meta http-equiv="Content-Security-Policy"
content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">"""

# The pages come with styles, scripts and pictures from five hosts. They go; these few rules stay.
STYLE = """<style>
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.6rem 0;width:100%}td,th{border:1px solid #ccc;padding:.3rem .5rem;
text-align:left;vertical-align:top;overflow-wrap:anywhere}th{background:#f2f2f2}a{color:#0b57d0}
ul,ol{padding-left:1.2rem}.badge{background:#eee;border-radius:.3rem;padding:.1rem .4rem;margin-right:.2rem}
.modal,.navbar-toggler,footer,[class*=footer],[id*=cta],[class*=cta],button,svg,img,input,label,
a[data-toggle=collapse],[class*=filter]{display:none}.collapse{display:block}
.text-success::before{content:"✓"}.text-danger::before{content:"✗"}
</style>"""

INDEX = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Data Docs</title></head><body>
<h1>Data Docs</h1><p>What the data contract made of the batches; small ones share a page. A row that breaks it is
in the quarantine.</p>
<table><tr><th>rows of</th><th>batch</th><th>rows</th><th>quarantined</th><th>expectations broken</th></tr>
{% for one in done %}<tr><td><a href="{{ one.page }}">
{%- for batch in one.batches %}{{ files[batch] }}{{ ", " if not loop.last }}{% endfor %}</a></td>
<td>{{ one.batches | join(" ") }}</td><td>{{ one.rows }}</td>
<td>{{ one.quarantined }}</td><td>{{ one.broken }}</td></tr>{% endfor %}</table>
<p><a href="expectations/contract.html">The contract</a></p></body></html>
"""


def site(pages: Path) -> dict[str, Any]:
    """Where Great Expectations writes its pages."""
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(pages)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def take_pages(folder: Path) -> dict[str, str]:
    """The pages that Great Expectations wrote since the last call, less what a browser would load from elsewhere."""
    found = {}
    for path in sorted([*folder.glob("expectations/*.html"), *folder.glob("validations/**/*.html")]):
        found[path.relative_to(folder).as_posix()] = _closed(path.read_text(encoding="utf-8"))
    shutil.rmtree(folder / "validations")
    return found


def write_pages(folder: Path, done: list[Validated], files: dict[str, str]) -> None:
    """Write all pages, and an index of them that needs no script.

    Args:
        folder: Theirs.
        done: What was validated.
        files: The file that each batch came in.
    """
    shutil.rmtree(folder, ignore_errors=True)
    index = jinja2.Environment(autoescape=True).from_string(INDEX).render(done=done, files=files)
    pages = {"index.html": _closed(index)}
    for one in done:
        pages |= one.pages
    for path, page in pages.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(page, encoding="utf-8")


def _closed(html: str) -> str:
    """The page, less what loads from elsewhere. A row's text may be HTML and stands there as such: ``HEAD`` forbids
    the browser to follow it.
    """
    html = re.sub(r"<script\b.*?</script\s*>", "", html, flags=re.DOTALL | re.IGNORECASE)
    html = re.sub(r"<(?:link|img|iframe|meta|base|object|embed)\b[^>]*>", "", html, flags=re.IGNORECASE)
    html = re.sub(
        r"""\s(?:href|src|action)\s*=\s*["']?\s*(?:https?:)?//[^"'\s>]*["']?""", "", html, flags=re.IGNORECASE
    )
    html = re.sub(r"@import[^;]*;|url\(\s*['\"]?(?:https?:)?//[^)]*\)", "", html, flags=re.IGNORECASE)
    return html.replace("<head>", f"<head>{HEAD}", 1).replace("</head>", f"{STYLE}</head>", 1)
