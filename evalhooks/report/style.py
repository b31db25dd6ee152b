"""Style and scripts of the pages, from the files beside `evalhooks.report.dashboard`: nothing to load, nothing to keep up to date."""

from pathlib import Path

_ASSETS = Path(__file__).parent / "dashboard" / "assets"

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Content security policy: the browser itself refuses any load from a network."""


def asset(name: str) -> str:
    """The text of a file of the pages."""
    return (_ASSETS / name).read_text(encoding="utf-8")


STYLE = asset("page.css")
SCRIPT = asset("table.js") + "startTables();\n"
"""Sorting and filtering alone, for a page that draws its figures itself."""
