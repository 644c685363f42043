// Owns: one transport's run: its state, the cut and the resume, and what counts as live, replayed or repeated.
// Must not know: how the transport works, how anything is shown.

import * as clock from './clock.js';

const CUT_MS = 5000;
const VERIFY_AFTER_MS = 1500;
const AUDIT_MS_MAX = 15_000;
const SETTLE_MS = 500;
// A transport that stays silent while the others deliver is connected to nothing: it is opened anew.
const SILENCE_MS_MAX = 10_000;
const BEHIND_MAX = 5;

/**
 * States: connecting, live, cut, reconnecting, resuming, refused. `hears(event)` says which events are compared;
 * `onDelivery` gets each of those that is new to this column.
 */
export function createColumn({ key, transport, comparison, statistics, hears, onDelivery }) {
  let state = 'connecting';
  let detail = '';
  let cut_until_ms = 0;
  let cut_timer = null;
  let cursor = null;
  let last_arrival_ms = 0;
  // While an interruption is being made good: { after, repeats, opened_ms, target }: the last id before it, the
  // repeats counted by then, when the connection was back, and the id up to which things were missed.
  let resume = null;
  let outcome = null;
  // What comes right after the first opening or a gap had been waiting for us, and says nothing about latency.
  let settled_ms = Infinity;

  function enter(next, text = '') {
    state = next;
    detail = text;
    comparison.setLive(key, next === 'live');
  }

  function begin(since) {
    cursor = null;
    last_arrival_ms = performance.now();
    transport.start({ since, onEvent, onGap, onState, onTraffic });
  }

  function interrupt() {
    statistics.outageBegins(clock.now());
    const { repeats } = statistics.totals;
    // A second interruption before the first was made good belongs to it: what was missed counts from the first.
    resume ??= { after: comparison.head(key), repeats };
    resume.opened_ms = resume.target = null;
  }

  function onState(reported, text) {
    if (reported === 'open') {
      if (settled_ms === Infinity) settled_ms = performance.now() + SETTLE_MS;
      if (state === 'reconnecting' || state === 'resuming') opened();
      else enter('live');
    } else if (reported === 'refused') {
      if (state === 'live' || state === 'resuming') interrupt();
      enter('refused', text);
    } else {
      if (state === 'live' || state === 'resuming') interrupt();
      enter(state === 'connecting' ? 'connecting' : 'reconnecting', text);
    }
  }

  function opened() {
    enter('resuming');
    if (!resume || resume.opened_ms !== null) return;
    statistics.outageEnds(clock.now());
    resume.opened_ms = performance.now();
    // What the others have by now is what this one missed. Where all were cut at once nobody knows yet; tick() does.
    const missed = comparison.aheadOf(key, resume.after, { live_only: true });
    resume.target = missed ? (missed.at(-1) ?? resume.after) : null;
    settle();
  }

  /** Ends the resuming when everything that was missed is here, and says how that went. */
  function settle() {
    if (!resume || resume.opened_ms === null || resume.target === null) return;
    if (!comparison.has(key, resume.target)) return;
    if (state === 'resuming') enter('live');
    const audit = comparison.audit(key, resume.after, resume.target);
    if (!audit) return;
    outcome = { ...audit, repeated: statistics.totals.repeats - resume.repeats, gap: false };
    resume = null;
  }

  function onEvent(event) {
    const at_ms = clock.now();
    last_arrival_ms = performance.now();
    if (!hears(event)) return;
    // Reading goes on only after `open`; a transport that delivers has therefore told of it.
    const is_replay = state === 'resuming';
    if (!comparison.add(key, event.id)) {
      statistics.totals.repeats += 1;
      return;
    }
    const sent_ms = event.data?.sent_ms;
    const latency_ms = Number.isFinite(sent_ms) ? clock.latencySince(sent_ms) : null;
    const is_measured = !is_replay && last_arrival_ms > settled_ms && clock.isAttentive();
    statistics.event({ id: event.id, at_ms, latency_ms, is_note: event.name === 'note', is_replay, is_measured });
    onDelivery(event, { latency_ms, is_replay });
    settle();
  }

  function onGap() {
    statistics.totals.gaps += 1;
    comparison.gap(key);
    outcome = { gap: true };
    resume = null;
    // tick() ends it.
    settled_ms = performance.now() + SETTLE_MS;
    enter('resuming');
  }

  function onTraffic(traffic) {
    statistics.traffic(traffic, clock.now());
  }

  function reopen() {
    enter('reconnecting');
    begin(cursor);
  }

  return {
    key,
    statistics,
    snapshot: () => ({ state, detail, outcome, cut_left_ms: Math.max(0, cut_until_ms - performance.now()) }),

    start(since) {
      comparison.begin(key, since);
      begin(since);
    },

    /** Closes the connection for real, and goes on from the last position after five seconds. */
    cut() {
      if (state === 'cut') return;
      if (state === 'refused') {
        cursor = transport.stop();
        return reopen();
      }
      interrupt();
      cursor = transport.stop();
      outcome = null;
      cut_until_ms = performance.now() + CUT_MS;
      enter('cut');
      cut_timer = setTimeout(reopen, CUT_MS);
    },

    /** To be called about once a second. */
    tick() {
      const at_ms = performance.now();
      if (resume?.opened_ms && resume.target === null && at_ms - resume.opened_ms > VERIFY_AFTER_MS) {
        resume.target = comparison.head(key);
      }
      settle();
      // Missed more than anybody here remembers: nothing is left to hold it against.
      if (resume?.opened_ms && at_ms - resume.opened_ms > AUDIT_MS_MAX) resume = null;
      if (!resume && state === 'resuming' && at_ms > settled_ms) enter('live');
      const behind = comparison.aheadOf(key, comparison.head(key))?.length ?? 0;
      const is_open = state === 'live' || state === 'resuming';
      if (is_open && clock.isAttentive() && behind >= BEHIND_MAX && at_ms - last_arrival_ms > SILENCE_MS_MAX) {
        interrupt();
        cursor = transport.stop();
        reopen();
      }
    },

    /** For a page that is going away. */
    stop() {
      clearTimeout(cut_timer);
      transport.stop();
    },
  };
}
