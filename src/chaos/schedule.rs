//! When what breaks: a pure function of scenario, seed and who is there. Nobody dies so often that the restart policy of a
//! default configuration would have to give up on them.

use super::{
    draw::Draw,
    scenario::{Fault, How, Kill, Pattern, Scenario},
};
use serde::Serialize;
use spillway_actors::{chaos::faults::FaultWish, runtime::KillWay};
use std::collections::BTreeMap;

/// Five deaths of one actor within ten seconds are forgiven.
const SAME_ACTOR_MS: u64 = 2500;
/// Before the load ends nothing more breaks, so that the last troubles are seen to their end.
const QUIET_END_MS: u64 = 1000;

/// Who is there to be broken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cast {
    pub actors: Vec<String>,
    /// Actors of local targets with an engine of their own.
    pub engines: Vec<String>,
    pub providers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    Kill { actor: String, how: How },
    Fault(FaultWish),
}

/// An order with its time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Due {
    pub at_ms: u64,
    pub order: Order,
}

pub fn is_of_engine(how: KillWay) -> bool {
    !matches!(how, KillWay::Kill | KillWay::Panic | KillWay::Error | KillWay::Stop)
}

/// All orders of a run, by their time.
///
/// # Errors
/// Nobody there is meant by an entry of the scenario.
pub fn schedule(scenario: &Scenario, seed: u64, cast: &Cast) -> Result<Vec<Due>, String> {
    let end_ms = (scenario.seconds.0 * 1000).saturating_sub(QUIET_END_MS);
    let mut due = Vec::new();
    for (entry, kill) in scenario.kills.iter().enumerate() {
        let mut draw = Draw::of(seed, 2 * entry as u64 + 1);
        let deaths = deaths(kill, end_ms, &mut draw, cast);
        due.extend(deaths.map_err(|why| format!("[[kill]] number {}: {why}", entry + 1))?);
    }
    for (entry, fault) in scenario.faults.iter().enumerate() {
        let mut draw = Draw::of(seed, 2 * entry as u64 + 2);
        let failures = failures(fault, end_ms, &mut draw, cast);
        due.extend(failures.map_err(|why| format!("[[fault]] number {}: {why}", entry + 1))?);
    }
    due.sort_by_key(|due| due.at_ms);
    Ok(without_overkill(due))
}

fn deaths(kill: &Kill, end_ms: u64, draw: &mut Draw, cast: &Cast) -> Result<Vec<Due>, String> {
    let ways: Vec<(How, Vec<&String>)> =
        kill.how.0.iter().map(|how| (*how, victims(&kill.actors.0, *how, cast))).collect();
    if let Some((how, _)) = ways.iter().find(|(_, victims)| victims.is_empty()) {
        return Err(format!("nobody here is called {} and ends by {}", names(&kill.actors.0), how.0));
    }
    let mut due = Vec::new();
    for at_ms in times(kill.every_ms.0, end_ms, draw) {
        let Some((how, victims)) = draw.one_of(&ways) else { continue };
        for actor in chosen(victims, kill.all, draw) {
            due.push(Due { at_ms, order: Order::Kill { actor: actor.clone(), how: *how } });
        }
    }
    Ok(due)
}

fn failures(fault: &Fault, end_ms: u64, draw: &mut Draw, cast: &Cast) -> Result<Vec<Due>, String> {
    let targets = named(&fault.targets.0, &cast.providers);
    if targets.is_empty() {
        return Err(format!("no provider here is called {}", names(&fault.targets.0)));
    }
    // It is over before the end, too.
    let end_ms = end_ms.saturating_sub(fault.for_ms.0);
    let mut due = Vec::new();
    for at_ms in times(fault.every_ms.0, end_ms, draw) {
        for target in chosen(&targets, fault.all, draw) {
            // What JSON holds exactly everywhere.
            let wish = fault.wish(target, draw.bits() >> 12);
            due.push(Due { at_ms, order: Order::Fault(wish) });
        }
    }
    Ok(due)
}

fn names(patterns: &[Pattern]) -> String {
    patterns.iter().map(|pattern| pattern.0.as_str()).collect::<Vec<_>>().join(" or ")
}

fn named<'a>(patterns: &[Pattern], of: &'a [String]) -> Vec<&'a String> {
    of.iter().filter(|name| patterns.iter().any(|pattern| pattern.matches(name))).collect()
}

fn victims<'a>(patterns: &[Pattern], how: How, cast: &'a Cast) -> Vec<&'a String> {
    named(patterns, if is_of_engine(how.0) { &cast.engines } else { &cast.actors })
}

fn chosen<'a>(of: &[&'a String], all: bool, draw: &mut Draw) -> Vec<&'a String> {
    if all { of.to_vec() } else { draw.one_of(of).copied().into_iter().collect() }
}

/// Half to one and a half times `every_ms` apart; the first comes sooner.
fn times(every_ms: u64, end_ms: u64, draw: &mut Draw) -> Vec<u64> {
    let mut times = Vec::new();
    let mut at = (every_ms as f64 * (0.25 + draw.share() / 2.0)) as u64;
    while at < end_ms {
        times.push(at);
        at += ((every_ms as f64 * (0.5 + draw.share())) as u64).max(1);
    }
    times
}

/// Without deaths of who has died just before.
fn without_overkill(due: Vec<Due>) -> Vec<Due> {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let keeps = |due: &Due| {
        let Order::Kill { actor, .. } = &due.order else { return true };
        if last.get(actor).is_some_and(|last| due.at_ms < last + SAME_ACTOR_MS) {
            return false;
        }
        last.insert(actor.clone(), due.at_ms);
        true
    };
    let mut keeps = keeps;
    due.into_iter().filter(|due| keeps(due)).collect()
}

#[cfg(test)]
mod tests;
