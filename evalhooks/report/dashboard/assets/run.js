// One run: benchmark, downstream and on-policy accuracy on one step axis, KL and score below it, over-optimisation, training.
"use strict";

const TRUTH = "#1a9c7c", PROXY = "#e07b1a", ACCURACY = "#2f7ed8", STOP = "#c9444f";

/** The run that a choice such as "m3" or "p0" names: a reward model or a PPO run. */
function runOf(data, choice) {
  return choice.startsWith("p") ? data.runs[+choice.slice(1)] : data.models[+choice.slice(1)];
}

function lastStep(run) {
  return Math.max(1, ...(run.checkpoints.step ?? []));
}

function drawRunScores(data, run, isPolicy) {
  const metrics = isPolicy
    ? [["downstream_average", "downstream average", TRUTH, "circle"], ["on_policy/rm_accuracy", "on-policy RM accuracy", ACCURACY, "triangle-up"]]
    : [[`rewardbench2/${data.scoreKey}`, `RewardBench 2 ${data.scoreName}`, ACCURACY, "circle"], ["bon/average", `${data.bonName} average`, TRUTH, "square"],
       ["held_out/accuracy", "held-out accuracy", PROXY, "diamond"]];
  const traces = metrics.map(([metric, name, tint, symbol]) => [series(run.checkpoints, metric), name, tint, symbol]).filter(([found]) => found.x.length)
    .map(([found, name, tint, symbol]) => curveTrace({x: found.x, y: found.y.map(points)}, name, tint, {symbol}));
  const reward = isPolicy ? data.models.find(model => model.name === run.rm || model.id === run.rm) : null;
  const score = reward ? points(reward.benchmark[data.scoreKey]) : null;
  if (isPolicy && score !== null) {
    const line = curveTrace({x: [0, lastStep(run)], y: [score, score]}, `RewardBench 2 ${data.scoreName} of its reward model`, LINE, {dash: "dot"});
    traces.push({...line, mode: "lines"});
  }
  if (!isPolicy) for (const [place, [key, label]] of Object.entries(data.domains).entries()) {
    const found = series(run.checkpoints, `rewardbench2/${key}`);
    if (found.x.length) traces.push({...curveTrace({x: found.x, y: found.y.map(points)}, label, data.mixColours[place % data.mixColours.length], {dash: "dot"}), visible: "legendonly"});
  }
  draw("run-scores", traces, {height: isNarrow() ? 440 : 380, xaxis: {title: data.stepName, range: [0, 1.03 * lastStep(run)]}, yaxis: {title: "points"}}, "No checkpoint of this run was measured.");
}

function drawRunDistance(data, run) {
  const traces = [["kl", "KL to the reference (nats)", STOP, "circle", "y"], ["rm_score", "RM score", PROXY, "square", "y2"]]
    .map(([metric, name, tint, symbol, yaxis]) => [series(run.checkpoints, metric), name, tint, symbol, yaxis]).filter(([found]) => found.x.length)
    .map(([found, name, tint, symbol, yaxis]) => ({...curveTrace(found, name, tint, {symbol}), yaxis}));
  draw("run-distance", traces, {height: 300, xaxis: {title: data.stepName, range: [0, 1.03 * lastStep(run)]}, yaxis: {title: "KL (nats)"},
    yaxis2: {overlaying: "y", side: "right", tickmode: "auto", showgrid: false, zeroline: false, automargin: true, title: {text: "RM score"}}}, "The KL was not measured.");
}

/** Proxy and truth over steps and over the root of the KL, as in Gao et al. (2023), figure 1. */
function drawCourse(data, run) {
  const course = run?.course;
  const panels = [["course-steps", course?.steps, data.stepName], ["course-kl", course?.roots, isNarrow() ? "KL (nats, square-root scale)" : "KL to the start policy (nats per completion, square-root scale)"]];
  panels.forEach(([id, places, title], panel) => {
    const drawn = course ? [["truth: downstream average", TRUTH, course.truth, "solid", "circle", "y"], ["proxy: RM score", PROXY, course.proxy, "dash", "square", "y2"],
      ["RM accuracy on its answers", ACCURACY, course.accuracy, "solid", "triangle-up", "y"]].filter(([, , values]) => values.some(value => value !== null)) : [];
    const traces = drawn.map(([name, tint, values, dash, symbol, yaxis]) => ({...curveTrace({x: places, y: values}, name, tint, {dash, symbol}), yaxis,
      customdata: course.steps.map((step, i) => [step, course.kl[i] === null ? "n/a" : course.kl[i].toPrecision(3)]),
      hovertemplate: `${name}<br>step %{customdata[0]}, KL %{customdata[1]} nats: %{y:.4g}<extra></extra>`}));
    if (traces.length && course.best !== null && places[course.best] !== null) traces.push(star(places[course.best], course.truth[course.best], TRUTH, course.steps[course.best]));
    const stopped = course?.stop == null ? null : places[course.steps.indexOf(course.stop)];
    const shapes = stopped === null ? [] : [{type: "line", x0: stopped, x1: stopped, yref: "paper", y0: 0, y1: 1, line: {color: STOP, dash: "dot", width: 1.5}}];
    const annotations = stopped === null ? [] : [{x: stopped, y: 0.5, yref: "paper", xanchor: "right", text: "stopped: over-optimisation ", showarrow: false}];
    const ticks = panel === 1 && course ? {tickvals: course.klTicks[0], ticktext: course.klTicks[1]} : {};
    const limits = course?.limits && !course.accuracy.some(value => value !== null && (value < course.limits[0][0] || value > course.limits[0][1])) ? course.limits : null;
    draw(id, traces, {height: 380, shapes, annotations, xaxis: {title, ...ticks}, yaxis: {title: "points", ...(limits ? {range: limits[0], tickvals: course.truthTicks} : {})},
      yaxis2: {overlaying: "y", side: "right", tickmode: "auto", showgrid: false, zeroline: false, automargin: true, title: {text: course?.proxyLabel ?? "", font: {size: 13}}, ...(limits ? {range: limits[1]} : {})}},
      "No checkpoint of this run was measured yet.");
  });
}

function drawCurves(data, run) {
  const traces = Object.entries(run.curves).map(([name, [x, y]], place) =>
    ({...curveTrace({x, y}, name.replaceAll("_", " "), data.mixColours[place % data.mixColours.length]), mode: x.length > 1 ? "lines" : "markers", visible: place ? "legendonly" : true}));
  draw("run-curves", traces, {height: 320, xaxis: {title: data.stepName}}, "This run logged no curve of training.");
}

/** The biases of the reward at each checkpoint: on the pools, or on the policy's own answers. */
function drawRunBiases(data, run) {
  const names = Object.keys(run.checkpoints).filter(name => name.startsWith("bias/"));
  const traces = names.map((name, place) => [name, series(run.checkpoints, name), place]).filter(([, found]) => found.x.length)
    .map(([name, found, place]) => curveTrace(found, name.slice("bias/".length).replaceAll("_", " "), data.mixColours[place % data.mixColours.length]));
  draw("run-biases", traces, {height: 320, xaxis: {title: data.stepName}, yaxis: {title: "partial correlation"}}, "Not measured: reward models need pools, policies several answers a prompt.");
}

function drawRun(data, choice) {
  const run = runOf(data, choice), isPolicy = choice.startsWith("p");
  if (!run) return;
  for (const panel of document.querySelectorAll(".policy-only")) panel.hidden = !isPolicy;  // first: figures take the width that is there
  drawRunScores(data, run, isPolicy);
  if (isPolicy) drawRunDistance(data, run);
  drawCurves(data, run);
  drawRunBiases(data, run);
  if (isPolicy) drawCourse(data, run);
  drawAnswers(data, run);
}

/** What a policy answered at its best checkpoint. */
function drawAnswers(data, run) {
  const place = document.getElementById("run-answers");
  if (!place) return;
  const answered = (run.answers ?? []).map(row => {
    const list = row.completions.map(answer => element("li", {}, element("b", {}, [answer.judged, answer.score === null ? "" : `score ${scoreText(answer.score)}`].filter(Boolean).join(", ")), " ", answer.text));
    return element("details", {class: "row"}, element("summary", {}, `${row.task ? `${row.task}, ` : ""}step ${row.step}: `, element("span", {class: "soft"}, row.prompt.slice(0, 110))),
      element("p", {class: "turn"}, row.prompt), element("ul", {}, ...list));
  });
  place.replaceChildren(...(answered.length ? [element("h3", {}, "Answers at its best checkpoint"), ...answered] : []));
}

function startRun(data) {
  const choice = document.getElementById("run-choice");
  if (!choice) return;
  const groups = [["Reward models", "m", data.models], ["PPO runs", "p", data.runs]].filter(([, , runs]) => runs.length);
  choice.replaceChildren(...groups.map(([label, letter, runs]) =>
    element("optgroup", {label}, ...runs.map((run, place) => element("option", {value: `${letter}${place}`, "data-id": run.id || run.name}, run.status && run.status !== "finished" ? `${run.name} (${run.status})` : run.name)))));
  choice.onchange = () => drawRun(data, choice.value);
  if (choice.value) drawRun(data, choice.value);
}
