// What vnic has told: links, clients, hubs, and the journal. Events change it at once; what they leave out is asked for
// once a burst is over. Dispatches `links` (detail: keys), `network` (what exists changed), `journal`, `about`.

import { natural } from "./format.js";
import { gapsOf } from "./spans.js";

const FIRST_RECORDS = 2000;
const OLDER_RECORDS = 4000;
const FEW = 12; // links that are asked for one by one; for more, all are
const BURST_MS = 40;
const JOURNAL_EVERY_MS = 1000;
const ALL_EVERY_MS = 5000;

export const keyOf = (type, name) => `${type}:${name}`;

export class Store extends EventTarget {
  links = new Map(); // by key: an entry of query-links
  clients = new Map(); // by key: an entry of query-topology's clients
  hubs = [];
  attachments = new Map(); // by the NIC's name
  netems = []; // query-impairments
  flaps = [];
  records = []; // the journal, oldest first
  byId = new Map();
  byKey = new Map(); // the changes of each link, oldest first
  kinds = new Set(); // of causes and of other records
  commands = new Set();
  name = "";
  vnic = null; // query-vnic
  oldestReached = false;
  skew = 0; // the browser's clock minus vnic's, in seconds

  #qmp;
  #dirty = new Set();
  #dirtyFrom = Infinity;
  #networkDirty = false;
  #netemsDirty = false;
  #timer = 0;
  #busy = false;
  #allAt = 0;
  #loading = false;
  #keys = null; // in order, until there are others
  #gaps = [];
  #gapsFor = 0; // records of which #gaps are

  constructor(qmp) {
    super();
    this.#qmp = qmp;
    qmp.addEventListener("event", ({ detail }) => this.#event(detail));
    setInterval(() => this.#poll(), JOURNAL_EVERY_MS);
  }

  now() {
    return Date.now() / 1000 - this.skew;
  }

  may(command) {
    return this.commands.has(command);
  }

  link(key) {
    return this.links.get(key);
  }

  /** The NIC of this name, else the netdev. */
  keyFor(name) {
    const nic = keyOf("nic", name);
    if (this.links.has(nic)) return nic;
    const netdev = keyOf("netdev", name);
    return this.links.has(netdev) ? netdev : null;
  }

  /** Everything anew, after each connection. */
  async load() {
    const ask = (command, args) => this.#qmp.execute(command, args);
    const [commands, name, topology] = await Promise.all([
      ask("query-commands"),
      ask("query-name"),
      ask("query-topology"),
    ]);
    this.commands = new Set(commands.map((each) => each.name));
    this.name = name.name ?? "vnic";
    this.#takeTopology(topology);
    this.#tell("about");
    const [vnic, records, netems, flaps] = await Promise.all([
      ask("query-vnic"),
      ask("query-journal", { limit: FIRST_RECORDS }),
      ask("query-impairments"),
      ask("query-flaps"),
    ]);
    Object.assign(this, { vnic, netems, flaps });
    this.records = [];
    this.#gapsFor = 0;
    this.byId.clear();
    this.byKey.clear();
    this.oldestReached = records.length < FIRST_RECORDS;
    this.#takeRecords(records);
    this.#tell("about");
    this.#tell("links", [...this.links.keys()]);
  }

  /** Records before the oldest one. */
  async loadOlder() {
    if (this.#loading || this.oldestReached || !this.records.length || !this.#qmp.isOpen) return;
    this.#loading = true;
    try {
      const limit = OLDER_RECORDS;
      const older = await this.#qmp.execute("query-journal", { "before-id": this.records[0].id, limit });
      this.oldestReached = older.length < limit;
      this.#takeRecords(older);
    } catch {
      this.oldestReached = this.#qmp.isOpen; // the history cannot be read: what there is stays
    } finally {
      this.#loading = false;
    }
  }

  /** Ask for these links, and what the journal has of late, soon. */
  refresh(name) {
    this.#dirty.add(name);
    this.#soon();
  }

  async refreshNetems() {
    [this.netems, this.flaps] = await Promise.all([
      this.#qmp.execute("query-impairments"),
      this.#qmp.execute("query-flaps"),
    ]);
    this.#tell("links", [...this.links.keys()]);
  }

  // -- events ---------------------------------------------------------------------------------------------------

  #event({ event, data, timestamp }) {
    const time = timestamp.seconds + timestamp.microseconds / 1e6;
    const skew = Date.now() / 1000 - time;
    if (Math.abs(skew) < Math.abs(this.skew) || Math.abs(skew - this.skew) > 5) this.skew = Math.abs(skew) < 1 ? 0 : skew;
    if (event === "LINK_CHANGED") this.#linkChanged(data, time);
    else if (event === "LINK_SEEN") this.#linkSeen(data);
    else if (event === "LINK_HOLDS_CHANGED") this.#holdsChanged(data);
    else if (event === "LINK_IMPAIRED") this.#netemsDirty = true;
    else if (event === "DEVICE_DELETED") this.#networkDirty = true;
    if (data?.name) this.#dirty.add(data.name);
    if (data?.["netdev-id"]) this.#dirty.add(data["netdev-id"]);
    this.#soon();
  }

  #only(name) {
    const nic = keyOf("nic", name);
    const netdev = keyOf("netdev", name);
    if (this.links.has(nic) === this.links.has(netdev)) {
      if (!this.links.has(nic)) this.#networkDirty = true;
      return null; // both have that name: the answer will tell them apart
    }
    return this.links.has(nic) ? nic : netdev;
  }

  #linkChanged({ name, link, id, cause }, time) {
    this.#dirtyFrom = Math.min(this.#dirtyFrom, id);
    const key = this.#only(name);
    if (key === null) return;
    const entry = this.links.get(key);
    const held = cause.kind === "operator" ? "down" : "lowerlayerdown";
    const change = { id, name, type: entry.type, link, cause, time };
    const guest = { ...entry.guest };
    delete guest["seen-latency-us"];
    this.links.set(key, { ...entry, link, guest, operstate: link === "up" ? "up" : held, "last-change": change });
    this.#takeRecords([{ kind: "link", ...change, early: true }], true);
    this.#tell("links", [key]);
  }

  #linkSeen({ name, link, id, "latency-us": latency }) {
    this.#dirtyFrom = Math.min(this.#dirtyFrom, id);
    const key = this.#only(name);
    if (key === null) return;
    const entry = this.links.get(key);
    this.links.set(key, { ...entry, guest: { ...entry.guest, seen: link, "seen-latency-us": latency } });
    this.#tell("links", [key]);
  }

  #holdsChanged({ name, link, holds }) {
    const key = this.#only(name);
    if (key === null) return;
    this.links.set(key, { ...this.links.get(key), link, holds });
    this.#tell("links", [key]);
  }

  // -- asking ---------------------------------------------------------------------------------------------------

  #soon() {
    if (!this.#timer) this.#timer = setTimeout(() => this.#ask(), BURST_MS);
  }

  async #ask() {
    this.#timer = 0;
    if (this.#busy || !this.#qmp.isOpen) return;
    this.#busy = true;
    try {
      await Promise.all([this.#askNetwork(), this.#askJournal(), this.#askNetems()]);
    } catch (error) {
      if (error.kind !== "Disconnected") console.warn(error);
    } finally {
      this.#busy = false;
      if (this.#dirty.size || this.#networkDirty || this.#dirtyFrom < Infinity) this.#soon();
    }
  }

  async #askNetwork() {
    const names = [...this.#dirty];
    this.#dirty.clear();
    if (names.some((name) => this.keyFor(name) === null)) this.#networkDirty = true;
    if (this.#networkDirty) {
      this.#networkDirty = false;
      this.#takeTopology(await this.#qmp.execute("query-topology"));
    } else if (names.length > FEW) {
      await this.#askAll();
    } else if (names.length) {
      const wanted = new Set(names);
      for (const name of names) for (const end of this.#around(name)) wanted.add(end);
      const answers = await Promise.allSettled(
        [...wanted].map((name) => this.#qmp.execute("query-links", { name })),
      );
      if (answers.some((answer) => answer.status === "rejected")) this.#networkDirty = true; // it is gone
      this.#takeLinks(answers.flatMap((answer) => answer.value ?? []));
    }
  }

  /** The other end of a wire: a netdev's entry has its NIC's guest. */
  #around(name) {
    return ["nic", "netdev"].map((type) => this.links.get(keyOf(type, name))?.peer).filter(Boolean);
  }

  async #askAll() {
    this.#allAt = Date.now();
    const links = await this.#qmp.execute("query-links");
    const same = links.length === this.links.size && links.every((each) => this.links.has(keyOf(each.type, each.name)));
    if (!same) this.#networkDirty = true;
    this.#takeLinks(links);
  }

  async #askJournal() {
    const from = this.#dirtyFrom;
    this.#dirtyFrom = Infinity;
    if (from === Infinity) return;
    const records = await this.#qmp.execute("query-journal", { "after-id": from - 1 });
    this.#takeRecords(records, true);
  }

  async #askNetems() {
    if (!this.#netemsDirty) return;
    this.#netemsDirty = false;
    await this.refreshNetems();
  }

  /** What no event tells: guests that come and go, wires that are plugged anew. */
  async #poll() {
    if (!this.#qmp.isOpen || document.hidden || this.#busy || !this.records.length) return;
    this.#dirtyFrom = Math.min(this.#dirtyFrom, this.records.at(-1).id + 1);
    this.#soon();
    const pause = Math.max(ALL_EVERY_MS, this.links.size * 5);
    if (Date.now() - this.#allAt < pause) return;
    this.#allAt = Date.now();
    try {
      const [vnic, flaps] = await Promise.all([
        this.#qmp.execute("query-vnic"),
        this.#qmp.execute("query-flaps"),
        this.#askAll(),
      ]);
      Object.assign(this, { vnic, flaps });
      this.#tell("about");
    } catch (error) {
      if (error.kind !== "Disconnected") console.warn(error);
    }
  }

  // -- what came ------------------------------------------------------------------------------------------------

  #takeTopology({ links, clients, hubs, attachments }) {
    this.#keys = null;
    this.links = new Map(links.map((each) => [keyOf(each.type, each.name), each]));
    this.clients = new Map(clients.map((each) => [keyOf(each.type, each.name), each]));
    this.hubs = hubs;
    this.attachments = new Map(attachments.map((each) => [each.nic, each]));
    this.#tell("network");
  }

  #takeLinks(links) {
    const changed = [];
    for (const link of links) {
      const key = keyOf(link.type, link.name);
      const before = this.links.get(key);
      if (!before) this.#keys = null;
      if (!before || before.peer !== link.peer) this.#networkDirty = true;
      if (JSON.stringify(before) === JSON.stringify(link)) continue;
      this.links.set(key, link);
      changed.push(key);
    }
    if (changed.length) this.#tell("links", changed);
  }

  /** `fresh`: they tell what happened just now. */
  #takeRecords(records, fresh = false) {
    let sorted = true;
    for (const record of records) {
      const before = this.byId.get(record.id);
      if (before) {
        if (record.early) continue; // its event came after its answer
        Object.assign(before, record, { early: false });
        continue;
      }
      sorted &&= !this.records.length || this.records.at(-1).id < record.id;
      this.byId.set(record.id, record);
      this.kinds.add(record.cause?.kind ?? record.kind);
      this.records.push(record);
      if (fresh && record.name) this.#dirty.add(record.name);
      if (record.kind === "link") this.#addChange(record);
    }
    if (!sorted) {
      const order = (a, b) => a.id - b.id;
      this.records.sort(order);
      for (const changes of this.byKey.values()) changes.sort(order);
    }
    if (records.length) this.#tell("journal");
  }

  #addChange(record) {
    const key = keyOf(record.type, record.name);
    const changes = this.byKey.get(key);
    if (changes) changes.push(record);
    else this.byKey.set(key, [record]);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // -- questions ------------------------------------------------------------------------------------------------

  /** The change, what caused it, what caused that, … as far as the journal here has them. */
  chain(id) {
    const chain = [];
    for (let record = this.byId.get(id); record && !chain.includes(record); ) {
      chain.push(record);
      record = this.byId.get(record["caused-by"]);
    }
    return chain;
  }

  /** See `gapsOf`. */
  gaps() {
    if (this.#gapsFor !== this.records.length) {
      this.#gapsFor = this.records.length;
      this.#gaps = gapsOf(this.records);
    }
    return this.#gaps;
  }

  changes(key) {
    return this.byKey.get(key) ?? [];
  }

  /** NICs and then netdevs, each in the order of their names. */
  keys() {
    this.#keys ??= [...this.links.keys()].sort((a, b) => {
      const [x, y] = [this.links.get(a), this.links.get(b)];
      return x.type === y.type ? natural(x.name, y.name) : x.type === "nic" ? -1 : 1;
    });
    return this.#keys;
  }
}
