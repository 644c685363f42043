// A TCP proxy that breaks what passes, by a seed. Its port outlives the servers behind it. Must not know HTTP.
import { createServer, connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';

/** Probabilities from 0 to 1: of a connection (`refuse`), or of each piece of data. */
export interface Faults { refuse: number; drop: number; delay: number; truncate: number; halfClose: number; swallow: number }

export const NO_FAULTS: Faults = { refuse: 0, drop: 0, delay: 0, truncate: 0, halfClose: 0, swallow: 0 };

/** mulberry32: a small generator whose whole state is one number. */
export function seeded(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class FaultProxy {
  faults: Faults = NO_FAULTS;
  targetPort = 0;
  /** Connections whose first bytes match are reset: a middlebox that knows no upgrades. */
  refuseHead: RegExp | undefined;
  /** Connections whose first bytes match get only the first `mutePasses` pieces of what comes: a middlebox that buffers without end. */
  muteHead: RegExp | undefined;
  mutePasses = 0;
  counts = { refuse: 0, drop: 0, delay: 0, truncate: 0, halfClose: 0, swallow: 0, connections: 0 };
  #random: () => number;
  #sockets = new Set<Socket>();
  #swallowed = new Set<Socket>();
  #server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));

  constructor(seed: number) {
    this.#random = seeded(seed);
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Ends every connection that there is, as a network that goes away. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Ends only those of which nothing comes through any more. */
  cutSwallowed(): void {
    for (const socket of this.#swallowed) socket.destroy();
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #hit(fault: keyof Faults): boolean {
    if (this.#random() >= this.faults[fault]) return false;
    this.counts[fault]++;
    return true;
  }

  #accept(client: Socket): void {
    this.counts.connections++;
    if (this.#hit('refuse')) return void client.on('error', () => {}).destroy();
    const server = connect({ port: this.targetPort, host: '127.0.0.1', allowHalfOpen: true });
    const state = { first: true, mute: false, passes: 0 };
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        this.#sockets.delete(socket);
        this.#swallowed.delete(socket);
        client.destroy();
        server.destroy();
      });
    }
    const pass = (from: Socket, to: Socket, back: boolean) => {
      from.on('data', (piece: Buffer) => {
        if (state.first && !back) {
          state.first = false;
          const head = piece.toString('latin1');
          if (this.refuseHead?.test(head)) return void client.destroy();
          state.mute = this.muteHead?.test(head) ?? false;
          state.passes = this.mutePasses;
        }
        if (back && (state.mute ||= this.#hit('swallow')) && state.passes-- <= 0) return void this.#swallowed.add(from);
        if (this.#hit('drop')) return void client.destroy();
        // Nothing may follow what was cut off: bytes that are missing in the middle are no fault that TCP has.
        if (this.#hit('truncate')) return void (from.pause(), to.write(piece.subarray(0, piece.length >> 1), () => client.destroy()));
        if (this.#hit('halfClose')) return void (from.pause(), to.end(piece));
        if (!this.#hit('delay')) return void to.write(piece);
        from.pause();
        setTimeout(() => (to.write(piece), from.resume()), this.#random() * 100);
      });
      from.on('end', () => to.end());
    };
    pass(client, server, false);
    pass(server, client, true);
  }
}
