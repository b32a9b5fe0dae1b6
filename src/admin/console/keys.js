// API keys: who may do how much. A secret is on the page once, when its key is made, until it is put away.

import { meter } from "./charts.js";
import { confirmed, h, onAct, show } from "./dom.js";
import { date, num } from "./format.js";
import { call, get } from "./net.js";

export const keys = (root, { useKey }) => {
  let listed = null;
  let fresh = null;
  // Why the keys could not be read, and why the last order was not carried out: a reading that succeeds says nothing of that.
  let failure = null;
  let refusal = null;

  const said = h("div", { role: "status" });
  const table = h("div", {});
  const form = h("form", { class: "key-form" },
    h("div", { class: "row fields" },
      field("Name", "name", { required: true, maxlength: 64, placeholder: "laptop" }),
      field("Group", "group", { maxlength: 32, placeholder: "default" }),
      field("Models", "models", { placeholder: "all; or names with commas" }),
      field("Expires in days", "days", { type: "number", min: 1, max: 3650, placeholder: "never" }),
      field("Requests a minute", "requests_per_minute", { type: "number", min: 1, placeholder: "no limit" }),
      field("Tokens a minute", "tokens_per_minute", { type: "number", min: 1, placeholder: "no limit" }),
      field("At once", "concurrency", { type: "number", min: 1, placeholder: "no limit" }),
      field("Dollars a day", "day", { inputmode: "decimal", placeholder: "no limit" }),
      field("Dollars a month", "month", { inputmode: "decimal", placeholder: "no limit" })),
    h("div", { class: "row" },
      h("label", { class: "check" }, h("input", { type: "checkbox", name: "local_only" }), "this machine only"),
      h("span", { class: "grow" }), h("button", { class: "primary" }, "Create key")));
  root.append(h("section", { class: "panel", "aria-labelledby": "keys-title" }, h("h2", { id: "keys-title" }, "API keys"), said, table),
    h("section", { class: "panel", "aria-labelledby": "new-title" }, h("h2", { id: "new-title" }, "New key"), form));

  const read = async () => {
    try {
      listed = await get("/admin/keys");
      failure = null;
    } catch (error) {
      failure = error.message;
    }
    draw();
  };

  const create = async () => {
    try {
      const response = await call("/admin/keys", { method: "POST", json: wish(new FormData(form)) });
      fresh = await response.json();
      refusal = null;
      form.reset();
    } catch (error) {
      refusal = error.message;
    }
    await read();
    said.querySelector("[data-act=copy]")?.focus();
  };

  const revoke = async ({ dataset: { id, name } }) => {
    if (!(await confirmed(`Revoke “${name}”? Whoever uses it is refused at once, for good.`, "Revoke"))) return;
    try {
      await call(`/admin/keys/${encodeURIComponent(id)}`, { method: "DELETE" });
      refusal = null;
    } catch (error) {
      refusal = `“${name}” was not revoked: ${error.message}`;
    }
    await read();
  };

  const draw = () => {
    show(said, [refusal, failure].filter(Boolean).map((why) => h("p", { class: "said bad" }, why)), fresh && secret(fresh));
    const rows = [...(listed?.data ?? [])].reverse();
    show(table, listed === null ? null : rows.length === 0 ? h("p", { class: "empty" }, "There is no key yet.")
      : h("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "keys-title" }, h("table", {},
        h("thead", {}, h("tr", {}, ["key", "state"].map((text) => h("th", { scope: "col" }, text)), ["limits a minute", "at once", "spent today", "this month", "made"].map((text) => h("th", { scope: "col", class: "n" }, text)), h("th", { scope: "col" }, h("span", { class: "away" }, "revoke")))),
        h("tbody", {}, rows.map(row)))));
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    create();
  });
  onAct(root, {
    revoke,
    copy: async (button) => {
      await navigator.clipboard?.writeText(fresh.secret).then(() => { button.textContent = "Copied"; }, () => {});
    },
    use: () => {
      useKey(fresh.secret);
      location.hash = "#playground";
    },
    away: () => {
      fresh = null;
      draw();
    },
  });
  // With every picture, until the keys could be read once: whoever came while the gateway was away is not left with nothing.
  let trying = false;
  const render = () => {
    if (listed !== null || failure === null || trying) return;
    trying = true;
    read().finally(() => { trying = false; });
  };
  return { shown: read, render };
};

const field = (text, name, attributes) => h("span", { class: "field" },
  h("label", { for: `key-${name}` }, text), h("input", { id: `key-${name}`, name, autocomplete: "off", ...attributes }));

/** What a form says → what `POST /admin/keys` takes: what is left empty is no limit. */
const wish = (given) => {
  const text = (name) => given.get(name).trim();
  const wanted = { name: text("name"), local_only: given.get("local_only") !== null };
  if (text("group")) wanted.group = text("group");
  if (text("models")) wanted.models = text("models").split(",").map((name) => name.trim()).filter(Boolean);
  if (text("days")) wanted.expires_in_s = Math.round(Number(text("days")) * 86_400);
  for (const name of ["requests_per_minute", "tokens_per_minute", "concurrency"]) if (text(name)) wanted[name] = Number(text(name));
  const budget = Object.fromEntries(["day", "month"].filter((name) => text(name)).map((name) => [name, text(name)]));
  if (Object.keys(budget).length) wanted.budget_usd = budget;
  return wanted;
};

const secret = (key) => h("div", { class: "secret", "data-key": key.id },
  h("p", {}, `The secret of “${key.name}”. It is shown this once:`), h("code", { tabindex: "0" }, key.secret),
  h("div", { class: "row" }, h("button", { class: "primary", "data-act": "copy" }, "Copy"), h("button", { "data-act": "use" }, "Use in playground"), h("button", { class: "quiet", "data-act": "away" }, "Put away")));

const row = (key) => {
  const level = { active: "ok", expired: "warn", revoked: "note" }[key.state];
  const minute = [key.requests_per_minute && `${num(key.requests_per_minute)} requests`, key.tokens_per_minute && `${num(key.tokens_per_minute)} tokens`].filter(Boolean);
  const may = [key.local_only && "local only", key.models && key.models.join(", "), key.expires_at && `until ${date(key.expires_at)}`].filter(Boolean);
  return h("tr", { "data-key": key.id },
    h("th", { scope: "row" }, key.name, h("small", {}, `${key.prefix}… · ${key.group}`), may.length > 0 && h("small", {}, may.join(" · "))),
    h("td", {}, h("span", { class: `state ${level}` }, h("span", { class: `dot ${level}`, "aria-hidden": "true" }), key.state)),
    h("td", { class: "n" }, minute.join(", ") || "–"),
    h("td", { class: "n" }, `${num(key.running)}${key.concurrency ? ` of ${num(key.concurrency)}` : ""}`),
    budget(key, "day"), budget(key, "month"),
    h("td", { class: "n" }, date(key.created_at)),
    h("td", {}, key.state === "revoked" ? null : h("button", { class: "danger small", "data-act": "revoke", "data-id": key.id, "data-name": key.name, "aria-label": `Revoke ${key.name}` }, "Revoke")));
};

const budget = (key, period) => {
  const limit = key.budget_usd[period];
  const spent = key.spent_usd?.[period] ?? "0";
  const part = limit === null ? 0 : Number(spent) / Math.max(1e-9, Number(limit));
  return h("td", { class: "n" }, limit === null ? `$${spent}` : `$${spent} of $${limit}`,
    limit !== null && meter(part, `$${spent} of $${limit}`, part >= 1 ? "bad" : part >= 0.9 ? "warn" : ""));
};
