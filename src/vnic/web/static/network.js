// The network as a graph: boxes for VMs, netdevs, hubs and far hosts; lines for wires and cables.

import { keyOf } from "./store.js";
import { natural } from "./format.js";

/** `a.eth1` of a lab and `vm1/net0` of an adopted VM are interfaces of the boxes `a` and `vm1`; `virtio-net.0` is none. */
export function splitName(name) {
  const slash = name.indexOf("/");
  if (slash > 0) return { vm: name.slice(0, slash), port: name.slice(slash + 1), adopted: true };
  const dot = name.indexOf(".");
  const port = name.slice(dot + 1);
  return dot > 0 && !/^\d+$/.test(port) ? { vm: name.slice(0, dot), port } : { vm: name, port: "" };
}

function facts(info) {
  const found = {};
  for (const part of (info ?? "").split(",")) {
    const at = part.indexOf("=");
    if (at > 0) found[part.slice(0, at)] = part.slice(at + 1);
  }
  return found;
}

/** What a netdev leads to, in a few words. */
function netdevText({ model, info }) {
  const text = info[0] ?? "";
  const { ifname, netns, remote, vni, path, ip } = facts(text);
  if (ifname) return netns ? `${model} ${ifname} in ${netns}` : `${model} ${ifname}`;
  if (remote) return vni ? `${model} ${remote}, vni ${vni}` : `${model} ${remote}`;
  if (model === "echo" && ip) return `${model} ${ip}`;
  if (path) return `${model} ${path}`;
  return text && !text.includes("=") ? `${model}, ${text}` : model;
}

/** The host at the far end of a tunnel, without the port. */
const farHost = (remote) => remote.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");

/**
 * {nodes, edges}. A node has `id`, `kind` (vm, netdev, hub, host), `title`, `text` and `keys`, the links that it stands
 * for. An edge has `id`, `cable`? and two `ends`: {`node`, `key`: the link whose state it shows, `pull`: the name to
 * set, `label`}. An end without `key` only leads somewhere.
 */
export function graphOf(store) {
  const nodes = new Map();
  const edges = [];
  const node = (id, kind, title, text) => {
    if (!nodes.has(id)) nodes.set(id, { id, kind, title, text, keys: [] });
    return nodes.get(id);
  };
  const clients = [...store.clients.values()].sort((a, b) => natural(a.name, b.name));
  const netdevs = new Map(clients.filter((each) => each.type === "netdev").map((each) => [each.name, each]));
  const plugged = new Map(); // the end that is plugged into a netdev
  for (const client of clients) {
    if (client.type !== "nic") continue;
    const { vm, port, adopted } = splitName(client.name);
    const box = node(`vm ${vm}`, "vm", vm, client.model);
    box.adopted ||= Boolean(adopted);
    const key = keyOf("nic", client.name);
    box.keys.push(key);
    const end = { node: box.id, key, pull: client.name, label: port };
    if (client.peer?.type === "netdev") plugged.set(client.peer.name, end);
    else edges.push({ id: key, ends: [end, ownNetdev(node, store.link(key))] });
  }
  for (const box of nodes.values()) {
    if (box.keys.length > 1) box.text = `${box.keys.length} NICs, ${box.text}`;
  }
  const hubOf = new Map(store.hubs.flatMap(({ id, ports }) => ports.map((port) => [port, id])));
  const cables = new Map();
  const leaf = (netdev) => {
    const box = node(`netdev ${netdev.name}`, "netdev", netdev.name, netdevText(netdev));
    if (!box.keys.length) box.keys.push(keyOf("netdev", netdev.name));
    return box.id;
  };
  const placed = new Set();
  for (const netdev of netdevs.values()) {
    const info = netdev.info[0] ?? "";
    const key = keyOf("netdev", netdev.name);
    const bare = () => ({ node: leaf(netdev), key, pull: netdev.name, label: "" });
    let end = plugged.get(netdev.name);
    const { cable, remote } = facts(info);
    if (netdev.model === "cable" && cable) {
      const hub = netdev.peer && hubOf.get(netdev.peer.name);
      if (!end && hub !== undefined) end = { node: hubNode(node, hub), key, pull: netdev.name, label: netdev.name };
      const ends = cables.get(cable) ?? [];
      cables.set(cable, [...ends, end ?? bare()]);
    } else if (netdev.model === "hubport") {
      const hub = { node: hubNode(node, hubOf.get(netdev.name) ?? "?"), label: "" };
      if (!end && netdev.peer) {
        const peer = netdevs.get(netdev.peer.name);
        if (peer?.model === "cable") continue; // drawn with the cable
        end = { node: peer ? leaf(peer) : hub.node, key, pull: netdev.name, label: "" };
        if (peer) placed.add(peer.name);
      }
      if (!end) continue;
      nodes.get(hub.node).keys.push(end.key);
      edges.push({ id: key, ends: [end, { ...hub, label: end.key === key ? "" : netdev.name }] });
    } else if (netdev.model === "tunnel" && remote) {
      const host = node(`host ${farHost(remote)}`, "host", farHost(remote), "far host");
      host.keys.push(key);
      edges.push({ id: key, ends: [end ?? bare(), { node: host.id, label: netdev.name }], text: netdevText(netdev) });
    } else if (end) {
      edges.push({ id: key, ends: [end, { node: leaf(netdev), label: "" }] });
    } else if (!netdev.peer && !placed.has(netdev.name)) {
      leaf(netdev);
    }
  }
  for (const [cable, ends] of cables) edges.push({ id: `cable ${cable}`, cable, ends: [ends[0], ends[1] ?? null] });
  return { nodes: [...nodes.values()], edges };
}

/** What an adopted VM itself has its NIC plugged into. */
function ownNetdev(node, link) {
  if (!link?.vm) return null;
  const box = node(`own ${link.name}`, "netdev", link.vm.netdev ?? "netdev", "of the VM itself");
  box.keys.push(keyOf("nic", link.name));
  return { node: box.id, label: "" };
}

function hubNode(node, id) {
  return node(`hub ${id}`, "hub", `hub ${id}`, "").id;
}

/** The far end of this link's cable, if it has one. */
export function otherEnd(graph, key) {
  const edge = graph.edges.find(({ cable, ends }) => cable && ends.some((end) => end?.key === key));
  return edge?.ends.find((end) => end && end.key !== key)?.key ?? null;
}

/** Equal for graphs that are drawn alike, whatever the state of their links. */
export function signature({ nodes, edges }) {
  return JSON.stringify([
    nodes.map(({ id, title, text }) => [id, title, text]),
    edges.map(({ id, ends }) => [id, ends.map((end) => end && [end.node, end.key, end.label])]),
  ]);
}
