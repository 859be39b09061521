// The drawing: boxes for VMs and what they are plugged into, lines for wires and cables, a lamp at each port.

import { set, setText, svg } from "./dom.js";
import { shorten } from "./format.js";
import { along, at, curveBetween, leaves, part } from "./geometry.js";
import { layout } from "./layout.js";
import { isPulled, seenOf, shortFact, shortImpairments, spoken, stateOf } from "./links.js";
import { signature } from "./network.js";
import { Viewport } from "./viewport.js";

const LETTER = 7.3;
const HEIGHTS = { vm: 46, netdev: 40, hub: 34, host: 46 };
const PULLED_PX = 24; // how far out a pulled plug is drawn
const BEND = 17;
const STUB_PX = 54;
const FAR_SCALE = 0.5; // below it, names and facts of ports are left out
const MOST_BOXES = 3000;
const ROUND = "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z";
const DIAMOND = "M0 -6.5L6.5 0L0 6.5L-6.5 0z";

export class Drawing {
  #frame;
  #layer;
  #boxes = new Map();
  #boxesOf = new Map(); // by the link's key
  #halves = new Map(); // the same
  #edges = [];
  #signature = "";
  #focus = null;
  #selected = null;

  /** `onSelect(key)`, `onToggle(key)`: a box was clicked, a line. */
  constructor(frame, store, { onSelect, onToggle }) {
    this.store = store;
    this.onSelect = onSelect;
    this.onToggle = onToggle;
    this.#frame = frame;
    this.#layer = svg("g");
    frame.append(this.#layer);
    this.viewport = new Viewport(frame, this.#layer, (scale) => {
      this.#layer.classList.toggle("far", scale < FAR_SCALE);
    });
    frame.addEventListener("keydown", (event) => this.#key(event));
    frame.addEventListener("focusin", ({ target }) => this.#take(target.closest("[tabindex]")));
  }

  /** The whole, where what exists differs; false if it is too much to draw. */
  draw(graph) {
    const now = signature(graph);
    if (now === this.#signature) return true;
    if (graph.nodes.length > MOST_BOXES) return false;
    this.#signature = now;
    const sizes = graph.nodes.map(sizeOf);
    const index = new Map(graph.nodes.map((node, at) => [node.id, at]));
    const joined = graph.edges.filter(({ ends }) => ends[1]).map(({ ends }) => ends.map((end) => index.get(end.node)));
    const { width, height } = this.#frame.getBoundingClientRect();
    const places = layout(sizes, joined, width && height ? width / height : 1.6);
    this.#boxes = new Map(graph.nodes.map((node, at) => [node.id, { ...sizes[at], ...places[at], node }]));
    this.#halves.clear();
    this.#boxesOf.clear();
    for (const box of this.#boxes.values()) {
      for (const key of box.node.keys) this.#boxesOf.set(key, [...(this.#boxesOf.get(key) ?? []), box]);
    }
    const pairs = new Map();
    this.#edges = graph.edges.map((edge) => this.#edge(edge, pairs));
    const groups = [...this.#boxes.values()].map((box) => this.#box(box));
    this.#layer.replaceChildren(...this.#edges.map(({ group }) => group), ...groups);
    for (const edge of this.#edges) this.#place(edge, (pairs.get(edge.pair) - 1) / 2);
    this.#take(this.#layer.querySelector("[tabindex]"));
    this.update([...this.#boxesOf.keys()]);
    this.select(this.#selected, false);
    this.fit();
    return true;
  }

  fit() {
    const boxes = [...this.#boxes.values()];
    if (!boxes.length) return;
    const x = Math.min(...boxes.map((box) => box.x - box.width / 2)) - 10;
    const y = Math.min(...boxes.map((box) => box.y - box.height / 2)) - 10;
    const width = Math.max(...boxes.map((box) => box.x + box.width / 2)) + 10 - x;
    const height = Math.max(...boxes.map((box) => box.y + box.height / 2)) + 20 - y;
    this.viewport.fit({ x, y, width, height });
  }

  select(key, show = true) {
    this.#selected = key;
    for (const each of this.#layer.querySelectorAll(".selected")) each.classList.remove("selected");
    const half = this.#halves.get(key);
    half?.group.classList.add("selected");
    for (const box of this.#boxes.values()) {
      if (!box.node.keys.includes(key)) continue;
      box.group.classList.add("selected");
      if (show) this.viewport.show(box);
    }
  }

  /** Links that the filter leaves out are dim. */
  dim(matches) {
    for (const [key, { group }] of this.#halves) group.classList.toggle("dim", !matches(key));
    for (const { node, group } of this.#boxes.values()) group.classList.toggle("dim", !node.keys.some(matches));
  }

  // -- making ---------------------------------------------------------------------------------------------------

  #box(box) {
    const { node, width, height } = box;
    const text = (className, dy, content) => svg("text", { class: className, y: dy }, content);
    const room = Math.floor(width / LETTER) + 2;
    box.group = svg(
      "g",
      {
        class: `box ${node.kind}${node.adopted ? " adopted" : ""}`,
        transform: `translate(${box.x} ${box.y})`,
        role: "button",
        tabindex: -1,
        "data-node": node.id,
        click: () => this.viewport.dragged || this.onSelect(this.#next(node.keys)),
      },
      svg("rect", { x: -width / 2, y: -height / 2, width, height, rx: node.kind === "hub" ? height / 2 : 7 }),
      text("title", node.text ? -3 : 4, shorten(node.title, room)),
      node.text ? text("text", 13, shorten(node.text, Math.floor(width / 5.9))) : null,
      svg("title", null, node.text ? `${node.title}: ${node.text}` : node.title),
    );
    return box.group;
  }

  /** A second click on a box selects its next link. */
  #next(keys) {
    return keys[(keys.indexOf(this.#selected) + 1) % keys.length] ?? null;
  }

  #edge(edge, pairs) {
    const pair = JSON.stringify(edge.ends.map((end) => end?.node ?? "").sort());
    const nth = pairs.get(pair) ?? 0;
    pairs.set(pair, nth + 1);
    const ends = edge.ends.map((end, side) => (end?.key ? this.#half(end, side) : null));
    const note = svg("text", { class: "note" });
    const far = edge.ends[1]?.key || !edge.ends[1]?.label ? null : svg("text", { class: "port" }, edge.ends[1].label);
    const group = svg("g", { class: "edge" }, ...ends.map((half) => half?.group), note, far);
    for (const half of ends) if (half) half.edge = { note, ends };
    return { edge, pair, nth, ends, note, far, group };
  }

  #half(end, side) {
    const half = {
      end,
      side,
      hit: svg("path", { class: "hit" }),
      line: svg("path", { class: "line" }),
      plug: svg("rect", { class: "plug", x: -4, y: -4.5, width: 8, height: 9, rx: 1.5 }),
      lamp: svg("path", { class: "lamp" }),
      port: svg("text", { class: "port" }, end.label),
      fact: svg("text", { class: "fact" }),
      name: svg("title"),
    };
    half.group = svg(
      "g",
      {
        class: "half",
        role: "switch",
        tabindex: -1,
        "data-link": end.key,
        click: () => this.viewport.dragged || this.onToggle(end.key),
      },
      half.name,
      half.hit,
      half.line,
      half.plug,
      half.lamp,
      half.port,
      half.fact,
    );
    this.#halves.set(end.key, half);
    return half;
  }

  #place({ edge, nth, ends, note, far }, middle) {
    const [p, q] = edge.ends.map((end) => end && this.#boxes.get(end.node));
    const stub = q ?? { x: p.x + (nth - middle) * 20, y: p.y + p.height / 2 + STUB_PX, width: 0, height: 0 };
    const curve = curveBetween(p, stub, (nth - middle) * BEND * (edge.ends[0].node < edge.ends[1]?.node ? 1 : -1));
    const from = leaves(curve, p, 0);
    const to = q ? leaves(curve, q, 1) : 1;
    const both = ends[0] && ends[1];
    for (const half of ends) {
      if (!half) continue;
      const start = half.side ? to : from;
      const end = both ? 0.5 : half.side ? from : to;
      const out = along(curve, start, PULLED_PX);
      half.paths = { in: part(curve, start, end), pulled: part(curve, out, end) };
      set(half.hit, "d", half.paths.in);
      const place = at(curve, start);
      set(half.lamp, "transform", `translate(${place.x.toFixed(1)} ${place.y.toFixed(1)})`);
      const [plug, beyond] = [at(curve, out), at(curve, along(curve, out, 6))];
      const angle = (Math.atan2(beyond.y - plug.y, beyond.x - plug.x) * 180) / Math.PI;
      set(half.plug, "transform", `translate(${plug.x.toFixed(1)} ${plug.y.toFixed(1)}) rotate(${angle.toFixed(0)})`);
      half.shown = null;
      label(half.port, half.fact, place, at(curve, along(curve, start, 14)), half.side ? q : p);
    }
    if (far) label(far, null, at(curve, to), at(curve, along(curve, to, 14)), q);
    const centre = at(curve, (from + to) / 2);
    set(note, "x", centre.x.toFixed(1));
    set(note, "y", (centre.y + 4).toFixed(1));
  }

  // -- states ---------------------------------------------------------------------------------------------------

  update(keys) {
    const boxes = new Set();
    for (const key of keys) {
      const half = this.#halves.get(key);
      const link = this.store.link(key);
      if (half && link) this.#show(half, link);
      for (const box of this.#boxesOf.get(key) ?? []) boxes.add(box);
    }
    for (const box of boxes) this.#showBox(box);
  }

  #show(half, link) {
    const state = stateOf(link);
    const pulled = isPulled(link);
    const shown = `${state} ${seenOf(link)}${pulled ? " pulled" : ""}`;
    if (shown !== half.shown) {
      const kept = ["selected", "dim"].filter((name) => half.group.classList.contains(name));
      set(half.group, "class", ["half", shown, ...kept].join(" "));
      set(half.group, "aria-checked", String(!pulled));
      set(half.line, "d", pulled ? half.paths.pulled : half.paths.in);
      set(half.lamp, "d", state === "up" ? ROUND : DIAMOND);
      half.shown = shown;
    }
    setText(half.fact, shortFact(link));
    const said = `Cable at ${spoken(link)}`;
    setText(half.name, said);
    set(half.group, "aria-label", said);
    const both = half.edge.ends.map((each) => each && this.store.link(each.end.key));
    setText(half.edge.note, shorten(shortImpairments(both), 32));
  }

  #showBox(box) {
    const links = box.node.keys.map((key) => this.store.link(key)).filter(Boolean);
    const down = links.filter((link) => link.link === "down").length;
    const alive = box.node.kind !== "vm" || links.some((link) => link.guest.attached);
    const said = `${box.node.title}, ${box.node.text || box.node.kind}, ${links.length} links, ${down} down${alive ? "" : ", no VM attached"}`;
    if (said === box.said) return;
    box.said = said;
    set(box.group, "aria-label", said);
    box.group.classList.toggle("absent", !alive);
  }

  // -- keys -----------------------------------------------------------------------------------------------------

  /** One element of the drawing can be reached by Tab; arrows lead on from it. */
  #take(element) {
    if (!element || element === this.#frame) return;
    this.#focus?.setAttribute("tabindex", -1);
    element.setAttribute("tabindex", 0);
    this.#focus = element;
  }

  #key(event) {
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const direction = directions[event.key];
    const element = event.target.closest("[data-link], [data-node]");
    if (direction && element) {
      this.#nearest(element, direction)?.focus();
    } else if (element && (event.key === "Enter" || event.key === " ")) {
      const { link, node } = element.dataset;
      if (node !== undefined) this.onSelect(this.#next(this.#boxes.get(node).node.keys));
      else if (event.key === " ") this.onToggle(link);
      else this.onSelect(link);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  #nearest(element, [dx, dy]) {
    const middle = (each) => {
      const box = (each.querySelector(".hit") ?? each).getBoundingClientRect();
      return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    };
    const here = middle(element);
    let [best, least] = [null, Infinity];
    for (const each of this.#layer.querySelectorAll("[data-link], [data-node]")) {
      const there = middle(each);
      const ahead = (there.x - here.x) * dx + (there.y - here.y) * dy;
      const aside = Math.abs((there.x - here.x) * dy) + Math.abs((there.y - here.y) * dx);
      if (each === element || ahead <= 1 || ahead + 2.5 * aside >= least) continue;
      [best, least] = [each, ahead + 2.5 * aside];
    }
    return best;
  }
}

function sizeOf({ kind, title, text }) {
  const wide = Math.max(Math.min(title.length, 22) * LETTER, Math.min(text.length, 30) * 5.9) + 26;
  return { width: Math.max(kind === "vm" ? 104 : 72, wide), height: HEIGHTS[kind] };
}

/** Texts beside a line that leaves `box` at `place` and leads to `towards`: the name, and below it the fact. */
function label(name, fact, place, towards, box) {
  const [dx, dy] = [towards.x - place.x, towards.y - place.y];
  const sideways = Math.abs(place.x - box.x) / box.width > Math.abs(place.y - box.y) / box.height;
  const write = (element, x, y, anchor) => {
    set(element, "x", x.toFixed(1));
    set(element, "y", y.toFixed(1));
    set(element, "text-anchor", anchor);
  };
  let [x, anchor, top, below] = [place.x + Math.sign(dx) * 10, dx < 0 ? "end" : "start", place.y - 7, place.y + 16];
  if (!sideways) {
    const left = dx > 3; // of the line, where it leans to the right
    [x, anchor] = [place.x + (left ? -9 : 9), left ? "end" : "start"];
    top = dy > 0 ? place.y + 14 : place.y - 18;
    below = top + 12;
    if (!name.textContent && dy > 0) below = top;
  } else if (Math.abs(dy / (dx || 1)) > 0.3) {
    top = dy > 0 ? place.y - 17 : place.y + 15;
    below = top + 12;
  }
  write(name, x, top, anchor);
  if (fact) write(fact, x, below, anchor);
}
