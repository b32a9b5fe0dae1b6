// How the gateway is, in one sentence and a list of what is wrong. Pure: a picture in, words out.

const WORST = ["ok", "note", "warn", "bad"];

/** `{level, headline, problems: [{level, what, why}]}`; the worst first. */
export const verdict = ({ status, actors, cards }) => {
  const problems = [
    ...status.gpus.flatMap(ofTarget), ...status.providers.flatMap(ofProvider), ...status.breakers.flatMap(ofBreaker),
    ...status.keys.flatMap(ofProvidersKey), ...ofLedger(status.ledger), ...actors.flatMap(ofActor), ...ofCards(cards),
    ...ofConfig(status.config), ...ofDoor(status),
  ].sort((a, b) => WORST.indexOf(b.level) - WORST.indexOf(a.level));
  const here = status.gpus.filter((gpu) => gpu.serving).length;
  const away = status.providers.filter((provider) => provider.reachable !== false).length;
  if (here + away === 0) return { level: "bad", headline: "Nothing can serve", problems };
  const level = problems[0]?.level ?? "ok";
  return { level: level === "note" ? "ok" : level, headline: headline(status, level, here, away), problems };
};

const headline = (status, level, here, away) => {
  if (status.draining) return "Draining: no new requests";
  if (status.gpus.length > 0 && here === 0) return "Nothing is served locally; the cloud serves";
  if (level === "bad" || level === "warn") return here && away ? "Serving, with trouble" : "Serving, on one leg";
  if (!away) return "Serving locally; no cloud";
  return here ? "Serving, locally and from the cloud" : "Serving from the cloud";
};

const problem = (level, what, why) => [{ level, what, why: why ?? "" }];

const ofTarget = (gpu) => {
  const found = [];
  const why = gpu.cause ?? gpu.last_death?.cause ?? "";
  if (["down", "quarantined"].includes(gpu.state)) found.push(...problem("bad", `gpu/${gpu.name} is ${gpu.state}`, why));
  else if (["degraded", "backoff", "draining"].includes(gpu.state)) found.push(...problem("warn", `gpu/${gpu.name}: ${gpu.state}`, why));
  else if (!gpu.serving) found.push(...problem("warn", `gpu/${gpu.name} is ${gpu.state} and does not serve yet`, why));
  if (gpu.memory?.rung > 0) {
    const given = gpu.memory.given_up.map((rung) => (typeof rung === "string" ? rung : JSON.stringify(rung))).join(", ");
    found.push(...problem("warn", `gpu/${gpu.name} runs with less memory`, `given up: ${given}`));
  }
  return found;
};

/** Whether its models served somebody lately: a provider with traffic is not probed. */
export const serves = (provider) => provider.models.some((model) => model.last_minute.recent_success_ratio > 0);

const ofProvider = (provider) => [
  ...(provider.reachable === false && !serves(provider) ? problem("warn", `${provider.name} does not answer`, provider.error) : []),
  ...(provider.simulated ? problem("note", `The provider “${provider.name}” is a simulation.`, "Its answers are made up and cost nothing.") : []),
];

const ofBreaker = (breaker) => (breaker.state === "passing" ? []
  : problem("warn", `${breaker.target}/${breaker.model}: breaker ${breaker.state}`,
    breaker.open_ms ? `tried again in ${Math.ceil(breaker.open_ms / 1000)} s` : ""));

const ofProvidersKey = (key) => (key.state === "ready" ? []
  : problem("warn", `${key.target}: provider key ${key.key + 1} is ${key.state}`, key.for_ms ? `for ${Math.ceil(key.for_ms / 1000)} s` : ""));

const ofLedger = (ledger) => [
  ...(ledger.up ? [] : problem("bad", "The ledger cannot write: paid targets are left alone", ledger.waits_because)),
  ...Object.entries(ledger.budget).flatMap(([period, line]) => {
    if (line.limit_nanousd === null) return [];
    if (line.limit_nanousd === 0) return problem("note", `The budget (${period}) is $0`, "nothing paid is asked");
    const used = (line.posted_nanousd + line.reserved_nanousd) / line.limit_nanousd;
    if (used >= 1) return problem("bad", `The budget (${period}) is spent`);
    return used >= 0.9 ? problem("warn", `${Math.floor(used * 100)} % of the budget (${period}) is spent`) : [];
  }),
];

const ofActor = (actor) => (actor.state === "running" ? [] : problem("warn", `${actor.name} is ${actor.state}`, actor.last_exit_cause));

const ofCards = (cards) => [
  ...(cards.status === "error" || (cards.status === "degraded" && !cards.gpus)
    ? problem("warn", "The GPU driver cannot be asked", cards.detail) : []),
  ...(cards.gpus ?? []).filter((card) => card.fault).flatMap((card) => problem("bad", `Card ${card.index}: ${card.fault}`, card.name)),
];

const ofConfig = (config) => [
  ...(config.last?.ok === false ? problem("warn", "The changed configuration is faulty; the last good one is in force") : []),
  ...(config.needs_restart?.length ? problem("note", "A restart is needed", config.needs_restart.join(", ")) : []),
];

const ofDoor = (status) => (status.queue === null ? problem("warn", "The router does not answer", "it is being restarted") : []);
