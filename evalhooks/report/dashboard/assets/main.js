// Starts the page, and follows a server that still gets new checkpoints.
"use strict";

const EVERY_MS = 2000;

function readData() {
  return JSON.parse(document.getElementById("data").textContent);
}

/** Draws the scatter anew for the reward models that the table shows. */
let redrawPair = () => {};

/** Of things in the order of the data's reward models those whose row the table shows. */
function shownOf(models) {
  return document.getElementById("models") ? shownPlaces("models").map(place => models[place]) : models;
}

function drawStudy(data) {
  const models = shownOf(data.models);
  drawDomains(data, models);
  drawTraining(data, models);
  drawBestOf(data, models);
  drawRewards(data);
}

/** What belongs to reward models and policies alike, as both tables leave them. */
function drawRewards(data) {
  drawBiases(data, shownOf(data.models), shownPlaces("policies").map(place => data.runs[place]));
}

function onFiltered(data, table) {
  if (table === "policies") {
    drawPpo(data, shownPlaces("policies"));
    drawRewards(data);
  } else if (table === "models") {
    redrawPair();
    drawStudy(data);
  }
}

function startPage() {
  const data = readData();
  redrawPair = startExplorer(data.explorer, () => shownOf(data.explorer.models));
  drawStudy(data);
  drawPpo(data, shownPlaces("policies"));
  startRun(data);
  startRows(data);
  return data;
}

/** What a part that folds is called, whatever it counts: others may have come before it. */
function foldName(details) {
  return details.querySelector("summary").textContent.replace(/\d+/g, "");
}

/** What a user has chosen, so that a new version of the page keeps it. */
function choices() {
  const values = [...document.querySelectorAll("main input, main select:not(#run-choice)")].map(input => [input.id, input.value]);
  const sorted = [...document.querySelectorAll("th[aria-sort]")].map(th => [th.closest("table").id, th.textContent, th.getAttribute("aria-sort")]);
  const open = Object.fromEntries([...document.querySelectorAll("main details:not(.row)")].map(details => [foldName(details), details.open]));
  const rows = [...document.querySelectorAll("#rows details.row")], read = rows.filter(row => row.open).map(row => row.dataset.key);
  return {values, sorted, open, rows: rows.length, read, run: document.querySelector("#run-choice option:checked")?.dataset.id, focus: document.activeElement?.id, scroll: window.scrollY};
}

function restore(kept) {
  for (const [table, head, order] of kept.sorted) {
    const th = [...(document.getElementById(table)?.querySelectorAll("tr.sort th") ?? [])].find(th => th.textContent === head);
    if (th) sortBy(th, order);
  }
  for (const [id, value] of kept.values) {
    const input = document.getElementById(id);
    if (!input || input.options && ![...input.options].some(option => option.value === value)) continue;
    input.value = value;
    input.dispatchEvent(new Event("input", {bubbles: true}));
  }
  const choice = document.getElementById("run-choice"), option = [...(choice?.options ?? [])].find(option => option.dataset.id === kept.run);
  if (option) { choice.value = option.value; choice.onchange(); }
  document.querySelectorAll("main details:not(.row)").forEach(details => { if (foldName(details) in kept.open) details.open = kept.open[foldName(details)]; });
  const more = document.querySelector("#rows > button");
  while (more && !more.hidden && document.querySelectorAll("#rows details.row").length < kept.rows) more.click();
  for (const row of document.querySelectorAll("#rows details.row")) if (kept.read.includes(row.dataset.key)) row.open = true;
  if (kept.focus) document.getElementById(kept.focus)?.focus({preventScroll: true});
  window.scrollTo(0, kept.scroll);
}

/** Asks the server for a newer page, and puts it in place of this one. */
async function follow(current, state) {
  try {
    const answer = await fetch("update", {headers: {"If-None-Match": state.version}, cache: "no-store"});
    state.said(answer.ok || answer.status === 304 ? "" : `the server answers ${answer.status}: ${await answer.text()}`);
    if (answer.status !== 200) return current;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html"), kept = choices();
    state.version = answer.headers.get("ETag");
    document.querySelectorAll(".js-plotly-plot").forEach(Plotly.purge);
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
    document.getElementById("data").textContent = fresh.getElementById("data").textContent;
    document.title = fresh.title;
    const data = startPage();
    restore(kept);
    return data;
  } catch (error) {
    state.said(`the server does not answer (${error.message}); what you see is its last answer`);
    return current;
  }
}

function start() {
  let data = startPage();
  startTables();
  document.addEventListener("filtered", event => onFiltered(data, event.detail));
  document.addEventListener("click", event => {
    const button = event.target.closest("button[data-run]");
    if (!button) return;
    const choice = document.getElementById("run-choice");
    choice.value = button.dataset.run;
    drawRun(data, choice.value);
    choice.scrollIntoView({block: "start"});
    choice.focus({preventScroll: true});
  });
  const live = document.getElementById("live");
  if (!live) return;
  const state = {version: live.dataset.version, said: text => { live.textContent = text || "Follows the runs; this page changes by itself."; }};
  state.said("");
  const again = async () => { data = await follow(data, state); setTimeout(again, EVERY_MS); };
  setTimeout(again, EVERY_MS);
}

start();
