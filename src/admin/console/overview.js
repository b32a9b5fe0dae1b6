// The first thing a person on call sees: is it well, what is wrong, how much goes through, how fast, where, and for how much.

import { chart, split } from "./charts.js";
import { h, show } from "./dom.js";
import { fleet } from "./fleet.js";
import { count, ms, nanousd, num, percent } from "./format.js";
import { latency, money } from "./money.js";
import { extent, gained, now, points } from "./series.js";

export const overview = (root) => ({
  render: ({ picture, samples, verdict }) => show(root, health(verdict), charts(picture, samples), figures(picture, samples),
    fleet(picture), h("div", { class: "pair" }, latency(picture.latency), money(picture.status.ledger))),
});

const health = ({ level, headline, problems }) => h("section", { class: `verdict ${level}`, "aria-label": "Health" },
  h("div", { role: "status" }, h("h2", {}, h("span", { class: `dot ${level}`, "aria-hidden": "true" }), headline)),
  problems.length > 0 && h("ul", {}, problems.map((problem) => h("li", { class: problem.level, "data-key": problem.what },
    h("b", {}, problem.what), problem.why && h("span", {}, problem.why)))));

const charts = (picture, samples) => {
  const steps = points(samples);
  const current = now(samples) ?? {};
  const common = { points: steps, window: extent(samples) };
  const requests = (current.local ?? 0) + (current.cloud ?? 0);
  const tokens = (current.tokensLocal ?? 0) + (current.tokensCloud ?? 0);
  const { running, queue, p50_ms: p50, p95_ms: p95 } = picture.sample;
  const of = [{ name: "local", value: (point) => point.local }, { name: "cloud", value: (point) => point.cloud }];
  const ofTokens = [{ name: "local", value: (point) => point.tokensLocal }, { name: "cloud", value: (point) => point.tokensCloud }];
  const ofTime = [{ name: "p50", value: (point) => point.p50 }, { name: "p95", value: (point) => point.p95 }];
  const ofWork = [{ name: "running", value: (point) => point.running }, { name: "queue", value: (point) => point.queue }];
  return h("section", { class: "charts", "aria-label": "The last ten minutes" },
    card("Answers per second", num(requests), [key("local", `local ${num(current.local ?? 0)}`), key("cloud", `cloud ${num(current.cloud ?? 0)}`)],
      chart({ ...common, layers: of, stacked: true, unit: num, label: `Answers per second over ten minutes, now ${num(requests)}` })),
    card("Tokens per second", num(tokens), [key("local", `local ${num(current.tokensLocal ?? 0)}`), key("cloud", `cloud ${num(current.tokensCloud ?? 0)}`)],
      chart({ ...common, layers: ofTokens, stacked: true, unit: num, label: `Output tokens per second over ten minutes, now ${num(tokens)}` })),
    card("Answers take", ms(p50), [key("p50", "median"), key("p95", `95 % within ${ms(p95)}`)],
      chart({ ...common, layers: ofTime, unit: ms, label: `Latency over ten minutes, now median ${ms(p50)}, 95th percentile ${ms(p95)}` })),
    card("In work", num(running), [key("running", "running"), key("queue", queue === null ? "queue unknown" : `waiting ${num(queue)}`)],
      chart({ ...common, layers: ofWork, unit: num, label: `Requests in work over ten minutes, now ${num(running)}, waiting ${num(queue)}` })));
};

const key = (name, text) => h("span", { class: `key ${name}` }, text);

const card = (title, figure, keys, drawing) => h("article", { class: "card", "data-key": title },
  h("h3", {}, title), h("p", { class: "figure" }, figure), h("p", { class: "keys" }, keys), drawing);

const figures = (picture, samples) => {
  const [local, cloud, failed, left] = ["local", "cloud", "failed", "left"].map((name) => gained(samples, name));
  const all = local + cloud + failed;
  const { ledger } = picture.status;
  const saved = Object.values(ledger.by_model).reduce((sum, line) => sum + Math.max(0, line.baseline_nanousd - line.cost_nanousd), 0);
  const share = local + cloud ? local / (local + cloud) : null;
  const text = `${num(local)} here, ${num(cloud)} in the cloud`;
  return h("section", { class: "figures", "aria-label": "Figures" },
    figure("Answered locally", percent(share), text, split(local, cloud, `Answered locally: ${percent(share)}; ${text}`)),
    figure("Failed", num(failed), all ? `${percent(failed / all)} of ${count(all, "request")} · ${num(left)} left` : "of no requests", null, failed > 0 && "bad"),
    figure("Spent", nanousd(ledger.cost_nanousd), ledger.reserved_nanousd ? `${nanousd(ledger.reserved_nanousd)} set aside` : "nothing set aside"),
    figure("Saved", nanousd(saved), saved ? "against the baseline model" : "needs a baseline_model"));
};

const figure = (title, value, note, drawing, kind) => h("article", { class: `card small ${kind || ""}`, "data-key": title },
  h("h3", {}, title), h("p", { class: "figure" }, value), drawing, h("p", { class: "note" }, note));
