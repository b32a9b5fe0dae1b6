// The supervision tree as it lives, and with chaos enabled a way to kill any of it and watch.

import { call } from "./net.js";
import { confirmed, h, onAct, show } from "./dom.js";
import { count, num, span, words } from "./format.js";
import { watch } from "./watch.js";

const ON_ACTORS = { kill: "Kill", panic: "Panic", error: "Fail", stop: "Stop" };
const ON_ENGINES = {
  sigkill: "SIGKILL engine", sigabrt: "SIGABRT engine", sigstop: "SIGSTOP engine", exit: "Exit engine", garbage: "Garbage from engine",
  "half-frame": "Half a frame", "hang-decode": "Hang a decode",
  "out-of-memory": "Out of memory",
};
/** What befalls the gateway's own calls of a provider, for as long as one can watch. */
const ON_CALLS = {
  "call:error": "Fail calls", "call:429": "Limit calls", "call:latency": "Delay calls", "call:cut": "Cut answers", "call:stall": "Stall answers",
};
const FAULT_MS = 10_000;
const DETAILS = { latency: { ms: 500 }, cut: { after_tokens: 5 }, stall: { after_tokens: 5 } };
/** So long after its start a restarted actor is marked. */
const FRESH_S = 15;

const end = async (actor, how) => {
  await call("/admin/chaos/kill", { method: "POST", json: { actor, how } });
  return `${words(how)} → ${actor}`;
};

/** Of cloud/NAME/0 it is NAME whose calls go wrong. */
const spoil = async (actor, how) => {
  const [target, kind] = [actor.split("/")[1], how.slice("call:".length)];
  await call("/admin/chaos/fault", { method: "POST", json: { target, kind, for_ms: FAULT_MS, ...DETAILS[kind] } });
  return `${kind} → calls of ${target}, for ${FAULT_MS / 1000} s`;
};

export const tree = (root) => {
  const said = h("p", { class: "said", role: "status" });
  const panel = h("section", { class: "panel", "aria-labelledby": "tree-title" });
  const watching = h("section", { class: "panel", "aria-labelledby": "watch-title" });
  root.append(panel, said, watching);
  const watcher = watch(watching);
  let how = "kill";
  let model = null;

  const kill = async (actor) => {
    if (actor === "root" && !(await confirmed("Root's death ends the gateway. Every open request gets an error.", "End the gateway"))) return;
    try {
      said.textContent = how in ON_CALLS ? await spoil(actor, how) : await end(actor, how);
    } catch (error) {
      said.textContent = `${actor}: ${error.message}`;
    }
  };

  const render = (next) => {
    model = next;
    const { actors, status } = model.picture;
    // A simulated engine is a process, too; what answers by HTTP is somebody else's.
    const engines = new Set(status.gpus.filter((gpu) => gpu.engine !== "http").map((gpu) => `gpu/${gpu.name}`));
    show(panel,
      h("h2", { id: "tree-title" }, "Supervision tree", h("small", {}, count(actors.reduce((sum, actor) => sum + actor.restarts, 0), "restart"))),
      status.chaos ? choice(how) : h("p", { class: "note" }, "Set [chaos] enabled = true to kill actors from here."),
      h("ul", { class: "tree" }, branches(actors, null, 0, { chaos: status.chaos, how, engines })));
    watcher.render(model);
  };

  onAct(panel, { kill: (button) => kill(button.dataset.actor) });
  onAct(panel, {
    how: (select) => {
      how = select.value;
      render(model);
    },
  }, "change");
  return { render };
};

const choice = (how) => {
  const option = ([value, text]) => h("option", { value, selected: value === how }, text);
  return h("p", { class: "row" }, h("label", { for: "how" }, "Chaos is enabled. What the buttons do:"),
    h("select", { id: "how", "data-act": "how" },
      h("optgroup", { label: "to an actor" }, Object.entries(ON_ACTORS).map(option)),
      h("optgroup", { label: "to the engine of a gpu/…" }, Object.entries(ON_ENGINES).map(option)),
      h("optgroup", { label: "to calls of a cloud/…" }, Object.entries(ON_CALLS).map(option))));
};

const branches = (actors, parent, depth, chaos) => actors.filter((actor) => actor.parent === parent).map((actor) => {
  const below = branches(actors, actor.name, depth + 1, chaos);
  return h("li", { "data-key": actor.name }, leaf(actor, chaos), below.length > 0 && h("ul", {}, below));
});

const leaf = (actor, { chaos, how, engines }) => {
  const level = { running: "ok", restarting: "warn", stopped: "bad" }[actor.state] ?? "note";
  const isFresh = actor.restarts > 0 && actor.uptime_s < FRESH_S;
  const may = how in ON_ACTORS || (how in ON_CALLS ? actor.name.startsWith("cloud/") : engines.has(actor.name));
  const verb = ON_ACTORS[how] ?? ON_ENGINES[how] ?? ON_CALLS[how];
  return h("div", { class: isFresh ? "leaf fresh" : "leaf", "data-actor": actor.name },
    h("span", { class: `dot ${level}`, role: "img", "aria-label": actor.state }),
    h("b", {}, actor.name),
    h("span", { class: "n up" }, actor.state === "running" ? `up ${span(actor.uptime_s)}` : actor.state),
    h("span", { class: actor.restarts ? "n restarts some" : "n restarts" }, actor.restarts ? `${num(actor.restarts)}× restarted` : "never restarted"),
    h("span", { class: "cause" }, actor.last_exit_cause ? words(actor.last_exit_cause) : ""),
    chaos && h("button", { class: "danger small", "data-act": "kill", "data-actor": actor.name, disabled: !may, "aria-label": `${verb}: ${actor.name}` }, verb));
};
