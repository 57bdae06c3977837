"use strict";
// Texts of others come in by textContent and attributes alone: nothing is made of markup in them.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const POLL_MS = 1000, LIST_EVERY = 5, KEPT_S = 600, COLOURS = 12, EVENTS = 200;

const make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const draw = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const digits = (n) => n >= 100 ? Math.round(n).toLocaleString("en") : String(Number(n.toPrecision(2)));
const count = (n) => n >= 1e6 ? digits(n / 1e6) + "M" : n >= 1e4 ? digits(n / 1e3) + "k" : digits(n);
const percent = (part) => (part > 0 && part < 0.0095 ? (part * 100).toFixed(1) : Math.round(part * 100)) + " %";
const nanoseconds = (ns) => ns === null ? "–" : ns === 0 ? "0" : ns >= 1e9 ? digits(ns / 1e9) + " s" : ns >= 1e6 ? digits(ns / 1e6) + " ms"
  : ns >= 1e3 ? digits(ns / 1e3) + " µs" : ns + " ns";
const milliseconds = (ms) => ms < 1000 ? ms + " ms" : ms < 60000 ? Math.floor(ms / 1000) + " s"
  : Math.floor(ms / 60000) + " min " + Math.floor(ms % 60000 / 1000) + " s";
const clock = (at) => new Date(at).toLocaleTimeString("en-GB");

const STATES = {
  ready: ["good", "ready"], ejected: ["bad", "ejected"], down: ["bad", "down: owner died"],
  transient_failure: ["bad", "failing"], connecting: ["wait", "connecting"], draining: ["wait", "draining"],
  unused: ["wait", "not in subset"]
};

const RULES = {
  consecutive_failures: "failed in a row", consecutive_transport_failures: "unreachable",
  failure_percentage: "fails too often", success_rate: "fails more than others"
};

let chosen = null, paused = false, turn = 0, bright = null;
let looks = [], events = [], colours = new Map(), before = null;

// A node of another version may know more of both.
const reason = (row) => row.ejected_by ? ": " + (RULES[row.ejected_by] || row.ejected_by) : "";
const stateOf = (row) => STATES[row.state] || ["wait", row.state];

function forget() {
  looks = []; events = []; colours = new Map(); before = null; bright = null;
}

// What happened between two looks. Of a backend that may have been left out before nothing is known.
function compare(now) {
  const was = new Map(before ? before.backends.map((backend) => [backend.key, backend]) : []);
  const seconds = before ? Math.max(now.at - before.at, 1) / 1000 : 1;
  const rows = now.backends.map((backend) => {
    const earlier = was.get(backend.key) || (before && !before.left_out ? { picks: 0, failures: 0 } : backend);
    const more = (field) => Math.max(backend[field] - earlier[field], 0);
    return { ...backend, picked: more("picks"), rate: more("picks") / seconds, failing: more("failures") / seconds };
  });
  const sum = (field) => rows.reduce((total, row) => total + row[field], 0);
  // Those of all: backends that have gone took their counts with them.
  const all = (shown, field) => Math.max(shown, before ? now.totals[field] - before.totals[field] : 0);
  const picked = all(sum("picked"), "picks");
  for (const row of rows) {
    row.measured = picked > 0;
    row.share = picked > 0 ? row.picked / picked : row.due;
  }
  const failing = all(sum("failing") * seconds, "failures") / seconds;
  return { rows, rate: picked / seconds, failing };
}

function note(now, at) {
  if (!before) return;
  const was = new Map(before.backends.map((backend) => [backend.key, backend]));
  const says = (text, kind) => events.unshift({ at, text, kind });
  for (const backend of now.backends) {
    const earlier = was.get(backend.key);
    was.delete(backend.key);
    if (!earlier) {
      if (!before.left_out && !now.left_out) says(backend.id + " joined", "");
    }
    else if (backend.times_ejected > earlier.times_ejected)
      says(backend.id + " ejected" + (backend.left === null ? "" : " for " + milliseconds(backend.left)) + reason(backend), "ejected");
    else if (backend.state !== earlier.state) says(backend.id + ": " + stateOf(backend)[1], "");
  }
  if (!before.left_out && !now.left_out) for (const gone of was.values()) says(gone.id + " left", "");
  const panics = (look) => look.layers.some((layer) => layer.panics);
  if (panics(now) !== panics(before)) says(panics(now) ? "panic: the unhealthy are picked, too" : "panic is over", "");
  events.length = Math.min(events.length, EVENTS);
}

// Colours stay with a backend as long as it is listed; those that have none share one.
function colour(key) {
  return colours.has(key) ? "var(--c" + colours.get(key) + ")" : "var(--rest)";
}
function allot(rows) {
  const listed = new Set(rows.map((row) => row.key));
  for (const key of colours.keys()) if (!listed.has(key)) colours.delete(key);
  const free = [...Array(COLOURS).keys()].filter((one) => ![...colours.values()].includes(one));
  for (const row of rows) if (!colours.has(row.key) && free.length) colours.set(row.key, free.shift());
}

function took(now) {
  const at = Date.now();
  const happened = compare(now);
  allot(happened.rows);
  note(now, at);
  // A rate needs two looks.
  if (before) looks.push(kept(now, happened.rows, at));
  while (looks.length && looks[0].at < at - KEPT_S * 1000) looks.shift();
  before = now;
  show(now, happened, at);
}

// What charts need: hundreds of looks are kept.
function kept(now, rows, at) {
  const coloured = new Map();
  let rest = 0, all = 0;
  for (const row of rows) {
    const { id, share, latency_ns, in_flight, failing } = row;
    if (colours.has(row.key)) coloured.set(row.key, { id, share, latency_ns, in_flight, failing });
    else rest += share;
    all += share;
  }
  if (now.left_out) rest += Math.max(1 - all, 0);
  return { at, rows: coloured, rest };
}

function show(now, happened, at) {
  const rows = happened.rows;
  say("As of " + clock(at) + (paused ? ", paused" : "") + (now.balancer.closed ? ". This balancer is closed." : "."), false);
  figures(now, happened);
  table(rows);
  $("left-out").hidden = !now.left_out;
  $("left-out").textContent = "and " + count(now.left_out) + " more";
  charts(at);
  ring(now, rows);
  layers(now);
  $("events").replaceChildren(...(events.length ? events : [{ at, text: "None since this page was opened.", kind: "" }])
    .map((event) => make("li", event.kind ? { class: "bad" } : {}, make("time", {}, clock(event.at)), event.text)));
}

function figures(now, happened) {
  const { states, in_flight, oldest_in_flight } = now.totals;
  const oldest = oldest_in_flight ?? -1;
  const all = [
    ["Policy", now.balancer.policy],
    ["Backends", String(now.balancer.size)],
    ["Ready", String(states.ready || 0)],
    ["Ejected", String(states.ejected || 0)],
    ["Picks a second", count(happened.rate)],
    ["In flight", count(in_flight) + (oldest >= 1000 ? ", oldest " + milliseconds(oldest) : "")],
    ["Failures a second", count(happened.failing)]
  ];
  if (now.layers.some((layer) => layer.panics)) all.push(["Panic", "yes"]);
  if (now.malformed_reports) all.push(["Malformed load reports", count(now.malformed_reports)]);
  $("figures").replaceChildren(...all.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

// Rows stay the same elements, so that a focus stays where it is.
function table(rows) {
  const body = $("backends");
  const known = new Map([...body.children].map((row) => [row.dataset.key, row]));
  rows.forEach((row, index) => {
    const line = known.get(row.key) || newLine(row);
    known.delete(row.key);
    if (body.children[index] !== line) body.insertBefore(line, body.children[index] || null);
    update(line, row);
  });
  for (const line of known.values()) line.remove();
}
function newLine(row) {
  const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
  const name = make("button", { class: "name", type: "button" }, swatch, make("span", {}, row.id));
  const line = make("tr", { "data-key": row.key }, make("th", { scope: "row" }, name));
  for (const label of ["State", "Weight", "Share", "Picks/s", "In flight", "Latency", "Failures"])
    line.append(make("td", { "data-label": label }));
  line.children[3].append(
    draw("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("rect", { width: "100", height: "10", rx: "2", fill: "var(--line)" }), draw("rect", { height: "10", rx: "2" })),
    make("span"));
  const on = () => brighten(row.key), off = () => brighten(null);
  line.addEventListener("pointerenter", on); line.addEventListener("pointerleave", off);
  name.addEventListener("focus", on); name.addEventListener("blur", off);
  return line;
}
function update(line, row) {
  const [, state, weight, share, rate, busy, latency, failures] = line.children;
  line.querySelector(".swatch").style.background = colour(row.key);
  const [kind, text] = stateOf(row);
  state.className = kind;
  state.textContent = row.state === "ejected" ? text + (row.left > 0 ? ", " + milliseconds(row.left) + " left" : ", to end soon") + reason(row)
    : row.state === "ready" && row.current_weight === null ? "awaits reports" : text;
  const now = row.current_weight;
  weight.textContent = count(row.weight) + (now === null || now === row.weight ? "" : " → " + digits(now));
  share.querySelector("rect:last-child").setAttribute("width", String(Math.min(row.share, 1) * 100));
  share.querySelector("rect:last-child").setAttribute("fill", colour(row.key));
  share.querySelector("span").textContent = (row.measured ? "" : "~") + percent(row.share);
  rate.textContent = count(row.rate);
  busy.textContent = count(row.in_flight);
  latency.textContent = nanoseconds(row.latency_ns);
  failures.textContent = count(row.failures);
  failures.className = row.failing > 0 ? "bad" : "";
}

function brighten(key) {
  bright = key;
  for (const line of document.querySelectorAll("[data-key]")) {
    if (line.tagName === "TR") line.classList.toggle("on", line.dataset.key === key);
    else line.classList.toggle("dim", key !== null && line.dataset.key !== key);
  }
}

const CHARTS = [
  { title: "Share of picks", value: (row) => row.share, text: percent, stacked: true },
  { title: "Latency", value: (row) => row.latency_ns, text: nanoseconds },
  { title: "In flight", value: (row) => row.in_flight, text: count },
  { title: "Failures a second", value: (row) => row.failing, text: count }
];
const WIDTH = 560, HEIGHT = 170, LEFT = 52, RIGHT = 8, TOP = 8, BOTTOM = 20;

function charts(at) {
  const span = Number($("window").value) * 1000;
  const shown = looks.filter((look) => look.at >= at - span);
  $("charts").replaceChildren(...CHARTS.map((chart) => figure(chart, shown, at, span)));
  if (bright !== null) brighten(bright);
}
function figure(chart, shown, at, span) {
  const keys = [...colours.keys()];
  const x = (time) => LEFT + (WIDTH - LEFT - RIGHT) * (1 - (at - time) / span);
  let most = 0;
  for (const look of shown) for (const row of look.rows.values()) most = Math.max(most, chart.value(row) ?? 0);
  const top = chart.stacked ? 1 : nice(most);
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * Math.min(value / top, 1);
  const parts = [];
  for (const part of [0, 0.5, 1]) {
    parts.push(draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(top * part), y2: y(top * part) }),
      draw("text", { x: LEFT - 6, y: y(top * part) + 4, "text-anchor": "end" }, chart.text(top * part)));
  }
  for (const part of [0, 0.5, 1]) {
    const time = at - span * (1 - part);
    parts.push(draw("text", { x: x(time), y: HEIGHT - 5, "text-anchor": ["start", "middle", "end"][part * 2] }, clock(time)));
  }
  parts.push(...(chart.stacked ? stack(keys, shown, chart, x, y) : curves(keys, shown, chart, x, y)));
  for (const event of events) {
    if (event.kind === "ejected" && event.at >= at - span)
      parts.push(draw("line", { class: "mark", x1: x(event.at), x2: x(event.at), y1: TOP, y2: HEIGHT - BOTTOM },
        draw("title", {}, clock(event.at) + " " + event.text)));
  }
  const last = shown.length ? [...shown[shown.length - 1].rows.values()].slice(0, 8) : [];
  const label = chart.title + ". " + last.map((row) => row.id + ": " + chart.text(chart.value(row))).join(", ");
  return make("figure", {}, make("figcaption", {}, chart.title),
    draw("svg", { viewBox: "0 0 " + WIDTH + " " + HEIGHT, role: "img", "aria-label": label }, ...parts));
}
function nice(most) {
  if (most <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 2.5, 5, 10].map((n) => n * unit).find((n) => n >= most);
}
function curves(keys, shown, chart, x, y) {
  return keys.map((key) => {
    let path = "", pen = "M";
    for (const look of shown) {
      const row = look.rows.get(key), value = row ? chart.value(row) : null;
      if (value === null) { pen = "M"; continue; }
      path += pen + x(look.at).toFixed(1) + " " + y(value).toFixed(1);
      pen = "L";
    }
    return draw("path", { class: "curve", "data-key": key, d: path || "M0 0", stroke: colour(key) });
  });
}
function stack(keys, shown, chart, x, y) {
  const below = shown.map(() => 0);
  const layer = (key, values) => {
    const up = [], down = [];
    shown.forEach((look, index) => {
      const place = x(look.at).toFixed(1) + " ";
      down.unshift(place + y(below[index]).toFixed(1));
      below[index] += values(look);
      up.push(place + y(below[index]).toFixed(1));
    });
    return draw("path", { class: "area", "data-key": key, fill: colour(key), d: up.length ? "M" + up.concat(down).join("L") + "Z" : "M0 0" });
  };
  const areas = keys.map((key) => layer(key, (look) => look.rows.has(key) ? chart.value(look.rows.get(key)) : 0));
  // Those that have no colour, or have lost theirs since.
  const rest = (look) => [...look.rows].reduce((sum, [key, row]) => colours.has(key) ? sum : sum + chart.value(row), look.rest);
  if (shown.some((look) => rest(look) > 0)) areas.push(layer("", rest));
  return areas;
}

// The part of the keys that leads to each backend, by the table that a policy which hashes looks them up in.
function ring(now, rows) {
  const led = rows.filter((row) => row.table_share !== null && row.table_share !== undefined);
  $("keys").hidden = !now.table || !led.length;
  if ($("keys").hidden) return;
  let from = 0;
  const point = (part, radius) => {
    const angle = 2 * Math.PI * part - Math.PI / 2;
    return (60 + radius * Math.cos(angle)).toFixed(2) + " " + (60 + radius * Math.sin(angle)).toFixed(2);
  };
  const sum = (rows) => rows.reduce((sum, row) => sum + row.table_share, 0);
  // Each layer has a table.
  const total = Math.max(sum(led), now.left_out ? now.layers.length : 0) || 1;
  const parts = led.filter((row) => colours.has(row.key));
  const others = led.length - parts.length + now.left_out;
  if (others) parts.push({ key: "", id: "others (" + count(others) + ")", table_share: total - sum(parts) });
  const arcs = parts.filter((row) => row.table_share > 0).map((row) => {
    const to = Math.min(from + row.table_share / total, from + 0.99999), large = to - from > 0.5 ? 1 : 0;
    const path = "M" + point(from, 56) + "A56 56 0 " + large + " 1 " + point(to, 56) +
      "L" + point(to, 36) + "A36 36 0 " + large + " 0 " + point(from, 36) + "Z";
    from += row.table_share / total;
    return draw("path", { "data-key": row.key, class: "area", d: path, fill: colour(row.key), stroke: "var(--card)" },
      draw("title", {}, row.id + " " + percent(row.table_share)));
  });
  const size = count(now.table.entries) + " entries";
  $("ring").replaceChildren(
    draw("svg", { viewBox: "0 0 120 120", role: "img", "aria-label": "Parts of the keys, by backend" }, ...arcs,
      draw("text", { x: 60, y: 58, "text-anchor": "middle" }, now.balancer.policy),
      draw("text", { x: 60, y: 73, "text-anchor": "middle" }, size)),
    make("ul", {}, ...parts.map((row) => {
      const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = colour(row.key);
      return make("li", {}, swatch, row.id + " " + percent(row.table_share));
    })));
}

function layers(now) {
  const plain = now.layers.length === 0 || now.layers.length === 1 && now.layers[0].locality === null;
  $("layers-section").hidden = plain;
  $("layers").replaceChildren(...now.layers.map((layer) => make("li", layer.panics ? { class: "bad" } : {},
    "Priority " + layer.priority + (layer.locality === null ? "" : ", " + layer.locality) + ": " + layer.healthy + " of " +
    layer.backends + " healthy, " + percent(layer.share) + " of picks" + (layer.panics ? ", panic" : ""))));
}

function say(text, bad) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

function list(answer) {
  $("node").textContent = answer.node;
  const select = $("balancer");
  const open = answer.balancers;
  const numbers = open.map((one) => String(one.number));
  if (numbers.join() !== [...select.options].map((option) => option.value).join()) {
    select.replaceChildren(...open.map((one) => make("option", { value: one.number },
      one.number + " " + (one.name || one.policy) + (one.closed ? " (closed)" : ""))));
  }
  if (chosen === null || !numbers.includes(chosen)) {
    const wanted = decodeURIComponent(location.hash.slice(1));
    chosen = numbers.includes(wanted) ? wanted : numbers[0] ?? null;
    forget();
  }
  if (chosen !== null) select.value = chosen;
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error((await answer.text()).trim() || "status " + answer.status);
  return answer.json();
}

async function look() {
  if (!paused && !document.hidden) {
    try {
      if (turn++ % LIST_EVERY === 0 || chosen === null) list(await ask("balancers.json"));
      const asked = chosen;
      const answer = asked === null ? null : await ask("balancers/" + encodeURIComponent(asked) + ".json");
      if (asked === chosen) {
        if (answer) took(answer);
        else { chosen = null; say("There is no balancer that lives.", false); }
      }
    } catch (error) {
      say("No answer: " + error.message + ". Trying again.", true);
    }
  }
  setTimeout(look, POLL_MS);
}

$("controls").addEventListener("submit", (event) => event.preventDefault());
$("balancer").addEventListener("change", (event) => {
  chosen = event.target.value;
  location.hash = chosen;
  forget();
});
$("window").addEventListener("change", () => { if (before) charts(Date.now()); });
$("pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
  event.target.textContent = paused ? "Go on" : "Pause";
});
look();
