// The two views without a drawing: all links as a table, and the journal as a list. Both show what the filter leaves.

import { byId, h, set, setText } from "./dom.js";
import { clock, micros, reason } from "./format.js";
import { holdKinds, isPulled, seenOf, stateOf } from "./links.js";

const MOST_ROWS = 1000;
const MOST_RECORDS = 400;

export class LinkTable {
  #rows = new Map();

  constructor(store, { onSelect, onToggle }) {
    Object.assign(this, { store, onSelect, onToggle });
    this.body = byId("links-body");
  }

  draw(keys, selected) {
    const shown = keys.slice(0, MOST_ROWS);
    setText(byId("links-more"), keys.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${keys.length}. Filter by name.` : "");
    const rows = shown.map((key) => this.#row(key, selected));
    const same = rows.length === this.body.children.length && rows.every((row, at) => this.body.children[at] === row);
    if (!same) this.body.replaceChildren(...rows);
  }

  #row(key, selected) {
    const link = this.store.link(key);
    let row = this.#rows.get(key);
    if (!row) {
      const name = h("button", { type: "button", class: "go", click: () => this.onSelect(key) });
      const toggle = h("button", { type: "button", role: "switch", class: "toggle", click: () => this.onToggle(key) });
      const cells = Array.from({ length: 8 }, () => h("td"));
      const element = h("tr", null, h("th", { scope: "row" }, name), h("td", null, toggle), cells);
      row = { element, name, toggle, cells };
      this.#rows.set(key, row);
    }
    setText(row.name, link.name);
    setText(row.toggle, link.link);
    set(row.toggle, "aria-checked", String(!isPulled(link)));
    set(row.toggle, "aria-label", `${link.name} is ${link.link}: cable plugged in`);
    row.toggle.disabled = !this.store.may("set_link");
    set(row.element, "class", `${stateOf(link)} ${seenOf(link)}${key === selected ? " selected" : ""}`);
    const latency = link.guest["seen-latency-us"];
    const texts = [
      holdKinds(link).join(" + "),
      link.guest.attached ? link.guest.seen : "no VM",
      latency === undefined ? "" : micros(latency),
      `${link["carrier-changes"]}`,
      link.datapath,
      link.type === "nic" ? link.model : `netdev ${link.model}`,
      link.peer ?? "",
      (link.impairments ?? []).map(({ text }) => text).join("; "),
    ];
    texts.forEach((text, at) => setText(row.cells[at], text));
    return row.element;
  }
}

export class LogList {
  constructor(store, { onChange, onSelect }) {
    Object.assign(this, { store, onChange, onSelect });
    this.body = byId("log-body");
    this.drawn = "";
  }

  draw(matches, chosen) {
    const rows = [];
    const { records } = this.store;
    for (let at = records.length - 1; at >= 0 && rows.length < MOST_RECORDS; at--) {
      if (matches(records[at])) rows.push(records[at]);
    }
    const now = JSON.stringify([chosen, rows.map((record) => [record.id, record["seen-us"], record["caused-by"]])]);
    if (now === this.drawn) return;
    this.drawn = now;
    const focused = this.body.contains(document.activeElement) ? document.activeElement.dataset.go : null;
    this.body.replaceChildren(...rows.map((record) => this.#row(record, record.id === chosen)));
    if (focused) this.body.querySelector(`[data-go="${focused}"]`)?.focus();
    setText(byId("log-more"), rows.length === MOST_RECORDS ? `The last ${MOST_RECORDS}. Filter, or use the time line.` : "");
  }

  #row(record, chosen) {
    const isLink = record.kind === "link";
    const seen = record["seen-latency-us"];
    const from = record["caused-by"];
    const go = (id, text) => h("button", { type: "button", class: "go", "data-go": id, click: () => this.onChange(id) }, text);
    return h(
      "tr",
      { class: `${isLink ? record.link : "note"}${chosen ? " selected" : ""}` },
      h("td", null, clock(record.time)),
      h("td", null, isLink ? go(record.id, `#${record.id}`) : `#${record.id}`),
      h("th", { scope: "row" }, record.name ?? "vnic"),
      h("td", null, h("b", null, isLink ? record.link : record.event)),
      h("td", null, seen === undefined ? "" : micros(seen)),
      h("td", null, from ? go(from, `#${from}`) : ""),
      h("td", { class: "why" }, isLink ? reason(record) : record.text),
    );
  }
}
