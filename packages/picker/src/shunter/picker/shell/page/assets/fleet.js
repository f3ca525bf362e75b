// The fleet: a cell for each endpoint, coloured by one measure; one of them told in full; all of them as a table.

import { count, find, make, percent, say, seconds, tabulate, terms } from "./dom.js";

// Larger fleets have small cells without words; a table of more rows nobody reads.
const FEW = 48;
const ROWS = 200;
const LEVELS = 5;

const pace = (value) => (value === null ? "–" : `${count(value)}/s`);

// How to read a measure off the load, how to write it, and what is hot: a fixed end of the scale, or the fleet's highest but
// never less than `least`, lest an idle fleet glow. Where `total`, all of them together are told by their sum.
const MEASURES = {
  "queue": { read: (load, at) => load.waiting[at], write: count, total: true, least: 4 },
  "running": { read: (load, at) => load.running[at], write: count, total: true, least: 8 },
  "KV cache": { read: (load, at) => load.kv_usage[at], write: percent, top: 1 },
  "in flight": { read: (load, at) => load.in_flight[at], write: count, total: true, least: 8 },
  "picks": { read: (load, at) => load.paces?.[at] ?? null, write: pace, total: true, least: 1 },
  "prefix hits": { read: (load, at) => load.hit_share[at], write: percent, top: 1 },
  "first token": { read: (load, at) => load.ttft_s[at], write: seconds, least: 0.2 },
};

// Rates are taken over some seconds: picks of a second are a handful.
const PACE_MS = 6000;

export class Fleet {
  constructor() {
    this.heat = find("#heat");
    this.one = find("#one");
    this.measure = "in flight";
    this.cells = [];
    this.order = [];
    this.selected = null; // an authority: positions change
    this.hovered = null;
    this.past = [];
    this.makeMeasures();
    this.heat.addEventListener("keydown", (event) => this.move(event));
    this.heat.addEventListener("focusin", (event) => this.show(event.target));
    this.heat.addEventListener("pointerover", (event) => this.show(event.target.closest(".cell")));
    this.heat.addEventListener("pointerleave", () => this.show(null));
    this.heat.addEventListener("click", (event) => this.select(event.target.closest(".cell")));
    find("#rows").addEventListener("toggle", () => this.tabulate());
  }

  /** Take who exists. */
  meet(endpoints) {
    const held = this.endpoints?.authority[document.activeElement.at]; // the keyboard stays where it is
    this.endpoints = endpoints;
    this.load = null;
    this.past = [];
    const words = new Intl.Collator("en", { numeric: true });
    this.order = endpoints.name.map((_, at) => at);
    this.order.sort((a, b) => words.compare(endpoints.role[a] ?? "", endpoints.role[b] ?? "") || words.compare(endpoints.name[a], endpoints.name[b]));
    this.cells = this.order.map((at) => {
      const role = endpoints.role[at];
      const name = make("span", { class: "name" }, role && !endpoints.name[at].includes(role) ? `${endpoints.name[at]} · ${role}` : endpoints.name[at]);
      const cell = make("div", { class: "cell unknown", role: "option", tabindex: "-1", "aria-selected": "false", "aria-label": endpoints.name[at] });
      cell.append(name, make("span", { class: "value" }), make("span", { class: "mark" }));
      cell.at = at;
      return cell;
    });
    this.heat.classList.toggle("many", this.cells.length > FEW);
    this.heat.replaceChildren(...this.cells);
    const kept = this.cells.find((cell) => endpoints.authority[cell.at] === held);
    (kept ?? this.cells[0])?.setAttribute("tabindex", "0");
    kept?.focus();
    this.mark();
  }

  /** Take how they are; a load of other endpoints waits for those. */
  take(load) {
    if (!this.endpoints || load.version !== this.endpoints.version) return;
    const now = performance.now();
    this.past = this.past.filter((each) => now - each.at <= PACE_MS);
    const before = this.past[0];
    // A picker that was started again counts from zero.
    if (before) load.paces = load.picks.map((picks, at) => (1000 * Math.max(0, picks - before.picks[at])) / (now - before.at));
    this.past.push({ at: now, picks: load.picks });
    this.load = load;
    this.paint();
  }

  paint() {
    const { load } = this;
    if (!load) return;
    const { read, write, least, top } = MEASURES[this.measure];
    const values = load.picks.map((_, at) => read(load, at));
    const end = top ?? Math.max(least, ...values.filter((value) => value !== null));
    const slow = new Set(load.outlier);
    const out = new Set(load.unready);
    for (const cell of this.cells) {
      const value = values[cell.at];
      const away = load.health[cell.at];
      const lost = away === "failed" || away === "unreachable";
      const known = value !== null && !lost;
      const kinds = ["cell", known ? "" : "unknown", lost ? "away" : "", slow.has(cell.at) ? "outlier" : ""].filter(Boolean).join(" ");
      if (cell.className !== kinds) cell.className = kinds;
      const level = known ? String(Math.min(LEVELS, Math.ceil((LEVELS * value) / end))) : "";
      if (cell.dataset.heat !== level) cell.dataset.heat = level;
      say(cell.children[1], known ? write(value) : "–");
      say(cell.children[2], lost ? "✕" : slow.has(cell.at) ? "!" : out.has(cell.at) ? "◌" : "");
    }
    this.legend(write(end));
    const lost = this.heat.getElementsByClassName("away").length;
    const words = `${count(this.cells.length - out.size)} of ${count(this.cells.length)} ready`;
    say(find("#fleet-title small"), lost ? `${words}, ${count(lost)} without an answer` : words);
    this.tell();
    this.tabulate();
  }

  legend(end) {
    const scale = find("#scale");
    if (!scale.firstChild) {
      const ramp = make("div", { class: "ramp" });
      for (let level = 0; level <= LEVELS; level++) ramp.append(make("i", { class: "cell", "data-heat": level }));
      const signs = [["✕", "no answer"], ["!", "outlier"], ["◌", "not ready"]];
      const list = make("ul", {}, ...signs.map(([sign, words]) => make("li", {}, make("b", {}, sign), ` ${words}`)));
      scale.append(ramp, make("div", { class: "ends" }, make("span", {}, "0"), make("span")), list);
    }
    say(find(".ends", scale).lastChild, end);
  }

  // -- one of them ---------------------------------------------------------------------------------------------------

  at(authority) {
    return authority === null || !this.endpoints ? -1 : this.endpoints.authority.indexOf(authority);
  }

  show(cell) {
    this.hovered = cell?.classList?.contains("cell") ? this.endpoints.authority[cell.at] : null;
    if (this.hovered && cell === document.activeElement) {
      for (const each of this.heat.querySelectorAll('[tabindex="0"]')) each.setAttribute("tabindex", "-1");
      cell.setAttribute("tabindex", "0");
    }
    this.tell();
  }

  select(cell) {
    if (!cell) return;
    const authority = this.endpoints.authority[cell.at];
    this.selected = this.selected === authority ? null : authority;
    this.mark();
    this.tell();
  }

  mark() {
    for (const cell of this.cells) cell.setAttribute("aria-selected", String(this.endpoints.authority[cell.at] === this.selected));
  }

  move(event) {
    const now = this.cells.indexOf(document.activeElement);
    if (now < 0) return;
    const first = this.cells[0].offsetTop;
    const columns = this.cells.findIndex((cell) => cell.offsetTop !== first);
    const down = columns > 0 ? columns : this.cells.length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: down, ArrowUp: -down, Home: -now, End: this.cells.length - 1 - now };
    if (event.key in steps) {
      this.cells[now + steps[event.key]]?.focus();
      event.preventDefault();
    } else if (event.key === "Enter" || event.key === " ") {
      this.select(document.activeElement);
      event.preventDefault();
    } else if (event.key === "Escape") {
      this.selected = null;
      this.mark();
      this.tell();
    }
  }

  tell() {
    if (!this.load) return;
    const at = this.at(this.hovered ?? this.selected);
    const facts = at < 0 ? this.sums() : this.facts(at);
    if (!this.one.firstChild) this.one.append(make("h3"), make("dl"));
    say(this.one.firstChild, at < 0 ? "All of them; choose one to see it alone" : this.endpoints.name[at]);
    terms(this.one.lastChild, facts);
    if (at < 0) return;
    const cell = document.activeElement;
    if (cell?.at === at) cell.setAttribute("aria-label", `${this.endpoints.name[at]}: ${facts.map((pair) => pair.join(" ")).join(", ")}`);
  }

  sums() {
    return Object.entries(MEASURES).flatMap(([name, { read, write, total }]) => {
      const known = this.load.picks.map((_, at) => read(this.load, at)).filter((value) => value !== null);
      const sum = known.reduce((all, value) => all + value, 0);
      if (!known.length) return [[name, "–"]];
      return total ? [[name, write(sum)]] : [[`${name}, mean`, write(sum / known.length)], [`${name}, highest`, write(Math.max(...known))]];
    });
  }

  facts(at) {
    const { endpoints, load } = this;
    const health = load.health[at] ?? "fresh";
    return [
      ["address", endpoints.authority[at]],
      ["health", `${health}${load.unready.includes(at) ? ", not ready" : ""}${load.outlier.includes(at) ? ", outlier" : ""}`],
      ["figures are", load.age_s[at] === null ? "unknown" : `${load.age_s[at]} s old`],
      ...Object.entries(MEASURES).map(([name, { read, write }]) => [name, write(read(load, at))]),
      ["failing", percent(load.failing[at])],
      ["role", endpoints.role[at]],
      ["engine", endpoints.engine[at]],
      ["pools", endpoints.pools[at].join(", ")],
      ["adapters", (load.adapters[at] ?? []).join(", ")],
      ["last failure", load.reason[at]],
    ];
  }

  // -- all of them ---------------------------------------------------------------------------------------------------

  makeMeasures() {
    for (const name of Object.keys(MEASURES)) {
      const input = make("input", { type: "radio", name: "measure", value: name });
      input.checked = name === this.measure;
      input.addEventListener("change", () => {
        this.measure = name;
        this.paint();
      });
      find("#measures").append(make("label", {}, input, make("span", {}, name)));
    }
  }

  tabulate() {
    const { endpoints, load } = this;
    if (!load || !find("#rows").open) return;
    const { read } = MEASURES[this.measure];
    const sorted = [...this.order].sort((a, b) => (read(load, b) ?? -1) - (read(load, a) ?? -1)).slice(0, ROWS);
    const columns = [["endpoint"], ["address"], ["health"], ...Object.keys(MEASURES).map((name) => [name, true])];
    const rows = sorted.map((at) => [
      endpoints.name[at],
      endpoints.authority[at],
      load.health[at] ?? "fresh",
      ...Object.values(MEASURES).map((measure) => measure.write(measure.read(load, at))),
    ]);
    tabulate(find("#rows .scroll"), columns, rows);
  }
}
