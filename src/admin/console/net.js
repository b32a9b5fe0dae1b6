// The one way to the gateway. The admin token, where one is needed, is asked for once and kept for this tab only.

import { h } from "./dom.js";

const KEY = "spillway-admin-token";

/** What the gateway said instead of what was asked for. */
export class Refused extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** A response with a status of 2xx. Throws `Refused`, or a `TypeError` if nobody answers. */
export const call = async (path, { method = "GET", json, headers = {}, signal } = {}) => {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const sent = { ...headers };
    if (token) sent.authorization = `Bearer ${token}`;
    if (json !== undefined) sent["content-type"] = "application/json";
    const body = json === undefined ? undefined : JSON.stringify(json);
    const response = await fetch(path, { method, headers: sent, body, signal, cache: "no-store", redirect: "error" });
    if (response.ok) return response;
    const refused = await refusal(response);
    if (!isAboutToken(refused)) throw refused;
    await askToken(token !== null);
  }
};

export const get = async (path, options) => (await call(path, options)).json();

const refusal = async (response) => {
  const said = await response.json().catch(() => null);
  const error = said?.error ?? {};
  return new Refused(response.status, error.message ?? `The gateway answered ${response.status}.`, error.code ?? null);
};

/** An API key that is missing or wrong is another matter: the playground shows it. */
const isAboutToken = (refused) => refused.status === 401 && refused.message.includes("admin token");

let asking = null;

/** However many calls need it, it is asked for once. */
const askToken = (wasWrong) => {
  asking ??= ask(wasWrong).finally(() => { asking = null; });
  return asking;
};

const ask = (wasWrong) => new Promise((resolve) => {
  const input = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true });
  const dialog = h("dialog", { class: "ask", "aria-labelledby": "token-title" },
    h("form", { method: "dialog" },
      h("h2", { id: "token-title" }, "Admin token"),
      h("p", {}, wasWrong ? "The gateway does not know this token." : "This gateway needs its admin token ([server] admin_token_file)."),
      h("label", { for: "token" }, "Token"), input,
      h("p", { class: "note" }, "Kept for this tab only."),
      h("div", { class: "row end" }, h("button", { class: "primary" }, "Use token"))));
  document.body.append(dialog);
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.addEventListener("close", () => {
    sessionStorage.setItem(KEY, input.value.trim());
    dialog.remove();
    resolve();
  });
  dialog.showModal();
});
