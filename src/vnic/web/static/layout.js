// Places for the boxes of a graph: each connected part by stress minimization (Zheng, Pawar, Goodman: Graph Drawing by
// Stochastic Gradient Descent, 2018), then the parts in rows. The same graph always gets the same places.

const HOP = 186; // between the middles of two boxes that are joined
const GAP_X = 60;
const JOINED_GAP_X = 128;
const GAP_Y = 46;
const PART_GAP = 54;
const ROUNDS = 30;
const MOST_PAIRS = 12000;
const WIDEN = 1.16;
const FLATTEN = 0.8; // boxes are wider than high
const MOST_EXACT = 700; // boxes of one part; a larger one is laid in rows
const NEAREST = 0.05;
const LEAST_FILLED = 0.05; // of a large part's frame, by boxes; a thinner drawing is folded
const TURNS = 16;
const TRIES = 3;
const SPREADS = 40;
const MOST_TRIED = 40; // boxes of one part; a larger one is tried once
const WIDTHS = 24; // of rows of parts, that are tried

/** A generator of numbers from 0 to 1 (mulberry32): the same for each seed. */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function neighbours(count, edges) {
  const lists = Array.from({ length: count }, () => []);
  for (const [a, b] of edges) {
    if (a === b) continue;
    lists[a].push(b);
    lists[b].push(a);
  }
  return lists;
}

function partsOf(lists) {
  const seen = new Set();
  const parts = [];
  for (let start = 0; start < lists.length; start++) {
    if (seen.has(start)) continue;
    const part = [start];
    seen.add(start);
    for (const at of part) {
      for (const next of lists[at]) {
        if (!seen.has(next)) {
          seen.add(next);
          part.push(next);
        }
      }
    }
    parts.push(part);
  }
  return parts;
}

/** Hops from one box to all others of its part; `lists` are those of the part. */
function hops(start, lists) {
  const found = new Int32Array(lists.length).fill(-1);
  found[start] = 0;
  const queue = [start];
  for (const at of queue) {
    for (const next of lists[at]) {
      if (found[next] >= 0) continue;
      found[next] = found[at] + 1;
      queue.push(next);
    }
  }
  return found;
}

/** Pairs of boxes and the hops between them, [a, b, hops, a, b, hops, …]: all, or of a large part those that are near and
 * some of the others. */
function pairsOf(lists, draw) {
  const count = lists.length;
  const part = Math.min(1, MOST_PAIRS / ((count * count) / 2));
  const pairs = [];
  for (let a = 0; a < count; a++) {
    const distance = hops(a, lists);
    for (let b = 0; b < a; b++) if (distance[b] === 1 || draw() < part) pairs.push(a, b, distance[b]);
  }
  return Int32Array.from(pairs);
}

function stress(lists, seed) {
  const count = lists.length;
  const draw = random(count * 31 + seed);
  const xs = new Float64Array(count);
  const ys = new Float64Array(count);
  for (let at = 0; at < count; at++) {
    const angle = (2 * Math.PI * at) / count;
    xs[at] = Math.cos(angle) * HOP + draw() * 9;
    ys[at] = Math.sin(angle) * HOP + draw() * 9;
  }
  const pairs = pairsOf(lists, draw);
  const order = Uint32Array.from({ length: pairs.length / 3 }, (_, at) => at * 3);
  let farthest = 1;
  for (const at of order) farthest = Math.max(farthest, pairs[at + 2]);
  const first = farthest * farthest;
  const decay = Math.log(first / NEAREST) / (ROUNDS - 1);
  for (let round = 0; round < ROUNDS; round++) {
    const rate = first * Math.exp(-decay * round);
    for (let at = order.length - 1; at > 0; at--) {
      const other = Math.floor(draw() * (at + 1));
      const kept = order[at];
      order[at] = order[other];
      order[other] = kept;
    }
    for (const at of order) {
      const [a, b, distance] = [pairs[at], pairs[at + 1], pairs[at + 2]];
      const dx = xs[a] - xs[b];
      const dy = ys[a] - ys[b];
      const length = Math.sqrt(dx * dx + dy * dy) || 1;
      const move = (Math.min(1, rate / (distance * distance)) * (length - distance * HOP)) / 2 / length;
      xs[a] -= dx * move;
      ys[a] -= dy * move;
      xs[b] += dx * move;
      ys[b] += dy * move;
    }
  }
  return Array.from(xs, (x, at) => ({ x, y: ys[at] }));
}

/** `places` turned by an angle, around their middle. */
function turned(places, angle) {
  const mx = places.reduce((sum, { x }) => sum + x, 0) / places.length;
  const my = places.reduce((sum, { y }) => sum + y, 0) / places.length;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  return places.map(({ x, y }) => ({
    x: ((x - mx) * cos + (y - my) * sin) * WIDEN,
    y: ((y - my) * cos - (x - mx) * sin) * FLATTEN,
  }));
}

/** Of several tries, each turned by several angles, the one that is easiest to read: no line behind a box, few crossings,
 * and as large as the frame allows. */
function best(part, lists, own, ratio) {
  const local = new Map(part.map((node, at) => [node, at]));
  const near = part.map((node) => lists[node].map((other) => local.get(other)));
  const lines = near.flatMap((others, a) => others.filter((b) => a < b).map((b) => [a, b]));
  const joined = near.map((others) => new Set(others));
  const many = part.length > MOST_TRIED;
  let [found, least] = [null, Infinity];
  for (let seed = 1; seed <= (many ? 1 : TRIES); seed++) {
    const places = stress(near, seed);
    for (let turn = 0; turn < TURNS; turn++) {
      const now = turned(places, (2 * Math.PI * turn) / TURNS);
      if (!many) spread(now, own, joined);
      const { width, height } = extent(now, own);
      const size = Math.max(width / ratio, height);
      const cost = many ? size : size * (1 + 0.06 * crossings(lines, now) + 0.25 * hidden(lines, now, own)) + lean(now);
      if (cost < least - 1e-6) [found, least] = [now, cost];
    }
  }
  if (!many) return found;
  spread(found, own, joined);
  const { width, height } = extent(found, own);
  const filled = own.reduce((sum, box) => sum + box.width * box.height, 0) / (width * height);
  return filled < LEAST_FILLED ? folded(near, own, ratio) : found;
}

/** A long ring or chain in rows, to and fro: neighbours stay neighbours. */
function folded(near, own, ratio) {
  const order = [];
  const seen = new Set();
  const ends = near.map((_, at) => at).sort((a, b) => near[a].length - near[b].length || a - b);
  for (const start of ends) {
    const stack = [start];
    while (stack.length) {
      const at = stack.pop();
      if (seen.has(at)) continue;
      seen.add(at);
      order.push(at);
      stack.push(...near[at].filter((other) => !seen.has(other)).sort((a, b) => near[b].length - near[a].length));
    }
  }
  const width = Math.max(...own.map((box) => box.width)) + JOINED_GAP_X * 0.75;
  const height = Math.max(...own.map((box) => box.height)) + GAP_Y;
  const columns = Math.max(2, Math.round(Math.sqrt((order.length * height * ratio) / width)));
  const places = [];
  order.forEach((node, at) => {
    const row = Math.floor(at / columns);
    const column = row % 2 ? columns - 1 - (at % columns) : at % columns;
    places[node] = { x: column * width, y: row * height };
  });
  return places;
}

/** A little for drawings whose first box is not at the left and the top. */
const lean = ([{ x, y }]) => (x + y > 0 ? 8 : 0);

const side = (p, q, r) => Math.sign((q.x - p.x) * (r.y - p.y) - (q.y - p.y) * (r.x - p.x));

function crossings(lines, places) {
  let count = 0;
  lines.forEach(([a, b], at) => {
    for (const [c, d] of lines.slice(0, at)) {
      if (a === c || a === d || b === c || b === d) continue;
      const [p, q, r, s] = [places[a], places[b], places[c], places[d]];
      if (side(p, q, r) !== side(p, q, s) && side(r, s, p) !== side(r, s, q)) count++;
    }
  });
  return count;
}

/** How often a line passes behind a box that is not its own, or close to it. */
function hidden(lines, places, sizes) {
  let count = 0;
  for (const [a, b] of lines) {
    for (let step = 1; step < 12; step++) {
      const x = places[a].x + ((places[b].x - places[a].x) * step) / 12;
      const y = places[a].y + ((places[b].y - places[a].y) * step) / 12;
      places.forEach((place, at) => {
        if (at === a || at === b) return;
        const near = Math.abs(place.x - x) < sizes[at].width / 2 + 12 && Math.abs(place.y - y) < sizes[at].height / 2 + 10;
        if (near) count++;
      });
    }
  }
  return count;
}

function extent(places, sizes) {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  places.forEach(({ x, y }, at) => {
    const [w, h] = sizes ? [sizes[at].width / 2, sizes[at].height / 2] : [0, 0];
    left = Math.min(left, x - w);
    right = Math.max(right, x + w);
    top = Math.min(top, y - h);
    bottom = Math.max(bottom, y + h);
  });
  return { left, top, width: right - left, height: bottom - top };
}

/** Moves boxes apart that are too near, along the axis on which less is missing. `joined` pairs have texts between. */
function spread(places, sizes, joined) {
  const count = places.length;
  for (let round = 0; round < SPREADS; round++) {
    let moved = false;
    for (let a = 0; a < count; a++) {
      const [p, size] = [places[a], sizes[a]];
      for (let b = 0; b < a; b++) {
        const q = places[b];
        const missingY = (size.height + sizes[b].height) / 2 + GAP_Y - Math.abs(p.y - q.y);
        if (missingY <= 0.5) continue;
        const most = (size.width + sizes[b].width) / 2 + JOINED_GAP_X - Math.abs(p.x - q.x);
        if (most <= 0.5) continue;
        const missingX = joined[a].has(b) ? most : most - JOINED_GAP_X + GAP_X;
        if (missingX <= 0.5) continue;
        moved = true;
        if (missingX / 2.4 < missingY) {
          const by = (p.x < q.x ? -missingX : missingX) / 2;
          p.x += by;
          q.x -= by;
        } else {
          const by = (p.y < q.y ? -missingY : missingY) / 2;
          p.y += by;
          q.y -= by;
        }
      }
    }
    if (!moved) return;
  }
}

function inRows(part, sizes) {
  const columns = Math.ceil(Math.sqrt(part.length / 2));
  const width = Math.max(...part.map((node) => sizes[node].width)) + GAP_X;
  const height = Math.max(...part.map((node) => sizes[node].height)) + GAP_Y;
  return part.map((_, at) => ({ x: (at % columns) * width, y: Math.floor(at / columns) * height }));
}

function placed(part, lists, sizes, ratio) {
  if (part.length === 1) return [{ x: 0, y: 0 }];
  const own = part.map((node) => sizes[node]);
  if (part.length === 2) return [0, 1].map((at) => ({ x: at * ((own[0].width + own[1].width) / 2 + 84), y: 0 }));
  if (part.length > MOST_EXACT) return inRows(part, sizes);
  return best(part, lists, own, ratio);
}

/**
 * Middles of the boxes: `sizes` [{width, height}], `edges` [[a, b]] by index, and the width-to-height ratio that the
 * whole should have.
 */
export function layout(sizes, edges, ratio = 1.6) {
  const lists = neighbours(sizes.length, edges);
  const result = new Array(sizes.length);
  const boxes = partsOf(lists).map((part) => {
    const places = placed(part, lists, sizes, ratio);
    const own = part.map((node) => sizes[node]);
    return { part, places, ...extent(places, own) };
  });
  boxes.sort((a, b) => b.height - a.height || b.width - a.width);
  for (const [box, x, y] of packed(boxes, ratio)) {
    box.places.forEach((place, at) => {
      result[box.part[at]] = { x: x + place.x - box.left, y: y + place.y - box.top };
    });
  }
  return result;
}

/** [box, x, y] of each: in rows, of the width with which the whole fits the ratio best. */
function packed(boxes, ratio) {
  const widest = Math.max(...boxes.map(({ width }) => width), 0);
  const all = boxes.reduce((sum, { width }) => sum + width + PART_GAP, 0);
  let [best, least] = [[], Infinity];
  for (let at = 0; at < WIDTHS; at++) {
    const most = widest * (all / (widest || 1)) ** (at / (WIDTHS - 1)) + 1;
    const { rows, width, height } = inShelves(boxes, most);
    const needed = Math.max(width / ratio, height);
    if (needed < least) [best, least] = [rows, needed];
  }
  return best;
}

/** Parts of less height than the row stand below each other in it. */
function inShelves(boxes, most) {
  const rows = [];
  let [x, y, width, height] = [0, 0, 0, 0];
  let column = null; // {x, width, bottom}: where the last box stands
  for (const box of boxes) {
    if (column && column.bottom + PART_GAP + box.height <= y + height && box.width <= column.width + PART_GAP) {
      rows.push([box, column.x, column.bottom + PART_GAP]);
      column.bottom += PART_GAP + box.height;
      x = Math.max(x, column.x + box.width + PART_GAP);
      width = Math.max(width, column.x + box.width);
      continue;
    }
    if (x > 0 && x + box.width > most) {
      [x, y, height] = [0, y + height + PART_GAP, 0];
    }
    rows.push([box, x, y]);
    column = { x, width: box.width, bottom: y + box.height };
    height = Math.max(height, box.height);
    width = Math.max(width, x + box.width);
    x += box.width + PART_GAP;
  }
  return { rows, width, height: y + height };
}
