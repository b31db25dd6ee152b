// What every figure is drawn with. Plotly reads tags in its texts, so every name goes through `safe`.
"use strict";

/** An element with attributes and children; text children stay text, whatever they hold. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const GRID = "rgba(128,140,155,0.22)", LINE = "rgba(128,140,155,0.9)";
const SHADES = [[0, "rgba(47,126,216,0.04)"], [1, "rgba(47,126,216,0.92)"]];
const DIVERGING = [[0, "rgba(201,68,79,0.9)"], [0.5, "rgba(128,140,155,0.08)"], [1, "rgba(47,126,216,0.9)"]];
const OPTIONS = {displayModeBar: false, responsive: true};

function safe(text, width = 200) {
  const line = text.length > width ? `${text.slice(0, width - 1)}…` : text;
  return line.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** A name cut in its middle: runs of a sweep differ at the end of theirs. */
function shortName(text, width) {
  if (text.length <= width) return safe(text);
  const end = Math.floor((width - 1) / 2);
  return safe(`${text.slice(0, width - 1 - end)}…${text.slice(-end)}`);
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
  // Plotly keeps the width of the last drawing, also where a panel beside the figure has come or gone.
  if (place.clientWidth && place._fullLayout.width !== place.clientWidth) Plotly.Plots.resize(place);
}

function card(model) {
  return `<b>${safe(model.name)}</b><br>${safe(model.setup)}${model.control ? "<br>control" : ""}`;
}

/** Lines across a figure with their names, at its right or left end: what a height is to be read against. */
function acrossLines(references, side = "right") {
  const shapes = references.map(({height}) =>
    ({type: "line", xref: "paper", x0: 0, x1: 1, y0: height, y1: height, line: {color: LINE, dash: "dash", width: 1}}));
  const annotations = references.map(({height, label}) =>
    ({xref: "paper", x: side === "right" ? 1 : 0, y: height, xanchor: side, yanchor: "bottom", text: safe(label), showarrow: false, font: {size: 11}}));
  return {shapes, annotations};
}

function note(id, text) {
  const place = document.getElementById(`note-${id}`);
  if (place) place.textContent = text;
}
