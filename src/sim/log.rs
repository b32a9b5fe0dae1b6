//! What the simulated provider served: the other side of a gateway's accounts.
//!
//! A request is counted when its head is read and settled once, when its [`Served`] is dropped at the latest.

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed};

/// Older records make way.
pub(super) const MAX_RECORDS: usize = 100_000;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Open,
    Completed,
    /// The client closed before the answer's end.
    ClientGone,
    /// The simulated fault (or a refusal) was the answer.
    Fault,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Open, Self::Completed, Self::ClientGone, Self::Fault];
}

/// What is known of a request when it arrives.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Arrival {
    pub request_id: String,
    pub model: String,
    pub received_unix_ns: u64,
    pub prompt_tokens: u64,
    pub stream: bool,
    /// The last four characters of a long key: tells keys apart, gives none away.
    pub key_tail: String,
    /// What it says of a trace, if anything: `traceparent`, `tracestate` and `baggage`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub trace: BTreeMap<&'static str, String>,
}

#[derive(Debug)]
struct Record {
    arrival: Arrival,
    completion_tokens: AtomicU64,
    status: AtomicU16,
    outcome: AtomicU8,
    /// What one choice said, if that is kept.
    text: Mutex<Option<String>>,
}

/// One line of `GET /sim/requests`.
#[derive(Debug, Serialize)]
pub(super) struct RecordView {
    #[serde(flatten)]
    arrival: Arrival,
    completion_tokens: u64,
    status: u16,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// `GET /sim/stats`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Stats {
    simulated: bool,
    requests: u64,
    open: u64,
    completed: u64,
    client_gone: u64,
    fault: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
}

#[derive(Debug, Default)]
struct Totals {
    outcomes: [AtomicU64; 3],
    requests: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
}

#[derive(Debug, Default)]
struct Epoch {
    records: VecDeque<Arc<Record>>,
    totals: Arc<Totals>,
}

/// All requests since the last reset.
#[derive(Debug, Default)]
pub(super) struct Log {
    epoch: Mutex<Epoch>,
}

impl Log {
    pub(super) fn begin(&self, arrival: Arrival) -> Served {
        let prompt_tokens = arrival.prompt_tokens;
        let (completion_tokens, status, outcome, text) = Default::default();
        let record = Arc::new(Record { arrival, completion_tokens, status, outcome, text });
        let mut epoch = self.epoch.lock();
        if epoch.records.len() == MAX_RECORDS {
            epoch.records.pop_front();
        }
        epoch.records.push_back(Arc::clone(&record));
        epoch.totals.requests.fetch_add(1, Relaxed);
        epoch.totals.prompt_tokens.fetch_add(prompt_tokens, Relaxed);
        Served { record, totals: Arc::clone(&epoch.totals) }
    }

    pub(super) fn records(&self) -> Vec<RecordView> {
        let records: Vec<_> = self.epoch.lock().records.iter().cloned().collect();
        records.iter().map(|record| record.view()).collect()
    }

    pub(super) fn stats(&self) -> Stats {
        let totals = Arc::clone(&self.epoch.lock().totals);
        let [completed, client_gone, fault] = [0, 1, 2].map(|outcome| totals.outcomes[outcome].load(Relaxed));
        let requests = totals.requests.load(Relaxed);
        Stats {
            simulated: true,
            requests,
            open: requests.saturating_sub(completed + client_gone + fault),
            completed,
            client_gone,
            fault,
            prompt_tokens: totals.prompt_tokens.load(Relaxed),
            completion_tokens: totals.completion_tokens.load(Relaxed),
        }
    }

    /// Forgets everything; requests still open go on uncounted.
    pub(super) fn reset(&self) {
        *self.epoch.lock() = Epoch::default();
    }
}

impl Record {
    fn view(&self) -> RecordView {
        RecordView {
            arrival: self.arrival.clone(),
            completion_tokens: self.completion_tokens.load(Relaxed),
            status: self.status.load(Relaxed),
            outcome: Outcome::ALL[usize::from(self.outcome.load(Relaxed))],
            text: self.text.lock().clone(),
        }
    }
}

/// One request being served. Dropped without [`end`](Self::end), its client has gone.
#[derive(Debug)]
pub(super) struct Served {
    record: Arc<Record>,
    totals: Arc<Totals>,
}

impl Served {
    pub(super) fn status(&self, status: u16) {
        self.record.status.store(status, Relaxed);
    }

    pub(super) fn sent(&self, tokens: u64) {
        self.record.completion_tokens.fetch_add(tokens, Relaxed);
        self.totals.completion_tokens.fetch_add(tokens, Relaxed);
    }

    /// A word of each choice is on its way.
    pub(super) fn said(&self, word: &str) {
        self.record.text.lock().get_or_insert_default().push_str(word);
    }

    /// The first end counts.
    pub(super) fn end(&self, outcome: Outcome) {
        let open = Outcome::Open as u8;
        if outcome != Outcome::Open
            && self.record.outcome.compare_exchange(open, outcome as u8, Relaxed, Relaxed).is_ok()
        {
            self.totals.outcomes[outcome as usize - 1].fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end(Outcome::ClientGone);
    }
}
