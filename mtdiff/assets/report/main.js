// The page: sections filled from the state, and drawn again where a control changes.
function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  $("theme").setAttribute("aria-pressed", String(dark));
}
const prefersDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

function drawStudy() {
  study = content.studies[$("study").value];
  const lines = study.lines.flatMap((line, k) => (line.reference ? [] : [[k, line.label]]));
  const columns = study.columns.map((column, i) => [i, `${column.task} ${column.metric}`]);
  const first = study.columns.findIndex((column, i) => study.lines.some((line) => Object.keys(line.cells[i].scores ?? {}).length));
  const best = study.lines.findIndex((line) => line.cells[first]?.mark === "best");
  const against = best >= 0 ? best : (lines[1]?.[0] ?? lines[0]?.[0] ?? "");
  const other = lines.map(([k]) => k).find((k) => k !== against) ?? lines[0]?.[0] ?? "";
  const curves = [...new Set(study.runs.flatMap((run) => Object.keys(run.curves)))];
  const validation = curves.find((name) => name.startsWith("validation/")) ?? curves[0] ?? "";
  const runs = study.runs.map((run, i) => [i, `${run.name}: ${run.label}`]);
  const known = Object.entries(content.costs).filter(([key]) => study.lines.some((line) => line.cost[key] !== null));
  fill("table-task", [["", "all tasks"], ...[...new Set(study.columns.map((column) => column.task))].map((task) => [task, task])], "");
  fill("frontier-x", Object.entries(content.costs), known[0]?.[0] ?? "flops");
  fill("frontier-y", columns, Math.max(0, study.columns.findIndex((column) => column.headline)));
  fill("pair-column", columns, Math.max(0, first));
  fill("pair-a", lines, other);
  fill("pair-b", lines, against);
  fill("curve", curves.map((name) => [name, name]), validation);
  fill("config-a", runs, 0);
  fill("config-b", runs, Math.min(1, runs.length - 1));
  fill("wall-task", study.walls.map((one, i) => [i, one.task]), 0);
  drawVerdicts();
  drawTable();
  prepareWall();
  drawConfigurations();
  drawGaps();
  drawOrigins();
  return drawPlots();
}
const drawPlots = () => Promise.all([drawFrontier(), drawDifferences(), drawCurves()]);

function prepareControls() {
  for (const [id, draw] of [["study", drawStudy], ["table-task", drawTable], ["frontier-x", drawFrontier], ["frontier-y", drawFrontier], ["wall-task", prepareWall], ["wall-left", drawWall], ["wall-right", drawWall], ["wall-order", drawWall], ["wall-size", drawWall], ["pair-column", drawDifferences], ["pair-a", drawDifferences], ["pair-b", drawDifferences], ["curve", drawCurves], ["config-a", drawConfigurations], ["config-b", drawConfigurations]]) follow(id, draw);
  for (const [id, fallback] of [["wall-order", "given"], ["wall-size", "96"]]) {
    $(id).value = read(id, fallback);
    $(id).dataset.fallback = fallback;
  }
  $("config-all").addEventListener("change", drawConfigurations);
  $("table-filter").value = read("table-filter", "");
  $("table-filter").addEventListener("input", filterTable);
  $("theme").addEventListener("click", () => {
    setTheme(!isDark());
    remember("theme", isDark() ? "dark" : "light", prefersDark() ? "dark" : "light");
    drawPlots();
  });
  $("link").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      $("status").textContent = "The link is copied.";
    } catch {
      $("status").textContent = "The address bar holds the link.";
    }
  });
  for (const link of document.querySelectorAll('nav a, a.skip')) link.addEventListener("click", (event) => {
    event.preventDefault(); // the hash holds the state
    const target = $(link.getAttribute("href").slice(1));
    target.setAttribute("tabindex", "-1");
    target.focus({ preventScroll: true });
    target.scrollIntoView();
  });
  $("table-csv").addEventListener("click", saveTable);
  $("frontier-csv").addEventListener("click", () => save("frontier", [["name", "cost", "value", "low", "high", "kept"], ...listPoints().map((point) => [point.name, point.cost, point.value, point.low ?? "", point.high ?? "", point.kept])]));
  $("pair-csv").addEventListener("click", () => save("differences", [["example", "difference"], ...subtract(...pair().slice(1), pair()[0]).map((point) => [point.example, point.difference])]));
  $("curve-csv").addEventListener("click", () => save("curves", [["run", "what", "step", "value"], ...listCurves().map((point) => [point.run, point.what, point.step, point.value])]));
  $("config-csv").addEventListener("click", () => save("configurations", [["option", "left run", "right run"], ...listOptions()]));
  $("origin-csv").addEventListener("click", () => save("provenance", [nameOrigins(), ...listOrigins()]));
}

setTheme(read("theme", prefersDark() ? "dark" : "light") === "dark");
fill("study", content.studies.map((one, i) => [i, one.name]), 0);
prepareControls();
await drawStudy();
document.documentElement.dataset.ready = Math.round(performance.now()); // milliseconds since the address was opened
