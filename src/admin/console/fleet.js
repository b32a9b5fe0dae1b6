// Who serves: local targets, providers with their models, and the cards as the driver describes them.

import { meter } from "./charts.js";
import { h } from "./dom.js";
import { bytes, count, ms, num, percent, span } from "./format.js";
import { serves } from "./verdict.js";

const LEVEL = { warm: "ok", cold: "note", loading: "warn", draining: "warn", degraded: "warn", backoff: "warn", down: "bad", quarantined: "bad" };

export const fleet = ({ status, cards }) => h("section", { class: "panel", "aria-labelledby": "fleet-title" },
  h("h2", { id: "fleet-title" }, "Fleet"),
  h("div", { class: "targets" },
    status.gpus.map(target),
    status.providers.map((provider) => cloud(provider, status)),
    (cards.gpus ?? []).map(card),
    system(cards)),
  status.providers.length === 0 && h("p", { class: "empty" }, "No cloud provider has a key."));

const fact = (name, value, drawing) => [h("dt", {}, name), h("dd", {}, value, drawing)];
const state = (level, word) => h("span", { class: `state ${level}` }, h("span", { class: `dot ${level}`, "aria-hidden": "true" }), word);

const target = (gpu) => {
  const { work, last_minute: lately } = gpu;
  return h("article", { class: "target", "data-key": `gpu/${gpu.name}` },
    h("header", {}, h("h3", {}, h("span", { class: "key local" }, `gpu/${gpu.name}`)), state(gpu.serving ? LEVEL[gpu.state] ?? "ok" : LEVEL[gpu.state] === "bad" ? "bad" : "warn", gpu.state)),
    h("p", { class: "note" }, gpu.model, gpu.device && ` on ${gpu.device}`, gpu.engine_pid && ` · pid ${gpu.engine_pid}`, ` · epoch ${gpu.epoch}`),
    h("dl", {},
      fact("leases", `${gpu.leases} of ${gpu.parallel}`, meter(gpu.leases / gpu.parallel, `Leases: ${gpu.leases} of ${gpu.parallel}`)),
      work.kv_total ? fact("KV cells", `${percent(work.kv_used / work.kv_total)}`, meter(work.kv_used / work.kv_total, `KV cells in use: ${num(work.kv_used)} of ${num(work.kv_total)}`)) : null,
      fact("first token", ms(lately.first_token_ms)), fact("per token", ms(lately.inter_token_ms)),
      fact("succeeds", lately.attempts ? `${percent(lately.success_ratio)} of ${num(lately.attempts)}` : "idle"),
      gpu.last_death && fact("last death", `${span(gpu.last_death.ago_ms / 1000)} ago: ${gpu.last_death.cause}`)));
};

const cloud = (provider, status) => {
  const breakers = status.breakers.filter((breaker) => breaker.target === provider.name);
  const open = breakers.filter((breaker) => breaker.state !== "passing").length;
  const [level, word] = standing(provider, open);
  return h("article", { class: "target", "data-key": `cloud/${provider.name}` },
    h("header", {}, h("h3", {}, h("span", { class: "key cloud" }, provider.name)), state(level, word)),
    h("p", { class: "note" }, provider.simulated ? "simulated · " : "", count(provider.models.length, "model"), provider.error && ` · ${provider.error}`),
    h("ul", { class: "models" }, provider.models.slice(0, 12).map((model) => {
      const breaker = breakers.find((one) => one.model === model.model);
      const bad = breaker && breaker.state !== "passing";
      const { attempts, success_ratio: good, first_token_ms: first } = model.last_minute;
      return h("li", { "data-key": model.model }, h("span", {}, model.model),
        h("span", { class: bad ? "n warn" : "n" }, bad ? breaker.state : attempts ? `${percent(good)} · ${ms(first)}` : "idle"));
    }), provider.models.length > 12 && h("li", {}, `and ${provider.models.length - 12} more`)));
};

const standing = (provider, open) => {
  if (open) return ["warn", `${open} tripped`];
  if (serves(provider)) return ["ok", "answers"];
  if (provider.reachable === null) return ["note", "not probed"];
  return provider.reachable ? ["ok", "reachable"] : ["bad", "no answer"];
};

const card = (gpu) => {
  const part = gpu.memory_total_bytes ? gpu.memory_used_bytes / gpu.memory_total_bytes : null;
  const text = `${bytes(gpu.memory_used_bytes)} of ${bytes(gpu.memory_total_bytes)}`;
  const slow = gpu.slowdown && JSON.stringify(gpu.slowdown).replaceAll(/["{}]/g, "");
  return h("article", { class: "target", "data-key": gpu.uuid },
    h("header", {}, h("h3", {}, `Card ${gpu.index}`), state(gpu.fault ? "bad" : slow ? "warn" : "ok", gpu.fault ?? (slow ? "slowed" : "healthy"))),
    h("p", { class: "note" }, gpu.name || gpu.uuid),
    h("dl", {},
      fact("memory", text, part !== null && meter(part, `Memory: ${text}`, part > 0.95 ? "warn" : "")),
      fact("at work", percent(gpu.utilization_ratio), gpu.utilization_ratio !== null && meter(gpu.utilization_ratio, `At work: ${percent(gpu.utilization_ratio)}`)),
      fact("heat", gpu.temperature_celsius === null ? "–" : `${gpu.temperature_celsius} °C${gpu.slowdown_celsius ? ` of ${gpu.slowdown_celsius}` : ""}`),
      fact("power", gpu.power_watts === null ? "–" : `${num(gpu.power_watts)} W`)));
};

const system = (cards) => {
  const { used_bytes: used, total_bytes: total } = cards.system_memory;
  if (!total) return null;
  const text = `${bytes(used)} of ${bytes(total)}`;
  return h("article", { class: "target", "data-key": "host" },
    h("header", {}, h("h3", {}, "Host"), state(cards.gpus ? "ok" : "note", cards.gpus ? count(cards.gpus.length, "card") : cards.status)),
    h("p", { class: "note" }, cards.gpus ? "as the driver says" : cards.detail),
    h("dl", {}, fact("memory", text, meter(used / total, `System memory: ${text}`, used / total > 0.95 ? "warn" : ""))));
};
