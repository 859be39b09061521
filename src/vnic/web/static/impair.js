// Sliders for what is done to the frames of a link: link-impair, in tc's words.

import { h, set, setText } from "./dom.js";

const TIMES_MS = [0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
const PERCENTS = [0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 50, 75, 100];
const RATES_KBIT = [64, 128, 256, 512, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 1e7, 0];
const SEND_EVERY_MS = 90;
const SETTLES_MS = 700; // after it was moved

const time = (ms) => (ms >= 1000 ? `${ms / 1000}s` : ms >= 1 || !ms ? `${ms}ms` : `${ms * 1000}us`);
const percent = (part) => `${part}%`;
const rate = (kbit) => (!kbit ? "0" : kbit >= 1e6 ? `${kbit / 1e6}gbit` : kbit >= 1e3 ? `${kbit / 1e3}mbit` : `${kbit}kbit`);

const UNITS_MS = { ns: 1e-6, us: 1e-3, ms: 1, s: 1000 };
const UNITS_KBIT = { bit: 1e-3, kbit: 1, mbit: 1e3, gbit: 1e6, tbit: 1e9 };

function amount(text, units) {
  const found = /^([\d.]+)\s*([a-z%]*)$/i.exec(text ?? "");
  return found ? Number(found[1]) * (units?.[found[2]] ?? 1) : 0;
}

const KINDS = [
  ["delay", "Delay", TIMES_MS, time, UNITS_MS],
  ["jitter", "Jitter", TIMES_MS, time, UNITS_MS],
  ["loss", "Loss", PERCENTS, percent],
  ["duplicate", "Duplicate", PERCENTS, percent],
  ["corrupt", "Corrupt", PERCENTS, percent],
  ["reorder", "Reorder", PERCENTS, percent],
  ["rate", "Rate", RATES_KBIT, rate, UNITS_KBIT],
];

const DIRECTIONS = [
  ["all", "both directions"],
  ["tx", "to the guest"],
  ["rx", "from the guest"],
];

/** The nearest step of a slider; rates of 0 are no limit, at its right end. */
function nearest(steps, value) {
  if (!value) return steps.indexOf(0);
  let best = 0;
  steps.forEach((step, at) => {
    if (step && (!steps[best] || Math.abs(Math.log(step / value)) < Math.abs(Math.log(steps[best] / value)))) best = at;
  });
  return best;
}

export class Impairments {
  #link = null;
  #rows = new Map();
  #touched = 0;
  #waiting = {};
  #timer = 0;
  #later = 0;

  constructor(store, qmp) {
    this.store = store;
    this.qmp = qmp;
    this.direction = h(
      "select",
      { "aria-label": "Direction of the impairments", change: () => this.show(this.#link, true) },
      DIRECTIONS.map(([value, text]) => h("option", { value }, text)),
    );
    this.problem = h("p", { class: "problem", role: "alert" });
    this.clear = h("button", { type: "button", click: () => this.#clear() }, "Clear all");
    const rows = KINDS.map((kind) => this.#row(...kind));
    this.root = h("div", { class: "impair" }, rows, h("div", { class: "actions" }, this.direction, this.clear), this.problem);
  }

  #row(name, title, steps, print) {
    const id = `impair-${name}`;
    const slider = h("input", { type: "range", id, min: 0, max: steps.length - 1, step: 1 });
    const exact = h("input", { type: "text", class: "exact", "aria-label": `${title}, exactly`, size: 7, spellcheck: "false" });
    slider.addEventListener("input", () => {
      const value = print(steps[slider.valueAsNumber]);
      exact.value = shown(value);
      this.#send(name, value);
    });
    exact.addEventListener("change", () => this.#send(name, exact.value.trim() || "0"));
    this.#rows.set(name, { slider, exact });
    return h("div", { class: "slider" }, h("label", { for: id }, title), slider, exact);
  }

  /** What the objects of this link and direction do now. A slider that is being moved is left alone. */
  show(link, anew = false) {
    const other = link?.name !== this.#link?.name || link?.type !== this.#link?.type;
    this.#link = link;
    if (other) {
      this.#waiting = {};
      setText(this.problem, "");
    }
    const left = this.#touched + SETTLES_MS - Date.now();
    if (!other && !anew && left > 0) {
      clearTimeout(this.#later);
      this.#later = setTimeout(() => this.show(this.#link), left + 1);
      return;
    }
    const values = this.#values();
    const may = this.store.may("link-impair");
    for (const [name, , steps, print, units] of KINDS) {
      const { slider, exact } = this.#rows.get(name);
      const value = amount(values[name], units);
      const text = value ? values[name] : print(0);
      slider.value = nearest(steps, value);
      if (document.activeElement !== exact) exact.value = shown(text);
      set(slider, "aria-valuetext", shown(text));
      slider.classList.toggle("on", value > 0);
      slider.disabled = exact.disabled = !may;
    }
    this.clear.disabled = !may || !KINDS.some(([name, , , , units]) => amount(values[name], units));
  }

  #values() {
    const link = this.#link;
    if (!link) return {};
    const netdev = link.type === "netdev" ? link.name : link.peer;
    const own = this.store.netems.filter((each) => each.netdev === netdev && !each.fault && each.on);
    const wanted = this.direction.value;
    const found = own.find((each) => each.queue === wanted) ?? own.find((each) => each.queue === "all");
    return found?.parameters ?? (wanted === "all" && own[0]?.parameters) ?? {};
  }

  #send(name, value) {
    this.#touched = Date.now();
    this.#waiting[name] = value;
    const { slider } = this.#rows.get(name);
    set(slider, "aria-valuetext", shown(value));
    if (!this.#timer) this.#timer = setTimeout(() => this.#flush(), SEND_EVERY_MS);
  }

  async #flush() {
    this.#timer = 0;
    const words = this.#waiting;
    this.#waiting = {};
    await this.#impair(words);
  }

  #clear() {
    this.#touched = 0;
    return this.#impair({ clear: true });
  }

  async #impair(words) {
    try {
      await this.qmp.execute("link-impair", { name: this.#link.name, direction: this.direction.value, ...words });
      setText(this.problem, "");
    } catch (error) {
      this.#touched = 0;
      setText(this.problem, error.message);
    }
    await this.store.refreshNetems().catch(() => {});
  }
}

const shown = (text) => (text === "0" ? "no limit" : text);
