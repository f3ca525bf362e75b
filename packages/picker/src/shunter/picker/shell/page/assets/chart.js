// The small charts under the figures: the last quarter of an hour, without axes, which the figure above them is.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 38;
// Two minutes: fewer values do not fill the width.
const FEWEST = 24;

/** Draw values, oldest first, at the right end; null is a gap. */
export function draw(svg, values) {
  if (!svg.firstChild) {
    svg.setAttribute("preserveAspectRatio", "none");
    for (const kind of ["area", "line"]) svg.append(document.createElementNS(SVG, "path"));
    svg.firstChild.setAttribute("class", "area");
  }
  const end = Math.max(FEWEST, values.length) - 1;
  svg.setAttribute("viewBox", `0 0 ${end} ${HEIGHT}`);
  const top = Math.max(...values.filter((value) => value !== null), 0) || 1;
  const start = end - values.length + 1;
  let line = "";
  let area = "";
  let began = null;
  values.forEach((value, at) => {
    if (value === null) {
      if (began !== null) area += `L${start + at - 1} ${HEIGHT}L${began} ${HEIGHT}Z`;
      began = null;
      return;
    }
    const point = `${start + at} ${(HEIGHT - 2 - (HEIGHT - 8) * (value / top)).toFixed(1)}`;
    line += `${began === null ? "M" : "L"}${point}`;
    area += `${began === null ? "M" : "L"}${point}`;
    began ??= start + at;
  });
  if (began !== null) area += `L${end} ${HEIGHT}L${began} ${HEIGHT}Z`;
  svg.firstChild.setAttribute("d", area);
  svg.lastChild.setAttribute("d", line);
}
