// Elements from values. Everything foreign becomes text, never markup: nothing here or elsewhere on the page parses HTML.

export const find = (selector, within = document) => within.querySelector(selector);

/** Make an element; children are elements, text, or null for nothing. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text, and touch nothing if it says that already. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Put terms and what they are into a list; the elements stay, so that a reader's place does. */
export function terms(list, pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  while (list.children.length > known.length) list.lastChild.remove();
  known.forEach(([term, value], at) => {
    const pair = list.children[at] ?? list.appendChild(make("div", {}, make("dt"), make("dd")));
    say(pair.firstChild, term);
    say(pair.lastChild, String(value));
  });
}

/** Fill a table: columns are [title, is it a number]; a row is a list of texts, or of [text, class]. The elements stay. */
export function tabulate(holder, columns, rows, marks = () => "") {
  const titles = columns.map(([title]) => title).join("\n");
  if (holder.dataset.titles !== titles) {
    holder.dataset.titles = titles;
    const heads = columns.map(([title, number]) => make("th", { scope: "col", class: number ? "number" : null }, title));
    holder.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody")));
  }
  const body = find("tbody", holder);
  while (body.rows.length > rows.length) body.lastChild.remove();
  rows.forEach((row, at) => {
    const line = body.rows[at] ?? body.appendChild(make("tr", {}, ...columns.map(() => make("td"))));
    line.className = marks(at);
    row.forEach((cell, column) => {
      const [text, kind] = Array.isArray(cell) ? cell : [cell, columns[column][1] ? "number" : ""];
      say(line.cells[column], text);
      line.cells[column].className = kind;
    });
  });
}

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const count = (value) => (value === null || value === undefined ? "–" : numbers.format(value));
export const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 0.9995 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(value < 10 ? 2 : 0)} s`;
}

export const clock = (wall_s) => new Date(1000 * wall_s).toLocaleTimeString("en-GB");
