// What all sections share: the content, the state in the URL's hash, elements made of plain text, and CSV.
const content = JSON.parse(document.getElementById("content").textContent);
const $ = (id) => document.getElementById(id);

/** An element; texts among its children stay texts, so nothing that a result holds becomes markup. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** The state: what differs from the page as it opens stands in the hash, so a copied address shows the same view. */
const state = new URLSearchParams(location.hash.slice(1).includes("=") ? location.hash.slice(1) : "");
function read(key, fallback) {
  return state.has(key) ? state.get(key) : fallback;
}
function remember(key, value, fallback = "") {
  if (String(value) === String(fallback)) state.delete(key);
  else state.set(key, value);
  history.replaceState(null, "", `#${state}`);
}

/** Fill a list of choices; the one that the hash names is chosen where it is there, else the fallback. */
function fill(id, options, fallback) {
  const list = $(id);
  list.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  const wanted = read(id, fallback);
  list.value = options.some(([value]) => String(value) === String(wanted)) ? wanted : fallback;
  if (list.selectedIndex < 0 && options.length) list.selectedIndex = 0;
  list.dataset.fallback = fallback;
  list.disabled = options.length === 0;
}
function follow(id, draw) {
  $(id).addEventListener("change", () => {
    remember(id, $(id).value, $(id).dataset.fallback ?? "");
    draw();
  });
}

function format(x) {
  if (x === null || x === undefined) return "";
  const size = Math.abs(x);
  if (size >= 1e6 || (size !== 0 && size < 0.01)) return x.toPrecision(3);
  return size >= 1000 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(4)));
}
function large(x) {
  for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (Math.abs(x) >= size) return `${Number((x / size).toPrecision(3))} ${unit}`;
  }
  return format(x);
}

/** A cell of CSV. A spreadsheet must not take a foreign name for a formula. */
function quote(value) {
  if (typeof value === "number") return String(value);
  const text = String(value ?? "");
  return `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
}
function save(name, rows) {
  const text = rows.map((row) => row.map(quote).join(",")).join("\r\n") + "\r\n";
  const address = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
  make("a", { href: address, download: `${name}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** A plain table that a heading sorts. rows: arrays of texts, numbers or {text, order, node, kind}. */
function table(box, head, rows, key) {
  const heads = head.map((text) => make("th", { scope: "col" }, text));
  const body = rows.map((row) => make("tr", { class: row.kind ?? null }, ...row.cells.map(cell)));
  const made = make("table", { class: "data" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body));
  box.replaceChildren(made);
  const [place, way] = read(key, "").split(".");
  const order = place && place < head.length ? [[Number(place), way === "desc" ? "desc" : "asc"]] : [];
  const drawn = new DataTable(made, { paging: false, info: false, autoWidth: false, order, language: { search: "Filter" } });
  drawn.on("order.dt", () => {
    const [first] = drawn.order();
    remember(key, first ? `${first[0] ?? first.idx}.${first[1] ?? first.dir}` : "");
  });
  return drawn;
}
function cell(value, place) {
  const is = value !== null && typeof value === "object";
  const tag = place === 0 ? "th" : "td";
  const order = is ? value.order : typeof value === "number" ? value : null;
  const made = make(tag, { scope: place === 0 ? "row" : null, class: is ? value.kind : typeof value === "string" && place ? "text" : null, title: is ? value.title : null, "data-order": order ?? (is ? "" : null) });
  made.append(...(is ? [value.text, ...(value.nodes ?? [])] : [typeof value === "number" ? format(value) : (value ?? "")]));
  return made;
}

let study = content.studies[0];
const isDark = () => document.documentElement.classList.contains("dark");
