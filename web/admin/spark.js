// Owns: one small line chart. Must not know: what it shows.

const WIDTH = 240;
const HEIGHT = 44;
const SVG = 'http://www.w3.org/2000/svg';

/** A chart of the last `span` seconds; `second` draws another line over it, on the same scale. */
export function createSpark(svg, span) {
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  const paths = ['area', 'line', 'second'].map((name) => {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', name);
    svg.append(path);
    return path;
  });
  return {
    /** `points` are [second, value, other value]; a value that is null leaves a hole. */
    draw(points) {
      const now = points.at(-1)?.[0] ?? 0;
      // Few points are drawn wide apart rather than as a stroke at the edge.
      const shown = Math.min(span, Math.max(20, now - (points[0]?.[0] ?? 0)));
      const top = Math.max(1e-9, ...points.flatMap(([, first, second]) => [first ?? 0, second ?? 0]));
      const x = (at) => (WIDTH * (1 - (now - at) / shown)).toFixed(1);
      const y = (value) => (HEIGHT - 1 - (value / top) * (HEIGHT - 6)).toFixed(1);
      const line = (place) => {
        let pen = 'M';
        return points.map((point) => {
          if (point[place] === null || point[place] === undefined) {
            pen = 'M';
            return '';
          }
          const step = `${pen}${x(point[0])} ${y(point[place])}`;
          pen = 'L';
          return step;
        }).join('');
      };
      const seen = points.filter((point) => point[1] !== null && point[1] !== undefined);
      const area = seen.length < 2 ? '' : `M${x(seen[0][0])} ${HEIGHT}${seen.map((p) => `L${x(p[0])} ${y(p[1])}`).join('')}L${x(seen.at(-1)[0])} ${HEIGHT}Z`;
      paths[0].setAttribute('d', area);
      paths[1].setAttribute('d', line(1));
      paths[2].setAttribute('d', line(2));
    },
  };
}
