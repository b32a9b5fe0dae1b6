// Small charts as SVG: stacked areas, lines, and a bar for a share. They stretch to their box; text is outside of them.

import { h, s } from "./dom.js";
import { span } from "./format.js";

const WIDE = 300;
const HIGH = 72;

/** The smallest of 1, 2, 5 × 10ⁿ that is not below. */
export const ceiling = (value) => {
  if (!(value > 0)) return 1;
  const ten = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * ten).find((step) => step >= value * 0.999);
};

/**
 * `layers`: `[{name, value: point => number | null}]`, drawn from the bottom up (`stacked`) or each as a line. `label` is read out.
 */
export const chart = ({ points, window: [from, to], layers, stacked = false, label, unit }) => {
  const sum = (point) => layers.reduce((all, layer) => all + (layer.value(point) ?? 0), 0);
  const most = (point) => Math.max(...layers.map((layer) => layer.value(point) ?? 0));
  const top = ceiling(Math.max(0, ...points.map(stacked ? sum : most)));
  const x = (point) => round(((point.at - from) / (to - from)) * WIDE);
  const y = (value) => round(HIGH - (value / top) * (HIGH - 2) - 0.5);
  const drawn = stacked ? areas(points, layers, x, y) : layers.map((layer) => line(points, layer, x, y));
  return h("figure", { class: "chart" },
    h("p", { class: "scale", "aria-hidden": "true" }, h("span", {}, `last ${span(Math.round((to - from) / 1000))}`), h("span", {}, unit(top))),
    s("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
      [0.5, 1].map((part) => s("line", { class: "grid", x1: 0, x2: WIDE, y1: y(top * part), y2: y(top * part) })),
      s("line", { class: "base", x1: 0, x2: WIDE, y1: HIGH - 0.5, y2: HIGH - 0.5 }),
      drawn));
};

const round = (value) => Math.round(value * 10) / 10;

const areas = (points, layers, x, y) => {
  const floor = points.map(() => 0);
  return layers.map((layer) => {
    const below = points.map((point, at) => `${x(point)},${y(floor[at])}`).reverse();
    points.forEach((point, at) => { floor[at] += layer.value(point) ?? 0; });
    const above = points.map((point, at) => `${x(point)},${y(floor[at])}`);
    return points.length > 1 && s("polygon", { class: `area ${layer.name}`, points: [...above, ...below].join(" ") });
  });
};

const line = (points, layer, x, y) => {
  const runs = [[]];
  for (const point of points) {
    const value = layer.value(point);
    if (value === null || value === undefined) runs.push([]);
    else runs.at(-1).push(`${x(point)},${y(value)}`);
  }
  return runs.filter((run) => run.length > 1).map((run) => s("polyline", { class: `line ${layer.name}`, points: run.join(" ") }));
};

/** How much of a whole is used. */
export const meter = (part, label, kind = "") => {
  const width = Math.round(Math.min(1, Math.max(0, part || 0)) * 1000) / 10;
  return s("svg", { class: `meter ${kind}`, viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img", "aria-label": label },
    s("rect", { class: "rest", width: 100, height: 6 }),
    s("rect", { class: "part", width, height: 6 }));
};

/** Two parts of one whole, here and elsewhere. */
export const split = (local, cloud, label) => {
  const whole = local + cloud;
  const width = whole ? Math.round((local / whole) * 1000) / 10 : 0;
  return s("svg", { class: "meter split", viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img", "aria-label": label },
    s("rect", { class: "rest", width: 100, height: 6 }),
    whole > 0 && s("rect", { class: "cloud", width: 100, height: 6 }),
    s("rect", { class: "local", width, height: 6 }));
};
