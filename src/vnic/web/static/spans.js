// The journal as spans of time: from one change of a link to the next, and the gaps of which nothing is known.

/** {change, from, to} of each state within [from, until]. */
export function spansOf(changes, from, until, now) {
  const spans = [];
  let [low, high] = [0, changes.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (changes[middle].time < from) low = middle + 1;
    else high = middle;
  }
  for (let at = Math.max(0, low - 1); at < changes.length && changes[at].time <= until; at++) {
    spans.push({ change: changes[at], from: changes[at].time, to: changes[at + 1]?.time ?? Math.max(now, changes[at].time) });
  }
  return spans;
}

/** {from, to, text, soft}: `soft` ones are those in which links were as before (a restart with a keeper). */
export function gapsOf(records) {
  const gaps = [];
  let before = null;
  for (const record of records) {
    if (record.kind === "start" && before) {
      const from = record.details?.["previous-time"] ?? before.time;
      gaps.push({ from: Math.max(from, before.time), to: record.time, text: "vnic did not run", soft: false });
    } else if (record.kind === "restart") {
      const away = (record.details?.["away-ms"] ?? 0) / 1000;
      gaps.push({ from: record.time - away, to: record.time, text: "vnic restarted; links as before", soft: true });
    } else if (record.kind === "lost" && before) {
      gaps.push({ from: before.time, to: record.time, text: record.text, soft: false });
    }
    before = record;
  }
  return gaps;
}
