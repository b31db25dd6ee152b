// The browser of misjudged rows: which reward model, which domain, which words; a row opens to its completions and its checkpoints.
"use strict";

const ROWS_AT_A_TIME = 20;

/** A score or margin; text is one that is not finite. */
function scoreText(value, digits = 3) {
  if (typeof value !== "number") return value === null || value === undefined ? "n/a" : String(value);
  return value.toFixed(digits).replace("-", MINUS);
}

function isWrong(margin) {
  return !(typeof margin === "number" && margin > 0);
}

/** For sorting: a margin that is no number is as wrong as can be. */
function compareMargins(a, b) {
  const [x, y] = [a, b].map(margin => typeof margin === "number" ? margin : Number.NEGATIVE_INFINITY);
  return x === y ? 0 : x - y;
}

/** The scores of a row at the newest checkpoint of a model, of the worst one where none is chosen. */
function newest(row, model) {
  const of = model === null ? row.seen : row.seen.filter(seen => seen.model === model);
  const last = of.map(seen => ({model: seen.model, step: seen.steps.at(-1), margin: seen.margins.at(-1), scores: seen.scores.at(-1)}));
  return last.sort((a, b) => compareMargins(a.margin, b.margin))[0];
}

function completionsTable(data, row, found) {
  const body = element("tbody");
  row.completions.forEach((completion, place) => {
    const label = completion.correct ? "right" : "wrong";
    body.append(element("tr", {class: label},
      element("td", {}, element("span", {class: `mark ${label}`}, label)),
      element("td", {class: "n"}, scoreText(found.scores[place])),
      element("td", {class: "text"}, completion.text)));
  });
  const head = element("thead", {}, element("tr", {}, element("th", {}, ""), element("th", {class: "n"}, "Score"), element("th", {}, "Completion")));
  return element("table", {class: "completions"},
    element("caption", {}, `Scores of ${data.models[found.model].name} at step ${found.step}`), head, body);
}

function checkpointsTable(data, row, model) {
  const of = model === null ? row.seen : row.seen.filter(seen => seen.model === model);
  const body = element("tbody");
  for (const seen of of.slice(0, 12)) {
    const steps = seen.steps.map((step, place) => element("span", {class: isWrong(seen.margins[place]) ? "chip bad" : "chip good"},
      `${isWrong(seen.margins[place]) ? "✗" : "✓"} step ${step}: ${scoreText(seen.margins[place])}`));
    body.append(element("tr", {}, element("td", {}, data.models[seen.model].name), element("td", {class: "chips"}, ...steps)));
  }
  const rest = of.length > 12 ? ` (12 of ${of.length} reward models; choose one above)` : "";
  return element("table", {class: "across"},
    element("caption", {}, `Margins across checkpoints: best right completion minus best wrong one${rest}`), body);
}

function rowDetails(data, row, model) {
  const found = newest(row, model);
  const wrong = row.seen.filter(seen => isWrong(seen.margins.at(-1))).length;
  const question = row.prompt.at(-1)?.content ?? "";
  const summary = element("summary", {}, element("b", {}, row.domain || row.kind), ` ${row.id ? `row ${row.id}, ` : ""}margin ${scoreText(found.margin)}, `,
    `wrong for ${wrong} of ${row.seen.length} that had it among their worst: `, element("span", {class: "soft"}, question.slice(0, 110)));
  const details = element("details", {class: "row", "data-key": JSON.stringify([row.kind, row.domain, row.id, question])}, summary);
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const turns = row.prompt.map(turn => element("p", {class: "turn"}, element("b", {}, turn.role), " ", turn.content));
    details.append(element("div", {class: "prompt"}, ...turns), element("div", {class: "scroll", tabindex: "0"}, completionsTable(data, row, found)),
      element("div", {class: "scroll", tabindex: "0"}, checkpointsTable(data, row, model)));
  });
  return details;
}

function chosenRows(data, choice) {
  const words = choice.words.toLowerCase().split(/\s+/).filter(Boolean);
  const holds = row => {
    if (choice.domain && `${row.kind}/${row.domain}` !== choice.domain) return false;
    if (choice.model !== null && !row.seen.some(seen => seen.model === choice.model)) return false;
    if (!words.length) return true;
    const text = [row.id, ...row.prompt.map(turn => turn.content), ...row.completions.map(answer => answer.text)].join(" ").toLowerCase();
    return words.every(word => text.includes(word));
  };
  return data.misjudged.rows.filter(holds);
}

function startRows(data) {
  const place = document.getElementById("rows");
  if (!place) return;
  const [model, domain, words] = ["rows-model", "rows-domain", "rows-words"].map(id => document.getElementById(id));
  const list = element("div", {class: "list"}), count = element("p", {class: "caption", "aria-live": "polite"}), more = element("button", {type: "button"}, "Show more");
  place.replaceChildren(count, list, more);
  const seen = new Set(data.misjudged.rows.flatMap(row => row.seen.map(item => item.model)));
  for (const number of [...seen].sort((a, b) => a - b)) model.append(element("option", {value: data.models[number].id || data.models[number].name}, data.models[number].name));
  for (const name of [...new Set(data.misjudged.rows.map(row => `${row.kind}/${row.domain}`))].sort())
    domain.append(element("option", {value: name}, name.replace("/", ": ")));
  let rows = [], choice = null, shown = 0;
  const add = () => {
    list.append(...rows.slice(shown, shown + ROWS_AT_A_TIME).map(row => rowDetails(data, row, choice.model)));
    shown = Math.min(rows.length, shown + ROWS_AT_A_TIME);
    more.hidden = shown >= rows.length;
    const left = data.misjudged.left ? `; ${data.misjudged.left} more had no room here and are in samples/ of the runs` : "";
    count.textContent = `${shown} of ${rows.length} rows${left}`;
  };
  const draw = () => {
    const chosen = data.models.findIndex(one => (one.id || one.name) === model.value);
    choice = {model: model.value === "" || chosen < 0 ? null : chosen, domain: domain.value, words: words.value};
    rows = chosenRows(data, choice);
    if (choice.model !== null) rows = [...rows].sort((a, b) => compareMargins(newest(a, choice.model).margin, newest(b, choice.model).margin));
    list.replaceChildren();
    shown = 0;
    add();
  };
  for (const input of [model, domain, words]) input.oninput = draw;
  more.onclick = add;
  draw();
}
