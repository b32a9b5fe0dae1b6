// Samples → what charts draw. Sums become rates over steps of some seconds. Pure.

const STEP_MS = 5000;
const SHORTEST_MS = 60_000;
const LONGEST_MS = 600_000;

/** Points of the last ten minutes, oldest first: `{at, ...values}`, a value `null` where nothing is known. */
export const points = (samples) => {
  const steps = [];
  let from = null;
  for (const sample of samples) {
    if (from && sample.at_ms - from.at_ms >= STEP_MS) {
      steps.push(between(from, sample));
      from = sample;
    }
    from ??= sample;
  }
  return steps;
};

/** The rates of the last seconds. */
export const now = (samples) => {
  const last = samples.at(-1);
  const from = samples.findLast((sample) => last.at_ms - sample.at_ms >= STEP_MS) ?? samples[0];
  return last && from !== last ? between(from, last) : null;
};

/** What came to be over all samples kept. */
export const gained = (samples, name) => (samples.length ? Math.max(0, samples.at(-1)[name] - samples[0][name]) : 0);

const between = (from, to) => {
  const seconds = (to.at_ms - from.at_ms) / 1000;
  // After a restart sums begin anew: what they lost says nothing.
  const rate = (name) => Math.max(0, to[name] - from[name]) / seconds;
  return {
    at: to.at_ms,
    local: rate("local"),
    cloud: rate("cloud"),
    failed: rate("failed"),
    tokensLocal: rate("tokens_local"),
    tokensCloud: rate("tokens_cloud"),
    running: to.running,
    queue: to.queue,
    p50: to.p50_ms,
    p95: to.p95_ms,
  };
};

/** From when to when charts go: as far as is known, from one minute to ten. */
export const extent = (samples) => {
  const end = samples.at(-1)?.at_ms ?? Date.now();
  const known = end - (samples[0]?.at_ms ?? end);
  return [end - Math.min(LONGEST_MS, Math.max(SHORTEST_MS, known)), end];
};
