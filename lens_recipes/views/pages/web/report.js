// The report: one state, four views of it (heatmap, cell, lines, table), and the address that holds the state.
// All text comes from tokens and is set as text, never as HTML; what Plotly is given has passed `escapeHtml`.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SYMBOLS = "●■◆▲✕★"; // of `data.markers`, as text
const WORD = 74, NARROW = 14, LETTERS = 12, MAX_WORDS = 60, UPRIGHT = 24, MAX_PINS = data.colors.length; // a column's pixels, with words or without

// -- numbers ------------------------------------------------------------------------------------------------

function unpack({ type, shape, base64 }) {
  const chars = atob(base64), bytes = new Uint8Array(chars.length);
  for (let i = 0; i < chars.length; i++) bytes[i] = chars.charCodeAt(i);
  const kinds = { f4: Float32Array, i4: Int32Array, u2: Uint16Array };
  return { shape, values: new kinds[type](bytes.buffer) };
}

const unpackAll = (packed) => Object.fromEntries(Object.entries(packed).map(([name, array]) => [name, unpack(array)]));
const lenses = data.lenses.map(({ name, arrays }) => ({ name, arrays: unpackAll(arrays) }));
let arrays = lenses[0].arrays; // of the lens that is shown

function under(lens, read) { // what is read of the arrays of another lens
  const shown = arrays;
  arrays = lenses[lens].arrays;
  try { return read(); } finally { arrays = shown; }
}

function at(name, ...index) {
  const { shape, values } = arrays[name];
  return values[index.reduce((flat, i, axis) => flat * shape[axis] + i, 0)];
}

const size = (name, axis) => arrays[name].shape[axis];
const kept = () => size("top", 2); // top tokens of a cell

// log p and rank of what `of` names, after one token, at one site; rank -1 where it is not known
const named = {
  top: (s, t) => [at("top_logprobs", s, t, 0), 0],
  next: (s, t) => [at("next_logprobs", s, t), at("next_ranks", s, t)],
  final: (s, t) => [at("final_logprobs", s, t), at("final_ranks", s, t)],
};
const target = (j) => (s, t) => [at("target_logprobs", s, t, j), at("target_ranks", s, t, j)];
const follow = (of) => named[of] ?? target(Number(of));

// What a metric of one token is, by its log p, its rank and the log Σ exp of all logits. Each in Python's table that
// is about tokens is here; what is about a whole cell has an array of its own.
const ofToken = {
  prob: (logprob) => Math.exp(logprob),
  logprob: (logprob) => logprob,
  rank: (logprob, rank) => (rank < 0 ? NaN : rank),
  logit: (logprob, rank, logsumexp) => logprob + logsumexp,
};

function value(metric, of, s, t) {
  const { about } = data.metrics[metric];
  if (about === "all" || about === "next") return at(metric, s, t);
  if (about === "pair") {
    const [a, b] = of.split("-").map(Number);
    return at("target_logprobs", s, t, a) - at("target_logprobs", s, t, b);
  }
  const [logprob, rank] = follow(of)(s, t);
  return ofToken[metric](logprob, rank, at("logsumexp", s, t));
}

// The row above all layers: measured for the model's answer, else the last layer's, where that is the output.
function outputValue(metric, of, t) {
  if (data.metrics[metric].about === "top" && (of === "top" || of === "final"))
    return ofToken[metric](at("model_logprobs", t));
  return data.output_site < 0 ? NaN : value(metric, of, data.output_site, t);
}

// Whether a cell says more of the model's output than a uniform guess.
const canRead = (site, t) => site < 0 || at("readable", site, t) === 1;
const isReadable = (site, t) => canRead(site, t) && (state.minus < 0 || under(state.minus, () => canRead(site, t)));
const isGrey = (site, t) => !state.all && !isReadable(site, t); // on the map, which may show a difference
const isDim = (site, t) => !state.all && !canRead(site, t);

const lensValue = (row, t) =>
  row.site < 0 ? outputValue(state.metric, state.of, t) : value(state.metric, state.of, row.site, t);

// Of two lenses the difference; ranks are subtracted as log10(rank + 1).
function cellValue(row, t) {
  if (state.minus < 0) return lensValue(row, t);
  const scale = data.metrics[state.metric].logarithmic ? (n) => Math.log10(n + 1) : (n) => n;
  return scale(lensValue(row, t)) - scale(under(state.minus, () => lensValue(row, t)));
}

// How the numbers of the cells are coloured; a difference is blue where the lens that is shown is better.
function look() {
  const metric = data.metrics[state.metric];
  if (state.minus < 0) return metric;
  const { colors, inks } = data.difference;
  const turned = metric.low_is_better ? { colors: colors.map(([part, color]) => [1 - part, color]).reverse(), inks: [...inks].reverse() } : { colors, inks };
  return { ...metric, ...turned, range: [null, null], logarithmic: false, two_sided: true };
}

// What one token has along the layers: null where the result does not follow it at this position.
function logprobsOf(t, id) {
  const along = data.along;
  const m = Array.from({ length: size("tracked", 1) }, (_, i) => i).find((i) => at("tracked", t, i) === id);
  if (m !== undefined) return along.map((s) => at("tracked_logprobs", s, t, m));
  const j = prompt().targets.indexOf(id);
  if (j >= 0) return along.map((s) => at("target_logprobs", s, t, j));
  if (at("final", t) === id) return along.map((s) => at("final_logprobs", s, t));
  if (data.tokens.next[t] === id) return along.map((s) => at("next_logprobs", s, t));
  return null;
}

// -- words --------------------------------------------------------------------------------------------------

const twins = new Map(); // how many tokens have a text
for (const word of data.texts) twins.set(word, (twins.get(word) ?? 0) + 1);
const text = (id) => (id < 0 ? "" : twins.get(data.texts[id]) > 1 ? `${data.texts[id]} #${data.ids[id]}` : data.texts[id]);
const truncate = (word, n) => ([...word].length <= n ? word : [...word].slice(0, n - 1).join("") + "…");
const escapeHtml = (word) =>
  word.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");
const isolated = (word) => `\u2068${word}\u2069`; // so that right-to-left text turns nothing round beside it
const label = (word, n) => escapeHtml(isolated(truncate(word, n)));

function formatNumber(metric, number) {
  if (Number.isNaN(number)) return "–";
  if (metric === "rank") return number.toLocaleString("en");
  const small = number !== 0 && Math.abs(number) < 0.001;
  return small ? number.toExponential(2) : String(Number(number.toPrecision(4)));
}

function probability(logprob) {
  const p = Math.exp(logprob);
  return p >= 0.001 ? p.toFixed(3) : p.toExponential(1);
}

function metricLabel() {
  const metric = data.metrics[state.metric];
  const option = [...$("of").options].find((o) => o.value === state.of);
  const words = ["top", "token", "pair"].includes(metric.about) && option ? `${metric.label} of ${option.text}` : metric.label;
  if (state.minus < 0) return lenses.length > 1 ? `${lenses[state.lens].name}: ${words}` : words;
  const scaled = metric.logarithmic ? `log10(${words} + 1)` : words;
  return `${scaled}: ${lenses[state.lens].name} − ${lenses[state.minus].name}`;
}

const formatCell = (number) => {
  if (state.minus < 0) return formatNumber(state.metric, number);
  return Number.isNaN(number) ? "–" : `${number > 0 ? "+" : ""}${Number(number.toPrecision(3))}`;
};

function element(tag, words, attributes = {}) {
  const node = document.createElement(tag);
  if (words !== null) node.textContent = words;
  for (const [name, set] of Object.entries(attributes)) node.setAttribute(name, set);
  return node;
}

function refillKeepingFocus(place, nodes) { // the keyboard stays where it was
  const focused = [...place.children].indexOf(document.activeElement);
  place.replaceChildren(...nodes);
  if (focused >= 0) place.children[Math.min(focused, place.children.length - 1)]?.focus();
}

// -- state --------------------------------------------------------------------------------------------------

// lens, minus: index into the lenses; minus is what is subtracted, -1 nothing
// token: index into all tokens of the page, none at first; site: -1 is the model's output; pins: {token, id}
const state = { lens: 0, minus: -1, prompt: 0, component: data.main, metric: "prob", of: "top", site: -1, token: -1, find: "", pins: [], lines: "logprob", all: false, over: "patches" };

const prompt = () => data.prompts[state.prompt];
const tokens = () => Array.from({ length: prompt().stop - prompt().start }, (_, i) => prompt().start + i);

function rows() {
  const found = data.sites.flatMap((site, s) =>
    site.component === state.component || (site.component === "embed" && state.component === data.main)
      ? [{ site: s, label: site.label, place: site.place }] : []);
  return data.answers ? [...found, { site: -1, label: "output", place: "the model's output" }] : found;
}

const rowOf = (site) => Math.max(0, rows().findIndex((row) => row.site === site));

// What `of` may be for a metric, as [value, words].
function choices(metric) {
  const targets = prompt().targets.map((id, j) => [String(j), truncate(text(id), 24)]);
  const about = data.metrics[metric].about;
  if (about === "pair") {
    const pairs = targets.flatMap(([a, A]) => targets.map(([b, B]) => [`${a}-${b}`, `${A} − ${B}`]));
    return pairs.filter(([pair]) => pair.split("-")[0] !== pair.split("-")[1]);
  }
  if (about !== "top" && about !== "token") return [];
  const always = data.answers ? [["final", "the model's answer"], ["next", "the next token"]] : [];
  return [...(about === "top" ? [["top", "the top token"]] : []), ...always, ...targets];
}

const metrics = () => Object.keys(data.metrics).filter((name) =>
  data.metrics[name].about === "all" || data.metrics[name].about === "next" || choices(name).length);

function makeValid() { // whatever was asked for, become something that this result has
  const validIndex = (number, n) => (Number.isInteger(number) && number >= 0 && number < n ? number : 0);
  state.lens = validIndex(state.lens, lenses.length);
  if (!(Number.isInteger(state.minus) && state.minus >= 0 && state.minus < lenses.length) || state.minus === state.lens) state.minus = -1;
  arrays = lenses[state.lens].arrays;
  state.prompt = validIndex(state.prompt, data.prompts.length);
  if (!data.components.includes(state.component)) state.component = data.main;
  if (!metrics().includes(state.metric)) state.metric = metrics()[0];
  const accepted = choices(state.metric).map(([name]) => name);
  if (!accepted.includes(state.of)) state.of = accepted[0] ?? "";
  const { start, stop } = prompt();
  if (!(Number.isInteger(state.token) && state.token >= start && state.token < stop)) state.token = stop - 1;
  if (!rows().some((row) => row.site === state.site)) state.site = rows().at(-1).site;
  const valid = ({ token, id }) => token >= start && token < stop && id >= 0 && id < data.texts.length;
  const once = (pin, i) => state.pins.findIndex((other) => same(other, pin.token, pin.id)) === i;
  state.pins = state.pins.filter(valid).filter(once).slice(0, MAX_PINS);
  if (state.lines !== "prob") state.lines = "logprob";
  if (!OVER.some(([name]) => name === state.over)) state.over = "patches";
}

function toHash() {
  const query = new URLSearchParams({ ...state, pins: state.pins.map((pin) => `${pin.token}:${pin.id}`).join(",") });
  history.replaceState(null, "", `#${query}`);
}

function fromHash() {
  const query = new URLSearchParams(location.hash.slice(1));
  for (const name of ["component", "metric", "of", "find", "lines", "over"]) if (query.has(name)) state[name] = query.get(name);
  for (const name of ["lens", "minus", "prompt", "site", "token"]) if (query.has(name)) state[name] = Number(query.get(name));
  state.all = query.get("all") === "true";
  const pins = (query.get("pins") ?? "").split(",").filter(Boolean).map((pin) => pin.split(":").map(Number));
  state.pins = pins.map(([token, id]) => ({ token, id })).filter((pin) => Number.isInteger(pin.token) && Number.isInteger(pin.id));
  makeValid();
  if (!query.has("pins")) pinTargets();
}

// What was asked about a prompt, after its last token.
function pinTargets() {
  state.pins = prompt().targets.map((id) => ({ token: prompt().stop - 1, id }));
  makeValid();
}

// Every change comes through here.
function go(change = {}) {
  if ("prompt" in change) state.token = -1;
  Object.assign(state, change);
  makeValid();
  if ("prompt" in change) pinTargets();
  toHash();
  draw(Object.keys(change));
}

// -- pins ---------------------------------------------------------------------------------------------------

const topOf = (site, t) => (site < 0 ? at("final", t) : at("top", site, t, 0));
const same = (pin, t, id) => pin.token === t && pin.id === id;

function pin(t, id, add, cell = {}) {
  const isPinned = state.pins.some((other) => same(other, t, id));
  const others = state.pins.filter((other) => !same(other, t, id));
  if (isPinned && (add || others.length === 0)) return go({ ...cell, pins: others });
  if (add && others.length >= MAX_PINS) return announce(`${MAX_PINS} tokens are pinned: unpin one first.`);
  return go({ ...cell, pins: add ? [...others, { token: t, id }] : [{ token: t, id }] });
}

const announce = (words) => { $("said").textContent = words; };

// -- heatmap ------------------------------------------------------------------------------------------------

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const plotlyLook = () => ({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: css("--back"), font: { family: "Inter, Helvetica, Arial, sans-serif", size: 12, color: css("--ink") },
});
const QUIET = { displayModeBar: false, responsive: false };

// Cells whose top-1 is what the model answers, those above each other as one.
function answerRuns(shown, columns) {
  const runs = [];
  columns.forEach((t, x) => {
    let first = -1;
    shown.forEach((row, y) => {
      const hit = row.site >= 0 && at("final_ranks", row.site, t) === 0 && !isGrey(row.site, t);
      if (hit && first < 0) first = y;
      const ends = !hit || y === shown.length - 1;
      if (first >= 0 && ends) { runs.push([x, first, hit ? y : y - 1]); first = -1; }
    });
  });
  return runs;
}

function colouredValues(z) {
  const { range, logarithmic, two_sided } = look();
  const shown = logarithmic ? z.map((line) => line.map((n) => -Math.log10(n + 1))) : z;
  const finite = shown.flat().filter(Number.isFinite), none = finite.length === 0;
  const [least, most] = [Math.min, Math.max].map((end) => finite.reduce((a, b) => end(a, b), finite[0] ?? 0));
  const reach = Math.max(Math.abs(least), Math.abs(most), 1e-6);
  const low = two_sided ? -reach : range[0] ?? least, high = two_sided ? reach : range[1] ?? Math.max(most, low + 1e-6);
  const clipped = shown.map((line) => line.map((n) => (Number.isNaN(n) ? null : Math.min(Math.max(n, low), high))));
  return { z: clipped, zmin: low, zmax: high, none };
}

let painted = { columns: [], colour: {} }; // what the map shows, and the image with it

// pixels: where the first cell begins, and how large a cell is; and how many rows there are
const box = { left: 0, top: 5, wide: 0, tall: 0, rows: 0 };
const onPaper = matchMedia("print");

function heatmap() {
  const shown = rows(), columns = tokens(), written = columns.length <= MAX_WORDS;
  box.left = Math.max(60, 40 + 7 * Math.max(...shown.map((row) => row.label.length)));
  const room = ($("map").clientWidth - box.left - 25) / columns.length; // paper does not scroll
  box.wide = onPaper.matches ? Math.min(140, room) : written ? Math.max(WORD, Math.min(140, room)) : Math.max(NARROW, room);
  box.tall = shown.length > 60 ? 14 : 22;
  box.rows = shown.length;
  const gap = written ? 1 : 0; // without gaps plotly draws many cells fast
  const axis = { fixedrange: true, showgrid: false, zeroline: false, ticks: "", showticklabels: false };
  const grey = shown.map((row) => columns.map((t) => isGrey(row.site, t)));
  const colour = colouredValues(shown.map((row, y) => columns.map((t, x) => (grey[y][x] ? NaN : cellValue(row, t)))));
  painted = { columns, colour };
  const { colors } = look();
  const trace = { type: "heatmap", ...colour, colorscale: colors, hoverinfo: "none", xgap: gap, ygap: gap, showscale: false };
  const unreadable = {
    type: "heatmap", z: grey.map((line) => line.map((is) => (is ? 1 : null))), zmin: 0, zmax: 1, hoverinfo: "skip", hoverongaps: false,
    colorscale: [[0, css("--grey")], [1, css("--grey")]], xgap: gap, ygap: gap, showscale: false,
  };
  Plotly.react("heatmap", [trace, unreadable], {
    ...plotlyLook(), width: box.left + 20 + columns.length * box.wide, height: box.top + 5 + shown.length * box.tall,
    margin: { l: box.left, r: 20, t: box.top, b: 5 }, dragmode: false, hovermode: "closest",
    xaxis: { ...axis, range: [-0.5, columns.length - 0.5] },
    yaxis: { ...axis, range: [-0.5, shown.length - 0.5] },
  }, QUIET);
  legend(trace);
  headers(columns);
  names(shown);
  words(written ? shown : [], columns, colour);
  frames(shown, columns);
  cursor();
}

// What stands over the map is our own: plotly takes seconds for hundreds of labels, and picks greys for its words.
const rowTop = (y) => box.top + (box.rows - 1 - y) * box.tall;

function names(shown) {
  const step = Math.ceil(15 / box.tall); // every name that has room
  const nodes = shown.map((row, y) => element("span", row.label, { style: `top: ${rowTop(y)}px; line-height: ${box.tall}px` }));
  $("names").replaceChildren(...nodes.filter((_, y) => (shown.length - 1 - y) % step === 0));
  const height = box.top + 5 + shown.length * box.tall + $("columns").offsetHeight;
  Object.assign($("names").style, { width: `${box.left}px`, height: `${height}px`, marginBottom: `${-height}px` });
}

function headers(columns) {
  const upright = columns.length <= UPRIGHT, step = Math.ceil(LETTERS / box.wide), nodes = columns.map((t, x) => {
    const word = element("bdi", (at("fitted", t) ? "" : "†") + truncate(data.tokens.text[t], 14));
    word.style.left = `${box.left + (x + 0.5) * box.wide}px`;
    word.style.maxWidth = upright ? `${box.wide}px` : "";
    word.hidden = x % step !== 0;
    return word;
  });
  $("columns").className = upright ? "upright" : "";
  $("columns").replaceChildren(...nodes);
}

function words(shown, columns, { z, zmin, zmax }) {
  const { inks } = look(), room = Math.max(3, Math.floor(box.wide / 7.5));
  $("words").replaceChildren(...shown.flatMap((row, y) => columns.map((t, x) => {
    const part = (z[y][x] - zmin) / (zmax - zmin), fill = isGrey(row.site, t) ? css("--soft") : z[y][x] === null ? css("--ink") : inks[Math.round(part * (inks.length - 1))];
    const node = document.createElementNS("http://www.w3.org/2000/svg", "text");
    node.textContent = isolated(truncate(data.texts[topOf(row.site, t)] ?? "", room));
    for (const [name, set] of Object.entries({ x: box.left + (x + 0.5) * box.wide, y: rowTop(y) + box.tall / 2, fill })) node.setAttribute(name, set);
    return node;
  })));
}

const path = (id, shapes) => $(id).setAttribute("d", shapes.join(""));

function frames(shown, columns) {
  const runs = data.answers ? answerRuns(shown, columns) : [];
  const shapes = runs.map(([x, first, last]) =>
    `M${box.left + x * box.wide},${rowTop(last)}h${box.wide}v${(last - first + 1) * box.tall}h${-box.wide}z`);
  path("halo", shapes);
  path("edge", shapes);
}

// The colours and what they stand for.
function legend({ zmin, zmax, none }) {
  const { colors, logarithmic } = look();
  const even = [0, 0.25, 0.5, 0.75, 1].map((part) => zmin + part * (zmax - zmin));
  const at = logarithmic ? data.rank_ticks.tickvals : even;
  const words = logarithmic ? data.rank_ticks.ticktext : even.map((n) => String(Number(n.toPrecision(3))));
  $("whose").textContent = none ? `${metricLabel()}: there are no numbers` : metricLabel();
  $("bar").hidden = $("ticks").hidden = none;
  $("bar").style.background = `linear-gradient(to right, ${colors.map(([part, color]) => `${color} ${100 * part}%`).join(", ")})`;
  $("ticks").replaceChildren(...at.map((n, i) => element("span", words[i], { style: `left: ${100 * (n - zmin) / (zmax - zmin)}%` })));
}

function cursor() {
  const x = tokens().indexOf(state.token);
  Object.assign($("cursor").style, {
    left: `${box.left + x * box.wide}px`, top: `${rowTop(rowOf(state.site))}px`, width: `${box.wide}px`, height: `${box.tall}px`,
  });
  [...$("columns").children].forEach((word, i) => word.classList.toggle("here", i === x));
}

function reveal() { // scroll the map to the cell
  const map = $("map"), x = box.left + tokens().indexOf(state.token) * box.wide;
  if (x < map.scrollLeft + box.left || x + box.wide > map.scrollLeft + map.clientWidth) map.scrollLeft = x - map.clientWidth / 2;
}

// -- the cell, and its position at every layer --------------------------------------------------------------

function describeCell(row, t) {
  const { text: read, position, next, generated } = data.tokens;
  const then = next[t] < 0 ? "" : generated[t] ? `, where ${text(next[t])} was written` : `, before ${text(next[t])}`;
  const where = data.answers ? `after ${read[t]} (position ${position[t]}${patchPlace(t)})${then}` : read[t];
  const trust = isReadable(row.site, t) ? "" : ". The lens cannot be read here: it is worse than a uniform guess";
  return `${row.place}, ${where}: ${metricLabel()} ${formatCell(cellValue(row, t))}${trust}`;
}

function predictions(site, t) {
  if (site < 0) return [[at("final", t), at("model_logprobs", t)]];
  return Array.from({ length: kept() }, (_, k) => [at("top", site, t, k), at("top_logprobs", site, t, k)]);
}

function cell() {
  const row = rows()[rowOf(state.site)], t = state.token;
  $("cell").replaceChildren(element("bdi", describeCell(row, t)));
  refillKeepingFocus($("top"), predictions(row.site, t).map(([id, logprob]) => {
    const button = element("button", null, { type: "button", "aria-pressed": state.pins.some((p) => same(p, t, id)) });
    button.append(element("bdi", text(id)), ` ${probability(logprob)}`);
    button.onclick = (event) => pin(t, id, event.shiftKey);
    return button;
  }));
  const y = rowOf(state.site);
  Object.assign($("layer"), { max: rows().length - 1, value: y });
  $("layer").setAttribute("aria-valuetext", row.place);
  const columns = tokens(), x = columns.indexOf(t);
  Object.assign($("position"), { max: columns.length - 1, value: x });
  $("position").setAttribute("aria-valuetext", `${data.tokens.text[t]}, position ${data.tokens.position[t]}`);
  $("layer-now").textContent = row.label;
  $("position-now").textContent = data.answers ? `${data.tokens.position[t]} ${data.tokens.text[t]}` : data.tokens.text[t];
}

function drawPosition() {
  const t = state.token, body = document.createDocumentFragment();
  for (const row of rows().reverse()) {
    const line = element("tr", null, row.site === state.site ? { class: "here" } : {});
    if (isDim(row.site, t)) line.classList.add("unreadable");
    line.append(element("th", row.label, { scope: "row" }));
    predictions(row.site, t).forEach(([id, logprob]) => {
      const cellNode = element("td", null, { "data-site": row.site, "data-id": id });
      cellNode.append(element("bdi", truncate(text(id), 16)), element("small", ` ${probability(logprob)}`));
      if (id === at("final", t) && data.answers) cellNode.className = "answer";
      line.append(cellNode);
    });
    body.append(line);
  }
  $("every").tBodies[0].replaceChildren(body);
}

// -- which lens sees a token earlier --------------------------------------------------------------------------

// Where the lens that is read has a token as its top-1 first: the layer, and whether the layer before could be read.
function firstSeen(t, id) {
  const i = data.along.findIndex((s) => canRead(s, t) && at("top", s, t, 0) === id);
  return i < 0 ? null : { layer: data.sites[data.along[i]].layer, dated: i === 0 || canRead(data.along[i - 1], t) };
}

// The tokens that lenses have as their top-1 at different layers, far apart before near.
function seenEarlier(t) {
  const tops = lenses.flatMap((_, lens) => under(lens, () => data.along.filter((s) => canRead(s, t)).map((s) => at("top", s, t, 0))));
  const followed = [...prompt().targets, at("final", t), data.tokens.next[t]];
  const role = (id) => (followed.includes(id) ? followed.indexOf(id) : followed.length);
  const rows = [...new Set(tops)].map((id) => {
    const places = lenses.map((_, lens) => under(lens, () => firstSeen(t, id)));
    const layers = places.filter(Boolean).map(({ layer }) => layer);
    return { id, places, first: Math.min(...layers), apart: layers.length < places.length ? null : Math.max(...layers) - Math.min(...layers) };
  });
  const both = (row) => row.apart !== null;
  return rows.filter(({ apart }) => apart !== 0).sort((a, b) =>
    both(b) - both(a) || (both(a) ? b.apart - a.apart || role(a.id) - role(b.id) : role(a.id) - role(b.id) || a.first - b.first));
}

function earlier() {
  $("seen").hidden = lenses.length < 2 || !data.along.length;
  if ($("seen").hidden) return;
  const head = element("tr", null), body = document.createDocumentFragment();
  head.append(element("th", "token", { scope: "col" }), ...lenses.map(({ name }) => element("th", name, { scope: "col" })));
  for (const { id, places } of seenEarlier(state.token)) {
    const line = element("tr", null), name = element("th", null, { scope: "row" }), button = element("button", null, { type: "button" });
    button.append(element("bdi", truncate(text(id), 24)));
    button.onclick = (event) => pin(state.token, id, event.shiftKey);
    name.append(button);
    line.append(name, ...places.map((place) => element("td", !place ? "never" : `${place.layer}${place.dated ? "" : " ?"}`)));
    body.append(line);
  }
  $("earlier").tHead.replaceChildren(head);
  $("earlier").tBodies[0].replaceChildren(body);
}

// -- the image, its patches in the colours of one layer ------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg", TRANSLUCENT = 0.6, LONGEST_SIDE = 4;
const OVER = [["patches", "patches over the image"], ["image", "the image"], ["only", "patches"]];

function shape(name, attributes, words = null) {
  const node = document.createElementNS(SVG, name);
  for (const [key, set] of Object.entries(attributes)) node.setAttribute(key, set);
  if (words !== null) node.textContent = words;
  return node;
}

function colourAt(part, colors) { // of a scale of "#rrggbb"
  const above = Math.max(1, colors.findIndex(([place]) => place >= part));
  const [[low, first], [high, second]] = [colors[above - 1], colors[above]];
  const share = high > low ? (part - low) / (high - low) : 0;
  const channel = (color, i) => parseInt(color.slice(1 + 2 * i, 3 + 2 * i), 16);
  return `rgb(${[0, 1, 2].map((i) => Math.round(channel(first, i) + share * (channel(second, i) - channel(first, i)))).join(",")})`;
}

// How a token is read at a patch: 2 is its top-1 at the layer that is shown, 1 at some other that can be read.
function readAt(id, t) {
  if (topOf(state.site, t) === id && !isDim(state.site, t)) return 2;
  return data.along.some((s) => !isDim(s, t) && topOf(s, t) === id) ? 1 : 0;
}

function patchPlace(t) { // where a patch is in its image, in pixels
  for (const [n, { patches, boxes }] of prompt().images.entries()) {
    const i = patches.indexOf(t);
    if (i < 0) continue;
    const [left, top, right, bottom] = boxes[i].map(Math.round);
    return `, image ${n}, x ${left}–${right}, y ${top}–${bottom}`;
  }
  return "";
}

let imagesOf = -1; // the figures are made once for each prompt, so that no picture is decoded again at every step

function makeImages() {
  imagesOf = state.prompt;
  $("images").replaceChildren(...prompt().images.map(({ name, width, height, address, note }) => {
    const figure = element("figure", null), frame = element("div", null, { class: "frame" });
    frame.style.aspectRatio = String(Math.min(LONGEST_SIDE, Math.max(1 / LONGEST_SIDE, width / height)));
    if (address) frame.append(element("img", null, { alt: `${name}, ${width} × ${height} pixels`, src: address }));
    frame.append(shape("svg", { "aria-hidden": "true" }));
    const caption = element("figcaption", null);
    caption.append(element("bdi", `${name}, ${width} × ${height} pixels`), address ? "" : " (the picture is not on this page)", note ? `; ${note}` : "");
    figure.append(frame, caption);
    return figure;
  }));
}

function images() {
  $("pictures").hidden = !prompt().images.length;
  if ($("pictures").hidden) return;
  if (imagesOf !== state.prompt) makeImages();
  const { columns, colour } = painted, y = rowOf(state.site), row = rows()[y], { colors, inks } = look();
  const followed = state.pins.at(-1)?.id ?? -1, counts = [0, 0, 0];
  prompt().images.forEach(({ width, height, patches, boxes }, n) => {
    const frame = $("images").children[n].firstChild, svg = frame.lastChild, picture = frame.querySelector("img");
    if (picture) picture.style.opacity = { only: 0, image: 1, patches: 0.75 }[state.over];
    const opacity = state.over === "image" ? 0 : picture && state.over !== "only" ? TRANSLUCENT : 1;
    const [wide, tall] = [frame.clientWidth / width, frame.clientHeight / height], cells = [], marks = [];
    patches.forEach((t, i) => {
      const [left, top, right, bottom] = boxes[i], z = colour.z[y][columns.indexOf(t)], grey = isGrey(row.site, t);
      const place = { x: left * wide, y: top * tall, width: (right - left) * wide, height: (bottom - top) * tall };
      const part = (z - colour.zmin) / (colour.zmax - colour.zmin);
      const fill = grey ? css("--grey") : z === null ? "none" : colourAt(part, colors);
      const rect = shape("rect", { ...place, fill, "fill-opacity": opacity, stroke: "#fff", "stroke-opacity": opacity / 2, "pointer-events": "all" });
      rect.onclick = (event) => pin(t, topOf(row.site, t), event.shiftKey, { token: t });
      rect.onmousemove = (event) => tip(row, t, event);
      rect.onmouseleave = () => { $("tip").hidden = true; };
      cells.push(rect);
      const letters = Math.floor(place.width / 7);
      if (opacity && letters >= 3 && place.height >= 14) {
        const fill = grey || z === null ? "#000000" : inks[Math.round(part * (inks.length - 1))], stroke = fill === "#000000" ? "#fff" : "#000";
        const word = isolated(truncate(data.texts[topOf(row.site, t)] ?? "", letters));
        marks.push(shape("text", { x: place.x + place.width / 2, y: place.y + place.height / 2, fill, stroke }, word));
      }
      const read = followed < 0 ? 0 : readAt(followed, t);
      counts[read] += 1;
      const inside = { x: place.x + 2, y: place.y + 2, width: Math.max(1, place.width - 4), height: Math.max(1, place.height - 4) };
      if (read) marks.push(...[1, 2].map(() => shape("rect", { ...inside, class: read === 2 ? "is" : "is among" })));
      if (t === state.token) marks.push(shape("rect", { ...place, class: "at" }));
    });
    svg.replaceChildren(...cells, ...marks);
  });
  Object.assign($("image-layer"), { max: rows().length - 1, value: y });
  $("image-layer").setAttribute("aria-valuetext", row.place);
  $("image-layer-now").textContent = row.label;
  options($("over"), OVER, state.over);
  const words = followed < 0 ? "Click a patch to pin its top token. The patches where the token that was pinned last is read are framed."
    : `${isolated(text(followed))} is the top token of ${counts[2]} ${counts[2] === 1 ? "patch" : "patches"} at this layer (framed), and of ${counts[1]} others at another (dashed).`;
  if ($("where").textContent !== words) $("where").textContent = words;
}

// -- lines --------------------------------------------------------------------------------------------------

function lines() {
  const chips = [], traces = [], layers = data.along.map((s) => data.sites[s].layer);
  state.pins.forEach(({ token: t, id }, i) => {
    const logprobs = data.along.length ? logprobsOf(t, id) : null;
    const name = `${text(id)} after ${data.answers ? `${data.tokens.position[t]} ` : ""}${data.tokens.text[t]}`;
    const symbol = i % SYMBOLS.length, color = data.colors[i] === "#000000" ? css("--ink") : data.colors[i];
    const chip = element("button", null, { type: "button", title: "unpin", style: `border-color: ${color}` });
    const none = !data.along.length ? " (no layers to follow it through)" : " (no data: not tracked here)";
    chip.append(element("span", `${SYMBOLS[symbol]} `, { style: `color: ${color}`, "aria-hidden": "true" }), element("bdi", name), logprobs ? "" : none, element("span", " ✕", { "aria-label": "unpin" }));
    chip.onclick = () => go({ pins: state.pins.filter((_, j) => j !== i) });
    chips.push(chip);
    if (logprobs) traces.push({
      type: "scatter", mode: "lines+markers", x: layers, name: label(name, 40), showlegend: false,
      y: state.lines === "prob" ? logprobs.map(Math.exp) : logprobs,
      line: { color, dash: data.dashes[i % data.dashes.length], width: 2 }, marker: { size: 7, symbol: data.markers[symbol] },
      text: logprobs.map((logprob, n) => `${label(name, 40)}<br>layer ${layers[n]}: ${probability(logprob)}`),
      hovertemplate: "%{text}<extra></extra>",
    });
  });
  refillKeepingFocus($("pins"), chips.length ? chips : [element("p", "Click a cell to pin its token; shift-click adds one.")]);
  // Behind the lines, the layers that cannot be read at the position of the first pin.
  const bands = [];
  if (state.pins.length) data.along.forEach((s, i) => {
    if (!isDim(s, state.pins[0].token)) return;
    const [x0, x1] = [layers[i] - 0.5, layers[i] + 0.5];
    if (bands.length && bands.at(-1).x1 === x0) bands.at(-1).x1 = x1;
    else bands.push({ type: "rect", layer: "below", yref: "paper", y0: 0, y1: 1, x0, x1, fillcolor: css("--grey"), line: { width: 0 } });
  });
  const grid = { gridcolor: css("--line"), zeroline: false, fixedrange: true };
  Plotly.react("lines", traces, {
    ...plotlyLook(), shapes: bands, plot_bgcolor: "rgba(0,0,0,0)", autosize: true, height: 280, margin: { l: 60, r: 10, t: 10, b: 45 }, hovermode: "closest", dragmode: false,
    xaxis: { ...grid, title: { text: escapeHtml(data.line_axis) }, range: layers.length ? [layers[0] - 0.5, layers.at(-1) + 0.5] : undefined },
    yaxis: { ...grid, title: { text: state.lines === "prob" ? "probability" : "log-probability (nats)" },
      range: state.lines === "prob" ? [-0.02, 1.02] : undefined },
  }, { ...QUIET, responsive: true });
}

// -- the same numbers as a table -----------------------------------------------------------------------------

function table() {
  if (!$("table").open) return;
  const columns = tokens(), body = document.createDocumentFragment(), head = element("tr", null);
  head.append(element("th", "layer", { scope: "col" }));
  for (const t of columns) head.append(element("th", data.tokens.text[t], { scope: "col", dir: "auto" }));
  for (const row of rows().reverse()) {
    const line = element("tr", null);
    line.append(element("th", row.label, { scope: "row" }));
    for (const t of columns) {
      const attributes = isGrey(row.site, t) ? { class: "unreadable" } : {};
      line.append(element("td", formatCell(cellValue(row, t)), attributes));
    }
    body.append(line);
  }
  $("numbers").caption.textContent = metricLabel();
  $("numbers").tHead.replaceChildren(head);
  $("numbers").tBodies[0].replaceChildren(body);
}

// -- search -------------------------------------------------------------------------------------------------

const normalized = (word) => word.replaceAll("·", " ").toLowerCase();

function matches() {
  const query = normalized(state.find);
  if (!query.trim()) return new Set();
  return new Set(data.texts.flatMap((word, id) => (normalized(word).includes(query) ? [id] : [])));
}

// The cells whose top token is searched for, as [column, row].
function matchingCells(ids, shown, columns) {
  if (!ids.size) return [];
  return shown.flatMap((row, y) => columns.flatMap((t, x) => (ids.has(topOf(row.site, t)) ? [[x, y]] : [])));
}

function search() { // what is found, where it is top-1, and what of it can be followed after this token
  const ids = matches(), cells = matchingCells(ids, rows(), tokens());
  path("marks", cells.map(([x, y]) => `M${box.left + x * box.wide + 3},${rowTop(y) + 3}h7v7h-7z`));
  const candidates = [...ids].map((id) => [id, data.along.length ? logprobsOf(state.token, id) : null]);
  candidates.sort((a, b) => (a[1] === null) - (b[1] === null));
  const buttons = candidates.slice(0, 8).map(([id, logprobs]) => {
    const button = element("button", null, { type: "button" });
    button.append(element("bdi", text(id)), logprobs ? "" : " (no data candidates)");
    button.onclick = (event) => pin(state.token, id, event.shiftKey);
    return button;
  });
  refillKeepingFocus($("found"), candidates.length > 8 ? [...buttons, element("span", ` and ${candidates.length - 8} more`)] : buttons);
  const some = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  const kept = "No such token is on this page. It keeps the top tokens of each cell, targets, tracked and next tokens, not the whole vocabulary.";
  const found = `${some(candidates.length, "token")} found; top-1 in ${some(cells.length, "cell")}, marked on the map.`;
  const words = !state.find.trim() ? "" : candidates.length ? found : kept;
  if ($("matched").textContent !== words) $("matched").textContent = words;
}

// -- the table of all prompts ---------------------------------------------------------------------------------

const batchRows = [...document.querySelectorAll("#batch tbody tr")];

function batchRow() { // mark the prompt that is shown
  for (const row of batchRows) {
    const here = Number(row.dataset.prompt) === state.prompt;
    row.classList.toggle("here", here);
    row.querySelector("button").setAttribute("aria-pressed", here);
  }
}

for (const row of batchRows) row.onclick = () => go({ prompt: Number(row.dataset.prompt) });

// -- drawing, and what a reader does -------------------------------------------------------------------------

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([name, words]) => element("option", words, { value: name })));
  select.value = chosen;
  select.closest("label").hidden = pairs.length < 2;
}

const NUMBERS = ["lens", "minus", "prompt", "component", "metric", "of", "all"]; // what the map and the table are about

function draw(changed) { // of nothing, all
  const touched = (names) => !changed.length || changed.some((name) => names.includes(name));
  $("tip").hidden = true;
  if (touched(["lens", "minus"])) {
    const names = lenses.map(({ name }, lens) => [lens, name]);
    options($("lens"), names, state.lens);
    options($("minus"), [[-1, "nothing"], ...names.filter(([lens]) => lens !== state.lens)], state.minus);
    for (const part of document.querySelectorAll("[data-lens]")) part.hidden = Number(part.dataset.lens) !== state.lens;
  }
  if (touched(NUMBERS)) {
    options($("metric"), metrics().map((name) => [name, data.metrics[name].label]), state.metric);
    options($("of"), choices(state.metric), state.of);
    options($("component"), data.components.map((name) => [name, name]), state.component);
    options($("prompt"), data.prompts.map(({ text }, p) => [p, truncate(text, 60)]), state.prompt);
    heatmap();
    table();
  }
  if (touched(["lens", "minus", "pins", "lines", "prompt", "all"])) {
    options($("scale"), [["logprob", "log-probability"], ["prob", "probability"]], state.lines);
    lines();
  }
  if (touched(["prompt"])) batchRow();
  if (touched(["site", "token"])) cursor();
  if (touched(["site", "token", "prompt"])) reveal();
  $("all").checked = state.all;
  if ($("search").value !== state.find) $("search").value = state.find;
  cell();
  images();
  drawPosition();
  earlier();
  search();
}

for (const [id, name] of [["metric", "metric"], ["of", "of"], ["component", "component"], ["scale", "lines"], ["over", "over"]])
  $(id).onchange = () => go({ [name]: $(id).value });
for (const name of ["lens", "minus"]) $(name).onchange = () => go({ [name]: Number($(name).value) });
$("prompt").onchange = () => go({ prompt: Number($("prompt").value) });
for (const id of ["layer", "image-layer"]) $(id).oninput = () => go({ site: rows()[Number($(id).value)].site });
$("position").oninput = () => go({ token: tokens()[Number($("position").value)] });
$("search").oninput = () => go({ find: $("search").value });
$("all").onchange = () => go({ all: $("all").checked });
$("table").ontoggle = table;
$("every").onclick = (event) => {
  const clicked = event.target.closest("td");
  if (!clicked) return;
  pin(state.token, Number(clicked.dataset.id), event.shiftKey, { site: Number(clicked.dataset.site) });
};

$("map").onkeydown = (event) => {
  const shown = rows(), columns = tokens(), y = rowOf(state.site), x = columns.indexOf(state.token);
  const step = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
  if (step) go({ token: columns[x + step[0]] ?? state.token, site: (shown[y + step[1]] ?? shown[y]).site });
  else if (event.key === "Enter") pin(state.token, topOf(state.site, state.token), event.shiftKey);
  else if (event.key === "Escape") go({ pins: [] });
  else return;
  event.preventDefault();
  announce(describeCell(rows()[rowOf(state.site)], state.token));
};

function tip(row, t, event) { // what a cell says, beside the pointer
  const place = $("tip");
  const tops = predictions(row.site, t).map(([id, logprob]) => {
    const line = element("li", null);
    line.append(element("bdi", text(id)), ` ${probability(logprob)}`);
    return line;
  });
  const others = lenses.flatMap(({ name }, lens) => {
    if (lens === state.lens) return [];
    const [[id, logprob]] = under(lens, () => predictions(row.site, t));
    const line = element("div", `${name}: `);
    line.append(element("bdi", text(id)), ` ${probability(logprob)}`);
    return [line];
  });
  place.replaceChildren(element("bdi", describeCell(row, t)), ...tops, ...others);
  place.style.left = `${Math.min(event.clientX + 14, innerWidth - 300)}px`;
  place.style.top = `${Math.min(event.clientY + 14, innerHeight - 40 - 20 * tops.length)}px`;
  place.hidden = false;
}

function listen() {
  const map = $("heatmap");
  map.on("plotly_click", ({ points, event }) => {
    const row = rows()[points[0].y], t = tokens()[points[0].x];
    pin(t, topOf(row.site, t), event.shiftKey, { site: row.site, token: t });
  });
  map.on("plotly_hover", ({ points, event }) => tip(rows()[points[0].y], tokens()[points[0].x], event));
  map.on("plotly_unhover", () => { $("tip").hidden = true; });
}

$("all").closest("label").hidden = !lenses.some((lens) => lens.arrays.readable.values.includes(0));
for (const part of document.querySelectorAll(".layers")) part.hidden = !data.along.length;
for (const part of document.querySelectorAll(".answers")) part.hidden = !data.answers;
let resized;
addEventListener("resize", () => { // when it has ended
  clearTimeout(resized);
  resized = setTimeout(() => draw([]), 150);
});
addEventListener("hashchange", () => { fromHash(); draw([]); });
onPaper.onchange = matchMedia("(prefers-color-scheme: dark)").onchange = () => draw([]);
fromHash();
draw([]);
listen();
document.body.dataset.ready = Math.round(performance.now()); // milliseconds: from here on the page answers
