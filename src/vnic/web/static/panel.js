// The panel: why the selected link is as it is, what its guest knows, what is done to it, and its last changes.

import { byId, h, setText } from "./dom.js";
import { clock, duration, micros, reason } from "./format.js";
import { Impairments } from "./impair.js";
import { guestText, stateOf } from "./links.js";
import { otherEnd } from "./network.js";

const LAST_CHANGES = 12;
const STEPS = [
  ["notified-us", "device changed"],
  ["interrupt-us", "guest interrupted"],
  ["seen-us", "guest saw it"],
];

export class Panel {
  #key = null;
  #change = null;
  #drawn = new Map();

  /** `act`: toggle(key), pulledAt(key), downFor(name, ms), flap(…), stopFlap(id); `go`: link(key), change(id). */
  constructor(store, qmp, { act, go }) {
    Object.assign(this, { store, act, go });
    this.impair = new Impairments(store, qmp);
    byId("impair").append(this.impair.root);
    byId("toggle").addEventListener("click", () => act.toggle(this.#key));
    byId("down-for").addEventListener("submit", (event) => {
      event.preventDefault();
      act.downFor(this.#key, byId("down-seconds").valueAsNumber * 1000);
    });
    byId("flap").addEventListener("submit", (event) => {
      event.preventDefault();
      const number = (id) => byId(id).valueAsNumber;
      act.flap(this.#key, number("flap-down"), number("flap-up"), number("flap-count"), number("flap-jitter"));
    });
    setInterval(() => this.#ages(), 1000);
  }

  select(key, change) {
    this.#key = key;
    this.#change = change;
    this.show();
  }

  show(graph = this.graph) {
    this.graph = graph;
    const link = this.#key && this.store.link(this.#key);
    byId("chosen").hidden = !link;
    byId("nothing").hidden = Boolean(link);
    if (!link) return;
    this.#head(link);
    const other = otherEnd(graph, this.#key);
    this.#part("holds", link.holds, () => this.#holds(link));
    this.#part("facts", [link, other, this.store.attachments.get(link.name)], () => this.#facts(link, other));
    const flaps = this.store.flaps.filter((flap) => flap.name === link.name);
    this.#part("flaps", flaps.map(({ id }) => id), () => flaps.map((flap) => this.#flap(flap)));
    const changes = this.#shownChanges();
    const chain = this.#change === null ? [] : this.store.chain(this.#change);
    const causes = changes.map((change) => this.store.byId.get(change["caused-by"]));
    this.#part("changes", [this.#change, changes, chain, causes], () => this.#changes(changes));
    this.impair.show(link);
    this.#ages();
  }

  #head(link) {
    setText(byId("link-name"), link.name);
    const pill = byId("link-state");
    setText(pill, link.link);
    pill.className = `pill ${stateOf(link)}`;
    const may = this.store.may("set_link");
    const pulled = this.act.pulledAt(this.#key);
    const toggle = byId("toggle");
    const where = pulled && pulled.name !== link.name ? ` at ${pulled.name}` : "";
    setText(toggle, pulled ? `Plug the cable in${where}` : "Pull the cable");
    toggle.classList.toggle("primary", Boolean(pulled));
    toggle.disabled = !may;
    for (const form of ["down-for", "flap"]) {
      for (const field of byId(form).elements) field.disabled = !may || !this.store.may("flap-start");
    }
    byId("read-only").hidden = may;
  }

  /** Makes a part anew where `facts` differ; the focus stays on the button that has it. */
  #part(id, facts, rows) {
    const text = JSON.stringify([this.#key, facts]);
    if (this.#drawn.get(id) === text) return;
    this.#drawn.set(id, text);
    const root = byId(id);
    const focused = root.contains(document.activeElement) ? document.activeElement.dataset.go : null;
    root.replaceChildren(...rows());
    if (focused) root.querySelector(`[data-go="${CSS.escape(focused)}"]`)?.focus();
  }

  #holds(link) {
    if (!link.holds.length) return [h("li", { class: "free" }, "Nothing holds it down.")];
    return link.holds.map((hold) =>
      h(
        "li",
        { class: hold.kind === "operator" ? "hold down" : "hold lower" },
        h("b", null, hold.kind),
        hold.client === link.name ? null : ` on ${hold.client}`,
        h("span", { class: "text" }, hold.text),
        h("small", null, `by ${hold.by}, since ${clock(hold.since)}, `, h("time", { "data-since": hold.since })),
        hold.via?.length ? h("small", null, "by way of ", hold.via.map((name) => this.#linkTo(name))) : null,
      ),
    );
  }

  #facts(link, other) {
    const attachment = this.store.attachments.get(link.name);
    const rows = [
      ["guest", h("span", { class: "guest" }, guestText(link))],
      ["wire", h("span", null, link.type, ` ${link.model}`, link.peer ? " ── " : ", no peer", link.peer ? this.#linkTo(link.peer) : null)],
      other && ["far end", this.#linkTo(other.slice(other.indexOf(":") + 1), other)],
      link.mac && ["MAC", h("span", { class: "mono" }, link.mac)],
      ["packets", `${link.datapath}${link["datapath-reason"] ? `: ${link["datapath-reason"]}` : ""}`],
      ["changes", `${link["carrier-changes"]}: ${link["carrier-up-changes"]} up, ${link["carrier-down-changes"]} down`],
      ["operstate", link.operstate],
      link.vm && ["VM", `${link.vm.text}; ${link.vm.device} of ${link.vm.object}${link.vm.netdev ? `, on its ${link.vm.netdev}` : ""}`],
      link.vm?.trouble && ["trouble", link.vm.trouble],
      link.vm?.agent && ["agent", link.vm.agent],
      link.assumed && ["assumed", "vnic has not set this link yet, and nothing says how it is"],
      attachment && ["socket", h("span", { class: "mono" }, `${attachment.path}, ${attachment.type}`)],
      ...(link.impairments ?? []).map(({ id, text, queue }) => ["impaired", `${text} (${id}${queue && queue !== "all" ? `, ${queue}` : ""})`]),
    ];
    return rows.filter(Boolean).flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)]);
  }

  #flap(flap) {
    const times = `${flap["down-ms"]} ms down${flap["up-ms"] ? `, ${flap["up-ms"]} ms up` : ""}`;
    const stop = h("button", { type: "button", "data-go": flap.id, click: () => this.act.stopFlap(flap.id) }, "Stop");
    return h("li", null, `${flap.id}: ${times}${flap.count ? `, ${flap.count} times` : ""} `, stop);
  }

  #linkTo(name, key = this.store.keyFor(name)) {
    if (!key) return h("span", null, name);
    return h("button", { type: "button", class: "go", "data-go": key, click: () => this.go.link(key) }, name);
  }

  #shownChanges() {
    const shown = this.store.changes(this.#key).slice(-LAST_CHANGES).reverse();
    const chosen = this.store.byId.get(this.#change);
    return chosen?.kind === "link" && !shown.includes(chosen) ? [chosen, ...shown] : shown;
  }

  #changes(shown) {
    if (!shown.length) return [h("li", { class: "free" }, "None in the journal.")];
    return shown.map((change) => this.#changeRow(change));
  }

  #changeRow(change) {
    const steps = STEPS.filter(([name]) => change[name] !== undefined).map(([name, text]) => `${text} after ${micros(change[name])}`);
    if (change["seen-us"] === undefined && change.link !== undefined && change.type === "nic") steps.push("not seen");
    const chosen = change.id === this.#change;
    return h(
      "li",
      { class: `change ${change.link}${chosen ? " chosen" : ""}` },
      h(
        "button",
        { type: "button", "data-go": `#${change.id}`, "aria-current": chosen ? "true" : null, click: () => this.go.change(change.id) },
        h("b", null, change.link),
        h("span", { class: "when" }, ` ${clock(change.time)}`),
        h("small", null, ` #${change.id}, `, h("time", { "data-since": change.time })),
      ),
      h("span", { class: "text" }, reason(change)),
      h("small", { class: "steps" }, steps.join(" → ")),
      chosen ? this.#causes(change) : change["caused-by"] ? this.#follows(change["caused-by"]) : null,
    );
  }

  #causes(change) {
    const chain = this.store.chain(change.id).slice(1);
    const last = chain.at(-1) ?? change;
    const beyond = last["caused-by"];
    return h(
      "ol",
      { class: "causes", "aria-label": "follows from" },
      chain.map((record) => h("li", null, this.#follows(record.id))),
      beyond && !this.store.byId.has(beyond) ? h("li", null, h("small", null, `follows from #${beyond}, which is not loaded`)) : null,
    );
  }

  #follows(id) {
    const record = this.store.byId.get(id);
    if (!record) return h("small", null, `follows from #${id}`);
    const what = record.kind === "link" ? `${record.name} ${record.link}` : record.text;
    return h(
      "span",
      { class: "follows" },
      "follows from ",
      h("button", { type: "button", class: "go", "data-go": `#${id}`, click: () => this.go.change(id) }, `#${id}, ${what}`),
      record.kind === "link" ? h("small", null, ` ${reason(record)}`) : null,
    );
  }

  #ages() {
    const now = this.store.now();
    for (const each of document.querySelectorAll("#panel time[data-since]")) {
      const age = Math.max(0, now - Number(each.dataset.since));
      setText(each, age < 1 ? "just now" : `${duration(Math.floor(age))} ago`.replace(".0 s", " s"));
    }
  }
}
