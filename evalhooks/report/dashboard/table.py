"""Tables of the page, which its scripts sort and filter."""

import re
from collections.abc import Sequence
from html import escape

_LONG = ' class="long"'


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: int,
    name: str = "",
    letter: str = "",
    foot: Sequence[Sequence[str]] = (),
    spans: Sequence[tuple[str, int]] = (),
    controls: Sequence[bool] = (),
) -> str:
    """A sortable table whose first `words` columns are text and whose others are numbers.

    With `name`, its id, it has a box that filters its rows. `letter` is that of the kind of run of each row, in the order of the page's
    data: the name of the run then is a button that shows it.
    """
    flags = [' class="control"' if control else "" for control in controls] or [""] * len(rows)
    body = "".join(
        f'<tr{flag} data-place="{place}">{_cells(row, words, f"{letter}{place}" if letter else "")}</tr>'
        for place, (row, flag) in enumerate(zip(rows, flags, strict=True))
    )
    groups = "".join(f'<th class="group" colspan="{width}">{escape(text)}</th>' for text, width in spans)
    top = f"<tr>{groups}</tr>" if groups else ""
    buttons = "".join(
        f'<th class="{"w" if i < words else "n"}" scope="col"><button type="button">{escape(head)}</button></th>'
        for i, head in enumerate(heads)
    )
    end = f"<tfoot>{''.join(f'<tr>{_cells(row, words)}</tr>' for row in foot)}</tfoot>" if foot else ""
    identity = f' id="{name}"' if name else ""
    whole = f'<table class="sorts"{identity}><thead>{top}<tr class="sort">{buttons}</tr></thead><tbody>{body}</tbody>{end}</table>'
    return f'{_filter(name) if name else ""}<div class="scroll{" tall" if name else ""}" tabindex="0">{whole}</div>'


def minus(text: str) -> str:
    """A true minus sign and a quiet dash for the missing, in cells that hold a number only."""
    return "\u2013" if text == "n/a" else escape(text).replace("-", "\u2212") if "e-" not in text else escape(text)


def _filter(name: str) -> str:
    hint = "words, -word, math&gt;60"
    return (
        f'<div class="controls"><label for="{name}-filter">Filter<input id="{name}-filter" type="search" data-table="{name}" '
        f'placeholder="{hint}" autocomplete="off"></label><span id="{name}-filter-count" class="caption" role="status"></span></div>'
    )


def _word(text: str) -> str:
    """Text whose numbers are not broken after a minus: "1e-3" in the name of a run stays whole."""
    return re.sub(r"[a-z]*\d+(?:\.\d+)?e-\d+", r'<span class="whole">\g<0></span>', escape(text))


def _cells(row: Sequence[str], words: int, run: str = "") -> str:
    cells = [
        f"<td{_LONG if len(cell) > 14 else ''}>{_word(cell)}</td>" if i < words else f'<td class="n">{minus(cell)}</td>'
        for i, cell in enumerate(row)
    ]
    if run:
        cells[0] = f'<td><button type="button" data-run="{run}">{_word(row[0])}</button></td>'
    return "".join(cells)
