// Requests to watch while something dies: one long stream, and a steady flow of short ones. They are real; what the cloud takes over is
// billed like any other.

import { chart } from "./charts.js";
import { h, onAct, show } from "./dom.js";
import { count, ms, num } from "./format.js";
import { attempts } from "./route.js";
import { extent, points } from "./series.js";
import { chat } from "./chat.js";

/** A browser opens six connections to one host: one is the feed's, one the stream's. */
const AT_ONCE = 4;
const TAIL = 1200;
const LONG = [{ role: "user", content: "Tell me a long story about a river and the people who live beside it." }];
const SHORT = [{ role: "user", content: "Say hello" }];

export const watch = (root) => {
  const stream = { on: null, text: "", pieces: 0, last: 0, pause: 0, routing: null, error: null };
  const flow = { on: null, done: 0, failed: 0, targets: {} };
  let model = null;

  const startStream = async () => {
    const stop = new AbortController();
    Object.assign(stream, { on: stop, text: "", pieces: 0, last: performance.now(), pause: 0, routing: null, error: null });
    draw();
    try {
      const body = { model: "local", messages: LONG, max_tokens: 400 };
      for await (const step of chat(body, { signal: stop.signal })) {
        if (step.text) {
          const at = performance.now();
          if (stream.pieces > 0) stream.pause = Math.max(stream.pause, at - stream.last);
          Object.assign(stream, { text: stream.text + step.text, pieces: stream.pieces + 1, last: at });
          draw();
        }
        if (step.routing) stream.routing = step.routing;
      }
    } catch (error) {
      stream.error = error.name === "AbortError" ? null : error.message;
    }
    stream.on = null;
    draw();
  };

  const flowOn = async (stop) => {
    while (!stop.signal.aborted) {
      try {
        let target = "?";
        for await (const step of chat({ model: "auto", messages: SHORT, max_tokens: 32 }, { signal: stop.signal })) target = step.routing?.target ?? target;
        flow.done += 1;
        flow.targets[target] = (flow.targets[target] ?? 0) + 1;
      } catch (error) {
        if (stop.signal.aborted) return;
        flow.failed += 1;
        await new Promise((resolve) => { setTimeout(resolve, 1000); });
      }
    }
  };

  const startFlow = () => {
    const stop = new AbortController();
    Object.assign(flow, { on: stop, done: 0, failed: 0, targets: {} });
    for (let nth = 0; nth < AT_ONCE; nth += 1) flowOn(stop);
    draw();
  };

  const draw = () => {
    if (!model) return;
    const { running, queue } = model.picture.sample;
    const silent = stream.on && stream.pieces > 0 ? performance.now() - stream.last : 0;
    show(root,
      h("h2", { id: "watch-title" }, "Watch it survive", h("small", {}, "real requests; what the cloud takes over is billed")),
      h("div", { class: "row" },
        h("button", { class: stream.on ? "" : "primary", "data-act": "stream" }, stream.on ? "Stop the stream" : "Start a long local stream"),
        h("button", { "data-act": "flow" }, flow.on ? "Stop the requests" : `Keep ${AT_ONCE} short requests going`)),
      h("div", { class: "watch" },
        h("div", {},
          h("pre", { class: "stream", tabindex: "0", "aria-label": "The stream's text" }, stream.text.slice(-TAIL) || "The stream's text appears here."),
          h("p", { class: "note" }, told(stream, silent)), stream.routing && attempts(stream.routing)),
        h("div", {},
          h("p", { class: "keys" }, h("span", { class: "key running" }, `running ${num(running)}`), h("span", { class: "key queue" }, `waiting ${num(queue)}`)),
          chart({
            points: points(model.samples), window: extent(model.samples), unit: num, label: `Requests running ${num(running)}, waiting ${num(queue)}, over ten minutes`,
            layers: [{ name: "running", value: (point) => point.running }, { name: "queue", value: (point) => point.queue }],
          }),
          h("p", { class: "note" }, flow.on || flow.done ? `${count(flow.done, "short request")} answered (${Object.entries(flow.targets).map(([name, n]) => `${num(n)} by ${name}`).join(", ") || "none yet"}), ${num(flow.failed)} failed` : ""))));
  };

  onAct(root, {
    stream: () => (stream.on ? stream.on.abort() : startStream()),
    flow: () => {
      if (!flow.on) return startFlow();
      flow.on.abort();
      flow.on = null;
      return draw();
    },
  });
  return {
    render: (next) => {
      model = next;
      draw();
    },
  };
};

const told = (stream, silent) => {
  if (stream.error) return `Ended with an error: ${stream.error}`;
  if (!stream.pieces) return stream.on ? "Waiting for the first token …" : "";
  const parts = [count(stream.pieces, "piece"), `longest pause ${ms(Math.max(stream.pause, silent))}`];
  if (silent > 400) parts.push(`silent for ${ms(silent)}`);
  if (stream.routing?.resumed) parts.push(`went on by ${stream.routing.resumed}`);
  return parts.join(" · ");
};
