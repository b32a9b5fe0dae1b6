// Two tables: how long answers take, and what each model was used for and cost.

import { meter } from "./charts.js";
import { h } from "./dom.js";
import { ms, nanousd, num } from "./format.js";

export const latency = (table) => h("section", { class: "panel", "aria-labelledby": "latency-title" },
  h("h2", { id: "latency-title" }, "Latency", h("small", {}, `answers of the last ${table.seconds} s`)),
  h("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "latency-title" }, h("table", {},
    h("thead", {},
      h("tr", {}, h("td", {}), h("td", {}), h("th", { colspan: 3, scope: "colgroup", class: "group" }, "first token"), h("th", { colspan: 3, scope: "colgroup", class: "group" }, "whole answer")),
      h("tr", {}, h("th", { scope: "col" }, "served"), head("n"), ["p50", "p95", "p99", "p50", "p95", "p99"].map(head))),
    h("tbody", {}, ["all", "local", "cloud"].map((where) => h("tr", { "data-key": where },
      h("th", { scope: "row" }, where === "all" ? "all" : h("span", { class: `key ${where}` }, where)),
      cell(num(table[where].answers)), quantiles(table[where].first_token_ms), quantiles(table[where].whole_ms)))))));

const quantiles = (of) => [of.p50, of.p95, of.p99].map((value) => cell(ms(value)));
const head = (text) => h("th", { scope: "col", class: "n" }, text);
const cell = (text) => h("td", { class: "n" }, text);

export const money = (ledger) => {
  const lines = Object.entries(ledger.by_model).sort(([, a], [, b]) => b.cost_nanousd - a.cost_nanousd || b.attempts - a.attempts);
  return h("section", { class: "panel", "aria-labelledby": "money-title" },
    h("h2", { id: "money-title" }, "Cost by model", h("small", {}, "since the ledger began")),
    lines.length === 0 ? h("p", { class: "empty" }, "Nothing was used yet.")
      : h("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "money-title" }, h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "model"), head("attempts"), head("in"), head("out"), head("cost"), head("saved"))),
        h("tbody", {}, lines.map(([name, line]) => row(name, line))))),
    budgets(ledger.budget));
};

const row = (name, line) => {
  const [target, ...model] = name.split("/");
  return h("tr", { "data-key": name },
    h("th", { scope: "row" }, model.join("/"), h("small", {}, target)),
    cell(num(line.attempts)), cell(num(line.prompt_tokens)), cell(num(line.completion_tokens)), cell(nanousd(line.cost_nanousd)),
    cell(line.baseline_nanousd ? nanousd(Math.max(0, line.baseline_nanousd - line.cost_nanousd)) : "–"));
};

const budgets = (budget) => {
  const limited = Object.entries(budget).filter(([, line]) => line.limit_nanousd !== null);
  return limited.map(([period, line]) => {
    const used = line.posted_nanousd + line.reserved_nanousd;
    // Of nothing there is nothing left.
    const part = line.limit_nanousd === 0 ? 1 : used / line.limit_nanousd;
    const text = `${nanousd(used)} of ${nanousd(line.limit_nanousd)}`;
    return h("div", { class: "budget", "data-key": period }, h("span", {}, `Budget, ${period}`),
      meter(part, `Budget of the ${period}: ${text}`, line.limit_nanousd === 0 ? "" : part >= 1 ? "bad" : part >= 0.9 ? "warn" : ""), h("span", { class: "n" }, text));
  });
};
