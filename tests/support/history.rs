//! Every request of a test and the rules that all of them must keep, whatever was killed meanwhile.

use super::{
    checks::continuity,
    client::{Outcome, Record},
    gateway::Kill,
};
use std::sync::{Arc, Mutex};

/// A kill is noted when its answer arrives; text that came within this long of it may have been on its way before.
const FLIGHT_NS: u64 = 20_000_000;

#[derive(Debug, Clone, Default)]
pub struct History {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<Record>,
    kills: Vec<Kill>,
}

/// What a history amounts to.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Tally {
    pub requests: usize,
    pub complete: usize,
    pub explicit_errors: usize,
    /// Without any terminal outcome.
    pub lost: usize,
    /// Answers that lack or double a token.
    pub torn: usize,
    /// Streams that broke the protocol, a cut one shown as complete among them.
    pub broken_protocol: usize,
    /// Requests open at some kill that had sent no text to their client before it.
    pub uncommitted: usize,
    pub uncommitted_complete: usize,
    /// Streams cut by a kill that went on to a whole answer.
    pub committed: usize,
    pub committed_complete: usize,
}

impl History {
    pub fn add(&self, record: Record) {
        self.inner.lock().expect("no holder panicked").records.push(record);
    }

    pub fn note(&self, kill: Kill) {
        self.inner.lock().expect("no holder panicked").kills.push(kill);
    }

    pub fn records(&self) -> Vec<Record> {
        self.inner.lock().expect("no holder panicked").records.clone()
    }

    pub fn kills(&self) -> Vec<Kill> {
        self.inner.lock().expect("no holder panicked").kills.clone()
    }

    pub fn len(&self) -> usize {
        self.inner.lock().expect("no holder panicked").records.len()
    }

    pub fn tally(&self) -> Tally {
        let (records, kills) = (self.records(), self.kills());
        let mut tally = Tally { requests: records.len(), ..Tally::default() };
        for record in &records {
            match &record.outcome {
                Outcome::Complete => tally.complete += 1,
                Outcome::Error { .. } => tally.explicit_errors += 1,
                Outcome::Broken(_) => tally.lost += 1,
            }
            tally.broken_protocol += usize::from(!record.faults.is_empty());
            tally.torn += usize::from(continuity(&record.prompt, &record.text).is_err());
            match standing(record, &kills) {
                Standing::Untouched => {}
                Standing::Uncommitted => {
                    tally.uncommitted += 1;
                    tally.uncommitted_complete += usize::from(record.is_complete());
                }
                Standing::Committed => {
                    tally.committed += 1;
                    tally.committed_complete += usize::from(record.is_complete());
                }
            }
        }
        tally
    }

    /// Rules broken, each with the request that broke it.
    pub fn violations(&self) -> Vec<String> {
        let (records, kills) = (self.records(), self.kills());
        records.iter().flat_map(|record| violations_of(record, &kills)).collect()
    }

    /// Exactly one terminal outcome each, no torn text, no cut stream shown as complete, and every request that had sent
    /// nothing when something was killed is answered.
    pub fn assert_rules(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "{} of {} requests:\n{}", violations.len(), self.len(), violations.join("\n"));
    }
}

enum Standing {
    /// No kill while it was open.
    Untouched,
    Uncommitted,
    Committed,
}

fn standing(record: &Record, kills: &[Kill]) -> Standing {
    let open = |kill: &&Kill| record.sent_ns < kill.unix_ns && kill.unix_ns < record.ended_ns;
    let mut during = kills.iter().filter(open).peekable();
    if during.peek().is_none() {
        return Standing::Untouched;
    }
    let committed = |kill: &Kill| record.first_ns.is_some_and(|first| first < kill.unix_ns + FLIGHT_NS);
    if during.any(committed) { Standing::Committed } else { Standing::Uncommitted }
}

fn violations_of(record: &Record, kills: &[Kill]) -> Vec<String> {
    let mut broken = record.faults.clone();
    if let Outcome::Broken(why) = &record.outcome {
        broken.push(format!("no terminal outcome: {why}"));
    }
    if let Err(what) = continuity(&record.prompt, &record.text) {
        broken.push(format!("torn text: {what}"));
    }
    broken.extend(false_completion(record));
    let may_fail = matches!(standing(record, kills), Standing::Committed);
    if matches!(record.outcome, Outcome::Error { .. }) && !may_fail {
        broken.push("an error, though it had sent nothing when something was killed".to_owned());
    }
    broken.into_iter().map(|what| format!("{what}: {}", brief(record))).collect()
}

/// A whole answer ends with an attempt that landed, and one that went on elsewhere says so. An answer that was found poor
/// had landed too: it is shown when nothing better came.
fn false_completion(record: &Record) -> Option<String> {
    let routing = record.routing.as_ref().filter(|_| record.is_complete())?;
    let outcomes: Vec<&str> =
        routing["attempts"].as_array()?.iter().filter_map(|one| one["outcome"].as_str()).collect();
    let (last, before) = outcomes.split_last()?;
    let kept = record.target() == "local" && before.contains(&"poor");
    if *last != "ok" && !kept {
        return Some(format!("shown as complete though its last attempt ended in {last}"));
    }
    match routing["resumed"].as_str() {
        Some(how) if before.is_empty() => Some(format!("resumed by {how} though nothing was cut")),
        Some(how) if !record.stream => Some(format!("resumed by {how} though nothing had been sent")),
        _ => None,
    }
}

fn brief(record: &Record) -> String {
    let Record { id, stream, outcome, status, text, routing, .. } = record;
    let id = id.as_deref().unwrap_or("(no id)");
    let ms = |ns: u64| ns.saturating_sub(record.sent_ns) / 1_000_000;
    format!(
        "{id} stream={stream} status={status:?} first text after {:?} ms, ended after {} ms, {outcome:?}, text {text:?}, routing {}",
        record.first_ns.map(ms),
        ms(record.ended_ns),
        routing.as_ref().map_or(String::new(), ToString::to_string),
    )
}
