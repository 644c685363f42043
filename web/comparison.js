// Owns: the ids that each transport delivered, in order, and whether they are the same log.
// Must not know: transports, latency, the page.
//
// All readers begin at one cursor, which is the first entry of each list. Where a reader was told of a gap its list
// begins anew, with whatever comes next; readers are compared from the first id that all of them have. Until there
// is one, the answer is "comparing", not "differs": after a server's restart the readers come back one by one.

const IDS_MAX = 500;

export function createComparison(keys) {
  const readers = new Map(keys.map((key) => [key, { ids: [], seen: new Set(), is_live: false }]));
  let difference = null;

  function begin(key, cursor) {
    const reader = readers.get(key);
    reader.ids = cursor ? [cursor] : [];
    reader.seen = new Set(reader.ids);
  }

  /** Returns false where this reader had that id already. */
  function add(key, id) {
    const reader = readers.get(key);
    if (reader.seen.has(id)) {
      difference ??= `${key} delivered ${id} twice`;
      return false;
    }
    reader.ids.push(id);
    reader.seen.add(id);
    if (reader.ids.length > IDS_MAX) reader.seen.delete(reader.ids.shift());
    return true;
  }

  function gap(key) {
    begin(key, null);
    // What differed belongs to a log that is gone.
    difference = null;
  }

  function verdict() {
    if (difference) return { state: 'differs', detail: difference, compared: 0 };
    const all = [...readers.values()];
    const lists = all.map((reader) => reader.ids);
    const anchor = lists.map((ids) => ids[0]).find((id) => all.every((reader) => reader.seen.has(id)));
    if (anchor === undefined) return { state: 'comparing', compared: 0 };

    const aligned = lists.map((ids) => ids.slice(ids.indexOf(anchor)));
    const length = Math.min(...aligned.map((ids) => ids.length));
    for (let i = 0; i < length; i += 1) {
      const odd = aligned.findIndex((ids) => ids[i] !== aligned[0][i]);
      if (odd > 0) {
        difference = `${keys[odd]} has ${aligned[odd][i]} where ${keys[0]} has ${aligned[0][i]}`;
        return { state: 'differs', detail: difference, compared: i };
      }
    }
    return { state: 'same', compared: length - 1 };
  }

  /** Of the other readers that have `id`, the ids that follow it in the one that is furthest ahead; else null. */
  function aheadOf(key, id, { live_only = false } = {}) {
    let best = null;
    for (const [other, reader] of readers) {
      if (other === key || !reader.seen.has(id) || (live_only && !reader.is_live)) continue;
      const following = reader.ids.slice(reader.ids.indexOf(id) + 1);
      if (!best || following.length > best.length) best = following;
    }
    return best;
  }

  /** What `key` delivered after `after` up to `target`, held against the others. Null until one of them has it all. */
  function audit(key, after, target) {
    const upTo = (ids) => ids.slice(0, ids.indexOf(target) + 1);
    const expected_all = aheadOf(key, after);
    if (!expected_all?.includes(target) && target !== after) return null;
    const expected = upTo(expected_all ?? []);
    const { ids } = readers.get(key);
    const own = upTo(ids.slice(ids.indexOf(after) + 1));
    const lost = expected.filter((id) => !own.includes(id)).length;
    const in_order = own.length === expected.length && own.every((id, i) => id === expected[i]);
    return { events: own.length, lost, in_order };
  }

  return {
    begin,
    add,
    gap,
    verdict,
    aheadOf,
    audit,
    head: (key) => readers.get(key).ids.at(-1) ?? null,
    has: (key, id) => readers.get(key).seen.has(id),
    setLive(key, is_live) {
      readers.get(key).is_live = is_live;
    },
  };
}
