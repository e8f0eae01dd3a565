// Verdicts, the table of methods by tasks, configurations, gaps and provenance.
function drawVerdicts() {
  $("verdict-list").replaceChildren(...study.verdicts.map(({ task, lead, asides, tie }) => {
    const head = make("b", {}, task);
    const mark = tie ? make("span", { class: "tie" }, " [tie]") : null;
    const rest = asides.length ? ` ${asides[0][0].toUpperCase()}${asides.join("; ").slice(1)}.` : "";
    return make("p", { class: "verdict" }, head, mark, ` ${lead}${rest}`);
  }));
  if (!study.verdicts.length) $("verdict-list").replaceChildren(make("p", {}, "No run was judged."));
  $("legend").textContent = content.legend;
}

/** A dot for each seed, between the column's lowest and highest value. */
function dots(values, low, high) {
  const found = Object.entries(values ?? {});
  if (found.length < 2) return null;
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const text = found.map(([seed, value]) => `seed ${seed}: ${format(value)}`).join(", ");
  for (const [name, value] of [["class", "dots"], ["width", 70], ["height", 10], ["role", "img"], ["aria-label", text]]) picture.setAttribute(name, value);
  const add = (tag, attributes) => {
    const part = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
    picture.append(part);
  };
  add("line", { x1: 3, x2: 67, y1: 5, y2: 5 });
  for (const [, value] of found) add("circle", { cx: 3 + (64 * (value - low)) / (high - low || 1), cy: 5, r: 2.5 });
  return picture;
}

/** The lowest and the highest value that any seed has in a column. */
function findSpan(i) {
  const all = study.lines.flatMap((line) => Object.values(line.cells[i].values ?? {}));
  return [Math.min(...all), Math.max(...all)];
}

function describeCell(one, column, span) {
  if (one.value === undefined) return { text: "", order: column.direction === "lower" ? 1e300 : -1e300, title: one.reason };
  const bounds = one.low === null || one.high === null ? null : make("small", {}, `[${format(one.low)}, ${format(one.high)}]`);
  const note = one.note ? make("small", {}, "*") : null;
  const nodes = [note, bounds, dots(one.values, ...span)].filter(Boolean);
  const title = `${one.n} examples, ${one.seeds} runs${one.note ? `; ${one.note}` : ""}`;
  return { text: format(one.value) + (one.mark === "tied" ? " ≈" : ""), order: one.value, kind: one.mark === "best" ? "best" : null, title, nodes };
}

let comparison = null;
const shownColumns = () => study.columns.filter((column) => ["", column.task].includes($("table-task").value));
function drawTable() {
  const columns = shownColumns();
  const costs = Object.keys(content.costs);
  const places = columns.map((c) => study.columns.indexOf(c));
  const spans = places.map(findSpan);
  const head = ["method", ...columns.map((c) => `${c.task}\n${c.metric}`), "seeds", ...Object.values(content.costs)];
  const rows = study.lines.map((line) => ({
    kind: line.reference ? "reference" : null,
    cells: [line.label, ...columns.map((c, k) => describeCell(line.cells[places[k]], c, spans[k])), { text: line.seeds, order: parseInt(line.seeds, 10) || 0 },
      ...costs.map((key) => ({ text: line.cost[key] === null ? "" : key.endsWith("_ms") || key.endsWith("_mb") ? format(line.cost[key]) : large(line.cost[key]), order: line.cost[key] ?? -1 }))],
  }));
  comparison = table($("table-box"), head, rows, "sort");
  filterTable();
}
function filterTable() {
  const text = $("table-filter").value;
  remember("table-filter", text);
  comparison.search(text).draw();
}
function saveTable() {
  const columns = shownColumns();
  const head = ["method", "reference", ...columns.flatMap((c) => ["value", "low", "high", "seeds", "n", "mark"].map((part) => `${c.task} ${c.metric} ${part}`)), ...Object.keys(content.costs)];
  const lines = comparison.rows({ search: "applied", order: "applied" }).indexes().toArray().map((i) => study.lines[i]);
  save("comparison", [head, ...lines.map((line) => [line.label, String(line.reference), ...columns.flatMap((c) => {
    const one = line.cells[study.columns.indexOf(c)];
    return [one.value, one.low, one.high, one.seeds, one.n, one.mark].map((value) => value ?? "");
  }), ...Object.keys(content.costs).map((key) => line.cost[key] ?? "")])]);
}

function listOptions() {
  const [a, b] = ["config-a", "config-b"].map((id) => study.runs[$(id).value]?.options ?? {});
  const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])].sort();
  const kept = keys.filter((key) => $("config-all").checked || a[key] !== b[key]);
  return kept.map((key) => [key, a[key] ?? "not there", b[key] ?? "not there"]);
}
function drawConfigurations() {
  const rows = listOptions().map((cells) => ({ cells }));
  if (rows.length) table($("config-box"), ["option", "left run", "right run"], rows, "config-sort");
  else $("config-box").replaceChildren(make("p", {}, "No option differs."));
}

function drawGaps() {
  const broken = study.runs.filter((run) => run.status !== "complete").map((run) => `${run.label}: ${run.status}${run.error ? `, ${run.error}` : ""}`);
  const texts = [...broken, ...study.notes, ...content.notes];
  const list = texts.length ? make("ul", {}, ...texts.map((text) => make("li", {}, text))) : make("p", {}, "Nothing is missing.");
  $("gap-list").replaceChildren(list);
}

const ORIGIN = { commit: "commit", data: "data", device: "device", time: "time", versions: "versions", parts: "made of" };
/** Keys of where runs come from; what a run is made of is shown where one of them is merged. */
const listOriginKeys = () => Object.keys(ORIGIN).filter((key) => key !== "parts" || study.runs.some((run) => run.origin.parts));
const nameOrigins = () => ["run", "what", "status", ...listOriginKeys().map((key) => ORIGIN[key])];
const listOrigins = () => study.runs.map((run) => [run.name, run.label, run.status, ...listOriginKeys().map((key) => run.origin[key])]);
function drawOrigins() {
  table($("origin-box"), nameOrigins(), listOrigins().map((cells) => ({ cells })), "origin-sort");
}
