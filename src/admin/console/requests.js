// The newest requests and why each went where it went. Read anew every two seconds while it is looked at, unless it is held.

import { h, onAct, show } from "./dom.js";
import { clock, count, ms, num, usd, words } from "./format.js";
import { get } from "./net.js";
import { route } from "./route.js";

const EVERY_MS = 2000;
/** Rows drawn; the gateway keeps 256. */
const ROWS = 100;

export const requests = (root) => {
  let list = null;
  let failure = null;
  let held = false;
  let filter = { text: "", only: "all" };
  let timer = 0;

  const read = async () => {
    clearTimeout(timer);
    try {
      if (!held || list === null) list = (await get("/admin/requests")).requests;
      failure = null;
    } catch (error) {
      failure = error.message;
    }
    draw();
    if (!root.hidden) timer = setTimeout(read, EVERY_MS);
  };

  const draw = () => {
    const found = (list ?? []).filter((request) => matches(request, filter));
    show(root, h("section", { class: "panel", "aria-labelledby": "requests-title" },
      h("h2", { id: "requests-title" }, "Requests", h("small", {}, "the newest of this process; prompts and answers are never kept")),
      h("div", { class: "row" },
        h("label", { for: "find", class: "away" }, "Find"),
        h("input", { id: "find", type: "search", placeholder: "model, target, key, id", "data-act": "find", autocomplete: "off" }),
        h("label", { for: "only", class: "away" }, "Which"),
        h("select", { id: "only", "data-act": "only" }, h("option", { value: "all" }, "all"), h("option", { value: "bad" }, "not ok"), h("option", { value: "moved" }, "more than one attempt")),
        h("button", { "data-act": "hold", "aria-pressed": String(held) }, held ? "Go on" : "Hold"),
        h("span", { class: "note" }, list === null ? "" : `${count(found.length, "request")}`)),
      failure && h("p", { class: "said bad" }, failure),
      list === null && !failure ? h("p", { class: "empty" }, "Reading …") : null,
      list?.length === 0 && h("p", { class: "empty" }, "No request has ended yet. The playground can send one."),
      list?.length > 0 && h("div", { class: "requests" }, header(), found.slice(0, ROWS).map(row))));
  };

  onAct(root, { hold: () => { held = !held; draw(); } });
  onAct(root, { find: (input) => { filter = { ...filter, text: input.value.toLowerCase() }; draw(); } }, "input");
  onAct(root, { only: (select) => { filter = { ...filter, only: select.value }; draw(); } }, "change");
  return { shown: read, hidden: () => clearTimeout(timer) };
};

const matches = (request, { text, only }) => {
  if (only === "bad" && request.outcome === "ok") return false;
  if (only === "moved" && request.routing.attempts.length < 2) return false;
  const { target, model, complexity } = request.routing;
  return !text || [request.request, request.key_name, request.asked, target, model, complexity, request.outcome].some((part) => part?.toLowerCase().includes(text));
};

const header = () => h("div", { class: "request head", "aria-hidden": "true", "data-key": "head" },
  ["began", "outcome", "answered by", "grade", "tokens", "first", "took", "cost"].map((text, at) => h("span", { class: at > 3 ? "n" : "" }, text)));

const row = (request) => {
  const { routing, usage } = request;
  const cost = routing.attempts.reduce((sum, attempt) => sum + attempt.cost_usd, 0);
  const level = request.outcome === "ok" ? "ok" : request.outcome === "client_gone" ? "note" : "bad";
  return h("details", { "data-key": request.request },
    h("summary", { class: "request" },
      h("span", { class: "at" }, clock(request.at)),
      h("span", { class: `outcome ${level}` }, words(request.outcome)),
      h("span", { class: "by" }, h("b", {}, routing.model === "none" ? "–" : routing.model), h("small", {}, routing.target === "none" ? "" : routing.target, routing.attempts.length > 1 && ` · ${count(routing.attempts.length, "attempt")}`)),
      h("span", { class: "grade" }, routing.target === "none" ? "–" : words(routing.complexity)),
      h("span", { class: "n tokens" }, `${num(usage.prompt_tokens)} → ${num(usage.completion_tokens)}`),
      h("span", { class: "n first" }, ms(request.first_token_ms)),
      h("span", { class: "n took" }, ms(request.took_ms)),
      h("span", { class: "n cost" }, usd(cost))),
    h("div", { class: "more" }, request.why && h("p", { class: "said bad" }, request.why), route(routing),
      h("p", { class: "note" }, request.request, request.stream ? " · streamed" : " · in one piece", ` · asked for ${request.asked}`, request.key && ` · key ${request.key_name ?? request.key}`)));
};
