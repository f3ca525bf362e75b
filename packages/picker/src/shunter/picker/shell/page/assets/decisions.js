// The last decisions as they come, and for each of them, when it is asked for, why it went where it went.

import { clock, count, find, make, percent, say, seconds, tabulate, terms } from "./dom.js";

// As many as a person scrolls through; whoever looks for an older one has its id.
const KEPT = 60;

export class Decisions {
  constructor() {
    this.list = find("#decisions ol");
    this.dialog = find("#why");
    this.items = new Map(); // by ticket, newest first
    this.paused = false;
    this.missed = [];
    this.since = 0; // wall clock less the picker's
    find("#pause").addEventListener("click", ({ target }) => {
      this.paused = !this.paused;
      target.setAttribute("aria-pressed", String(this.paused));
      say(target, this.paused ? "Go on" : "Pause");
      if (!this.paused) this.take(this.missed);
    });
    find("#find").addEventListener("submit", (event) => {
      event.preventDefault();
      const wanted = find("#wanted").value.trim();
      if (wanted) this.search(wanted);
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.list.append(make("li", { class: "empty" }, "None yet."));
  }

  /** Take some of the last ones, newest first; while paused they wait, for what does not change is not told again. */
  take(decisions) {
    this.missed = decisions;
    if (this.paused || !decisions.length) return;
    find(".empty", this.list)?.remove();
    for (const decision of [...decisions].reverse()) {
      const known = this.items.get(decision.ticket);
      if (known) this.write(known, decision);
      else {
        const item = make("li", {}, make("button", { type: "button" }, ...["at", "model", "to", "why", "end"].map((kind) => make("span", { class: kind }))));
        item.firstChild.addEventListener("click", () => this.open(item.decision));
        this.items.set(decision.ticket, item);
        this.write(item, decision);
      }
    }
    const sorted = [...this.items].sort(([, a], [, b]) => b.decision.at_s - a.decision.at_s);
    for (const [ticket, item] of sorted.slice(KEPT)) {
      this.items.delete(ticket);
      item.remove();
    }
    let next = this.list.firstChild;
    for (const [, item] of sorted.slice(0, KEPT)) {
      if (item === next) next = next.nextSibling;
      else this.list.insertBefore(item, next);
    }
  }

  write(item, decision) {
    item.decision = decision;
    const [at, model, to, why, end] = item.firstChild.children;
    say(at, clock(decision.at_s + this.since));
    say(model, decision.model ?? "no model");
    say(to, decision.refusal ? `✕ ${decision.refusal.status}` : `→ ${chosen(decision)}`);
    to.classList.toggle("refused", Boolean(decision.refusal));
    say(why, decision.refusal ? decision.refusal.message : reason(decision, decision.best));
    say(end, ending(decision.outcome));
  }

  // -- one of them ---------------------------------------------------------------------------------------------------

  /** Show a decision, and again with what has become known of it since. */
  async open(decision) {
    this.tell(decision);
    if (!decision.outcome && decision.request_id) {
      const found = await ask(decision.request_id);
      const newer = found?.find((each) => each.ticket === decision.ticket);
      if (newer && this.dialog.open && this.shown === decision.ticket) this.tell(newer);
    }
  }

  async search(request_id) {
    const found = await ask(request_id);
    if (found?.length) this.tell(found[0]);
    else this.fill("Nothing found", make("p", {}, found ? `No decision of x-request-id ${request_id} is remembered: the picker forgets old ones.` : "The picker does not answer."));
  }

  tell(decision) {
    this.shown = decision.ticket;
    const facts = make("dl");
    terms(facts, [
      ["decided at", clock(decision.at_s + this.since)],
      ["x-request-id", decision.request_id],
      ["trace", decision.trace_id],
      ["asked for", decision.model],
      ["sent as", decision.target_model === decision.model ? null : decision.target_model],
      ["by", decision.rule],
      ["pool", decision.pool],
      ["profile", decision.profile],
      ["priority", decision.priority],
      ["prompt tokens, about", count(decision.prompt_tokens)],
      ["waited", decision.waited_s === undefined ? null : seconds(decision.waited_s)],
    ]);
    const parts = [make("p", { class: "reason" }, decision.refusal ? `${decision.refusal.status}: ${decision.refusal.message}` : reason(decision, decision.best)), facts];
    if (decision.best) parts.push(...choice(decision));
    for (const [name, other] of Object.entries(decision.others ?? {})) {
      parts.push(make("h3", {}, `Profile ${name}`), make("p", {}, reason(other, other.best)), ...choice(other));
    }
    parts.push(make("h3", {}, "How it ended"), outcome(decision.outcome));
    parts.push(make("details", {}, make("summary", {}, "As JSON"), make("pre", { tabindex: "0" }, JSON.stringify(decision, null, 2))));
    this.fill(decision.refusal ? "Why it was refused" : `Why it went to ${chosen(decision)}`, ...parts);
  }

  fill(title, ...parts) {
    const close = make("button", { type: "button", class: "close", onclick: () => this.dialog.close() }, "Close");
    this.dialog.replaceChildren(make("h2", { id: "why-title" }, title), ...parts.filter(Boolean), close);
    if (!this.dialog.open) this.dialog.showModal();
  }
}

async function ask(request_id) {
  try {
    const answer = await fetch(`/debug/decisions?id=${encodeURIComponent(request_id)}`);
    return (await answer.json()).decisions;
  } catch {
    return null;
  }
}

/** Name the endpoint that was chosen; its address is told only where it is looked at. */
function chosen(decision) {
  return decision.best.find((each) => each.endpoint === decision.chosen[0])?.name ?? decision.chosen[0];
}

/** The reason, with names where it has addresses; the longest first, lest one be taken for the beginning of another. */
function reason(decision, best) {
  const longest = [...best].sort((a, b) => b.endpoint.length - a.endpoint.length);
  return longest.reduce((words, { endpoint, name }) => words.replaceAll(endpoint, () => name), decision.reason);
}

function choice(decision) {
  const names = Object.keys(decision.weights);
  const holder = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores" });
  const columns = [["endpoint"], ["address"], ["total", true], ["cached", true], ...names.map((name) => [`${name} ×${decision.weights[name]}`, true])];
  const rows = decision.best.map((each) => [
    each.name,
    each.endpoint,
    each.total === null ? "–" : each.total.toFixed(2),
    percent(each.cached),
    ...names.map((name) => (each.scores[name] ?? 0).toFixed(2)),
  ]);
  tabulate(holder, columns, rows, (at) => (at === 0 ? "chosen" : ""));
  const left = Object.entries(decision.narrowed).map(([name, before]) => `${name} met ${before}`);
  const more = decision.candidates - decision.best.length;
  const notes = [left.length ? `${left.join(", ")}; ${decision.candidates} were scored.` : null, more > 0 ? `${more} more are not shown.` : null].filter(Boolean);
  return [make("h3", {}, "Scores, 0 to 1, with their weights"), holder, notes.length ? make("p", { class: "muted" }, notes.join(" ")) : null];
}

function outcome(found) {
  if (!found) return make("p", { class: "muted" }, "It has not ended yet, or nobody tells: in the profile lean, Envoy's records do.");
  const list = make("dl");
  terms(list, [
    ["", found.complete ? "complete" : "cut short"],
    ["status", found.status],
    ["served by", found.served],
    ["first token after", found.first_token_s === null ? null : seconds(found.first_token_s)],
    ["took", found.duration_s === null ? null : seconds(found.duration_s)],
    ["prompt tokens", found.prompt_tokens],
    ["of these cached", found.cached_tokens],
    ["completion tokens", found.completion_tokens],
  ]);
  return list;
}

function ending(found) {
  if (!found) return "";
  if (found.duration_s !== null && found.duration_s !== undefined) return `${found.complete ? "" : "✕ "}${seconds(found.duration_s)}`;
  return found.complete ? "ended" : "✕ cut short";
}
