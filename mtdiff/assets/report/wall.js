// The picture wall: examples by runs, and any two of them under a slider.
const wall = () => study.walls[$("wall-task").value];
const sources = () => [...(wall()?.source ? [["source", "source"]] : []), ["truth", "truth"], ...Object.keys(wall()?.answers ?? {}).map((k) => [k, study.runs[k].label])];
const address = (key) => wall()[key] ?? wall().answers[key];

/** One example of a strip, `size` pixels wide. */
function tile(key, n, size, label) {
  const { count } = wall();
  const made = make("span", { class: "strip", role: "img", "aria-label": label });
  made.style.cssText = `width:${size}px;height:${size}px;background-size:${count * size}px ${size}px;background-position:${-n * size}px 0`;
  made.style.backgroundImage = `url("${address(key)}")`;
  return made;
}
const nameOf = (key) => (key in wall().answers ? study.runs[key].label : key);
const describe = (key, n) => `${nameOf(key)}, example ${n + 1}${wall().prompts[n] ? `: ${wall().prompts[n]}` : ""}`;

/** Scores of a run's examples in the first column of the task that has them. */
function scores(key) {
  const run = study.runs[key];
  const line = study.lines.find((one) => one.runs.includes(Number(key)));
  const column = study.columns.findIndex((c, i) => c.task === wall().task && line?.cells[i].scores?.[run?.seed]);
  return column < 0 ? null : { column, values: line.cells[column].scores[run.seed] };
}
function order() {
  const places = [...Array(wall().count).keys()];
  const [a, b] = ["wall-left", "wall-right"].map((id) => scores($(id).value));
  if ($("wall-order").value !== "difference") return { places, text: "" };
  if (!a || !b || a.column !== b.column) return { places, text: " The order by difference needs two runs with scores of each example on the left and right." };
  const gap = (n) => Math.abs((a.values[n] ?? NaN) - (b.values[n] ?? NaN)) || 0;
  return { places: places.sort((m, n) => gap(n) - gap(m)), text: ` Ordered by the difference in ${study.columns[a.column].metric}.` };
}

function chosenRuns() {
  const every = Object.keys(wall().answers);
  const given = read("wall-runs", null);
  return given === null ? every.slice(0, 6) : given.split(".").filter((key) => every.includes(key));
}
function drawChoice() {
  const chosen = new Set(chosenRuns());
  $("wall-runs").replaceChildren(...Object.keys(wall().answers).map((key) => {
    const box = make("input", { type: "checkbox", value: key });
    box.checked = chosen.has(key);
    box.addEventListener("change", () => {
      const kept = [...$("wall-runs").querySelectorAll("input:checked")].map((one) => one.value);
      remember("wall-runs", kept.join("."), null);
      drawWall();
    });
    return make("label", {}, box, ` ${study.runs[key].label}`);
  }));
}

function prepareWall() {
  $("wall-choose").hidden = !wall();
  if (!wall()) {
    for (const id of ["wall-box", "compare"]) $(id).replaceChildren();
    $("wall-note").textContent = "No run keeps pictures here.";
    return;
  }
  const options = sources();
  const answers = Object.keys(wall().answers);
  fill("wall-left", options, answers[0] ?? "truth");
  fill("wall-right", options, answers[1] ?? "truth");
  drawChoice();
  drawWall();
}

function drawWall() {
  if (!wall()) return;
  const size = Number($("wall-size").value);
  const shown = [...(wall().source ? ["source"] : []), "truth", ...chosenRuns()];
  const { places, text } = order();
  const head = make("tr", {}, make("th", { scope: "col" }, "example"), ...shown.map((key) => make("th", { scope: "col" }, nameOf(key))));
  const rows = places.map((n) => make("tr", {}, make("th", { scope: "row" }, `${n + 1} ${wall().prompts[n] ?? ""}`), ...shown.map((key) => {
    const button = make("button", { type: "button" }, tile(key, n, size, describe(key, n)));
    button.addEventListener("click", () => choose(n));
    return make("td", {}, button);
  })));
  $("wall-box").replaceChildren(make("table", { class: "wall" }, make("thead", {}, head), make("tbody", {}, ...rows)));
  $("wall-note").textContent = `${wall().count} test examples, not chosen.${text} A picture opens its example under the slider.`;
  drawComparison();
}

function choose(n) {
  remember("example", n, 0);
  drawComparison();
  $("compare").querySelector("input").focus();
}
function drawComparison() {
  const n = Math.min(Number(read("example", 0)) || 0, wall().count - 1);
  const [left, right] = [$("wall-left").value, $("wall-right").value];
  const size = Math.min(384, Math.max(160, $("compare").clientWidth - 8));
  const over = tile(left, n, size, `left: ${describe(left, n)}`);
  const edge = make("span", { class: "edge" });
  const slider = make("input", { type: "range", min: 0, max: 100, value: read("slider", 50), "aria-label": "share of the left picture, in percent" });
  const move = () => {
    over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    edge.style.left = `calc(${slider.value}% - 1px)`;
  };
  slider.addEventListener("input", move);
  slider.addEventListener("change", () => remember("slider", slider.value, 50));
  const box = make("div", { class: "compare" }, tile(right, n, size, `right: ${describe(right, n)}`), over, edge, slider);
  box.style.cssText = `width:${size}px;height:${size}px`;
  move();
  const caption = `Example ${n + 1}: left ${nameOf(left)}, right ${nameOf(right)}. ${wall().prompts[n] ?? ""}`;
  $("compare").replaceChildren(make("p", { class: "verdict" }, caption), box);
}
