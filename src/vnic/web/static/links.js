// What the state of a link looks like: its class, its word, and the facts beside it. All views use it.

import { cause, micros } from "./format.js";

/** up, down (an operator holds this end), lower (anything else holds it). */
export function stateOf(link) {
  if (!link || link.link === "up") return "up";
  return link.operstate === "down" ? "down" : "lower";
}

/** How a guest gets its link where it cannot confirm that it saw it. */
const BLIND = {
  socket: "it sees its link by its socket, and cannot confirm it",
  hypervisor: "its hypervisor shows it the link; without a guest agent nothing confirms that it saw it",
  nothing: "its card shows no link: it cannot see it",
};

/** Whether the guest knows: seen, unseen, blind (it cannot confirm it), none (there is no guest, or no driver). */
export function seenOf(link) {
  const guest = link?.guest;
  if (guest && guest["link-shown-by"] in BLIND && guest.seen === "unknown") return "blind";
  if (!guest?.attached || !guest["driver-ok"]) return "none";
  return guest.seen === link.link ? "seen" : "unseen";
}

/** An operator's holds on this wire. */
export const pulls = (link) => (link?.holds ?? []).filter((hold) => hold.kind === "operator");

export const isPulled = (link) => pulls(link).length > 0;

/** `≈ 20ms ±2ms, loss 10%`: what is done to the frames. */
export function shortImpairments(links) {
  const texts = links.flatMap((link) => (link?.impairments ?? []).map(({ text }) => text));
  return [...new Set(texts)].map((text) => `≈ ${text.replace(/delay (\S+)/, "$1").replace(/ jitter (\S+)/, " ±$1")}`).join("; ");
}

export const holdKinds = (link) => [...new Set((link?.holds ?? []).map((hold) => hold.kind))];

/** What a drawing has room for: the holds of a link that is down, else how fast the guest saw it. */
export function shortFact(link) {
  if (!link) return "";
  if (link.link === "down") return holdKinds(link).join(" + ");
  const latency = link.guest?.["seen-latency-us"];
  if (seenOf(link) === "seen") return latency === undefined ? "" : micros(latency);
  return seenOf(link) === "unseen" ? "not seen" : "";
}

/** What the guest knows of it, as a sentence. */
export function guestText(link) {
  const guest = link.guest;
  const shownBy = guest["link-shown-by"];
  if (!guest.attached && shownBy !== "socket") return "none is attached";
  if (seenOf(link) === "blind") return BLIND[shownBy];
  if (!guest["driver-ok"]) return "attached, its driver has not started";
  const latency = guest["seen-latency-us"];
  const after = latency === undefined ? "" : `, ${micros(latency)} after the change`;
  const admin = guest["admin-down"] ? "; it has its interface down" : "";
  if (guest.seen === link.link) return `it saw ${link.link}${after}${admin}`;
  const last = guest.seen === "unknown" ? "it has read nothing yet" : `it last saw ${guest.seen}`;
  return `it has not seen ${link.link} yet: ${last}${admin}`;
}

/** One sentence on a link, for screen readers. */
export function spoken(link) {
  const holds = link.holds.map((hold) => cause(hold, hold.client)).join("; ");
  return `${link.name} ${link.link}${holds ? `, held by ${holds}` : ""}. Guest: ${guestText(link)}.`;
}
