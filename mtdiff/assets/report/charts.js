// Plots, all of them Vega-Lite drawn as SVG: cost and quality, paired differences, learning curves.
const SHADES = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#9467bd", "#7f7f7f", "#bcbd22"];
const GREY = "#8a8a8a";

async function plot(id, spec, description) {
  const ink = isDark() ? "#ececec" : "#1a1a1a";
  const quiet = isDark() ? "#4a4a4a" : "#dddddd";
  const axis = { labelColor: ink, titleColor: ink, gridColor: quiet, domainColor: ink, tickColor: ink, labelLimit: 180 };
  const config = { background: null, view: { stroke: quiet }, axis, legend: { labelColor: ink, titleColor: ink, labelLimit: 260, orient: "bottom", columns: $(id).clientWidth < 600 ? 1 : 3 }, aria: true };
  const whole = { width: "container", autosize: { type: "fit-x", contains: "padding" }, description, config, ...spec };
  await vegaEmbed($(id), whole, { renderer: "svg", actions: false, mode: "vega-lite" });
  $(id).querySelector("svg")?.setAttribute("aria-label", description);
}
const clear = (id) => $(id).replaceChildren();
const scale = (names) => ({ domain: names, range: names.map((_, i) => SHADES[i % SHADES.length]) });

// Cost and quality

function listPoints() {
  const key = $("frontier-x").value;
  const i = Number($("frontier-y").value);
  const kept = new Set(study.undominated[key]?.[i] ?? []);
  return study.lines.flatMap((line, k) => {
    const one = line.cells[i];
    if (line.cost[key] === null || line.cost[key] === undefined || one?.value === undefined) return [];
    return [{ name: line.label, cost: line.cost[key], value: one.value, low: one.low, high: one.high, kept: kept.has(k) ? "on the frontier" : "dominated" }];
  });
}
async function drawFrontier() {
  const points = listPoints();
  const column = study.columns[$("frontier-y").value];
  const x = content.costs[$("frontier-x").value];
  $("frontier-empty").textContent = points.length ? "" : `No line has both values: ${x} was not measured.`;
  if (!points.length) return clear("frontier-plot");
  const best = points.filter((point) => point.kept !== "dominated");
  const fields = { x: { field: "cost", type: "quantitative", title: x, scale: { zero: false, nice: true }, axis: { format: "~s" } }, y: { field: "value", type: "quantitative", title: `${column.task} ${column.metric}`, scale: { zero: false } } };
  const names = best.map((point) => point.name);
  const colour = { condition: { test: "datum.kept === 'dominated'", value: GREY }, field: "name", type: "nominal", scale: scale(names), legend: null };
  const tooltip = ["name", "cost", "value", "low", "high", "kept"].map((field) => ({ field }));
  const layer = [
    { data: { values: best }, mark: { type: "line", interpolate: "step-after", color: GREY, strokeDash: [4, 3], aria: false }, encoding: fields },
    { mark: { type: "rule", aria: false }, encoding: { x: fields.x, y: { ...fields.y, field: "low" }, y2: { field: "high" }, color: colour } },
    { mark: { type: "point", filled: true, size: 90 }, encoding: { ...fields, color: colour, tooltip } },
    { mark: { type: "text", align: "left", dx: 8, dy: -6, limit: 160, aria: false }, transform: [{ filter: "datum.kept !== 'dominated'" }], encoding: { ...fields, text: { field: "name" }, color: { value: isDark() ? "#ececec" : "#1a1a1a" } } },
  ];
  const words = `${column.task} ${column.metric} against ${x}: ${points.length} lines, on the frontier ${names.join(", ")}`;
  await plot("frontier-plot", { height: 320, data: { values: points }, layer }, words);
}

// Paired differences

/** Scores of a line's examples, averaged over the seeds that both lines have, one minus the other. */
function subtract(a, b, i) {
  const [x, y] = [a, b].map((k) => study.lines[k]?.cells[i]?.scores ?? {});
  const seeds = Object.keys(x).filter((seed) => seed in y);
  if (!seeds.length) return [];
  const mean = (scores, n) => seeds.reduce((sum, seed) => sum + scores[seed][n], 0) / seeds.length;
  return x[seeds[0]].flatMap((_, n) => (seeds.every((s) => x[s][n] !== null && (y[s][n] ?? null) !== null) ? [{ example: n + 1, difference: mean(x, n) - mean(y, n) }] : []));
}
function findDifference(i, a, b) {
  const found = study.differences.find((one) => one.column === i && ((one.a === a && one.b === b) || (one.a === b && one.b === a)));
  if (!found || found.a === a) return found;
  const turned = (x) => (x === null ? null : -x);
  return { ...found, value: -found.value, low: turned(found.high), high: turned(found.low) };
}
const pair = () => ["pair-column", "pair-a", "pair-b"].map((id) => Number($(id).value));
function sayDifference(i, a, b) {
  const column = study.columns[i];
  const found = column && a !== b ? findDifference(i, a, b) : null;
  if (!found) return a === b ? "Choose two lines." : "No paired test of these two: they lack scores of the same examples and seeds.";
  const surely = found.p < 0.05;
  const better = found.value < 0 === (column.direction === "lower");
  const verdict = surely ? `${study.lines[better ? a : b].label} is better` : "a tie at 5 %";
  return `${study.lines[a].label} minus ${study.lines[b].label}, ${column.task} ${column.metric}: ${format(found.value)} [${format(found.low)}, ${format(found.high)}], p = ${format(found.p)}, n = ${found.n}: ${verdict}.`;
}
async function drawDifferences() {
  const [i, a, b] = pair();
  $("pair-text").textContent = sayDifference(i, a, b);
  const points = subtract(a, b, i);
  if (points.length && a !== b) {
    const x = { field: "difference", type: "quantitative", title: "difference of each example" };
    const layer = [
      { data: { values: [{ zero: 0 }] }, mark: { type: "rule", strokeDash: [4, 3], color: GREY, aria: false }, encoding: { x: { field: "zero", type: "quantitative" } } },
      { mark: { type: "tick", thickness: 2, opacity: 0.7, color: SHADES[1], height: 26 }, encoding: { x, tooltip: [{ field: "example" }, { field: "difference" }] } },
    ];
    await plot("pair-plot", { height: 50, data: { values: points }, layer }, `Differences of ${points.length} examples. ${sayDifference(i, a, b)}`);
  } else clear("pair-plot");
  await drawStrips(i, b);
}
async function drawStrips(i, b) {
  const found = study.lines.flatMap((line, k) => {
    const one = k === b || line.reference ? null : findDifference(i, k, b);
    return one ? [{ name: line.label, ...one, sure: one.p < 0.05 ? "differs" : "a tie" }] : [];
  });
  if (!found.length) return clear("strips-plot");
  const y = { field: "name", type: "nominal", title: null, sort: null };
  const x = { field: "value", type: "quantitative", title: "mean difference with 95 % interval" };
  const colour = { field: "sure", type: "nominal", title: null, scale: { domain: ["differs", "a tie"], range: [SHADES[0], GREY] } };
  const layer = [
    { data: { values: [{ zero: 0 }] }, mark: { type: "rule", strokeDash: [4, 3], color: GREY, aria: false }, encoding: { x: { field: "zero", type: "quantitative" } } },
    { mark: { type: "rule", aria: false }, encoding: { y, x: { ...x, field: "low" }, x2: { field: "high" }, color: colour } },
    { mark: { type: "point", filled: true, size: 60 }, encoding: { y, x, color: colour, tooltip: ["name", "value", "low", "high", "p", "n"].map((field) => ({ field })) } },
  ];
  await plot("strips-plot", { height: 22 * found.length + 20, data: { values: found }, layer }, `Paired differences of ${found.length} lines against ${study.lines[b].label}`);
}

// Learning curves

const listCurves = () => study.runs.flatMap((run) => (run.curves[$("curve").value] ?? []).map(([step, value]) => ({ run: run.name, what: run.label, line: run.line, step, value })));
async function drawCurves() {
  const points = listCurves();
  const name = $("curve").value;
  $("curve-empty").textContent = points.length ? "" : "No result carries learning curves.";
  if (!points.length) return clear("curve-plot");
  const names = [...new Set(points.map((point) => point.line))];
  const colour = { field: "line", type: "nominal", title: null, scale: scale(names), legend: names.length > 24 ? null : undefined };
  const encoding = { x: { field: "step", type: "quantitative", title: "training step" }, y: { field: "value", type: "quantitative", title: name, scale: { zero: false } }, color: colour, detail: { field: "run" }, tooltip: ["run", "what", "step", "value"].map((field) => ({ field })) };
  await plot("curve-plot", { height: 280, data: { values: points }, mark: { type: "line", point: names.length <= 24, aria: false }, encoding }, `${name} over training: ${names.join(", ")}`);
}
