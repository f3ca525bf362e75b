// The page: one stream of news from the picker, and who is told what of it.

import { draw } from "./chart.js";
import { Decisions } from "./decisions.js";
import { clock, count, find, make, percent, say, seconds, tabulate } from "./dom.js";
import { Fleet } from "./fleet.js";

// The picker has news every second; a busy machine is late, and after a mistake of its own it waits for five.
const SILENT_MS = 8000;
const AGAIN_MS = 5000;

const SIGNS = { well: "✓", warning: "▲", critical: "✕" };
const THEMES = ["system", "light", "dark"];

const fleet = new Fleet();
const decisions = new Decisions();
let heard = null; // when, by performance.now()
let heardAt = null; // by the picker's clock

// -- the stream --------------------------------------------------------------------------------------------------------

function listen() {
  const stream = new EventSource("/events");
  const told = {
    endpoints: (endpoints) => fleet.meet(endpoints),
    load: (load) => fleet.take(load),
    state: tellState,
    history: tellHistory,
    decisions: (last) => decisions.take(last),
  };
  for (const [section, tell] of Object.entries(told)) {
    stream.addEventListener(section, (event) => {
      heard = performance.now();
      tell(JSON.parse(event.data));
      tellConnection();
    });
  }
  stream.addEventListener("error", () => {
    tellConnection();
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN_MS); // refused: a browser gives up on that
  });
}

function tellConnection() {
  const silent = heard === null ? null : performance.now() - heard;
  const live = silent !== null && silent < SILENT_MS;
  document.documentElement.dataset.live = live ? "live" : heard === null ? "" : "lost";
  say(find("#connection").lastChild, live ? "live" : heard === null ? "connecting" : `lost ${Math.round(silent / 1000)} s ago`);
  if (!live && heard !== null) {
    tellVerdict({ state: "critical", sentence: `The picker does not answer: what you see is from ${clock(heardAt)}.`, findings: [] });
  }
}

// -- what does not fit the fleet or the decisions ------------------------------------------------------------------------

function tellState(state) {
  heardAt = state.wall_s;
  decisions.since = state.wall_s - state.now_s;
  say(find("#pool"), `pool ${state.pool}`);
  tellVerdict(state.verdict);
  tellTiles(state);
  tellQueue(state);
  tellWorkers(state.workers);
  tellModels(state);
  tellLevels(state.levels);
  tellNotes(state);
}

function tellVerdict(verdict) {
  const section = find("#verdict");
  section.className = `verdict ${verdict.state}`;
  say(find(".sign", section), SIGNS[verdict.state]);
  say(find("strong", section), verdict.sentence);
  const kind = [verdict.state, ...verdict.findings.map((each) => each.alert)].join(" ");
  if (section.dataset.kind !== kind) say(find("#said"), verdict.sentence); // read aloud: not each time a figure in it changes
  section.dataset.kind = kind;
  document.title = `${SIGNS[verdict.state]} ${find("#pool").textContent} – Shunter`;
  const [first, ...others] = verdict.findings;
  const lines = [...(first?.alert ? [["", "", first.alert]] : []), ...others.map((each) => [each.severity, each.sentence, each.alert])];
  const list = find("ul", section);
  while (list.children.length > lines.length) list.lastChild.remove();
  lines.forEach(([severity, sentence, alert], at) => {
    const line = list.children[at] ?? list.appendChild(make("li", {}, make("span"), make("code")));
    line.className = severity;
    say(line.firstChild, sentence ? `${sentence} ` : "What to do: ");
    say(line.lastChild, alert ? `docs/runbook.md#${alert.toLowerCase()}` : "");
  });
}

function tellTiles(state) {
  const { recent } = state;
  const refused = Object.values(recent.refusals).reduce((sum, each) => sum + each, 0);
  const queued = state.queued ? Object.values(state.queued).reduce((sum, each) => sum + each, 0) : 0;
  tile("picks", state.picks_per_s === null ? "–" : `${count(state.picks_per_s)}/s`, `${count(state.picks)} in all`);
  tile("ttft", seconds(recent.ttft_p50_s), recent.ttft_p95_s !== null ? `median; p95 ${seconds(recent.ttft_p95_s)}` : state.bypassed === null ? "no collector tells" : "none in the last minute");
  tile("hits", percent(recent.hit_share), "of prompts' blocks");
  tile("flight", count(state.in_flight), "picked and not ended");
  tile("waiting", count(state.waiting + queued), state.queued ? `${count(queued)} in the picker's queue` : "at the model servers");
  tile("refused", count(refused), state.bypassed === null ? "in the last minute" : `${count(recent.bypassed)} went past the picker`);
}

function tile(name, figure, words) {
  const article = find(`#tile-${name}`);
  say(find("b", article), figure);
  say(find("small", article), words);
}

function tellHistory(history) {
  for (const [name, values] of Object.entries({
    picks: history.picks_per_s,
    ttft: history.ttft_p95_s,
    hits: history.hit_share,
    flight: history.in_flight,
    waiting: history.waiting,
    refused: history.refused_per_s,
  })) {
    draw(find(`#tile-${name} svg`), values);
  }
}

function tellQueue(state) {
  const holder = find("#queue");
  if (!holder.firstChild) holder.append(make("p"), make("div", { class: "bar" }, make("i")), make("div"));
  const [words, bar, table] = holder.children;
  bar.hidden = table.hidden = state.queued === null;
  if (state.queued === null) {
    say(words, "Requests do not wait in the picker: flow control is off.");
    return;
  }
  say(words, `The pool is ${percent(state.saturation)} full.`);
  bar.firstChild.style.width = `${Math.min(100, 100 * (state.saturation ?? 0))}%`;
  tabulate(table, [["priority"], ["waiting", true]], Object.entries(state.queued).sort(([a], [b]) => b - a).map(([priority, waiting]) => [priority, count(waiting)]));
}

function tellWorkers(workers) {
  const columns = [["worker"], ["state"], ["streams", true], ["ended"]];
  const rows = workers.map((each) => [
    `${each.worker} · ${each.address}`,
    each.ready ? ["✓ ready", "state-well"] : [`✕ ${each.hindrances.join(", ")}`, "state-critical"],
    count(each.streams),
    times(each.restarts) || "–",
  ]);
  tabulate(find("#workers"), columns, rows);
}

function times(counts) {
  const known = Object.entries(counts).filter(([, count]) => count);
  return known.map(([name, count]) => `${name} ×${count}`).join(", ");
}

function tellModels(state) {
  const adapters = fleet.load ? Object.values(fleet.load.adapters).flat() : [];
  const key = JSON.stringify([state.splits, adapters.toSorted()]);
  const holder = find("#models");
  if (holder.dataset.key === key) return;
  holder.dataset.key = key;
  const parts = state.splits.map(split);
  if (adapters.length) {
    const places = new Map();
    for (const name of adapters) places.set(name, (places.get(name) ?? 0) + 1);
    const chips = [...places].map(([name, endpoints]) => make("li", {}, `${name} on ${endpoints}`));
    parts.push(make("h3", {}, "Adapters that serve requests now"), make("ul", { class: "chips" }, ...chips));
  }
  holder.replaceChildren(...(parts.length ? parts : [make("p", { class: "muted" }, "No rewrite, and no adapter serves requests now.")]));
}

function split({ rule, model, shares }) {
  const all = shares.reduce((sum, share) => sum + share.requests, 0);
  const lines = shares.flatMap((share) => {
    const bar = make("div", { class: "bar" }, make("i"), make("u"));
    bar.firstChild.style.width = `${all ? (100 * share.requests) / all : 0}%`;
    bar.lastChild.style.left = `calc(${100 * share.wanted}% - 1px)`;
    const got = all ? `got ${percent(share.requests / all)} of ${count(all)}, is to get ${percent(share.wanted)}` : `is to get ${percent(share.wanted)}`;
    return [make("div", { class: "line" }, make("span", {}, share.model), make("span", { class: "muted" }, got)), bar];
  });
  return make("div", { class: "split" }, make("h3", {}, model || "any other model"), make("p", { class: "muted" }, rule), ...lines);
}

function tellLevels(levels) {
  const section = find("#levels");
  section.hidden = !levels.length;
  const rows = levels.map(({ level, signal, target, requests, good }) => {
    const share = requests ? good / requests : null;
    return [`${level} ${signal}`, fine(target), share === null ? "–" : [`${share < target ? "✕ " : ""}${fine(share)}`, share < target ? "number state-critical" : "number"], count(requests)];
  });
  tabulate(find(".scroll", section), [["level"], ["target", true], ["good", true], ["requests", true]], rows);
}

const fine = (share) => `${(100 * share).toFixed(2).replace(/\.?0+$/, "")} %`;

function tellNotes(state) {
  const notes = [
    ...Object.entries(state.reports),
    ["shadow", state.shadow.join("; ")],
    ["last change of the configuration, tried on recorded decisions", state.trial.join("; ")],
    ["reloads", times(state.reloads)],
  ].filter(([, words]) => words);
  const key = JSON.stringify(notes);
  const holder = find("#notes");
  if (holder.dataset.key === key) return;
  holder.dataset.key = key;
  holder.replaceChildren(...notes.flatMap(([name, words]) => [make("h3", {}, name), make("p", {}, words)]));
}

// -- what the reader does ------------------------------------------------------------------------------------------------

find("#config").addEventListener("toggle", async ({ target }) => {
  if (!target.open) return;
  const answer = await fetch("/debug/config").catch(() => null);
  say(find("pre", target), answer ? await answer.text() : "The picker does not answer.");
});

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say(find("#theme"), `Theme: ${theme}`);
  localStorage.setItem("theme", theme);
}

find("#theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "system";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});

setTheme(THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system");
setInterval(tellConnection, 1000);
listen();
