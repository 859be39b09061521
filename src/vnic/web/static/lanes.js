// What the time line paints: its axis, a lane with its bars and marks, and the gaps. `timeline` decides what is where.

import { duration, shorten, tick } from "./format.js";
import { spansOf } from "./spans.js";

export const LANE = 20;
export const AXIS = 22;
const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800];
const LONG_STEPS = [3600, 7200, 14400, 21600, 43200, 86400, 2 * 86400, 7 * 86400, 14 * 86400, 30 * 86400, 90 * 86400];
const TICK_PX = 92;

const NAMES = ["ink", "muted", "line", "surface", "raised", "up", "down", "lower", "accent", "faint"];

export class Painter {
  colors = {};

  /** `view` has x(time), until, span, gutter, width, height, selected, change, kinds, store. */
  constructor(view) {
    this.view = view;
  }

  /** The colours that hold now. */
  restyle() {
    const style = getComputedStyle(document.documentElement);
    this.colors = Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.colors.font = style.getPropertyValue("--sans");
  }

  #stateColor(change) {
    return this.colors[change.link === "up" ? "up" : change.cause.kind === "operator" ? "down" : "lower"];
  }

  axis(g, from) {
    const { muted, line, font } = this.colors;
    const least = (this.view.span * TICK_PX) / (this.view.width - this.view.gutter);
    const step = [...STEPS, ...LONG_STEPS].find((each) => each >= least) ?? LONG_STEPS.at(-1);
    const zone = step >= 3600 ? new Date(from * 1000).getTimezoneOffset() * 60 : 0;
    g.font = `11px ${font}`;
    g.textBaseline = "middle";
    g.textAlign = "center";
    for (let at = Math.ceil((from - zone) / step) * step + zone; at < this.view.until; at += step) {
      const x = Math.round(this.view.x(at)) + 0.5;
      if (x < this.view.gutter) continue;
      g.strokeStyle = line;
      g.beginPath();
      g.moveTo(x, AXIS - 3);
      g.lineTo(x, this.view.height);
      g.stroke();
      g.fillStyle = muted;
      if (x > this.view.gutter + 24 && x < this.view.width - 20) g.fillText(tick(at, step), x, AXIS / 2);
    }
    g.textAlign = "left";
    g.fillText(duration(this.view.span), 10, AXIS / 2);
  }

  lane(g, lane, y, from) {
    const { ink, muted, raised, up, accent, font } = this.colors;
    const link = this.view.store.link(lane.key);
    if (lane.key === this.view.selected) {
      g.fillStyle = raised;
      g.fillRect(0, y, this.view.width, LANE);
    }
    const middle = y + LANE / 2;
    g.fillStyle = link ? this.colors[link.link === "up" ? "up" : link.operstate === "down" ? "down" : "lower"] : muted;
    g.fillRect(0, y + 3, 3, LANE - 6);
    g.fillStyle = lane.key === this.view.selected ? accent : link ? ink : muted;
    g.font = `${lane.key === this.view.selected ? 600 : 400} 12px ${font}`;
    g.textBaseline = "middle";
    g.fillText(shorten(lane.name, Math.floor(this.view.gutter / 7)), 10, middle);
    for (const span of spansOf(this.view.store.changes(lane.key), from, this.view.until, this.view.store.now())) {
      const x = Math.max(this.view.gutter, this.view.x(span.from));
      const end = Math.min(this.view.width, this.view.x(span.to));
      if (end < this.view.gutter) continue;
      const faint = this.view.kinds && !this.view.kinds.has(span.change.cause.kind);
      g.globalAlpha = faint ? 0.22 : 1;
      if (span.change.link === "up") {
        g.fillStyle = up;
        g.fillRect(x, middle - 1, end - x, 2);
      } else {
        g.fillStyle = this.#stateColor(span.change);
        g.fillRect(x, middle - 5, Math.max(1.5, end - x), 10);
        if (end - x > 58) {
          g.fillStyle = this.colors.surface;
          g.font = `600 10px ${font}`;
          g.fillText(shorten(span.change.cause.kind, Math.floor((end - x - 16) / 6)), x + 11, middle + 0.5);
        }
      }
      const at = this.view.x(span.change.time);
      if (at >= this.view.gutter) this.#mark(g, span.change, at, middle);
      g.globalAlpha = 1;
    }
  }

  /** The change itself, and how long the guest took to see it; a ring where it has not. */
  #mark(g, change, x, middle) {
    const color = this.#stateColor(change);
    const seen = change["seen-us"];
    if (seen !== undefined) {
      const width = ((seen / 1e6) * (this.view.width - this.view.gutter)) / this.view.span;
      if (width > 2) {
        g.fillStyle = this.colors.accent;
        g.fillRect(x, middle - 8, width, 2);
      }
    }
    if (change.id === this.view.change) {
      g.strokeStyle = this.colors.accent;
      g.lineWidth = 2;
      g.beginPath();
      g.arc(x, middle, 7, 0, 7);
      g.stroke();
      g.lineWidth = 1;
    }
    g.fillStyle = seen === undefined ? this.colors.surface : color;
    g.strokeStyle = color;
    g.beginPath();
    g.arc(x, middle, 2.6, 0, 7);
    g.fill();
    g.stroke();
  }

  /** Times of which nobody knows: vnic did not run, or could not store its records. */
  gaps(g, from) {
    for (const gap of this.view.store.gaps()) {
      if (gap.to < from || gap.from > this.view.until) continue;
      const x = Math.max(this.view.gutter, this.view.x(gap.from));
      const end = Math.max(x + 2, Math.min(this.view.width, this.view.x(gap.to)));
      g.save();
      g.beginPath();
      g.rect(x, AXIS, end - x, this.view.height);
      g.clip();
      g.fillStyle = this.colors.surface;
      g.globalAlpha = gap.soft ? 0 : 0.85;
      g.fillRect(x, AXIS, end - x, this.view.height);
      g.globalAlpha = 1;
      g.strokeStyle = this.colors.faint;
      g.beginPath();
      for (let at = x - this.view.height; at < end; at += 8) {
        g.moveTo(at, this.view.height);
        g.lineTo(at + this.view.height, 0);
      }
      g.stroke();
      g.restore();
      if (end - x > 70) {
        g.fillStyle = this.colors.muted;
        g.font = `11px ${this.colors.font}`;
        g.fillText(shorten(gap.text, Math.floor((end - x) / 6)), x + 6, AXIS + 10);
      }
    }
  }
}
