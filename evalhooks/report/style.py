"""Style and script of the page. Own and small: nothing to load, nothing to keep up to date."""

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Content security policy: the browser itself refuses any load from a network."""

STYLE = """
:root {
  --fg: #1c2430; --soft: #5b6673; --bg: #ffffff; --card: #f6f8fa; --line: #dfe4ea;
  --accent: #2466b8; --note: #fff8e6; --note-line: #e3a008;
}
@media (prefers-color-scheme: dark) {
  :root {
    --fg: #e6e9ee; --soft: #9aa5b4; --bg: #12161c; --card: #1a2029; --line: #2b333f;
    --accent: #6aa9f0; --note: #262112; --note-line: #b7860b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--bg); color: var(--fg);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1160px; margin: 0 auto; padding: 40px 28px 72px; }
h1, h2, h3, p { margin: 0; overflow-wrap: anywhere; }
h1 { font-size: 34px; line-height: 1.2; letter-spacing: -0.01em; }
h2 { font-size: 22px; line-height: 1.3; }
h3 { font-size: 16px; margin-top: 20px; }
.kicker { color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: 0.05em; text-transform: uppercase; }
.meta, .caption, .absent { color: var(--soft); font-size: 14.5px; }
.caption { margin-bottom: 10px; }
.absent { padding: 18px; margin: 8px 0; border: 1px dashed var(--line); border-radius: 8px; text-align: center; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; margin: 26px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile p { font-size: 13px; color: var(--soft); line-height: 1.4; }
.tile strong { display: block; font-size: 32px; line-height: 1.3; font-weight: 650; font-variant-numeric: tabular-nums; }
.result { font-size: 17px; max-width: 78ch; }
.note { margin-top: 16px; padding: 12px 16px; background: var(--note); border-left: 4px solid var(--note-line); border-radius: 4px; }
section { margin-top: 52px; }
details { margin-top: 14px; font-size: 15px; }
summary { cursor: pointer; color: var(--soft); }
.scroll { overflow-x: auto; margin-top: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 12.5px; line-height: 1.35; }
td, th { padding: 5px 6px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: bottom; }
td { max-width: 30ch; overflow-wrap: break-word; vertical-align: top; }
td:first-child { min-width: 16ch; position: sticky; left: 0; background: var(--bg); }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.n { white-space: normal; }
tr.control td { font-style: italic; color: var(--soft); }
tfoot td { color: var(--soft); border-bottom: 0; }
.group { color: var(--soft); font-weight: 600; text-align: center; }
.group:empty { border-bottom: 0; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:hover, th button:focus-visible { color: var(--accent); text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\25B4"; }
th[aria-sort=descending] button::after { content: " \\25BE"; }
tbody tr:hover td { background: var(--card); }
a { color: var(--accent); }
/* Plotly writes its colours into the elements; these rules make its text follow the theme of the page. */
.js-plotly-plot .main-svg text:not(.hoverlayer text) { fill: var(--fg) !important; }
@media (max-width: 1000px) { table { font-size: 11.5px; } td, th { padding: 4px; } }
@media (max-width: 640px) { main { padding: 24px 16px; } h1 { font-size: 27px; } }
@media print { section { break-inside: avoid; } }
"""

SCRIPT = """
for (const button of document.querySelectorAll("tr.sort button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const column = [...head.parentNode.children].indexOf(head), number = head.classList.contains("n");
    const first = number ? "descending" : "ascending", other = number ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first, sign = order === "ascending" ? 1 : -1;
    for (const th of head.parentNode.children) th.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const text = row => row.cells[column].textContent;
    const value = row => parseFloat(text(row).replace("\\u2212", "-"));
    const compare = (a, b) => {
      if (!number) return sign * text(a).localeCompare(text(b), undefined, {numeric: true});
      const [x, y] = [value(a), value(b)];
      // A missing number goes last, whichever way the column is sorted.
      return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
    };
    body.append(...[...body.rows].sort(compare));
  });
}
"""
