//! A window on what happens now, for people who watch: the newest requests that ended with the reasons of their routes, how long
//! they took, and running sums. Bounded, in memory, gone with the process: what was used is the ledger's business. Holds names
//! and counts; never a prompt or an answer.

use super::{Flight, FlightReport};
use crate::{
    domain::{ErrorKind, GatewayError, KeyId, ModelChoice, Origin, RequestId, UnixMs},
    jobs::Outcome,
    ledger::unix_now,
};
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Requests kept whole.
const KEPT: usize = 256;
/// Requests whose times are kept.
const TIMED: usize = 4096;

/// One request, ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub request: RequestId,
    pub key: Option<KeyId>,
    /// When it was admitted.
    pub at: UnixMs,
    pub stream: bool,
    pub outcome: &'static str,
    /// `auto`, `local` or a name that is configured.
    pub asked: String,
    /// Why there was no answer, in the gateway's own words; what a target said of it is only its client's.
    pub why: Option<String>,
    /// From its admission, if its client got one before its end.
    pub first_token: Option<Duration>,
    pub report: FlightReport,
}

/// How long one answered request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took {
    pub ended: Instant,
    pub whole: Duration,
    /// Of a stream.
    pub first_token: Option<Duration>,
    pub is_local: bool,
}

/// Since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Requests answered here, and elsewhere.
    pub local: u64,
    pub cloud: u64,
    pub failed: u64,
    /// Their clients left.
    pub left: u64,
    /// Output tokens as they came, counted or estimated.
    pub tokens_local: u64,
    pub tokens_cloud: u64,
}

#[derive(Debug, Default)]
struct Window {
    ended: VecDeque<Arc<Ended>>,
    took: VecDeque<Took>,
    sums: Sums,
}

/// Shared by all flights and whoever watches.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    window: Arc<Mutex<Window>>,
    /// Here and elsewhere: too many for the lock.
    tokens: Arc<[AtomicU64; 2]>,
}

impl Recent {
    /// Tokens came out.
    pub(super) fn generated(&self, is_local: bool, tokens: u64) {
        self.tokens[usize::from(!is_local)].fetch_add(tokens, Ordering::Relaxed);
    }

    pub(super) fn note(&self, ended: Arc<Ended>, outcome: Outcome, now: Instant) {
        let is_local = ended.report.is_local;
        let mut window = self.window.lock();
        match outcome {
            Outcome::Completed if is_local => window.sums.local += 1,
            Outcome::Completed => window.sums.cloud += 1,
            Outcome::ClientGone => window.sums.left += 1,
            Outcome::Failed(_) => window.sums.failed += 1,
        }
        if outcome == Outcome::Completed {
            let first_token = ended.first_token.filter(|_| ended.stream);
            let took = Took { ended: now, whole: ended.report.actual_latency, first_token, is_local };
            push(&mut window.took, took, TIMED);
        }
        push(&mut window.ended, ended, KEPT);
    }

    /// At most `limit`, newest first.
    pub fn newest(&self, limit: usize) -> Vec<Arc<Ended>> {
        self.window.lock().ended.iter().rev().take(limit).cloned().collect()
    }

    /// Of answers that ended after `since`, as far as they are kept.
    pub fn times(&self, since: Instant) -> Vec<Took> {
        self.window.lock().took.iter().rev().take_while(|took| took.ended > since).copied().collect()
    }

    pub fn sums(&self) -> Sums {
        let [tokens_local, tokens_cloud] = [0, 1].map(|at: usize| self.tokens[at].load(Ordering::Relaxed));
        Sums { tokens_local, tokens_cloud, ..self.window.lock().sums }
    }
}

impl Flight {
    /// What people will see of it.
    pub(super) fn remember(&self, outcome: Outcome) -> Arc<Ended> {
        let (report, admitted) = (self.report(), self.job.admitted_at);
        let ended = Arc::new(Ended {
            request: self.job.id(),
            key: self.request().caller.as_ref().map(|caller| caller.key.clone()),
            at: unix_now().minus(report.actual_latency),
            stream: self.request().stream,
            outcome: outcome.label(),
            asked: asked(&self.request().model),
            why: self.failure.as_ref().and_then(why),
            first_token: self.first_token_at.map(|at| at.duration_since(admitted)),
            report,
        });
        self.services.recent.note(Arc::clone(&ended), outcome, Instant::now());
        ended
    }
}

fn asked(model: &ModelChoice) -> String {
    match model {
        ModelChoice::Auto => "auto".to_owned(),
        ModelChoice::Local => "local".to_owned(),
        ModelChoice::Named(name) => name.to_string(),
    }
}

/// Of kinds whose words are about targets and limits: others may quote what was asked.
fn why(failure: &GatewayError) -> Option<String> {
    use ErrorKind::{InsufficientQuota, LocalOnlyUnavailable, RateLimited, ShuttingDown, Timeout, Unavailable};
    let is_known = matches!(
        failure.kind,
        Unavailable | LocalOnlyUnavailable | RateLimited | InsufficientQuota | Timeout | ShuttingDown
    );
    (is_known && failure.origin == Origin::Gateway).then(|| failure.message.clone())
}

fn push<T>(queue: &mut VecDeque<T>, new: T, most: usize) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Complexity, NanoUsd, TokenUsage};

    fn report(is_local: bool, took_ms: u64) -> FlightReport {
        FlightReport {
            target: "t".into(),
            model: "m".into(),
            complexity: Complexity::Trivial,
            confidence: 0.9,
            reasoning: "because".into(),
            budget_sensitive: false,
            estimated_cost_per_1k: 0.0,
            estimated_cost: NanoUsd::ZERO,
            estimated_latency: Duration::ZERO,
            actual_latency: Duration::from_millis(took_ms),
            attempts: Vec::new(),
            usage: TokenUsage::default(),
            is_local,
            resumed: None,
            met_stop: None,
        }
    }

    fn ended(stream: bool, is_local: bool, took_ms: u64) -> Arc<Ended> {
        Arc::new(Ended {
            request: RequestId::random(),
            key: None,
            at: UnixMs::new(took_ms),
            stream,
            outcome: "ok",
            asked: "auto".to_owned(),
            why: None,
            first_token: Some(Duration::from_millis(1)),
            report: report(is_local, took_ms),
        })
    }

    #[test]
    fn only_our_own_words_about_targets_are_kept() {
        let ours = GatewayError::gateway(ErrorKind::Unavailable, "no target can serve it now");
        assert_eq!(why(&ours).as_deref(), Some("no target can serve it now"));
        assert_eq!(why(&GatewayError::target("cloud", ErrorKind::Unavailable, "you said: secret")), None);
        assert_eq!(why(&GatewayError::invalid("messages", "you said: secret")), None);
        assert_eq!(why(&GatewayError::gateway(ErrorKind::InvalidRequest, "you said: secret")), None);
    }

    #[test]
    fn every_end_is_counted_once_and_only_answers_have_a_time() {
        let (recent, now) = (Recent::default(), Instant::now());
        recent.note(ended(true, true, 1), Outcome::Completed, now);
        recent.note(ended(false, false, 2), Outcome::Completed, now);
        recent.note(ended(true, false, 3), Outcome::ClientGone, now);
        recent.note(ended(true, false, 4), Outcome::Failed(ErrorKind::Timeout), now);
        recent.generated(true, 5);
        recent.generated(false, 7);
        let sums = Sums { local: 1, cloud: 1, failed: 1, left: 1, tokens_local: 5, tokens_cloud: 7 };
        assert_eq!(recent.sums(), sums);
        let before = now.checked_sub(Duration::from_secs(1)).unwrap();
        let times: Vec<_> =
            recent.times(before).iter().map(|took| (took.is_local, took.first_token.is_some())).collect();
        assert_eq!(times, [(false, false), (true, true)], "the first token of a whole answer says nothing");
        assert_eq!(recent.times(now), []);
    }

    #[test]
    fn it_keeps_the_newest_and_no_more_than_it_may() {
        let (recent, now) = (Recent::default(), Instant::now());
        for nth in 0..TIMED as u64 + 10 {
            recent.note(ended(false, true, nth), Outcome::Completed, now + Duration::from_millis(nth));
        }
        let newest: Vec<_> = recent.newest(3).iter().map(|ended| ended.at.get()).collect();
        assert_eq!(newest, [4105, 4104, 4103]);
        assert_eq!(recent.newest(usize::MAX).len(), KEPT);
        assert_eq!(recent.times(now).len(), TIMED);
        assert_eq!(recent.sums().local, TIMED as u64 + 10);
    }
}
