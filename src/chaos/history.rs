//! What a history of requests says: rules that every answer must keep, and what a run amounts to. Pure.

use super::{
    checks::{continuity, words},
    reading::{Outcome, Record},
};
use serde::Serialize;

/// A death is noted when its answer arrives; text that came within this long of it may have been on its way before.
const FLIGHT_NS: u64 = 20_000_000;

/// A time in which something was broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    pub from_ns: u64,
    pub until_ns: u64,
}

impl Trouble {
    /// A death.
    pub const fn at(ns: u64) -> Self {
        Self { from_ns: ns, until_ns: ns }
    }

    /// Whether a request was open in it.
    pub const fn meets(&self, sent_ns: u64, ended_ns: u64) -> bool {
        sent_ns < self.until_ns && self.from_ns < ended_ns
    }
}

/// What is kept of a request once its answer has been judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub sent_ns: u64,
    /// When the first text came.
    pub first_ns: Option<u64>,
    pub ended_ns: u64,
    pub end: End,
    pub stream: bool,
    pub torn: bool,
    pub broke_protocol: bool,
    /// Shown as complete, though it was cut.
    pub false_end: bool,
    pub resumed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Complete,
    /// An explicit error, with this status (200: in a stream that had begun).
    Error(u16),
    /// Nobody said why.
    Lost,
}

/// How far a request was when something broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing broke while it was open.
    Untouched,
    /// Its client had nothing yet.
    Uncommitted,
    /// Its client had text already.
    Committed,
}

impl Seen {
    pub fn of(record: &Record) -> Self {
        let end = match record.outcome {
            Outcome::Complete => End::Complete,
            Outcome::Error { status, .. } => End::Error(status),
            Outcome::Broken(_) => End::Lost,
        };
        Self {
            sent_ns: record.sent_ns,
            first_ns: record.first_ns,
            ended_ns: record.ended_ns,
            end,
            stream: record.stream,
            torn: continuity(&record.prompt, &record.text).is_err(),
            broke_protocol: !record.faults.is_empty(),
            false_end: false_completion(record).is_some(),
            resumed: record.routing.as_ref().is_some_and(|routing| routing["resumed"].is_string()),
        }
    }

    pub fn is_complete(&self) -> bool {
        self.end == End::Complete
    }

    pub fn is_error(&self) -> bool {
        matches!(self.end, End::Error(_))
    }

    pub fn standing(&self, troubles: &[Trouble]) -> Standing {
        let open = |trouble: &&Trouble| trouble.meets(self.sent_ns, self.ended_ns);
        let mut during = troubles.iter().filter(open).peekable();
        if during.peek().is_none() {
            return Standing::Untouched;
        }
        // What fails after its first text, while something is broken for a time, was cut by that.
        let broke_later = |trouble: &Trouble, first: u64| !self.is_complete() && first < trouble.until_ns;
        let committed = |trouble: &Trouble| {
            self.first_ns.is_some_and(|first| first < trouble.from_ns + FLIGHT_NS || broke_later(trouble, first))
        };
        if during.any(committed) { Standing::Committed } else { Standing::Uncommitted }
    }
}

/// What a history amounts to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tally {
    pub requests: usize,
    pub complete: usize,
    pub explicit_errors: usize,
    /// Without any terminal outcome.
    pub lost: usize,
    /// Answers that lack or double a token.
    pub torn: usize,
    /// Streams that broke the protocol, a cut one that did not say so among them.
    pub broken_protocol: usize,
    /// Whole by their own words, though they were cut.
    pub shown_as_complete: usize,
    /// Requests open at some trouble that had sent no text to their client before it.
    pub uncommitted: usize,
    pub uncommitted_complete: usize,
    /// Streams under way at some trouble, and those of them that went on to a whole answer.
    pub committed: usize,
    pub committed_complete: usize,
    /// Requests that no trouble touched, and those of them that ended in an error: what one left behind, such as a tripped
    /// breaker, or what has nothing to do with any.
    pub untouched: usize,
    pub untouched_errors: usize,
    /// Streams that went on elsewhere.
    pub resumed: usize,
}

impl Tally {
    pub fn of(seen: &[Seen], troubles: &[Trouble]) -> Self {
        let mut tally = Self { requests: seen.len(), ..Self::default() };
        for one in seen {
            match one.end {
                End::Complete => tally.complete += 1,
                End::Error(_) => tally.explicit_errors += 1,
                End::Lost => tally.lost += 1,
            }
            let whole = usize::from(one.is_complete());
            tally.torn += usize::from(one.torn);
            tally.broken_protocol += usize::from(one.broke_protocol);
            tally.shown_as_complete += usize::from(one.false_end);
            tally.resumed += usize::from(one.resumed);
            match one.standing(troubles) {
                Standing::Untouched => {
                    tally.untouched += 1;
                    tally.untouched_errors += usize::from(one.is_error());
                }
                Standing::Uncommitted => {
                    tally.uncommitted += 1;
                    tally.uncommitted_complete += whole;
                }
                Standing::Committed => {
                    tally.committed += 1;
                    tally.committed_complete += whole;
                }
            }
        }
        tally
    }

    /// Of requests that had nothing to show when something broke; `None`: there was none.
    pub fn uncommitted_success_percent(&self) -> Option<f64> {
        (self.uncommitted > 0).then(|| self.uncommitted_complete as f64 * 100.0 / self.uncommitted as f64)
    }
}

/// So few errors say nothing of a share, unless there may be none.
const FEW: usize = 3;

/// Whether more of the requests that no trouble touched failed than may; `None`: no.
pub fn too_many_failed(errors: usize, of: usize, wanted_percent: f64) -> Option<String> {
    let few = if wanted_percent < 100.0 { FEW } else { 0 };
    let got = of.saturating_sub(errors) as f64 * 100.0 / of.max(1) as f64;
    (errors > few && got < wanted_percent).then(|| {
        format!("{errors} of {of} requests that no trouble touched failed: {got:.2} % were answered, {wanted_percent} % are expected")
    })
}

/// Rules that an answer has broken: exactly one terminal outcome, no 500, no torn text, no cut stream shown as complete. `whole`: the
/// words of a whole answer to this request, if an unharmed one is known.
pub fn violations(record: &Record, whole: Option<usize>) -> Vec<String> {
    let mut broken = record.faults.clone();
    if let Outcome::Broken(why) = &record.outcome {
        broken.push(format!("no terminal outcome: {why}"));
    }
    if let Outcome::Error { status, code, message, .. } = &record.outcome
        && (*status == 500 || *code == "internal_error")
    {
        broken.push(format!("a 500 is a bug: {message}"));
    }
    if let Err(what) = continuity(&record.prompt, &record.text) {
        broken.push(format!("torn text: {what}"));
    }
    broken.extend(false_completion(record));
    broken.extend(whole.and_then(|whole| cut_short(record, whole)));
    broken.into_iter().map(|what| format!("{what}: {}", record.brief())).collect()
}

/// Whether an answer that says it is whole has fewer words than an unharmed one, also one that another target went on with.
pub fn cut_short(record: &Record, whole: usize) -> Option<String> {
    let said = words(&record.text)?;
    (record.is_complete() && said < whole)
        .then(|| format!("shown as complete with {said} words where an unharmed answer has {whole}"))
}

/// A whole answer ends with an attempt that landed, and one that went on elsewhere says so. An answer that was found poor
/// had landed too: it is shown when nothing better came. And one that was cut when it had reached its limit had nothing left
/// to go on with; that it has no less than its limit is [`cut_short`]'s to say.
fn false_completion(record: &Record) -> Option<String> {
    let routing = record.routing.as_ref().filter(|_| record.is_complete())?;
    let outcomes: Vec<&str> =
        routing["attempts"].as_array()?.iter().filter_map(|one| one["outcome"].as_str()).collect();
    let (last, before) = outcomes.split_last()?;
    let kept = record.target() == "local" && before.contains(&"poor");
    let at_limit = record.finish_reason.as_deref() == Some("length");
    if *last != "ok" && !kept && !at_limit {
        return Some(format!("shown as complete though its last attempt ended in {last}"));
    }
    match routing["resumed"].as_str() {
        Some(how) if before.is_empty() => Some(format!("resumed by {how} though nothing was cut")),
        Some(how) if !record.stream => Some(format!("resumed by {how} though nothing had been sent")),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
