// An event stream's text, piece by piece, into events, by the rules of the HTML standard. Pure. Keeps what
// `EventSource` hides and the session needs: heartbeats, and an `id` that comes without data.

export interface SseEvent { name: string; data: string; id: string }

export class SseParser {
  #rest = '';
  #name = '';
  #data: string[] = [];
  #size = 0;
  #id = '';

  /** `quiet` gets a new position where no event came with it, or '' for a heartbeat. A longer event than `sizeMax` throws. */
  constructor(
    readonly sizeMax: number,
    readonly event: (event: SseEvent) => void,
    readonly quiet: (id: string) => void,
  ) {}

  push(piece: string): void {
    const text = this.#rest + piece;
    const line = /\r\n|\n|\r(?!$)/g;
    let start = 0;
    for (let end = line.exec(text); end; end = line.exec(text)) {
      this.#line(text.slice(start, end.index));
      start = line.lastIndex;
    }
    this.#rest = text.slice(start);
    if (this.#rest.length + this.#size > this.sizeMax) throw new RangeError(`an event of the stream is longer than ${this.sizeMax} characters`);
  }

  #line(line: string): void {
    if (line === '') return this.#dispatch();
    const colon = line.indexOf(':');
    if (colon === 0) return this.quiet('');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
    if (field === 'event') this.#name = value;
    else if (field === 'id' && !value.includes('\0')) this.#id = value;
    else if (field === 'data') {
      this.#data.push(value);
      this.#size += value.length;
    }
  }

  #dispatch(): void {
    const [name, data] = [this.#name, this.#data.join('\n')];
    const empty = this.#data.length === 0;
    this.#name = '';
    this.#data = [];
    this.#size = 0;
    if (empty) this.quiet(this.#id);
    else this.event({ name, data, id: this.#id });
  }
}
