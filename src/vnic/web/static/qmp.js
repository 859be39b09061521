// QMP over a WebSocket: one JSON text a message, both ways. It connects again by itself when the connection ends.

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;

/** An error that a command was answered with, or the end of the connection before its answer. */
export class QmpError extends Error {
  constructor(desc, kind = "GenericError") {
    super(desc);
    this.kind = kind;
  }
}

/**
 * Dispatches `open` when commands are taken, `event` (detail: QMP's event) and `closed` (detail: whether it was open).
 */
export class Qmp extends EventTarget {
  #url;
  #socket = null;
  #waiting = new Map();
  #lastId = 0;
  #isOpen = false;
  #pause = FIRST_PAUSE_MS;

  constructor(url) {
    super();
    this.#url = url;
  }

  get isOpen() {
    return this.#isOpen;
  }

  connect() {
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    socket.onclose = () => this.#ended();
  }

  /** The command's `return`. Rejects with a QmpError. */
  execute(command, args) {
    if (!this.#socket || this.#socket.readyState !== WebSocket.OPEN) {
      return Promise.reject(new QmpError("not connected to vnic", "Disconnected"));
    }
    const id = ++this.#lastId;
    const message = args === undefined ? { execute: command, id } : { execute: command, arguments: args, id };
    this.#socket.send(JSON.stringify(message));
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  #take(message) {
    if (message.QMP) {
      this.execute("qmp_capabilities").then(
        () => {
          this.#isOpen = true;
          this.#pause = FIRST_PAUSE_MS;
          this.dispatchEvent(new CustomEvent("open", { detail: message.QMP }));
        },
        () => this.#socket.close(),
      );
    } else if (message.event) {
      this.dispatchEvent(new CustomEvent("event", { detail: message }));
    } else {
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.error) waiting?.reject(new QmpError(message.error.desc, message.error.class));
      else waiting?.resolve(message.return);
    }
  }

  #ended() {
    const wasOpen = this.#isOpen;
    this.#isOpen = false;
    this.#socket = null;
    const left = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of left) reject(new QmpError("the connection to vnic ended", "Disconnected"));
    this.dispatchEvent(new CustomEvent("closed", { detail: wasOpen }));
    setTimeout(() => this.connect(), this.#pause);
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE_MS);
  }
}
