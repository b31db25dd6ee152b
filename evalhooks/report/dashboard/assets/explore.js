// Any score against any other: a scatter whose axes are chosen from lists or in the grid of correlations, and what is drawn from the same columns.
"use strict";

const MOST_ERROR_BARS = 60, PALE = 0.45;

/** The numbers that two columns have in the models shown, of one protocol where scores were measured by several. */
function scoredPairs(explorer, models, choice) {
  return models.filter(model => [choice.x, choice.y].every(key => key in model.scores) && (explorer.protocols.length < 2 || model.protocol === choice.protocol));
}

/** The correlation of two columns as the report computed it, over all reward models; of one protocol if there are several. */
function linkOf(explorer, choice) {
  const label = explorer.protocols.length > 1 ? ` (${choice.protocol || "protocol unknown"})` : "";
  return explorer.links[`${choice.x}~${choice.y}${label}`] ?? explorer.links[`${choice.y}~${choice.x}${label}`] ?? null;
}

/** Means of two lists of numbers, and the sums of squares and of products of their deviations. */
function moments(xs, ys) {
  const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length, [mx, my] = [mean(xs), mean(ys)];
  const sum = f => xs.reduce((total, x, i) => total + f(x - mx, ys[i] - my), 0);
  return {mx, my, xx: sum(dx => dx * dx), yy: sum((_, dy) => dy * dy), xy: sum((dx, dy) => dx * dy)};
}

/** Pearson's r; null where fewer than three points or no spread forbid it. */
function pearson(xs, ys) {
  const {xx, yy, xy} = moments(xs, ys), scale = Math.sqrt(xx * yy);
  return xs.length < 3 || !(scale > 0) ? null : xy / scale;
}

/** The least-squares line through points; nothing where two points or no spread forbid it. */
function regression(xs, ys) {
  const {mx, my, xx, xy} = moments(xs, ys);
  if (xs.length < 3 || xx === 0) return [];
  const ends = [Math.min(...xs), Math.max(...xs)], y = ends.map(x => my + xy / xx * (x - mx));
  return [{x: ends, y, mode: "lines", line: {color: LINE, width: 1.5}, hoverinfo: "skip", showlegend: false}];
}

function intervalText(link) {
  const range = link.low === null || link.high === null ? "no interval" : `${link.low.toFixed(2)} to ${link.high.toFixed(2)}`;
  return `${range}, n = ${link.n ?? 0}`;
}

/** What is said of a pair: the report's correlation, and that of the points shown where the filter leaves fewer. */
function pairText(explorer, pairs, choice) {
  const link = linkOf(explorer, choice), parts = [];
  if (choice.x === choice.y) return "A score against itself.";
  if (link && link.pearson !== null) parts.push(`Pearson r = ${link.pearson.toFixed(2)} (95% interval ${intervalText(link)})${link.spearman === null ? "" : `, Spearman ${link.spearman.toFixed(2)}`}.`);
  else parts.push(link?.note ? `No correlation: ${link.note}` : "No correlation was computed.");
  if (link && pairs.length < (link.n ?? 0)) {
    const r = pearson(pairs.map(model => model.scores[choice.x]), pairs.map(model => model.scores[choice.y]));
    parts.push(r === null ? `The filter leaves ${pairs.length}.` : `Of the ${pairs.length} that the filter leaves, r = ${r.toFixed(2)}.`);
  }
  return parts.join(" ");
}

function axisTitle(explorer, key) {
  const column = explorer.columns[key];
  return shortName(column.unit ? `${column.name} (${column.unit})` : column.name, isNarrow() ? 38 : 90);
}

function scatterTrace(explorer, group, own, choice, bars) {
  const tint = explorer.colours[explorer.groups.indexOf(group) % explorer.colours.length], symbols = new Map(explorer.marks);
  const error = key => bars && own.some(model => key in model.errors)
    ? {type: "data", array: own.map(model => model.errors[key] ?? 0), color: tint, thickness: 1, width: 0} : {visible: false};
  const least = choice.band === null ? Infinity : choice.best - choice.band;
  return {x: own.map(model => model.scores[choice.x]), y: own.map(model => model.scores[choice.y]), mode: "markers", name: safe(group || "reward models", 30), text: own.map(card),
    error_x: error(choice.x), error_y: error(choice.y), opacity: 1,
    marker: {color: tint, size: bars ? 11 : 8, symbol: own.map(model => (symbols.get(model.mark || "no base") ?? "circle") + (model.control ? "-open" : "")), line: {width: 2, color: tint},
      opacity: own.map(model => model.scores[choice.x] >= least && model.scores[choice.x] < choice.best ? PALE : 1)},
    hovertemplate: `%{text}<br>${safe(explorer.columns[choice.x].name)} %{x:.4~g}<br>${safe(explorer.columns[choice.y].name)} %{y:.4~g}<extra></extra>`};
}

function legendKeys(explorer, models) {
  const keys = explorer.marks.length > 1 ? explorer.marks.map(([base, symbol]) => [base, symbol]) : [];
  if (models.some(model => model.control) && !explorer.groups.includes("controls")) keys.push(["hollow: control", "circle-open"]);
  return keys.map(([name, symbol]) => ({x: [null], y: [null], mode: "markers", name: safe(name, 30), marker: {color: LINE, size: 9, symbol}, hoverinfo: "skip"}));
}

function drawPair(explorer, models, choice) {
  const pairs = scoredPairs(explorer, models, choice), bars = pairs.length <= MOST_ERROR_BARS;
  const [xs, ys] = [choice.x, choice.y].map(key => pairs.map(model => model.scores[key]));
  const best = Math.max(...pairs.filter(model => !model.control).map(model => model.scores[choice.x])), band = Number.isFinite(best) ? explorer.bands[choice.x] ?? null : null;
  const groups = explorer.groups.filter(group => pairs.some(model => model.group === group));
  const behind = (explorer.published[`${choice.x}~${choice.y}`] ?? []);
  const traces = pairs.length ? [...regression(xs, ys), ...(behind.length ? [{x: behind.map(([x]) => x), y: behind.map(([, y]) => y), mode: "markers", name: "published",
    marker: {color: LINE, size: 6, opacity: 0.6}, hovertemplate: "published<br>%{x:.4~g}, %{y:.4~g}<extra></extra>"}] : []),
    ...groups.map(group => scatterTrace(explorer, group, pairs.filter(model => model.group === group), {...choice, best, band}, bars)), ...legendKeys(explorer, pairs)] : [];
  const lines = acrossLines((explorer.lines[choice.y] ?? []).map(([height, label]) => ({height, label: `${label} ${height.toPrecision(3)}`})), "left");
  if (band !== null) lines.shapes.push({type: "rect", x0: best - band, x1: best, yref: "paper", y0: 0, y1: 1, fillcolor: GRID, line: {width: 0}, layer: "below"});
  draw("benchmark", traces, {height: 480, ...lines, xaxis: {title: axisTitle(explorer, choice.x)}, yaxis: {title: axisTitle(explorer, choice.y)}},
    "No reward model shown has both scores.");
  note("benchmark", `${pairText(explorer, pairs, choice)}${band === null ? "" : ` Pale: within seed noise of the best (${band.toPrecision(2)}).`}`);
}

/** How each benchmark score goes with the chosen downstream result. */
function drawLinks(explorer, choice) {
  const found = explorer.benchmarks.map(x => [x, linkOf(explorer, {...choice, x})]).filter(([x, link]) => x !== choice.y && link && link.pearson !== null);
  const low = found.map(([, link]) => link.low === null ? 0 : link.pearson - link.low), high = found.map(([, link]) => link.high === null ? 0 : link.high - link.pearson);
  const traces = found.length ? [{x: found.map(([, link]) => link.pearson), y: found.map(([key]) => safe(explorer.columns[key].name, 28)), mode: "markers",
    marker: {color: explorer.colours[0], size: 10}, text: found.map(([, link]) => `r = ${link.pearson.toFixed(2)} (${intervalText(link)})`),
    error_x: {type: "data", symmetric: false, array: high, arrayminus: low, color: LINE, thickness: 1.5}, hovertemplate: "%{y}<br>%{text}<extra></extra>"}] : [];
  const least = Math.min(-0.1, ...found.filter(([, link]) => link.low !== null).map(([, link]) => link.low - 0.05));
  draw("links", traces, {height: Math.max(200, 120 + 32 * found.length), xaxis: {title: `Pearson r with ${shortName(explorer.columns[choice.y].name, isNarrow() ? 24 : 60)}`, range: [least, 1.05]},
    yaxis: {autorange: "reversed"}}, "No correlation was computed.");
}

const GRIDS = {use: ["benchmarks", "downstream"], benchmarks: ["benchmarks", "benchmarks"], downstream: ["downstream", "downstream"]};

/** Every score of one kind against every score of another; a click chooses the pair. */
function drawGrid(explorer, choice, choose) {
  const [rows, columns] = GRIDS[choice.grid].map(name => explorer[name]);
  const cells = rows.map(y => columns.map(x => x === y ? null : linkOf(explorer, choice.grid === "use" ? {...choice, x: y, y: x} : {...choice, x, y})));
  const name = key => safe(explorer.columns[key].name, 28), r = link => link?.pearson ?? null, long = columns.some(key => explorer.columns[key].name.length > 8);
  const traces = cells.flat().some(link => r(link) !== null) ? [{type: "heatmap", x: columns.map((_, place) => place), y: rows.map((_, place) => place),
    z: cells.map(row => row.map(r)), text: cells.map((row, i) => row.map((link, j) => rows[i] === columns[j] ? "" : r(link) === null ? "n/a" : link.pearson.toFixed(2))),
    texttemplate: isNarrow() && columns.length > 8 ? "" : "%{text}", customdata: cells.map((row, i) => row.map((link, j) => `${name(rows[i])} ~ ${name(columns[j])}<br>${r(link) === null ? safe(link?.note || "no correlation") : `r = ${link.pearson.toFixed(2)} (${intervalText(link)})`}`)),
    hovertemplate: "%{customdata}<extra></extra>", colorscale: DIVERGING, zmin: -1, zmax: 1, showscale: false, xgap: 2, ygap: 2}] : [];
  draw("grid", traces, {height: Math.max(240, 130 + 30 * rows.length), yaxis: {autorange: "reversed", showgrid: false, tickvals: rows.map((_, place) => place), ticktext: rows.map(name)},
    xaxis: {showgrid: false, tickangle: long || columns.length > 4 ? -40 : 0, tickvals: columns.map((_, place) => place), ticktext: columns.map(name)}}, "No correlation was computed.");
  const place = document.getElementById("figure-grid");
  place?.removeAllListeners?.("plotly_click");
  place?.on?.("plotly_click", ({points: [cell]}) => choice.grid === "use" ? choose(rows[cell.y], columns[cell.x]) : choose(columns[cell.x], rows[cell.y]));
}

/** The probability of each reward model to be the best by one downstream result. */
function drawPick(explorer, choice) {
  const pick = explorer.picks.find(entry => entry.downstream === choice.y) ?? explorer.picks[0];
  if (!pick) return;
  const unit = explorer.columns[pick.downstream]?.unit ?? "", names = pick.candidates.map(([name]) => shortName(name, isNarrow() ? 20 : 40));
  const traces = [{type: "bar", orientation: "h", y: names.map((_, place) => place), x: pick.candidates.map(([, probability]) => probability), showlegend: false,
    text: pick.candidates.map(([, probability, regret]) => `${probability.toFixed(2)}, regret ${regret.toPrecision(2)}`), textposition: "outside", cliponaxis: false,
    marker: {color: pick.candidates.map(([name]) => explorer.colours[name === pick.model ? 2 : 0])}, hovertemplate: "%{text}<extra></extra>"}];
  draw("pick", traces, {height: 110 + 28 * names.length, bargap: 0.35, xaxis: {title: "Probability of being the best", range: [0, isNarrow() ? 2.2 : 1.45], tickvals: [0, 0.5, 1]},
    yaxis: {autorange: "reversed", showgrid: false, tickvals: names.map((_, place) => place), ticktext: names}}, "");
  note("pick", `For ${explorer.columns[pick.downstream]?.name ?? pick.downstream}, picked by ${explorer.columns[pick.by]?.name ?? pick.by}; regret is what is expected to be lost${unit ? `, in ${unit}` : ""}.${pick.left ? ` ${pick.left} more are not shown.` : ""}`);
}

/** Mean inverse rank of each completion model by base of the reward model, as in figures 5 and 6 of the RewardBench 2 paper. */
function drawPreference(explorer) {
  const found = explorer.preference;
  if (!found) return;
  const traces = found.bases.map((base, place) => {
    const cells = found.cells.filter(cell => cell.base === base && !cell.data);
    return {type: "bar", name: safe(`${base} reward models`, 40), x: cells.map(cell => safe(cell.model, 30)), y: cells.map(cell => cell.inverse_rank),
      error_y: {type: "data", array: cells.map(cell => cell.sd ?? 0), color: LINE, thickness: 1.5}, marker: {color: explorer.colours[place % explorer.colours.length]},
      hovertemplate: "%{x}: %{y:.3f}<extra></extra>"};
  });
  draw("preference", traces, {barmode: "group", yaxis: {title: "mean inverse rank"}, xaxis: {showgrid: false}}, "");
}

/** Fills the lists of the explorer and draws it; what it returns draws it anew for other reward models. */
function startExplorer(explorer, shownModels) {
  const [x, y, grid, protocol] = ["explore-x", "explore-y", "explore-grid", "explore-protocol"].map(id => document.getElementById(id));
  drawPreference(explorer);
  if (!x || !y) return () => {};
  const option = key => element("option", {value: key}, explorer.columns[key].name);
  const groups = () => [["Benchmarks", explorer.benchmarks], ["Downstream", explorer.downstream]].filter(([, keys]) => keys.length)
    .map(([label, keys]) => element("optgroup", {label}, ...keys.map(option)));
  x.replaceChildren(...groups());
  y.replaceChildren(...groups());
  x.value = explorer.benchmarks[0] ?? explorer.downstream[1] ?? explorer.downstream[0];
  y.value = explorer.downstream[0] ?? explorer.benchmarks[1] ?? explorer.benchmarks[0];
  protocol?.replaceChildren(...explorer.protocols.map(name => element("option", {value: name}, name || "protocol unknown")));
  const redraw = () => {
    const choice = {x: x.value, y: y.value, grid: grid?.value ?? "use", protocol: protocol?.value ?? explorer.protocols[0] ?? ""};
    drawPair(explorer, shownModels(), choice);
    drawLinks(explorer, choice);
    drawGrid(explorer, choice, (newX, newY) => { x.value = newX; y.value = newY; redraw(); });
    drawPick(explorer, choice);
  };
  for (const input of [x, y, grid, protocol]) if (input) input.oninput = redraw;
  redraw();
  return redraw;
}
