// Times and lengths of time as the verbs print them.

/** 412 µs, 3.2 ms, 4.0 s, 5 min, 3 h, 2 d. */
export function duration(seconds) {
  if (seconds < 0.001) return `${Math.max(0, Math.round(seconds * 1e6))} µs`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export const micros = (us) => duration(us / 1e6);

const two = (number) => String(number).padStart(2, "0");

/** 05:00:30.118, with the date where it is not today's. */
export function clock(time, now = Date.now() / 1000) {
  const at = new Date(time * 1000);
  const text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const exact = `${text}.${String(at.getMilliseconds()).padStart(3, "0")}`;
  return at.toDateString() === new Date(now * 1000).toDateString() ? exact : `${day(at)} ${exact}`;
}

export const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;

/** A tick of a time axis whose ticks are `step` seconds apart. */
export function tick(time, step) {
  const at = new Date(time * 1000);
  if (step >= 86400) return day(at);
  const minutes = `${two(at.getHours())}:${two(at.getMinutes())}`;
  if (step >= 60) return minutes;
  const seconds = `${minutes}:${two(at.getSeconds())}`;
  if (step >= 1) return seconds;
  const places = Math.min(6, Math.ceil(-Math.log10(step)));
  const part = String(Math.round((time - Math.floor(time)) * 10 ** places)).padStart(places, "0");
  return `:${two(at.getSeconds())}.${part}`;
}

/** `operator: set_link nic0 off (by …)`; as in `vnic why`, `by` is left out where it is vnic or the link itself. */
export function cause({ kind, text, by }, name) {
  const what = text.startsWith(kind) ? text : `${kind}: ${text}`;
  return by && by !== "vnic" && by !== name ? `${what} (by ${by})` : what;
}

/** The same of a change: a link that comes up has no hold to name. */
export function reason(change) {
  const { cause: why } = change;
  return change.link === "up" && why.kind !== "operator" && why.kind !== "created"
    ? cause({ ...why, kind: "" }, change.name).replace(/^: /, "")
    : cause(why, change.name);
}

export const shorten = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

/** Compares names as people do: eth10 after eth2. */
export const natural = new Intl.Collator("en", { numeric: true }).compare;
