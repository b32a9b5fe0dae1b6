//! Every request of a test and the rules that all of them must keep, whatever was killed meanwhile. The rules are the
//! product's: [`spillway::chaos::history`].

use super::{client::Record, gateway::Kill};
pub use spillway::chaos::history::Tally;
use spillway::chaos::history::{Seen, Standing, Trouble, violations};
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Default)]
pub struct History {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<Record>,
    kills: Vec<Kill>,
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

    fn troubles(&self) -> Vec<Trouble> {
        let inner = self.inner.lock().expect("no holder panicked");
        inner.kills.iter().map(|kill| Trouble::at(kill.unix_ns)).collect()
    }

    pub fn len(&self) -> usize {
        self.inner.lock().expect("no holder panicked").records.len()
    }

    pub fn tally(&self) -> Tally {
        Tally::of(&self.records().iter().map(Seen::of).collect::<Vec<_>>(), &self.troubles())
    }

    /// Rules broken, each with the request that broke it. Every request that had sent nothing when something was killed is
    /// answered.
    pub fn violations(&self) -> Vec<String> {
        let (records, troubles) = (self.records(), self.troubles());
        let unanswered = |record: &Record| {
            let seen = Seen::of(record);
            let may_fail = seen.standing(&troubles) == Standing::Committed;
            let what = "an error, though it had sent nothing when something was killed";
            (seen.is_error() && !may_fail).then(|| format!("{what}: {}", record.brief()))
        };
        records.iter().flat_map(|record| violations(record, None).into_iter().chain(unanswered(record))).collect()
    }

    /// Exactly one terminal outcome each, no torn text, no cut stream shown as complete, and every request that had sent
    /// nothing when something was killed is answered.
    pub fn assert_rules(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "{} of {} requests:\n{}", violations.len(), self.len(), violations.join("\n"));
    }
}
