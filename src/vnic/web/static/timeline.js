// The time line: one lane a link, down as a bar, with what caused it. Drawn on a canvas, so that thousands of changes
// stay smooth; the Log view has the same records as text.

import { clock, duration, micros, shorten, tick } from "./format.js";
import { spansOf, gapsOf } from "./spans.js";

const LANE = 20;
const AXIS = 22;
const LEAST_S = 0.002;
const MOST_S = 400 * 86400;
const FOLLOWS_S = 60; // the span of time at first
const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800];
const LONG_STEPS = [3600, 7200, 14400, 21600, 43200, 86400, 2 * 86400, 7 * 86400, 14 * 86400, 30 * 86400, 90 * 86400];
const TICK_PX = 92;
const NEAR_PX = 7;
const DRAG_PX = 4;

export class Timeline {
  #canvas;
  #hint;
  #tall;
  #scroller;
  #colors = {};
  #lanes = [];
  #selected = null;
  #change = null;
  #press = null;

  /** `onChange(id, key)` and `onLane(key)`: what was clicked. `onMove()`: the span of time differs. */
  constructor({ canvas, hint, scroller, tall }, store, handlers) {
    Object.assign(this, { store, handlers, span: FOLLOWS_S, end: null, kinds: null });
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
    const style = getComputedStyle(document.documentElement);
    const names = ["ink", "muted", "line", "surface", "raised", "up", "down", "lower", "accent", "faint"];
    this.#colors = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.#colors.font = style.getPropertyValue("--sans");
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

  select(key, change) {
    this.#selected = key;
    this.#change = change;
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
    const room = this.#scroller.clientHeight - AXIS;
    if (top < this.#scroller.scrollTop || top + LANE > this.#scroller.scrollTop + room) {
      this.#scroller.scrollTop = top - room / 2;
    }
  }

  /** `keys`: the lanes, in this order. */
  setLanes(keys) {
    const chain = this.#change === null ? [] : this.store.chain(this.#change);
    const all = new Set([...keys, ...chain.filter((each) => each.kind === "link").map((each) => `${each.type}:${each.name}`)]);
    this.#lanes = [...all].map((key) => {
      const at = key.indexOf(":");
      return { key, type: key.slice(0, at), name: key.slice(at + 1) };
    });
    const height = `${this.#lanes.length * LANE + AXIS}px`;
    if (this.#tall.style.height !== height) this.#tall.style.height = height;
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
    this.#axis(g, from);
    g.save();
    g.beginPath();
    g.rect(0, AXIS, width, height - AXIS);
    g.clip();
    this.#visible().forEach(({ lane, y }) => this.#lane(g, lane, y, from));
    this.#gaps(g, from);
    this.#causes(g);
    g.restore();
    if (from < (this.store.records[0]?.time ?? 0) && !this.store.oldestReached) this.store.loadOlder();
  }

  #x(time) {
    return this.gutter + ((time - (this.until - this.span)) / this.span) * (this.width - this.gutter);
  }

  #time(x) {
    return this.until - this.span + ((x - this.gutter) / (this.width - this.gutter)) * this.span;
  }

  #visible() {
    const top = this.#scroller.scrollTop;
    const first = Math.floor(top / LANE);
    const count = Math.ceil((this.height - AXIS) / LANE) + 1;
    return this.#lanes.slice(first, first + count).map((lane, at) => ({ lane, y: AXIS + (first + at) * LANE - top }));
  }

  #axis(g, from) {
    const { muted, line, font } = this.#colors;
    const least = (this.span * TICK_PX) / (this.width - this.gutter);
    const step = [...STEPS, ...LONG_STEPS].find((each) => each >= least) ?? LONG_STEPS.at(-1);
    const zone = step >= 3600 ? new Date(from * 1000).getTimezoneOffset() * 60 : 0;
    g.font = `11px ${font}`;
    g.textBaseline = "middle";
    g.textAlign = "center";
    for (let at = Math.ceil((from - zone) / step) * step + zone; at < this.until; at += step) {
      const x = Math.round(this.#x(at)) + 0.5;
      if (x < this.gutter) continue;
      g.strokeStyle = line;
      g.beginPath();
      g.moveTo(x, AXIS - 3);
      g.lineTo(x, this.height);
      g.stroke();
      g.fillStyle = muted;
      if (x > this.gutter + 24 && x < this.width - 20) g.fillText(tick(at, step), x, AXIS / 2);
    }
    g.textAlign = "left";
    g.fillText(duration(this.span), 10, AXIS / 2);
  }

  #lane(g, lane, y, from) {
    const { ink, muted, raised, up, accent, font } = this.#colors;
    const link = this.store.link(lane.key);
    if (lane.key === this.#selected) {
      g.fillStyle = raised;
      g.fillRect(0, y, this.width, LANE);
    }
    const middle = y + LANE / 2;
    g.fillStyle = link ? this.#colors[link.link === "up" ? "up" : link.operstate === "down" ? "down" : "lower"] : muted;
    g.fillRect(0, y + 3, 3, LANE - 6);
    g.fillStyle = lane.key === this.#selected ? accent : link ? ink : muted;
    g.font = `${lane.key === this.#selected ? 600 : 400} 12px ${font}`;
    g.textBaseline = "middle";
    g.fillText(shorten(lane.name, Math.floor(this.gutter / 7)), 10, middle);
    for (const span of spansOf(this.store.changes(lane.key), from, this.until, this.store.now())) {
      const x = Math.max(this.gutter, this.#x(span.from));
      const end = Math.min(this.width, this.#x(span.to));
      if (end < this.gutter) continue;
      const faint = this.kinds && !this.kinds.has(span.change.cause.kind);
      g.globalAlpha = faint ? 0.22 : 1;
      if (span.change.link === "up") {
        g.fillStyle = up;
        g.fillRect(x, middle - 1, end - x, 2);
      } else {
        g.fillStyle = this.#colors[span.change.cause.kind === "operator" ? "down" : "lower"];
        g.fillRect(x, middle - 5, Math.max(1.5, end - x), 10);
        if (end - x > 58) {
          g.fillStyle = this.#colors.surface;
          g.font = `600 10px ${font}`;
          g.fillText(shorten(span.change.cause.kind, Math.floor((end - x - 8) / 6)), x + 5, middle + 0.5);
        }
      }
      const at = this.#x(span.change.time);
      if (at >= this.gutter) this.#mark(g, span.change, at, middle);
      g.globalAlpha = 1;
    }
  }

  /** The change itself, and how long the guest took to see it; a ring where it has not. */
  #mark(g, change, x, middle) {
    const color = this.#colors[change.link === "up" ? "up" : change.cause.kind === "operator" ? "down" : "lower"];
    const seen = change["seen-us"];
    if (seen !== undefined) {
      const width = ((seen / 1e6) * (this.width - this.gutter)) / this.span;
      if (width > 2) {
        g.fillStyle = this.#colors.accent;
        g.fillRect(x, middle - 8, width, 2);
      }
    }
    if (change.id === this.#change) {
      g.strokeStyle = this.#colors.accent;
      g.lineWidth = 2;
      g.beginPath();
      g.arc(x, middle, 7, 0, 7);
      g.stroke();
      g.lineWidth = 1;
    }
    g.fillStyle = seen === undefined ? this.#colors.surface : color;
    g.strokeStyle = color;
    g.beginPath();
    g.arc(x, middle, 2.6, 0, 7);
    g.fill();
    g.stroke();
  }

  /** Times of which nobody knows: vnic did not run, or could not store its records. */
  #gaps(g, from) {
    for (const gap of gapsOf(this.store.records)) {
      if (gap.to < from || gap.from > this.until) continue;
      const x = Math.max(this.gutter, this.#x(gap.from));
      const end = Math.max(x + 2, Math.min(this.width, this.#x(gap.to)));
      g.save();
      g.beginPath();
      g.rect(x, AXIS, end - x, this.height);
      g.clip();
      g.fillStyle = this.#colors.surface;
      g.globalAlpha = gap.soft ? 0 : 0.85;
      g.fillRect(x, AXIS, end - x, this.height);
      g.globalAlpha = 1;
      g.strokeStyle = this.#colors.faint;
      g.beginPath();
      for (let at = x - this.height; at < end; at += 8) {
        g.moveTo(at, this.height);
        g.lineTo(at + this.height, 0);
      }
      g.stroke();
      g.restore();
      if (end - x > 70) {
        g.fillStyle = this.#colors.muted;
        g.font = `11px ${this.#colors.font}`;
        g.fillText(shorten(gap.text, Math.floor((end - x) / 6)), x + 6, AXIS + 10);
      }
    }
  }

  /** From the selected change to what caused it, and on. */
  #causes(g) {
    if (this.#change === null) return;
    const place = (record) => {
      const lane = this.#lanes.findIndex((each) => each.type === record.type && each.name === record.name);
      const y = AXIS + lane * LANE - this.#scroller.scrollTop + LANE / 2;
      return lane < 0 ? null : { x: this.#x(record.time), y };
    };
    const chain = this.store.chain(this.#change).map(place).filter(Boolean);
    g.strokeStyle = this.#colors.accent;
    g.lineWidth = 1.5;
    for (let at = 1; at < chain.length; at++) {
      const [to, from] = [chain[at - 1], chain[at]];
      g.beginPath();
      g.moveTo(from.x, from.y);
      g.bezierCurveTo(from.x - 26, (from.y * 2 + to.y) / 3, to.x - 26, (from.y + to.y * 2) / 3, to.x, to.y);
      g.stroke();
    }
    g.lineWidth = 1;
  }

  // -- mouse and keys -------------------------------------------------------------------------------------------

  #hit({ offsetX: x, offsetY: y }) {
    const lane = this.#lanes[Math.floor((y - AXIS + this.#scroller.scrollTop) / LANE)];
    if (!lane || y < AXIS) return {};
    if (x < this.gutter) return { lane };
    const changes = this.store.changes(lane.key);
    const time = this.#time(x);
    let nearest = null;
    for (const change of changes) {
      const distance = Math.abs(change.time - time);
      if (!nearest || distance <= Math.abs(nearest.time - time)) nearest = change;
    }
    const near = nearest && Math.abs(this.#x(nearest.time) - x) <= NEAR_PX;
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
    const changes = this.store.changes(this.#selected);
    const at = changes.findIndex((each) => each.id === this.#change);
    const lane = this.#lanes.findIndex((each) => each.key === this.#selected);
    const pick = (change) => change && this.handlers.onChange(change.id, this.#selected);
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
