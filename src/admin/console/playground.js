// A chat with the gateway through its own routes, streamed, with the route of every answer.

import { chat } from "./chat.js";
import { h, onAct, show } from "./dom.js";
import { ms, num } from "./format.js";
import { get } from "./net.js";
import { route } from "./route.js";

export const playground = (root) => {
  const turns = [];
  let running = null;
  let explained = null;

  const log = h("div", { class: "turns", role: "log", "aria-live": "polite", "aria-label": "Conversation" });
  const aside = h("div", { class: "explained", role: "status" });
  const models = h("select", { id: "model", name: "model" });
  const form = h("form", { class: "ask-form" },
    h("label", { for: "prompt" }, "Message"),
    h("textarea", { id: "prompt", name: "prompt", rows: 3, required: true, placeholder: "Say hello", "aria-describedby": "prompt-hint" }),
    h("p", { class: "note", id: "prompt-hint" }, "Enter sends, Shift + Enter begins a new line."),
    h("div", { class: "row fields" },
      field("Model", "model", models),
      field("Most tokens", "max", h("input", { id: "max", name: "max", type: "number", min: 1, max: 32768, value: 256 })),
      field("Temperature", "heat", h("input", { id: "heat", name: "heat", type: "number", min: 0, max: 2, step: 0.1, placeholder: "default" })),
      field("API key", "key", h("input", { id: "key", name: "key", type: "password", autocomplete: "off", placeholder: "if keys are required" }))),
    h("div", { class: "row" },
      h("label", { class: "check" }, h("input", { type: "checkbox", name: "local_only" }), "local only"),
      h("label", { class: "check" }, h("input", { type: "checkbox", name: "budget_sensitive" }), "budget sensitive"),
      h("span", { class: "grow" }),
      h("button", { type: "button", class: "quiet", "data-act": "clear" }, "Start over"),
      h("button", { type: "button", "data-act": "explain" }, "Explain only"),
      h("button", { type: "button", "data-act": "stop", hidden: true }, "Stop"),
      h("button", { class: "primary", "data-act": "send" }, "Send")));
  root.append(h("section", { class: "panel", "aria-labelledby": "play-title" },
    h("h2", { id: "play-title" }, "Playground", h("small", {}, "real requests, billed like any other")), log, form, aside));

  const wanted = () => {
    const given = new FormData(form);
    const body = { model: given.get("model"), max_tokens: Number(given.get("max")) || 256 };
    if (given.get("heat") !== "") body.temperature = Number(given.get("heat"));
    for (const name of ["local_only", "budget_sensitive"]) if (given.get(name)) body[name] = true;
    const said = turns.filter((turn) => turn.text).map(({ role, text }) => ({ role, content: text }));
    const prompt = given.get("prompt").trim();
    return { prompt, key: given.get("key").trim(), body: { ...body, messages: [...said, { role: "user", content: prompt }] } };
  };

  const send = async () => {
    const { prompt, key, body } = wanted();
    if (running || !prompt) return;
    const answer = { role: "assistant", text: "", began: performance.now(), first: null, routing: null, error: null };
    turns.push({ role: "user", text: prompt }, answer);
    running = new AbortController();
    explained = null;
    form.elements.prompt.value = "";
    draw();
    try {
      for await (const step of chat(body, { signal: running.signal, key })) {
        if (step.head) answer.head = step.head;
        if (step.text) {
          answer.first ??= performance.now() - answer.began;
          answer.text += step.text;
        }
        if (step.routing) Object.assign(answer, { routing: step.routing, usage: step.usage });
        draw();
      }
    } catch (error) {
      answer.error = error.name === "AbortError" ? "Stopped." : error.message;
    }
    answer.took = performance.now() - answer.began;
    running = null;
    draw();
    form.elements.prompt.focus();
  };

  const explain = async () => {
    const { prompt, key, body } = wanted();
    if (!prompt) return form.elements.prompt.focus();
    const headers = key ? { "x-api-key": key } : {};
    try {
      explained = { said: await get("/admin/playground/route", { method: "POST", json: body, headers }) };
    } catch (error) {
      explained = { error: error.message };
    }
    return draw();
  };

  const draw = () => {
    show(log, turns.map((turn, at) => h("article", { class: `turn ${turn.role}`, "data-key": at },
      h("h3", {}, turn.role === "user" ? "You" : turn.head ? `${turn.head.target}${turn.head.simulated && turn.head.target !== "simulated" ? " (simulated)" : ""}` : "…"),
      h("p", { class: turn === turns.at(-1) && running ? "text typing" : "text" }, turn.text),
      turn.error && h("p", { class: "said bad" }, turn.error),
      turn.routing && h("details", { class: "explained", open: true }, h("summary", {}, measured(turn)), route(turn.routing)))));
    show(aside, explained && explanation(explained));
    form.querySelector("[data-act=stop]").hidden = !running;
    form.querySelector("[data-act=send]").disabled = running !== null;
    if (running) log.lastElementChild?.scrollIntoView({ block: "nearest" });
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  form.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  onAct(form, {
    explain,
    stop: () => running?.abort(),
    clear: () => {
      running?.abort();
      turns.length = 0;
      explained = null;
      draw();
    },
  });
  return {
    render: ({ picture: { status } }) => {
      const here = status.gpus.map((gpu) => gpu.model);
      const away = status.providers.flatMap((provider) => provider.models.map((model) => model.model));
      const names = ["auto", "local", ...new Set([...here, ...away])];
      show(models, names.map((name) => h("option", { value: name, "data-key": name }, name)));
    },
    useKey: (secret) => { form.elements.key.value = secret; },
  };
};

const field = (text, id, input) => h("span", { class: "field" }, h("label", { for: id }, text), input);

const measured = (turn) => {
  const tokens = turn.usage?.completion_tokens;
  const seconds = turn.took ? (turn.took - (turn.first ?? 0)) / 1000 : 0;
  const rate = tokens > 1 && seconds > 0.05 ? ` · ${num((tokens - 1) / seconds)} tokens/s` : "";
  return `Route: ${turn.routing.target}, ${num(tokens)} tokens, first after ${ms(turn.first)}${rate}`;
};

const explanation = ({ said, error }) => {
  if (error) return h("p", { class: "said bad" }, error);
  return [h("h3", {}, "It would go like this"), h("pre", { tabindex: "0" }, JSON.stringify(said, null, 2))];
};
