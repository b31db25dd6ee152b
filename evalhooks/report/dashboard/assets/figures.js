// The figures of the whole study. Plotly reads tags in its texts, so every name goes through `safe`.
"use strict";

const GRID = "rgba(128,140,155,0.22)", LINE = "rgba(128,140,155,0.9)";
const SHADES = [[0, "rgba(47,126,216,0.04)"], [1, "rgba(47,126,216,0.92)"]];
const DIVERGING = [[0, "rgba(201,68,79,0.9)"], [0.5, "rgba(128,140,155,0.08)"], [1, "rgba(47,126,216,0.9)"]];
const MOST_CURVES = 24, MOST_ROWS = 40;
const OPTIONS = {displayModeBar: false, responsive: true};

function safe(text, width = 200) {
  const line = text.length > width ? `${text.slice(0, width - 1)}…` : text;
  return line.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

const points = value => value === null || value === undefined ? null : 100 * value;
const isNarrow = () => window.innerWidth < 640;

/** Draws into the element of a figure, if the page has it; without traces it says so instead. */
function draw(id, traces, layout, absent) {
  const place = document.getElementById(`figure-${id}`);
  if (!place) return;
  if (!traces.length) {
    Plotly.purge(place);
    place.replaceChildren(element("p", {class: "absent"}, absent));
    return;
  }
  if (!place.classList.contains("js-plotly-plot")) place.replaceChildren();
  const axis = {gridcolor: GRID, linecolor: GRID, zeroline: false, automargin: true};
  const {xaxis, yaxis, height, ...rest} = layout;
  const title = text => ({text, standoff: 8, font: {size: 13}});
  const legend = {orientation: "h", y: -0.18, yref: "paper", x: 0, xanchor: "left", font: {size: isNarrow() ? 11 : 12}};
  Plotly.react(place, traces, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hoverlabel: {align: "left"}, legend,
    font: {family: "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif", size: isNarrow() ? 11 : 12},
    margin: {l: 44, r: 12, t: 16, b: 44}, height: height ?? 380,
    xaxis: {...axis, ...xaxis, title: title(xaxis?.title ?? "")}, yaxis: {...axis, ...yaxis, title: title(yaxis?.title ?? "")}, ...rest,
  }, OPTIONS);
}

function colour(data, model) {
  return data.mixColours[data.mixes.indexOf(model.data) % data.mixColours.length];
}

function mark(data, model) {
  return data.marks[data.bases.indexOf(model.base) % data.marks.length] + (model.control ? "-open" : "");
}

function card(model) {
  return `<b>${safe(model.name)}</b><br>${safe(model.setup)}${model.control ? "<br>control" : ""}`;
}

/** Lines across a figure with their names: what a height is to be read against. */
function acrossLines(references) {
  const shapes = references.map(({height}) =>
    ({type: "line", xref: "paper", x0: 0, x1: 1, y0: height, y1: height, line: {color: LINE, dash: "dash", width: 1}}));
  const annotations = references.map(({height, label}) =>
    ({xref: "paper", x: 1, y: height, xanchor: "right", yanchor: "bottom", text: safe(label), showarrow: false, font: {size: 11}}));
  return {shapes, annotations};
}

/** The least-squares line through points; nothing where two points or no spread forbid it. */
function regression(xs, ys) {
  const n = xs.length, mean = values => values.reduce((sum, value) => sum + value, 0) / n;
  const [mx, my] = [mean(xs), mean(ys)], spread = xs.reduce((sum, x) => sum + (x - mx) ** 2, 0);
  if (n < 3 || spread === 0) return [];
  const slope = xs.reduce((sum, x, i) => sum + (x - mx) * (ys[i] - my), 0) / spread, ends = [Math.min(...xs), Math.max(...xs)];
  const y = ends.map(x => my + slope * (x - mx));
  return [{x: ends, y, mode: "lines", line: {color: LINE, width: 1.5}, hoverinfo: "skip", showlegend: false}];
}

function drawScatter(data, models) {
  const scored = models.filter(model => model.benchmark[data.scoreKey] !== null && (model.bon.average ?? null) !== null);
  const x = model => points(model.benchmark[data.scoreKey]), y = model => points(model.bon.average);
  const traces = scored.length ? regression(scored.map(x), scored.map(y)) : [];
  for (const mix of data.mixes) {
    const own = scored.filter(model => model.data === mix);
    if (!own.length) continue;
    const tint = colour(data, own[0]);
    traces.push({x: own.map(x), y: own.map(y), mode: "markers", name: safe(mix, 30), text: own.map(card),
      marker: {color: tint, size: scored.length > 60 ? 8 : 11, symbol: own.map(model => mark(data, model)), line: {width: 2, color: tint}},
      hovertemplate: `%{text}<br>RewardBench 2 %{x:.1f}<br>${safe(data.bonName)} %{y:.1f}<extra></extra>`});
  }
  const keys = data.bases.length > 1 ? data.bases.map((base, i) => [base || "no base", data.marks[i % data.marks.length]]) : [];
  if (scored.some(model => model.control)) keys.push(["hollow: control", "circle-open"]);
  if (traces.length) for (const [name, symbol] of keys)
    traces.push({x: [null], y: [null], mode: "markers", name: safe(name, 30), marker: {color: LINE, size: 9, symbol}, hoverinfo: "skip"});
  draw("benchmark", traces, {height: 480, ...acrossLines(data.references), xaxis: {title: `RewardBench 2 ${data.scoreName} (points)`},
    yaxis: {title: `${data.bonName} average (points)`}}, "No reward model shown has both a RewardBench 2 and a best-of-N score.");
}

/** The name of a metric for a reader: "rewardbench2/precise_if" is "Precise IF". */
function metricName(data, metric) {
  const key = metric.replace("rewardbench2/", "");
  if (metric === key) return metric;
  return data.domains[key] ?? (key === data.scoreKey ? data.scoreTitle : key);
}

function drawLinks(data) {
  const downstream = data.mainLink.split("~")[1];
  const links = data.links.filter(link => link.downstream === downstream && !link.subset && link.pearson !== null && link.benchmark.startsWith("rewardbench2/"));
  const low = links.map(link => link.low === null ? 0 : link.pearson - link.low), high = links.map(link => link.high === null ? 0 : link.high - link.pearson);
  const traces = links.length ? [{x: links.map(link => link.pearson), y: links.map(link => metricName(data, link.benchmark)), mode: "markers",
    marker: {color: data.mixColours[0], size: 10}, text: links.map(link => `r = ${link.pearson.toFixed(2)} (${link.interval})`),
    error_x: {type: "data", symmetric: false, array: high, arrayminus: low, color: LINE, thickness: 1.5}, hovertemplate: "%{y}<br>%{text}<extra></extra>"}] : [];
  const least = Math.min(-0.1, ...links.filter(link => link.low !== null).map(link => link.low - 0.05));
  draw("links", traces, {height: 120 + 32 * links.length, xaxis: {title: `Pearson r with the ${data.bonName} average`, range: [least, 1.05]},
    yaxis: {autorange: "reversed"}}, "No correlation with a domain was computed.");
}

/** Every benchmark score against every downstream score of the study. */
function drawGrid(data) {
  const links = data.links.filter(link => !link.subset);
  const rows = [...new Set(links.map(link => link.benchmark))], columns = [...new Set(links.map(link => link.downstream))];
  const at = new Map(links.map(link => [`${link.benchmark}~${link.downstream}`, link]));
  const cells = rows.map(row => columns.map(column => at.get(`${row}~${column}`)));
  const value = link => link?.pearson ?? null;
  const traces = links.some(link => link.pearson !== null) ? [{type: "heatmap", x: columns.map(name => safe(name, 28)), y: rows.map(name => safe(metricName(data, name), 28)),
    z: cells.map(row => row.map(value)), text: cells.map(row => row.map(link => value(link) === null ? "n/a" : link.pearson.toFixed(2))), texttemplate: "%{text}",
    customdata: cells.map(row => row.map(link => link ? safe(link.interval) : "not computed")), hovertemplate: "%{y} ~ %{x}<br>r = %{text} (%{customdata})<extra></extra>",
    colorscale: DIVERGING, zmin: -1, zmax: 1, showscale: false, xgap: 2, ygap: 2}] : [];
  draw("grid", traces, {height: 110 + 30 * rows.length, yaxis: {autorange: "reversed", showgrid: false},
    xaxis: {showgrid: false, tickangle: columns.length > 2 ? -35 : 0}}, "No correlation was computed.");
}

function drawDomains(data, models) {
  const shown = models.slice(0, MOST_ROWS), rows = shown.map((_, place) => place);
  const bench = [data.scoreKey, ...Object.keys(data.domains)], bon = data.models.some(model => Object.keys(model.bon).length) ? ["average", ...data.tasks] : [];
  const name = key => key === data.scoreKey ? data.scoreTitle : data.domains[key];
  const columns = [...bench.map(key => ({title: name(key), of: "RewardBench 2", value: model => model.benchmark[key]})),
    ...bon.map(task => ({title: task, of: data.bonName, value: model => model.bon[task]}))];
  const z = shown.map(model => columns.map(column => points(column.value(model))));
  const traces = shown.length ? [{type: "heatmap", x: columns.map((_, place) => place), y: rows, z, colorscale: SHADES, zmin: 0, zmax: 100, showscale: false, xgap: 2, ygap: 2,
    text: z.map(row => row.map(value => value === null ? "n/a" : value.toFixed(1))), texttemplate: isNarrow() ? "" : "%{text}", textfont: {size: 12},
    customdata: shown.map(model => columns.map(column => `${card(model)}<br>${safe(column.of)}, ${safe(column.title)}`)), hovertemplate: "%{customdata}: %{text}<extra></extra>"}] : [];
  const width = isNarrow() ? 14 : 30;
  draw("domains", traces, {height: 130 + 27 * shown.length, xaxis: {showgrid: false, tickangle: -45, tickvals: columns.map((_, place) => place), ticktext: columns.map(column => safe(column.title, 16))},
    yaxis: {autorange: "reversed", showgrid: false, tickvals: rows, ticktext: shown.map(model => safe(model.name, width) + (model.control ? " (control)" : ""))}},
    "No reward model is shown.");
  note("domains", models.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${models.length}; the filter of the table chooses others.` : "");
}

function note(id, text) {
  const place = document.getElementById(`note-${id}`);
  if (place) place.textContent = text;
}

/** The values of a metric over the steps that have it; "bon/average" also finds "bon/average@16". */
function series(checkpoints, metric) {
  const name = Object.keys(checkpoints).find(key => key.split("@")[0] === metric);
  const kept = (checkpoints.step ?? []).map((step, i) => [step, name ? checkpoints[name][i] : null]).filter(([, value]) => value !== null);
  return {x: kept.map(([step]) => step), y: kept.map(([, value]) => value)};
}

function curveTrace(found, name, tint, changes = {}) {
  return {x: found.x, y: found.y, name: safe(name, isNarrow() ? 24 : 48), mode: "lines+markers", line: {color: tint, width: 2, dash: changes.dash ?? "solid"},
    marker: {size: 7, symbol: changes.symbol ?? "circle"}, hovertemplate: `${safe(name)}<br>step %{x}: %{y:.4g}<extra></extra>`};
}

function drawTraining(data, models) {
  const measured = models.filter(model => (model.checkpoints.step ?? []).length), shown = measured.slice(0, MOST_CURVES);
  const panels = [["training-benchmark", `rewardbench2/${data.scoreKey}`, []], ["training-bon", "bon/average", data.startLines]];
  for (const [id, metric, references] of panels) {
    const traces = shown.map(model => [model, series(model.checkpoints, metric)]).filter(([, found]) => found.x.length).map(([model, found]) =>
      ({...curveTrace({x: found.x, y: found.y.map(points)}, model.name, colour(data, model), {dash: model.control ? "dash" : "solid", symbol: mark(data, model)}), showlegend: false}));
    draw(id, traces, {height: 320, ...acrossLines(references), xaxis: {title: "checkpoint/step"}, yaxis: {title: "points"}}, "No checkpoint of a reward model shown has this score.");
  }
  note("training", measured.length > MOST_CURVES ? `The first ${MOST_CURVES} of ${measured.length}; the filter of the table chooses others.` : "");
}

function drawBestOf(data, models) {
  const measured = models.filter(model => model.bestOf.length), shown = measured.slice(0, MOST_CURVES);
  const traces = shown.map(model => ({...curveTrace({x: model.bestOf.map(([n]) => n), y: model.bestOf.map(([, value]) => points(value))}, model.name, colour(data, model),
    {dash: model.control ? "dash" : "solid", symbol: mark(data, model)}), showlegend: shown.length < 9, hovertemplate: `${card(model)}<br>best of %{x}: %{y:.1f}<extra></extra>`}));
  const sizes = [...new Set(shown.flatMap(model => model.bestOf.map(([n]) => n)))].sort((a, b) => a - b);
  draw("best-of-n", traces, {...acrossLines(data.references), xaxis: {title: "N, completions to choose from", type: "log", tickvals: sizes, ticktext: sizes.map(String)},
    yaxis: {title: "best-of-N average (points)"}}, "No best-of-N was measured.");
}

function drawPpo(data, places) {
  const shown = places.slice(0, MOST_CURVES).map(place => [data.runs[place], data.runColours[place % data.runColours.length]]);
  const metrics = [["ppo-downstream", "downstream_average", points, "points"], ["ppo-accuracy", "on_policy/rm_accuracy", points, "points"],
    ["ppo-score", "rm_score", value => value, "RM score"], ["ppo-kl", "kl", value => value, "nats"]];
  const starts = [...new Set(shown.map(([run]) => run.start).filter(start => start !== null))].slice(0, 3);
  for (const [id, metric, scale, title] of metrics) {
    const traces = shown.map(([run, tint]) => [run, tint, series(run.checkpoints, metric)]).filter(([, , found]) => found.x.length)
      .map(([run, tint, found]) => ({...curveTrace({x: found.x, y: found.y.map(scale)}, run.label, tint), showlegend: id === "ppo-downstream" && shown.length < 9}));
    if (id === "ppo-downstream") for (const [run, tint] of shown) if (run.best !== null && run.bestStep !== null) traces.push(star(run.bestStep, points(run.best), tint, run.bestStep));
    const lines = id === "ppo-downstream" ? starts.map(start => ({height: points(start), label: `start ${points(start).toFixed(1)}`})) : [];
    draw(id, traces, {height: 340, ...acrossLines(lines), xaxis: {title: "checkpoint/step"}, yaxis: {title}}, "Not measured.");
  }
  note("ppo", places.length > MOST_CURVES ? `The first ${MOST_CURVES} of ${places.length}; the filter of the table chooses others.` : "");
}

function star(x, y, tint, step) {
  return {x: [x], y: [y], mode: "markers", showlegend: false, marker: {symbol: "star", size: 15, color: tint, line: {color: "white", width: 1}},
    hovertemplate: `best checkpoint, step ${step}: %{y:.1f}<extra></extra>`};
}
