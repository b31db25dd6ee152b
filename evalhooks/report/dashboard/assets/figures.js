// The figures of the whole study but for those that set scores against each other.
"use strict";

const MOST_CURVES = 24, MOST_ROWS = 40;
/** How strong the colour of a bias is that may be nothing. */
const FAINT_BIAS = 0.25;

function colour(data, model) {
  return data.mixColours[data.mixes.indexOf(model.data) % data.mixColours.length];
}

/** The colour of a model's curve: of its mix or, where all have one mix, its own. */
function curveColour(data, model) {
  return data.mixes.length > 1 ? colour(data, model) : data.runColours[data.models.indexOf(model) % data.runColours.length];
}

function mark(data, model) {
  return data.marks[data.bases.indexOf(model.base) % data.marks.length] + (model.control ? "-open" : "");
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
  const width = isNarrow() ? 18 : 40;
  draw("domains", traces, {height: 130 + 27 * shown.length, xaxis: {showgrid: false, tickangle: -45, tickvals: columns.map((_, place) => place), ticktext: columns.map(column => safe(column.title, 16))},
    yaxis: {autorange: "reversed", showgrid: false, tickvals: rows, ticktext: shown.map(model => model.control ? `<i>${shortName(model.name, width)}</i>` : shortName(model.name, width))}},
    "No reward model is shown.");
  note("domains", models.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${models.length}; the filter of the table chooses others.` : "");
}

/** What each reward pays for beside correctness. */
function drawBiases(data, models, runs) {
  const measured = [...models, ...runs].filter(run => Object.keys(run.biases).length), shown = measured.slice(0, MOST_ROWS);
  const features = [...new Set(shown.flatMap(run => Object.keys(run.biases)))], cell = (run, feature) => run.biases[feature] ?? null;
  const text = found => found === null ? "" : `${found[0] < 0 ? MINUS : "+"}${Math.abs(found[0]).toFixed(2)}`;
  const traces = shown.length ? [{type: "heatmap", x: features.map((_, place) => place), y: shown.map((_, place) => place), colorscale: DIVERGING, zmin: -1, zmax: 1, showscale: false, xgap: 2, ygap: 2,
    z: shown.map(run => features.map(feature => { const found = cell(run, feature); return found === null ? null : found[2] ? found[0] : FAINT_BIAS * found[0]; })),
    text: shown.map(run => features.map(feature => text(cell(run, feature)))), texttemplate: isNarrow() && features.length > 6 ? "" : "%{text}",
    customdata: shown.map(run => features.map(feature => { const found = cell(run, feature); return `<b>${safe(run.name)}</b><br>${safe(feature.replaceAll("_", " "))}: ${found === null ? "not measured" : text(found) + (found[1] === null ? "" : ` ± ${found[1].toFixed(2)}`)}`; })),
    hovertemplate: "%{customdata}<extra></extra>"}] : [];
  draw("bias", traces, {height: Math.max(200, 130 + 27 * shown.length), xaxis: {showgrid: false, tickangle: -40, tickvals: features.map((_, place) => place), ticktext: features.map(name => safe(name.replaceAll("_", " ")))},
    yaxis: {autorange: "reversed", showgrid: false, tickvals: shown.map((_, place) => place), ticktext: shown.map(run => shortName(run.name, isNarrow() ? 18 : 40))}}, "No reward shown has a measured bias.");
  note("bias", measured.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${measured.length}; the filters of the tables choose others.` : "");
}

/** The values of a metric over the steps that have it; "bon/average" also finds "bon/average@16". */
function series(checkpoints, metric) {
  const name = Object.keys(checkpoints).find(key => key.split("@")[0] === metric);
  const kept = (checkpoints.step ?? []).map((step, i) => [step, name ? checkpoints[name][i] : null]).filter(([, value]) => value !== null);
  return {x: kept.map(([step]) => step), y: kept.map(([, value]) => value)};
}

function curveTrace(found, name, tint, changes = {}) {
  return {x: found.x, y: found.y, name: shortName(name, isNarrow() ? 26 : 48), mode: "lines+markers", line: {color: tint, width: 2, dash: changes.dash ?? "solid"},
    marker: {size: 7, symbol: changes.symbol ?? "circle"}, hovertemplate: `${safe(name)}<br>step %{x}: %{y:.4g}<extra></extra>`};
}

function drawTraining(data, models) {
  const measured = models.filter(model => (model.checkpoints.step ?? []).length), shown = measured.slice(0, MOST_CURVES);
  const panels = [["training-benchmark", `rewardbench2/${data.scoreKey}`, []], ["training-bon", "bon/average", data.startLines]];
  for (const [id, metric, references] of panels) {
    const traces = shown.map(model => [model, series(model.checkpoints, metric)]).filter(([, found]) => found.x.length).map(([model, found]) =>
      ({...curveTrace({x: found.x, y: found.y.map(points)}, model.name, curveColour(data, model), {dash: model.control ? "dash" : "solid", symbol: mark(data, model)}), showlegend: data.mixes.length < 2 && shown.length < 9}));
    draw(id, traces, {height: 320, ...acrossLines(references), xaxis: {title: data.stepName}, yaxis: {title: "points"}}, "No checkpoint of a reward model shown has this score.");
  }
  note("training", measured.length > MOST_CURVES ? `The first ${MOST_CURVES} of ${measured.length}; the filter of the table chooses others.` : "");
}

function drawBestOf(data, models) {
  const measured = models.filter(model => model.bestOf.length), shown = measured.slice(0, MOST_CURVES);
  const traces = shown.map(model => ({...curveTrace({x: model.bestOf.map(([n]) => n), y: model.bestOf.map(([, value]) => points(value))}, model.name, curveColour(data, model),
    {dash: model.control ? "dash" : "solid", symbol: mark(data, model)}), showlegend: shown.length < 9, hovertemplate: `${card(model)}<br>best of %{x}: %{y:.1f}<extra></extra>`}));
  const sizes = [...new Set(shown.flatMap(model => model.bestOf.map(([n]) => n)))].sort((a, b) => a - b);
  draw("best-of-n", traces, {...acrossLines(data.references), xaxis: {title: "N, completions to choose from", type: "log", tickvals: sizes, ticktext: sizes.map(String)},
    yaxis: {title: "best-of-N average (points)"}}, "No checkpoint of a reward model shown has best-of-N.");
}

function drawPpo(data, places) {
  const shown = places.slice(0, MOST_CURVES).map(place => [data.runs[place], data.runColours[place % data.runColours.length]]);
  const metrics = [["ppo-downstream", "downstream_average", points, "points"], ["ppo-accuracy", "on_policy/rm_accuracy", points, "points"],
    ["ppo-score", "rm_score", value => value, "RM score"], ["ppo-kl", "kl", value => value, "nats"]];
  const starts = [...new Set(shown.map(([run]) => run.start).filter(start => start !== null))].slice(0, 3);
  for (const [id, metric, scale, title] of metrics) {
    const traces = shown.map(([run, tint]) => [run, tint, series(run.checkpoints, metric)]).filter(([, , found]) => found.x.length)
      .map(([run, tint, found]) => ({...curveTrace({x: found.x, y: found.y.map(scale)}, isNarrow() ? run.name : run.label, tint), showlegend: id === "ppo-downstream" && shown.length < 9}));
    if (id === "ppo-downstream") for (const [run, tint] of shown) if (run.best !== null && run.bestStep !== null) traces.push(star(run.bestStep, points(run.best), tint, run.bestStep));
    const lines = id === "ppo-downstream" ? starts.map(start => ({height: points(start), label: `start ${points(start).toFixed(1)}`})) : [];
    draw(id, traces, {height: 340, ...acrossLines(lines), xaxis: {title: data.stepName}, yaxis: {title}}, "Not measured.");
  }
  note("ppo", places.length > MOST_CURVES ? `The first ${MOST_CURVES} of ${places.length}; the filter of the table chooses others.` : "");
}

function star(x, y, tint, step) {
  return {x: [x], y: [y], mode: "markers", showlegend: false, marker: {symbol: "star", size: 15, color: tint, line: {color: "white", width: 1}},
    hovertemplate: `best checkpoint, step ${step}: %{y:.1f}<extra></extra>`};
}
