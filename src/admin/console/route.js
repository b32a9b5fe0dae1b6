// Why a request went where it went: the sentence, the figures it was decided by, and every attempt.

import { h } from "./dom.js";
import { ms, num, percent, usd, words } from "./format.js";

export const route = (routing) => h("div", { class: "route" },
  h("p", { class: "why" }, routing.reasoning || "It ended before a target was chosen."),
  routing.target !== "none" && h("dl", { class: "facts" },
    fact("target", routing.target), fact("model", routing.model), fact("grade", `${words(routing.complexity)} (${percent(routing.confidence)})`),
    fact("expected", ms(routing.estimated_latency_ms)), fact("took", ms(routing.actual_latency_ms)), fact("expected cost", usd(routing.estimated_cost_usd)),
    routing.budget_sensitive && fact("budget", "sensitive"), routing.resumed && fact("went on by", words(routing.resumed))),
  attempts(routing));

const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

export const attempts = ({ attempts: all }) => (all?.length > 0
  ? h("ol", { class: "attempts", "aria-label": "Attempts" }, all.map((attempt) => h("li", {},
    h("span", { class: `outcome ${attempt.outcome === "ok" ? "ok" : "bad"}` }, words(attempt.outcome)),
    h("b", {}, attempt.target),
    h("span", { class: "n" }, `first token ${ms(attempt.ttft_ms)} · ${ms(attempt.latency_ms)} · ${num(attempt.prompt_tokens)} in, ${num(attempt.completion_tokens)} out · ${usd(attempt.cost_usd)}`))))
  : null);
