// Puts the parts together: one feed, five views, one of them shown. The address's hash says which.

import { h, onAct, show } from "./dom.js";
import { clock } from "./format.js";
import { follow } from "./feed.js";
import { keys } from "./keys.js";
import { overview } from "./overview.js";
import { playground } from "./playground.js";
import { requests } from "./requests.js";
import { tree } from "./tree.js";
import { verdict } from "./verdict.js";

const root = (name) => document.getElementById(`view-${name}`);
const play = playground(root("playground"));
const views = {
  overview: overview(root("overview")),
  requests: requests(root("requests")),
  supervision: tree(root("supervision")),
  playground: play,
  keys: keys(root("keys"), play),
};

let at = null;
let model = null;

const go = () => {
  const wanted = location.hash.slice(1);
  const next = Object.hasOwn(views, wanted) ? wanted : "overview";
  if (next === at) return;
  if (at) views[at].hidden?.();
  at = next;
  for (const name of Object.keys(views)) {
    root(name).hidden = name !== at;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === at) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${document.querySelector("nav a[aria-current]").textContent} · Spillway`;
  if (model) views[at].render?.(model);
  views[at].shown?.();
};

const draw = (feed) => {
  const judged = feed.picture && verdict(feed.picture);
  link(feed);
  light(feed.link, judged);
  if (!judged) return;
  model = { picture: feed.picture, samples: feed.samples, verdict: judged };
  if (feed.link === "live") views[at].render?.(model);
};

const light = (state, judged) => {
  const element = document.getElementById("light");
  const [level, text] = state === "live" ? [judged.level, judged.headline] : state === "lost" ? ["bad", "Not reachable"] : ["note", "Connecting"];
  element.className = `dot ${level}`;
  element.setAttribute("aria-label", text);
};

const link = ({ link: state, since, why, picture }) => {
  const lost = state === "lost";
  document.body.classList.toggle("stale", lost);
  document.getElementById("waiting").hidden = picture !== null || lost;
  show(document.getElementById("link"), lost && h("div", { class: "lost", role: "alert" },
    h("p", {}, h("b", {}, `No connection since ${clock(since)}. `), why, picture ? " What is shown is from then." : ""),
    h("button", { "data-act": "retry" }, "Try now")));
};

go();
addEventListener("hashchange", () => {
  go();
  root(at).focus();
});
const feed = follow(draw);
onAct(document.body, { retry: feed.retry, skip: () => root(at).focus() });
