// Web Locks within one process, with tabs that can die: what they hold goes to the next in line.
interface Asked { name: string; tab: string; shared: boolean; grant: () => void; lose: (why: Error) => void; held: boolean }

export class Locks {
  #asked: Asked[] = [];

  /** What `navigator.locks` is for one tab. */
  of(tab: string): Pick<LockManager, 'request'> {
    const request = (name: string, options: LockOptions, callback: (lock: Lock | null) => unknown): Promise<unknown> => new Promise((resolve, reject) => {
      const asked: Asked = {
        name, tab, shared: options.mode === 'shared', held: false, lose: reject,
        grant: () => {
          asked.held = true;
          void Promise.resolve(callback(null)).then((result) => {
            this.#leave((each) => each === asked);
            resolve(result);
          });
        },
      };
      if (options.steal) {
        const holders = this.#asked.filter((each) => each.name === name && each.held);
        this.#asked = [asked, ...this.#asked.filter((each) => !holders.includes(each))];
        for (const { lose } of holders) lose(new DOMException('stolen', 'AbortError'));
      } else this.#asked.push(asked);
      options.signal?.addEventListener('abort', () => {
        if (asked.held) return;
        this.#leave((each) => each === asked);
        reject(new DOMException('aborted', 'AbortError'));
      });
      this.#grant();
    });
    return { request: request as LockManager['request'] };
  }

  /** The tab is gone, and does not even learn of it. */
  kill(tab: string): void {
    this.#leave((each) => each.tab === tab);
  }

  #leave(who: (asked: Asked) => boolean): void {
    this.#asked = this.#asked.filter((each) => !who(each));
    this.#grant();
  }

  #grant(): void {
    for (const [at, asked] of this.#asked.entries()) {
      const before = this.#asked.slice(0, at).filter(({ name }) => name === asked.name);
      if (!asked.held && before.every((each) => asked.shared && each.shared)) queueMicrotask(() => !asked.held && this.#asked.includes(asked) && asked.grant());
    }
  }
}
