//! How the gateway is, in one sentence and a list of what is wrong, the worst first; the console's `verdict.js` judges by the same
//! rules. Pure.

use super::picture::{
    Actor, Books, Breaker, Cards, Configuration, Level, Picture, Provider, ProviderKey, Status, Target,
};
use crate::words::span;
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    pub(super) level: Level,
    pub(super) what: String,
    pub(super) why: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) headline: &'static str,
    pub(super) problems: Vec<Problem>,
    /// Something can serve a request now.
    pub(super) serves: bool,
}

pub(super) fn verdict(picture: &Picture) -> Verdict {
    let Picture { status, actors, cards, .. } = picture;
    let mut problems: Vec<Problem> = status.gpus.iter().flat_map(of_target).collect();
    problems.extend(status.providers.iter().flat_map(of_provider));
    problems.extend(status.breakers.iter().filter_map(of_breaker));
    problems.extend(status.keys.iter().filter_map(of_key));
    problems.extend(of_ledger(&status.ledger));
    problems.extend(actors.iter().filter_map(of_actor));
    problems.extend(of_cards(cards));
    problems.extend(of_config(&status.config));
    if status.queue.is_none() {
        problems.push(problem(Level::Warn, "the router does not answer", "it is being restarted"));
    }
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
    let here = status.gpus.iter().filter(|gpu| gpu.serving).count();
    let away = status.providers.iter().filter(|provider| provider.reachable != Some(false)).count();
    if here + away == 0 {
        return Verdict { level: Level::Bad, headline: "nothing can serve", problems, serves: false };
    }
    let worst = problems.first().map_or(Level::Ok, |problem| problem.level);
    let headline = headline(status, worst, here > 0, away > 0);
    let level = if worst == Level::Note { Level::Ok } else { worst };
    Verdict { level, headline, problems, serves: !status.draining }
}

fn headline(status: &Status, worst: Level, here: bool, away: bool) -> &'static str {
    if status.draining {
        return "draining: no new requests";
    }
    if !status.gpus.is_empty() && !here {
        return "nothing is served locally; the cloud serves";
    }
    match (worst >= Level::Warn, here, away) {
        (true, true, true) => "serving, with trouble",
        (true, ..) => "serving, on one leg",
        (false, _, false) => "serving locally; no cloud",
        (false, true, true) => "serving, locally and from the cloud",
        (false, false, true) => "serving from the cloud",
    }
}

fn problem(level: Level, what: impl Into<String>, why: impl Into<String>) -> Problem {
    Problem { level, what: what.into(), why: why.into() }
}

fn of_target(gpu: &Target) -> Vec<Problem> {
    let why =
        gpu.cause.clone().or_else(|| gpu.last_death.as_ref().map(|death| death.cause.clone())).unwrap_or_default();
    let mut found = Vec::new();
    match gpu.state.as_str() {
        "down" | "quarantined" => found.push(problem(Level::Bad, format!("gpu/{} is {}", gpu.name, gpu.state), why)),
        "degraded" | "backoff" | "draining" => {
            found.push(problem(Level::Warn, format!("gpu/{}: {}", gpu.name, gpu.state), why));
        }
        _ if !gpu.serving => {
            let what = format!("gpu/{} is {} and does not serve yet", gpu.name, gpu.state);
            found.push(problem(Level::Warn, what, why));
        }
        _ => {}
    }
    if gpu.memory.rung > 0 {
        let given: Vec<String> = gpu.memory.given_up.iter().map(word).collect();
        let what = format!("gpu/{} runs with less memory", gpu.name);
        found.push(problem(Level::Warn, what, format!("given up: {}", given.join(", "))));
    }
    found
}

/// A JSON word as text.
pub(super) fn word(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string().replace(['"', '{', '}'], ""), str::to_owned)
}

/// Whether its models served somebody lately: a provider with traffic is not probed.
pub(super) fn serves(provider: &Provider) -> bool {
    provider.models.iter().any(|model| model.last_minute.recent_success_ratio.is_some_and(|ratio| ratio > 0.0))
}

fn of_provider(provider: &Provider) -> Vec<Problem> {
    let mut found = Vec::new();
    if provider.reachable == Some(false) && !serves(provider) {
        let why = provider.error.clone().unwrap_or_default();
        found.push(problem(Level::Warn, format!("{} does not answer", provider.name), why));
    }
    if provider.simulated {
        let what = format!("the provider {} is a simulation", provider.name);
        found.push(problem(Level::Note, what, "its answers are made up and cost nothing"));
    }
    found
}

fn of_breaker(breaker: &Breaker) -> Option<Problem> {
    let why = breaker.open_ms.map(|ms| format!("tried again in {}", span(ms.div_ceil(1000) as f64)));
    let what = || format!("{}/{}: breaker {}", breaker.target, breaker.model, breaker.state);
    (breaker.state != "passing").then(|| problem(Level::Warn, what(), why.unwrap_or_default()))
}

fn of_key(key: &ProviderKey) -> Option<Problem> {
    let why = key.for_ms.map(|ms| format!("for {}", span(ms.div_ceil(1000) as f64)));
    let what = || format!("{}: provider key {} is {}", key.target, key.key.saturating_add(1), key.state);
    (key.state != "ready").then(|| problem(Level::Warn, what(), why.unwrap_or_default()))
}

fn of_ledger(ledger: &Books) -> Vec<Problem> {
    let mut found = Vec::new();
    if !ledger.up {
        let why = ledger.waits_because.clone().unwrap_or_default();
        found.push(problem(Level::Bad, "the ledger cannot write: paid targets are left alone", why));
    }
    for (period, line) in &ledger.budget {
        let Some(limit) = line.limit_nanousd else { continue };
        if limit <= 0.0 {
            found.push(problem(Level::Note, format!("the budget ({period}) is $0"), "nothing paid is asked"));
            continue;
        }
        let used = (line.posted_nanousd + line.reserved_nanousd) / limit;
        if used >= 1.0 {
            found.push(problem(Level::Bad, format!("the budget ({period}) is spent"), ""));
        } else if used >= 0.9 {
            let what = format!("{:.0} % of the budget ({period}) is spent", (used * 100.0).floor());
            found.push(problem(Level::Warn, what, ""));
        }
    }
    found
}

fn of_actor(actor: &Actor) -> Option<Problem> {
    let why = actor.last_exit_cause.clone().unwrap_or_default();
    (actor.state != "running").then(|| problem(Level::Warn, format!("{} is {}", actor.name, actor.state), why))
}

fn of_cards(cards: &Cards) -> Vec<Problem> {
    let is_mute = cards.status == "error" || (cards.status == "degraded" && cards.gpus.is_none());
    let mute = is_mute.then(|| problem(Level::Warn, "the GPU driver cannot be asked", cards.detail.clone()));
    let faulty = cards.gpus.iter().flatten().filter_map(|card| Some((card, card.fault.as_ref()?)));
    let faulty = faulty
        .map(|(card, fault)| problem(Level::Bad, format!("card {}: {}", card.index, word(fault)), card.name.clone()));
    mute.into_iter().chain(faulty).collect()
}

fn of_config(config: &Configuration) -> Vec<Problem> {
    let mut found = Vec::new();
    if config.last.as_ref().is_some_and(|reading| !reading.ok) {
        found.push(problem(Level::Warn, "the changed configuration is faulty; the last good one is in force", ""));
    }
    if !config.needs_restart.is_empty() {
        found.push(problem(Level::Note, "a restart is needed", config.needs_restart.join(", ")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn judged(change: impl FnOnce(&mut Value)) -> Verdict {
        let mut picture = json!({
            "status": {
                "gpus": [{"name": "local", "state": "warm", "serving": true}],
                "providers": [{"name": "cloud", "reachable": true}],
                "queue": 0, "ledger": {"up": true},
            },
            "actors": [{"name": "root", "state": "running"}],
        });
        change(&mut picture);
        verdict(&serde_json::from_value(picture).unwrap())
    }

    #[test]
    fn the_worst_comes_first_and_names_its_cause() {
        let good = judged(|_| {});
        assert_eq!(
            (good.level, good.headline, good.problems.len()),
            (Level::Ok, "serving, locally and from the cloud", 0)
        );
        let bad = judged(|picture| {
            picture["status"]["breakers"] =
                json!([{"target": "cloud", "model": "m", "state": "open", "open_ms": 1500}]);
            picture["status"]["gpus"][0] =
                json!({"name": "local", "state": "quarantined", "serving": false, "cause": "5 failed starts"});
        });
        assert_eq!((bad.level, bad.headline), (Level::Bad, "nothing is served locally; the cloud serves"));
        let told: Vec<_> = bad.problems.iter().map(|p| (p.what.as_str(), p.why.as_str())).collect();
        assert_eq!(
            told,
            [("gpu/local is quarantined", "5 failed starts"), ("cloud/m: breaker open", "tried again in 2 s")]
        );
    }

    #[test]
    fn a_gateway_without_a_target_serves_nothing() {
        let none = judged(|picture| {
            picture["status"]["gpus"][0]["serving"] = false.into();
            picture["status"]["providers"] = json!([]);
        });
        assert_eq!((none.serves, none.headline), (false, "nothing can serve"));
        let local = judged(|picture| picture["status"]["providers"] = json!([]));
        assert_eq!((local.serves, local.headline), (true, "serving locally; no cloud"));
        let draining = judged(|picture| picture["status"]["draining"] = true.into());
        assert_eq!((draining.serves, draining.headline), (false, "draining: no new requests"));
    }

    #[test]
    fn a_budget_of_nothing_is_told_and_is_no_alarm() {
        let told = judged(|picture| {
            picture["status"]["ledger"]["budget"] =
                json!({"day": {"limit_nanousd": 0, "posted_nanousd": 0, "reserved_nanousd": 0}});
        });
        let [only] = &told.problems[..] else { panic!("{:?}", told.problems) };
        assert_eq!((told.level, only.level, only.what.as_str()), (Level::Ok, Level::Note, "the budget (day) is $0"));
    }

    #[test]
    fn money_and_cards_are_judged_too() {
        let told = judged(|picture| {
            picture["status"]["ledger"]["budget"] =
                json!({"day": {"limit_nanousd": 100, "posted_nanousd": 90, "reserved_nanousd": 5}});
            picture["cards"] = json!({"status": "degraded", "gpus": [{"index": 0, "fault": "xid", "name": "H100"}]});
            picture["status"]["config"] = json!({"last": {"ok": false}, "needs_restart": ["server.listen"]});
        });
        let what: Vec<_> = told.problems.iter().map(|problem| problem.what.as_str()).collect();
        assert_eq!(
            what,
            [
                "card 0: xid",
                "95 % of the budget (day) is spent",
                "the changed configuration is faulty; the last good one is in force",
                "a restart is needed"
            ]
        );
    }
}
