// Moves and scales a drawing: wheel, drag, pinch, and the buttons. What lies beneath decides about clicks.

const LEAST = 0.08;
const MOST = 3;
const MARGIN = { left: 24, top: 18, right: 52, bottom: 40 }; // room for the buttons and the legend
const DRAG_PX = 5;
const EDGE = 20; // what is nearer to an edge than this is not in view

export class Viewport {
  /** `layer` is the group in `frame` (an <svg>) that is moved. `changed(scale)` is called after each move. */
  constructor(frame, layer, changed) {
    this.frame = frame;
    this.layer = layer;
    this.changed = changed;
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.fitted = true; // nobody has moved it: it fits itself anew when the window changes
    this.dragged = false; // the press that ends now was a drag, and so its click is none
    this.bounds = null;
    this.pointers = new Map();
    frame.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    frame.addEventListener("pointerdown", (event) => this.#down(event));
    frame.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      frame.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    new ResizeObserver(() => this.fitted && this.fit()).observe(frame);
  }

  #apply() {
    this.layer.setAttribute("transform", `translate(${this.x} ${this.y}) scale(${this.scale})`);
    this.changed(this.scale);
  }

  fit(bounds = this.bounds) {
    this.bounds = bounds;
    const { width, height } = this.frame.getBoundingClientRect();
    if (!bounds || !width) return;
    this.fitted = true;
    const [w, h] = [width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom];
    this.scale = Math.max(LEAST, Math.min(1.15, w / bounds.width, h / bounds.height));
    this.x = MARGIN.left + w / 2 - (bounds.x + bounds.width / 2) * this.scale;
    this.y = MARGIN.top + h / 2 - (bounds.y + bounds.height / 2) * this.scale;
    this.#apply();
  }

  zoom(factor, at) {
    const { width, height } = this.frame.getBoundingClientRect();
    const point = at ?? { x: width / 2, y: height / 2 };
    const scale = Math.max(LEAST, Math.min(MOST, this.scale * factor));
    this.x = point.x - ((point.x - this.x) * scale) / this.scale;
    this.y = point.y - ((point.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.#apply();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.#apply();
  }

  /** Bring a point of the drawing into view. */
  show({ x, y }) {
    const { width, height } = this.frame.getBoundingClientRect();
    const [px, py] = [x * this.scale + this.x, y * this.scale + this.y];
    if (px < EDGE || py < EDGE || px > width - EDGE || py > height - EDGE) this.pan(width / 2 - px, height / 2 - py);
  }

  #wheel(event) {
    event.preventDefault();
    const { left, top } = this.frame.getBoundingClientRect();
    const speed = event.deltaMode ? 0.05 : 0.0018;
    this.zoom(Math.exp(-event.deltaY * speed), { x: event.clientX - left, y: event.clientY - top });
  }

  #down(event) {
    if (event.button) return;
    if (!this.pointers.size) this.dragged = false;
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, startX: event.clientX, startY: event.clientY });
  }

  #move(event) {
    const pointer = this.pointers.get(event.pointerId);
    if (!pointer) return;
    if (!event.buttons) {
      this.pointers.delete(event.pointerId); // it was released outside
      return;
    }
    const far = Math.hypot(event.clientX - pointer.startX, event.clientY - pointer.startY);
    if (!this.dragged && far < DRAG_PX) return;
    if (!this.dragged) this.frame.setPointerCapture(event.pointerId);
    this.dragged = true;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, other]) => other);
    if (others.length) {
      const [other] = others;
      const before = Math.hypot(pointer.x - other.x, pointer.y - other.y);
      const now = Math.hypot(event.clientX - other.x, event.clientY - other.y);
      const { left, top } = this.frame.getBoundingClientRect();
      if (before) this.zoom(now / before, { x: other.x - left, y: other.y - top });
    } else {
      this.pan(event.clientX - pointer.x, event.clientY - pointer.y);
    }
    Object.assign(pointer, { x: event.clientX, y: event.clientY });
  }
}
