// Starts the page of a table of scores.
"use strict";

startTables();
const explorer = JSON.parse(document.getElementById("data").textContent).explorer;
startExplorer(explorer, () => explorer.models);
