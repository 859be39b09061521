// The page: joins the connection, what it tells, and the views. Everything is drawn once a frame at most.

import { byId, h, set, setText } from "./dom.js";
import { duration, micros } from "./format.js";
import { holdKinds, isPulled, pulls, spoken } from "./links.js";
import { Drawing } from "./drawing.js";
import { graphOf, otherEnd } from "./network.js";
import { Panel } from "./panel.js";
import { Qmp } from "./qmp.js";
import { keyOf, Store } from "./store.js";
import { LinkTable, LogList } from "./tables.js";
import { Timeline } from "./timeline.js";

const token = new URLSearchParams(location.search).get("token") ?? "";
const scheme = location.protocol === "https:" ? "wss" : "ws";
const qmp = new Qmp(`${scheme}://${location.host}/qmp?token=${encodeURIComponent(token)}`);
const store = new Store(qmp);

const ui = { selected: null, change: null, view: "drawing", filter: "", kind: "" };
let graph = { nodes: [], edges: [] };
let opened = false;
const dirty = { links: new Set(), network: false, journal: false, about: false, all: false };

const drawing = new Drawing(byId("drawing"), store, { onSelect: select, onToggle: (key) => (select(key), toggle(key)) });
const table = new LinkTable(store, { onSelect: select, onToggle: toggle });
const log = new LogList(store, { onChange: selectChange });
const timeline = new Timeline(
  { canvas: byId("timeline"), hint: byId("hint"), scroller: byId("lanes"), tall: byId("lanes-tall") },
  store,
  { onChange: selectChange, onLane: select, onCause: toCause, moved, dirty: () => redraw("journal") },
);
const panel = new Panel(store, qmp, {
  act: { toggle, pulledAt, downFor, flap, stopFlap },
  go: { link: select, change: selectChange },
});

// -- drawing, once a frame ----------------------------------------------------------------------------------------

let frame = 0;

function redraw(what, keys = []) {
  if (what) dirty[what] = what === "links" ? dirty.links : true;
  for (const key of keys) dirty.links.add(key);
  frame ||= requestAnimationFrame(paint);
}

function paint() {
  frame = 0;
  const links = [...dirty.links];
  const { network, journal, about, all } = dirty;
  Object.assign(dirty, { network: false, journal: false, about: false, all: false });
  dirty.links.clear();
  if (network) drawNetwork();
  else drawing.update(links);
  if (network || about) drawAbout();
  if (network || all || links.length) {
    const keys = matching();
    if (ui.view === "table") table.draw(keys, ui.selected);
    timeline.setLanes(laneKeys(keys));
    if (all || network || ui.filter) drawing.dim(matches);
    drawCounts();
  }
  if (ui.view === "log" && (journal || all || network)) log.draw(recordMatches, ui.change);
  if (network || journal || all || about || links.length) panel.show(graph);
  timeline.paint();
}

function drawNetwork() {
  graph = graphOf(store);
  const drawn = drawing.draw(graph);
  const empty = byId("empty");
  empty.hidden = drawn && graph.nodes.length > 0;
  setText(empty, drawn ? "No NICs and no netdevs yet." : `${graph.nodes.length} boxes are too many to draw. The table has them all.`);
  if (drawn) drawing.update([...store.links.keys()]);
  if (!performance.getEntriesByName("vnic-drawn").length) performance.mark("vnic-drawn");
  if (ui.selected && !store.links.has(ui.selected)) select(null);
  else if (!ui.selected) restoreSelection();
}

function drawAbout() {
  setText(byId("name"), store.name);
  document.title = `${store.name} · vnic`;
  const { vnic } = store;
  if (vnic) set(byId("name"), "title", `vnic ${vnic.version}, up for ${duration(vnic.uptime)}, loop lag p99 ${micros(vnic["loop-lag"]["p99-us"])}`);
}

function drawCounts() {
  const nics = [...store.links.values()].filter((link) => link.type === "nic");
  const down = nics.filter((link) => link.link === "down").length;
  setText(byId("counts"), `${nics.length} NICs${down ? `, ${down} down` : ", all up"}`);
}

// While the time line follows the present, it moves on: every frame where that shows, else now and then.
setInterval(() => {
  if (timeline.live && qmp.isOpen && !document.hidden) redraw("journal");
}, 250);

// -- selection and filter -----------------------------------------------------------------------------------------

function select(key) {
  ui.selected = key;
  ui.change = null;
  selectionChanged();
}

function selectChange(id, key = null) {
  const record = store.byId.get(id);
  if (!record) return;
  ui.change = id;
  if (record.kind === "link") ui.selected = key ?? keyOf(record.type, record.name);
  selectionChanged();
}

function toCause() {
  const from = store.byId.get(ui.change)?.["caused-by"];
  if (from) selectChange(from);
}

function selectionChanged() {
  drawing.select(ui.selected);
  panel.select(ui.selected, ui.change);
  byId("to-cause").disabled = !store.byId.get(ui.change)?.["caused-by"];
  document.body.classList.toggle("chosen", ui.selected !== null);
  redraw("all");
  timeline.select(ui.selected, ui.change, laneKeys(matching()));
  const hash = ui.selected ? `#${encodeURIComponent(ui.selected)}` : "";
  if (location.hash !== hash) history.replaceState(null, "", location.pathname + location.search + hash);
}

function restoreSelection() {
  let key = "";
  try {
    key = decodeURIComponent(location.hash.slice(1));
  } catch {
    return; // no link has such a name
  }
  if (store.links.has(key)) select(key);
}

/** Words that a link has in its facts; all of the filter's have to be there. */
function matches(key) {
  if (!ui.filter) return true;
  const link = store.link(key);
  if (!link) return false;
  const text = [link.name, link.mac, link.link, link.model, link.peer, link.type, link.datapath, ...holdKinds(link)].join(" ");
  return meets(text);
}

/** Whether all words of the filter are in the text. */
const meets = (text) => ui.filter.split(/\s+/).every((word) => text.toLowerCase().includes(word));

const matching = () => (ui.filter ? store.keys().filter(matches) : store.keys());

const laneKeys = (keys) => {
  const all = byId("netdevs").checked;
  return keys.filter((key) => all || key.startsWith("nic:") || key === ui.selected);
};

function recordMatches(record) {
  if (ui.kind && (record.cause?.kind ?? record.kind) !== ui.kind) return false;
  const text = `${record.name ?? "vnic"} ${record.link ?? record.event} ${record.cause?.kind ?? record.kind} ${record.cause?.text ?? record.text}`;
  return meets(text);
}

function show(view) {
  ui.view = view;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const is = tab.dataset.view === view;
    set(tab, "aria-selected", String(is));
    tab.tabIndex = is ? 0 : -1;
  }
  for (const name of ["drawing", "table", "log"]) document.body.classList.toggle(`view-${name}`, name === view);
  redraw("all");
}

// -- acting -------------------------------------------------------------------------------------------------------

/** Says it to screen readers, and at the foot of the page for a while. */
function say(text, kind = "") {
  const said = byId("said");
  said.className = kind;
  setText(said, text);
  clearTimeout(say.timer);
  say.timer = setTimeout(() => setText(said, ""), 8000);
}

async function run(command, args) {
  try {
    return { value: await qmp.execute(command, args) };
  } catch (error) {
    say(error.message, "problem");
    return null;
  }
}

/** The end of this cable that an operator holds, this one first. */
function pulledAt(key) {
  const link = store.link(key);
  if (isPulled(link)) return link;
  const far = store.link(otherEnd(graph, key));
  return isPulled(far) ? far : null;
}

/** Ends the operator's holds of this cable, whichever end has them; where there are none, pulls it at this end. */
async function toggle(key) {
  const link = store.link(key);
  if (!link) return;
  if (!store.may("set_link")) {
    say("This page may look, and change nothing.", "problem");
    return;
  }
  const held = pulledAt(key);
  const names = held ? [...new Set(pulls(held).map((hold) => hold.client))] : [link.name];
  watched.set(link.name, Boolean(held));
  for (const name of names) {
    if (!(await run("set_link", { name, up: Boolean(held) }))) watched.delete(link.name);
  }
  for (const name of [link.name, ...names]) store.refresh(name);
}

const watched = new Map(); // links that this page set, until it has said what became of it

qmp.addEventListener("event", ({ detail: { event, data } }) => {
  if (!data || !watched.has(data.name)) return;
  if (event === "LINK_CHANGED") say(`${data.name} ${data.link}, ${data.cause.text}`);
  if (event === "LINK_SEEN") {
    watched.delete(data.name);
    say(`${data.name} ${data.link}, seen by the guest after ${micros(data["latency-us"])}`);
  }
  if (event === "LINK_HOLDS_CHANGED" && watched.get(data.name)) {
    say(`${data.name} stays ${data.link}: ${data.holds.map((hold) => `${hold.kind}: ${hold.text}`).join("; ")}`);
  }
});

async function downFor(key, ms) {
  const { name } = store.link(key);
  if (await run("flap-start", { name, "down-ms": Math.round(ms), count: 1 })) say(`${name} down for ${duration(ms / 1000)}`);
  store.refresh(name);
  store.refreshNetems().catch(() => {});
}

async function flap(key, down, up, count, jitter) {
  const { name } = store.link(key);
  const started = await run("flap-start", { name, "down-ms": down, "up-ms": up, count, jitter });
  if (started) say(`${started.value.id}: ${name} flaps`);
  store.refreshNetems().catch(() => {});
}

async function stopFlap(id) {
  await run("flap-stop", { id });
  store.refreshNetems().catch(() => {});
}

// -- the connection -----------------------------------------------------------------------------------------------

qmp.addEventListener("open", async () => {
  opened = true;
  try {
    await store.load();
    connection("connected", "connected");
  } catch (error) {
    if (qmp.isOpen) connection("gone", error.message);
  }
});

qmp.addEventListener("closed", async () => {
  document.body.classList.add("stale");
  if (opened) return connection("gone", "vnic is gone; trying again");
  const answer = await fetch(location.href, { cache: "no-store" }).catch(() => null);
  const refused = answer && [401, 403].includes(answer.status);
  return connection("gone", refused ? "the token of this address is not right" : "vnic does not answer; trying again");
});

function connection(state, text) {
  document.body.classList.toggle("stale", state !== "connected");
  byId("connection").className = state;
  setText(byId("connection"), text);
}

store.addEventListener("links", ({ detail }) => redraw("links", detail));
for (const what of ["network", "journal", "about"]) store.addEventListener(what, () => redraw(what));
store.addEventListener("journal", () => {
  const options = byId("kinds");
  if (options.length > store.kinds.size) return;
  const known = [...options.options].map((option) => option.value);
  for (const kind of [...store.kinds].sort()) if (!known.includes(kind)) options.append(h("option", { value: kind }, kind));
});

// -- controls -----------------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];

function theme(name) {
  if (name === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", name);
  setText(byId("theme-name"), name);
  try {
    localStorage.setItem("vnic.theme", name);
  } catch {
    // a browser that stores nothing shows it until it is reloaded
  }
  timeline.restyle();
  redraw("all");
}

function moved() {
  set(byId("live"), "aria-pressed", String(timeline.live));
  for (const button of document.querySelectorAll("[data-span]")) {
    set(button, "aria-pressed", String(Math.abs(timeline.span - Number(button.dataset.span)) < 0.01));
  }
  redraw("journal");
}

function listen() {
  const on = (id, type, act) => byId(id).addEventListener(type, act);
  on("filter", "input", ({ target }) => {
    ui.filter = target.value.trim().toLowerCase();
    redraw("all");
  });
  on("kinds", "change", ({ target }) => {
    ui.kind = target.value;
    timeline.kinds = ui.kind ? new Set([ui.kind]) : null;
    redraw("all");
  });
  on("netdevs", "change", () => redraw("all"));
  on("zoom-in", "click", () => drawing.viewport.zoom(1.3));
  on("zoom-out", "click", () => drawing.viewport.zoom(1 / 1.3));
  on("zoom-fit", "click", () => drawing.fit());
  on("live", "click", () => timeline.follow(!timeline.live));
  on("span-all", "click", () => timeline.showAll());
  on("to-cause", "click", toCause);
  on("close", "click", () => select(null));
  on("help", "click", () => byId("keys").showModal());
  on("theme", "click", () => theme(THEMES[(THEMES.indexOf(byId("theme-name").textContent) + 1) % THEMES.length]));
  for (const button of document.querySelectorAll("[data-span]")) {
    button.addEventListener("click", () => timeline.setSpan(Number(button.dataset.span), timeline.until));
  }
  const tabs = [...document.querySelectorAll("[role=tab]")];
  for (const tab of tabs) {
    tab.addEventListener("click", () => show(tab.dataset.view));
    tab.addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
      show(next.dataset.view);
      next.focus();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (timeline.restyle(), redraw("all")));
  document.addEventListener("keydown", shortcut);
}

function shortcut(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  const typing = event.target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else select(null);
    return;
  }
  if (typing) return;
  const keys = {
    "/": () => byId("filter").focus(),
    "?": () => byId("keys").showModal(),
    p: () => ui.selected && toggle(ui.selected),
    c: toCause,
    1: () => show("drawing"),
    2: () => show("table"),
    3: () => show("log"),
    "+": () => drawing.viewport.zoom(1.3),
    "-": () => drawing.viewport.zoom(1 / 1.3),
    0: () => drawing.fit(),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}

let saved = "auto";
try {
  saved = localStorage.getItem("vnic.theme") ?? "auto";
} catch {
  // as above
}
listen();
theme(THEMES.includes(saved) ? saved : "auto");
moved();
qmp.connect();
export { drawing, qmp, say, select, spoken, store, timeline, toggle, ui };
