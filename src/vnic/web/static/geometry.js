// Curves between boxes. A curve is quadratic: {a, c, b} are its ends and its control point.

export const at = ({ a, c, b }, t) => ({
  x: (1 - t) * (1 - t) * a.x + 2 * t * (1 - t) * c.x + t * t * b.x,
  y: (1 - t) * (1 - t) * a.y + 2 * t * (1 - t) * c.y + t * t * b.y,
});

/** The path of the part of a curve from `t0` to `t1`. */
export function part(curve, t0, t1) {
  const { a, c, b } = curve;
  const [from, to] = [at(curve, t0), at(curve, t1)];
  const mixed = (1 - t0) * t1 + t0 * (1 - t1);
  const x = (1 - t0) * (1 - t1) * a.x + mixed * c.x + t0 * t1 * b.x;
  const y = (1 - t0) * (1 - t1) * a.y + mixed * c.y + t0 * t1 * b.y;
  return `M${n(from.x)} ${n(from.y)}Q${n(x)} ${n(y)} ${n(to.x)} ${n(to.y)}`;
}

const n = (number) => number.toFixed(1);

/** The curve from one box's middle to another's; `bend` moves its middle aside. */
export function curveBetween(p, q, bend) {
  if (p === q) {
    const w = p.width / 4;
    return { a: { x: p.x - w, y: p.y }, c: { x: p.x, y: p.y - p.height * 3 - bend }, b: { x: p.x + w, y: p.y } };
  }
  const [dx, dy] = [q.x - p.x, q.y - p.y];
  const length = Math.hypot(dx, dy) || 1;
  const c = { x: (p.x + q.x) / 2 - (dy / length) * bend * 2, y: (p.y + q.y) / 2 + (dx / length) * bend * 2 };
  return { a: p, c, b: q };
}

const inside = (box, { x, y }, margin) =>
  Math.abs(x - box.x) < box.width / 2 + margin && Math.abs(y - box.y) < box.height / 2 + margin;

/** The t at which the curve leaves `box`, which it begins in (`from` 0) or ends in (`from` 1). */
export function leaves(curve, box, from, margin = 0) {
  let [low, high] = [0, 0.5];
  for (let step = 0; step < 14; step++) {
    const middle = (low + high) / 2;
    if (inside(box, at(curve, from ? 1 - middle : middle), margin)) low = middle;
    else high = middle;
  }
  return from ? 1 - high : high;
}

/** The t that is some pixels along the curve from `t`, towards its middle. */
export function along(curve, t, pixels) {
  const step = t < 0.5 ? 0.01 : -0.01;
  let here = at(curve, t);
  for (let walked = 0; walked < pixels && t + step > 0 && t + step < 1; t += step) {
    const next = at(curve, t + step);
    walked += Math.hypot(next.x - here.x, next.y - here.y);
    here = next;
  }
  return t;
}
