"""The parts that pages are put together from: sections, places of figures, the explorer of scores, scripts and data."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from plotly.offline import get_plotlyjs

from evalhooks.report.style import asset

Data = Mapping[str, Any]


def section(name: str, title: str, text: str, *parts: str) -> str:
    """A section with the anchor that the list of contents leads to."""
    caption = f'<p class="caption">{escape(text)}</p>' if text else ""
    return f'<section id="{name}-section"><h2>{escape(title)}</h2>{caption}{"".join(parts)}</section>'


def figure(name: str, title: str = "", classes: str = "") -> str:
    """The place of a figure, which a script draws; the title stands outside, where it wraps."""
    head = f'<h3 class="figure-title">{escape(title)}</h3>' if title else ""
    of = f' class="{classes}"' if classes else ""
    return f'<div{of}>{head}<div id="figure-{name}"></div><p class="caption" id="note-{name}" role="status"></p></div>'


def panels(*figures: str) -> str:
    """Figures side by side, below each other where the window is narrow."""
    return f'<div class="panels">{"".join(figures)}</div>'


def choice(name: str, label: str, options: Sequence[tuple[str, str]] = ()) -> str:
    """A list to choose from; a script may fill it."""
    listed = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
    return f'<label for="{name}">{escape(label)}<select id="{name}">{listed}</select></label>'


_GRIDS = (
    ("use", "Benchmarks with downstream scores"),
    ("benchmarks", "Benchmarks with each other"),
    ("downstream", "Downstream scores with each other"),
)


def explorer(data: Data, title: str, *details: str) -> str:
    """Any score of the explorer's `data` (see `dashboard.explorer`) against any other, and the grids of correlations to choose from."""
    if not data["columns"]:
        return section("benchmark", title, "", '<p class="absent">No scores to compare.</p>')
    protocol = choice("explore-protocol", "Protocol") if len(data["protocols"]) > 1 else ""
    chosen = f'<div class="controls">{choice("explore-x", "Across")}{choice("explore-y", "Upwards")}{protocol}</div>'
    there = [(kind, text) for kind, text in _GRIDS if kind == "use" or len(data[kind]) > 1]
    grids = f'<div class="controls">{choice("explore-grid", "Correlations of", there)}</div>'
    grid = f'<div><h3 class="figure-title">Choose a pair</h3>{grids}{figure("grid")}</div>'
    text = "Each point is a reward model, the line the least-squares fit through those shown. Whiskers are standard errors."
    return section(
        "benchmark", title, text, chosen, figure("benchmark"), panels(figure("links", "Which score predicts it"), grid), *details
    )


FIGURES = {"pick.png": figure("pick"), "self_preference.png": figure("preference")}
"""What the scripts draw in place of the pictures of findings; the explorer shows what the others do."""


def contents(entries: Sequence[tuple[str, str]]) -> str:
    """The list of sections, which stays at the top of the window; `entries` are names and short titles."""
    links = "".join(f'<a href="#{name}-section">{escape(title)}</a>' for name, title in entries)
    return f'<nav aria-label="Sections">{links}</nav>'


def scripts(data: Data, names: Sequence[str], last: str = "") -> str:
    """plotly.js, the scripts with these names, and before them the data that they read."""
    texts = (get_plotlyjs(), *map(asset, names), *([last] if last else []))
    return _embedded(data) + "".join(f"<script>{text}</script>\n" for text in texts)


def without_scripts(page: str) -> str:
    """A page with its data but not its scripts: what an open page, which has them, needs of a newer one."""
    return page.partition("</script>\n<script>")[0] + "</script>\n</body>\n</html>\n"


def _embedded(data: Data) -> str:
    """The data as JSON that cannot close the script that holds it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="data">{text}</script>\n'
