// The time line: one lane a link, down as a bar, with what caused it. Drawn on a canvas, so that thousands of changes
// stay smooth; the Log view has the same records as text.

import { clock, micros } from "./format.js";
import { AXIS, LANE, Painter } from "./lanes.js";

const MOST_PINNED = 8;
const PIN_GAP = 7;
const LEAST_S = 0.002;
const MOST_S = 400 * 86400;
const FOLLOWS_S = 60; // the span of time at first
const NEAR_PX = 7;
const DRAG_PX = 4;

export class Timeline {
  #canvas;
  #hint;
  #tall;
  #scroller;
  #lanes = [];
  #pinned = []; // the lanes of the selected change and of what caused it, above the others
  #painter = new Painter(this);
  #press = null;

  /** `onChange(id, key)` and `onLane(key)`: what was clicked. `onMove()`: the span of time differs. */
  constructor({ canvas, hint, scroller, tall }, store, handlers) {
    Object.assign(this, { store, handlers, span: FOLLOWS_S, end: null, kinds: null, selected: null, change: null });
    this.#canvas = canvas;
    this.#hint = hint;
    this.#scroller = scroller;
    this.#tall = tall;
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointerleave", () => (hint.hidden = true));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    scroller.addEventListener("scroll", () => this.handlers.dirty());
    new ResizeObserver(() => this.handlers.dirty()).observe(scroller);
    this.restyle();
  }

  restyle() {
    this.#painter.restyle();
  }

  get live() {
    return this.end === null;
  }

  get until() {
    return this.end ?? this.store.now() + this.span * 0.02;
  }

  setSpan(span, around = null) {
    const limited = Math.max(LEAST_S, Math.min(MOST_S, span));
    if (around !== null && !this.live) this.end = around + ((this.end - around) * limited) / this.span;
    this.span = limited;
    this.handlers.moved();
  }

  follow(live) {
    this.end = live ? null : this.until;
    this.handlers.moved();
  }

  /** `keys`: the lanes that there are then. */
  select(key, change, keys) {
    this.selected = key;
    this.change = change;
    this.setLanes(keys);
    if (change !== null) this.#show(this.store.byId.get(change));
    this.handlers.dirty();
  }

  /** The whole of what is loaded. */
  showAll() {
    const [first] = this.store.records;
    if (!first) return;
    this.end = null;
    this.setSpan(Math.max(1, (this.store.now() - first.time) * 1.04));
  }

  #show(record) {
    if (!record) return;
    const from = this.until - this.span;
    if (record.time < from || record.time > this.until) {
      this.end = record.time + this.span / 2;
      this.handlers.moved();
    }
    const lane = this.#lanes.findIndex((each) => each.name === record.name && each.type === record.type);
    if (lane < 0) return;
    const top = lane * LANE;
    const room = this.#scroller.clientHeight - this.#top;
    if (top < this.#scroller.scrollTop || top + LANE > this.#scroller.scrollTop + room) {
      this.#scroller.scrollTop = top - room / 2;
    }
  }

  /** `keys`: the lanes, in this order. */
  setLanes(keys) {
    const lane = (key) => ({ key, type: key.slice(0, key.indexOf(":")), name: key.slice(key.indexOf(":") + 1) });
    this.#lanes = keys.map(lane);
    const chain = this.change === null ? [] : this.store.chain(this.change);
    const pinned = new Set(chain.filter((each) => each.kind === "link").map((each) => `${each.type}:${each.name}`));
    this.#pinned = pinned.size > 1 ? [...pinned].reverse().slice(-MOST_PINNED).map(lane) : [];
    const height = `${this.#lanes.length * LANE + this.#top}px`;
    if (this.#tall.style.height !== height) this.#tall.style.height = height;
  }

  /** Where the lanes that scroll begin. */
  get #top() {
    return AXIS + (this.#pinned.length ? this.#pinned.length * LANE + PIN_GAP : 0);
  }

  // -- drawing --------------------------------------------------------------------------------------------------

  paint() {
    const { clientWidth: width, clientHeight: height } = this.#scroller;
    if (!width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    if (this.#canvas.width !== Math.round(width * ratio) || this.#canvas.height !== Math.round(height * ratio)) {
      this.#canvas.width = Math.round(width * ratio);
      this.#canvas.height = Math.round(height * ratio);
      this.#canvas.style.width = `${width}px`;
      this.#canvas.style.height = `${height}px`;
    }
    const g = this.#canvas.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    this.width = width;
    this.height = height;
    this.gutter = Math.min(150, width * 0.28);
    const from = this.until - this.span;
    this.#painter.axis(g, from);
    g.save();
    g.beginPath();
    g.rect(0, this.#top, width, height - this.#top);
    g.clip();
    for (const { lane, y } of this.#visible()) this.#painter.lane(g, lane, y, from);
    g.restore();
    this.#pinned.forEach((lane, at) => this.#painter.lane(g, lane, AXIS + at * LANE, from));
    this.#painter.gaps(g, from);
    if (this.#pinned.length) this.#causes(g);
    if (from < (this.store.records[0]?.time ?? 0) && !this.store.oldestReached) this.store.loadOlder();
  }

  x(time) {
    return this.gutter + ((time - (this.until - this.span)) / this.span) * (this.width - this.gutter);
  }

  #time(x) {
    return this.until - this.span + ((x - this.gutter) / (this.width - this.gutter)) * this.span;
  }

  #visible() {
    const top = this.#scroller.scrollTop;
    const first = Math.floor(top / LANE);
    const count = Math.ceil((this.height - this.#top) / LANE) + 1;
    const from = this.#top - top;
    return this.#lanes.slice(first, first + count).map((lane, at) => ({ lane, y: from + (first + at) * LANE }));
  }

  /** Between the pinned lanes: from each cause to what follows from it. */
  #causes(g) {
    const { accent, line } = this.#painter.colors;
    const below = AXIS + this.#pinned.length * LANE + PIN_GAP / 2;
    g.fillStyle = line;
    g.fillRect(0, below, this.width, 1);
    g.strokeStyle = g.fillStyle = accent;
    g.lineWidth = 1.5;
    const chain = this.store.chain(this.change).filter((each) => each.kind === "link");
    const place = (record) => ({
      x: this.x(record.time),
      y: AXIS + this.#pinned.findIndex((each) => each.type === record.type && each.name === record.name) * LANE + LANE / 2,
    });
    for (let at = 1; at < chain.length; at++) {
      const [to, from] = [place(chain[at - 1]), place(chain[at])];
      if (from.x < this.gutter || to.y < AXIS || from.y < AXIS) continue;
      g.beginPath();
      g.moveTo(from.x, from.y);
      g.bezierCurveTo(from.x - 14, (from.y * 2 + to.y) / 3, to.x - 14, (from.y + to.y * 2) / 3, to.x - 3, to.y);
      g.stroke();
    }
    g.lineWidth = 1;
  }

  // -- mouse and keys -------------------------------------------------------------------------------------------

  #hit({ offsetX: x, offsetY: y }) {
    const pinned = y < this.#top;
    const lane = pinned
      ? this.#pinned[Math.floor((y - AXIS) / LANE)]
      : this.#lanes[Math.floor((y - this.#top + this.#scroller.scrollTop) / LANE)];
    if (!lane) return {};
    if (x < this.gutter) return { lane };
    const changes = this.store.changes(lane.key);
    const time = this.#time(x);
    let nearest = null;
    for (const change of changes) {
      const distance = Math.abs(change.time - time);
      if (!nearest || distance <= Math.abs(nearest.time - time)) nearest = change;
    }
    const near = nearest && Math.abs(this.x(nearest.time) - x) <= NEAR_PX;
    const current = changes.findLast((change) => change.time <= time) ?? null;
    return { lane, change: near ? nearest : current };
  }

  #wheel(event) {
    if (event.shiftKey || (!event.ctrlKey && Math.abs(event.deltaX) > Math.abs(event.deltaY))) {
      event.preventDefault();
      this.#pan(((event.deltaX || event.deltaY) / (this.width - this.gutter)) * this.span);
    } else if (event.ctrlKey || event.offsetX > this.gutter) {
      event.preventDefault();
      const around = this.#time(Math.max(this.gutter, event.offsetX));
      this.setSpan(this.span * Math.exp(event.deltaY * (event.deltaMode ? 0.06 : 0.002)), around);
    }
  }

  #pan(seconds) {
    const end = this.until + seconds;
    this.end = end >= this.store.now() + this.span * 0.02 ? null : end;
    this.handlers.moved();
  }

  #down(event) {
    if (event.button) return;
    this.#press = { x: event.clientX, y: event.clientY, until: this.until, scroll: this.#scroller.scrollTop, far: false };
    this.#canvas.setPointerCapture(event.pointerId);
  }

  #move(event) {
    const press = this.#press;
    if (press) {
      const dx = event.clientX - press.x;
      press.far ||= Math.hypot(dx, event.clientY - press.y) > DRAG_PX;
      if (!press.far) return;
      this.#scroller.scrollTop = press.scroll - (event.clientY - press.y);
      if (Math.abs(dx) < DRAG_PX && this.live) return;
      this.#pan(press.until - (dx / (this.width - this.gutter)) * this.span - this.until);
      return;
    }
    const { lane, change } = this.#hit(event);
    this.#hint.hidden = !change;
    if (!change) return;
    this.#hint.textContent = describe(lane.name, change);
    const left = Math.min(event.offsetX + 14, this.width - 330);
    this.#hint.style.left = `${Math.max(4, left)}px`;
    this.#hint.style.top = `${Math.min(event.offsetY + 16, this.height - 48)}px`;
  }

  #up(event) {
    const press = this.#press;
    this.#press = null;
    if (!press || press.far) return;
    const { lane, change } = this.#hit(event);
    if (change) this.handlers.onChange(change.id, lane.key);
    else if (lane) this.handlers.onLane(lane.key);
  }

  #key(event) {
    const changes = this.store.changes(this.selected);
    const at = changes.findIndex((each) => each.id === this.change);
    const lane = this.#lanes.findIndex((each) => each.key === this.selected);
    const pick = (change) => change && this.handlers.onChange(change.id, this.selected);
    const keys = {
      ArrowLeft: () => pick(at < 0 ? changes.at(-1) : changes[at - 1]),
      ArrowRight: () => pick(at < 0 ? changes[0] : changes[at + 1]),
      ArrowUp: () => this.#lanes[lane - 1] && this.handlers.onLane(this.#lanes[lane - 1].key),
      ArrowDown: () => this.#lanes[lane + 1] && this.handlers.onLane(this.#lanes[lane + 1].key),
      PageUp: () => this.#pan(-this.span / 2),
      PageDown: () => this.#pan(this.span / 2),
      End: () => this.follow(true),
      "+": () => this.setSpan(this.span / 2, this.until - this.span / 2),
      "-": () => this.setSpan(this.span * 2, this.until - this.span / 2),
      c: () => this.handlers.onCause(),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  }
}

function describe(name, change) {
  const seen = change["seen-latency-us"];
  const guest = seen === undefined ? "" : ` · seen after ${micros(seen)}`;
  return `#${change.id} ${clock(change.time)} ${name} ${change.link}: ${change.cause.kind}, ${change.cause.text}${guest}`;
}
