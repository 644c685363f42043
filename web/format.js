// Owns: how figures are written.
// Must not know: whose figures they are.

const whole = new Intl.NumberFormat('en');

export function count(value) {
  return whole.format(value);
}

/** Three digits at most where it is about milliseconds: more would be noise. */
export function duration(ms) {
  if (ms === null || ms === undefined) return '–';
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${ms.toFixed(0)} ms`;
  if (ms < 99_950) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.round(ms / 60_000)} min`;
}

/** Decimal units, as on every network. */
export function bytes(value) {
  return scaled(value, 1000, ['B', 'kB', 'MB', 'GB', 'TB']);
}

/** Binary units, as memory is sold. */
export function memory(value) {
  return scaled(value, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']);
}

function scaled(value, base, units) {
  let unit = 0;
  let rest = value;
  while (rest >= base * 0.9995 && unit < units.length - 1) {
    rest /= base;
    unit += 1;
  }
  const digits = unit === 0 || rest >= 99.95 ? 0 : 1;
  return `${rest.toFixed(digits)} ${units[unit]}`;
}

/** A time since a start, to the second. */
export function uptime(seconds) {
  const days = Math.floor(seconds / 86_400);
  const clock = new Date(seconds * 1000).toISOString().slice(11, 19);
  return days > 0 ? `${days} d ${clock}` : clock;
}
