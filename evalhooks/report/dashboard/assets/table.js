// Tables: a click on a head sorts; the filter box of a table hides rows, and tells whoever draws the same runs.
"use strict";

const MINUS = "\u2212";

/** The number in a cell, NaN where there is none. */
function cellNumber(row, column) {
  const cell = row.cells[column];
  return parseFloat((cell.dataset.value ?? cell.textContent).replace(MINUS, "-"));
}

function sortBy(head, order) {
  const body = head.closest("table").tBodies[0];
  const column = [...head.parentNode.children].indexOf(head), isNumber = head.classList.contains("n");
  const sign = order === "ascending" ? 1 : -1;
  for (const th of head.parentNode.children) th.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const compare = (a, b) => {
    if (!isNumber) return sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent, undefined, {numeric: true});
    const [x, y] = [cellNumber(a, column), cellNumber(b, column)];
    // A missing number goes last, whichever way the column is sorted.
    return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
  };
  body.append(...[...body.rows].sort(compare));
}

/** What one word of a filter asks of a row: "math>60" compares a number, "-tulu" must be absent, any other word present. */
function condition(word, heads) {
  const match = /^(.+?)(>=|<=|>|<|=)(-?[\d.]+(?:e-?\d+)?)$/i.exec(word);
  const column = match ? heads.findIndex(head => head.replaceAll(" ", "").toLowerCase().startsWith(match[1].toLowerCase())) : -1;
  if (column >= 0) {
    const bound = parseFloat(match[3]);
    const tests = {">": x => x > bound, "<": x => x < bound, ">=": x => x >= bound, "<=": x => x <= bound, "=": x => x === bound};
    return row => tests[match[2]](cellNumber(row, column));
  }
  if (word.length > 1 && word.startsWith("-")) return row => !row.textContent.toLowerCase().includes(word.slice(1).toLowerCase());
  return row => row.textContent.toLowerCase().includes(word.toLowerCase());
}

function filterTable(input) {
  const table = document.getElementById(input.dataset.table);
  const heads = [...table.querySelectorAll("tr.sort th")].map(th => th.textContent);
  const conditions = input.value.split(/\s+/).filter(Boolean).map(word => condition(word, heads));
  const rows = [...table.tBodies[0].rows];
  for (const row of rows) row.hidden = !conditions.every(holds => holds(row));
  const shown = rows.filter(row => !row.hidden).length;
  document.getElementById(`${input.id}-count`).textContent =
    conditions.length ? `${shown} of ${rows.length} shown` : "";
  document.dispatchEvent(new CustomEvent("filtered", {detail: table.id}));
}

/** Places, in the order of the data, of the runs that a table shows. */
function shownPlaces(tableId) {
  const table = document.getElementById(tableId);
  return table ? [...table.tBodies[0].rows].filter(row => !row.hidden && row.dataset.place).map(row => +row.dataset.place) : [];
}

function startTables() {
  document.addEventListener("click", event => {
    const button = event.target.closest("tr.sort button");
    if (!button) return;
    const head = button.closest("th");
    const [first, other] = head.classList.contains("n") ? ["descending", "ascending"] : ["ascending", "descending"];
    sortBy(head, head.getAttribute("aria-sort") === first ? other : first);
  });
  document.addEventListener("input", event => {
    if (event.target.matches("input[data-table]")) filterTable(event.target);
  });
}
