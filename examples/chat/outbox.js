// Messages on their way to the application: one after the other, again until there is an answer, kept where a reload
// finds them. Must not know what they look like.
const PAUSE_MS = 500;
const PAUSE_MAX_MS = 10_000;
const KEPT_MAX = 200;

export class Outbox {
  #name;
  #send;
  #waiting;
  #isSending = false;

  /** @param send gives true once a message is taken, false where it never will be; it throws where nobody knows. */
  constructor(name, send) {
    this.#name = name;
    this.#send = send;
    this.#waiting = JSON.parse(sessionStorage.getItem(name) ?? '[]');
    void this.#work();
  }

  get waiting() {
    return this.#waiting;
  }

  add(message) {
    if (this.#waiting.length >= KEPT_MAX) return false;
    this.#keep([...this.#waiting, message]);
    void this.#work();
    return true;
  }

  #keep(waiting) {
    this.#waiting = waiting;
    sessionStorage.setItem(this.#name, JSON.stringify(waiting));
  }

  async #work() {
    if (this.#isSending) return;
    this.#isSending = true;
    let pauseMs = PAUSE_MS;
    while (this.#waiting.length > 0) {
      try {
        await this.#send(this.#waiting[0]);
        this.#keep(this.#waiting.slice(1));
        pauseMs = PAUSE_MS;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, Math.random() * pauseMs));
        pauseMs = Math.min(PAUSE_MAX_MS, pauseMs * 2);
      }
    }
    this.#isSending = false;
  }
}
