"""Head, style and scripts of the pages, from the files beside `evalhooks.report.dashboard`: nothing to load, nothing to keep up to date."""

from html import escape
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


def page_head(title: str, *, policy: str = POLICY) -> str:
    """A page up to its body."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}: rewardloop report</title>
<style>{STYLE}</style>
</head>
"""
