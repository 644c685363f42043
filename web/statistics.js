// Owns: the figures of one transport, in bounded memory.
// Must not know: where they come from, how they are shown.

const LATENCIES_MAX = 500;
const MARKS_MAX = 400;

export function createStatistics() {
  const totals = { events: 0, replayed: 0, requests: 0, sent: 0, received: 0, gaps: 0, repeats: 0 };
  const latencies_ms = [];
  // What the strip draws: arrivals, requests and outages of the last minute or so.
  const marks = { arrivals: [], requests: [], outages: [] };
  let last_id = null;
  let quantiles = { median_ms: null, p99_ms: null };
  let quantiles_stale = false;

  return {
    totals,
    marks,
    lastId: () => last_id,

    event({ id, at_ms, latency_ms, is_note, is_replay, is_measured }) {
      totals.events += 1;
      if (is_replay) totals.replayed += 1;
      last_id = id;
      push(marks.arrivals, { at_ms, latency_ms, is_note, is_replay }, MARKS_MAX);
      if (latency_ms === null || !is_measured) return;
      push(latencies_ms, latency_ms, LATENCIES_MAX);
      quantiles_stale = true;
    },

    traffic({ requests = 0, sent = 0, received = 0 }, at_ms) {
      totals.requests += requests;
      totals.sent += sent;
      totals.received += received;
      for (let i = 0; i < requests; i += 1) push(marks.requests, at_ms, MARKS_MAX);
    },

    outageBegins(at_ms) {
      if (marks.outages.at(-1)?.to_ms === Infinity) return;
      push(marks.outages, { from_ms: at_ms, to_ms: Infinity }, MARKS_MAX);
    },

    outageEnds(at_ms) {
      const outage = marks.outages.at(-1);
      if (outage?.to_ms === Infinity) outage.to_ms = at_ms;
    },

    /** Of the last 500 events that came live while the page was visible. */
    latency() {
      if (quantiles_stale) {
        const sorted = Float64Array.from(latencies_ms).sort();
        quantiles = { median_ms: nearestRank(sorted, 0.5), p99_ms: nearestRank(sorted, 0.99) };
        quantiles_stale = false;
      }
      return quantiles;
    },
  };
}

function push(list, item, length_max) {
  list.push(item);
  if (list.length > length_max) list.shift();
}

function nearestRank(sorted, quantile) {
  return sorted[Math.max(0, Math.ceil(quantile * sorted.length) - 1)];
}
