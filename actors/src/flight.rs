//! One request's way: decision → attempt → stream → exactly one settlement. A plain task, not an actor: it owns no state
//! that must survive it, and the JobTable settles what it leaves behind.

mod cascade;
mod cloud;
mod count;
mod course;
mod decide;
mod embed;
mod hedge;
mod judge;
mod keep;
mod leave;
mod local;
mod outbox;
mod reading;
mod recent;
mod report;
mod retry;
mod sent;
mod server;
mod show;
mod so_far;
mod take_over;
mod tokens;

pub use count::{TokenCount, count_tokens};
pub use course::{Course, Flown, Refusal, Step, Traced, Traces};
pub use hedge::HedgeBudget;
pub use recent::{Ended, Recent, Sums, Took};
pub use report::{AttemptReport, FlightReport};
pub use take_over::Resumed;

use crate::{
    chaos::faults::Faults,
    cloud::{RetryBudget, client::WholeAnswer},
    config::Config,
    domain::{
        ChatRequest, Complexity, Delta, ErrorKind, GatewayError, Imprint, ModelName, Origin, TargetName, TokenUsage,
    },
    gpu::slot::Death,
    health::{AttemptFact, Draw, Scores},
    jobs::{Job, JobGuard, JobTable, Outcome, TargetKey, shutting_down},
    keys::Keys,
    ledger::{Ledger, Receipt, Refused, Reservation},
    observe,
    route::{ClassifierMsg, Decision, Fleet, RouterMsg},
    supervise::Address,
    task,
};
use cascade::Kept;
use outbox::Outbox;
use sent::Sent;
use so_far::SoFar;
use std::{
    ops::{ControlFlow, Deref},
    sync::Arc,
    time::Duration,
};
use take_over::Cut;
use tokio::{sync::mpsc, time::Instant};

/// Times our own pool or breaker may send a request away before that counts as a failure.
const SENT_AWAY: usize = 100;
/// Events between a flight and the HTTP edge.
const EVENTS: usize = 32;
/// How long the last word may wait for a reader that stopped reading.
const LAST_WORD: Duration = Duration::from_secs(5);

/// What a flight works with: everybody's services, and the configuration in force when its request came. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    pub config: Arc<Config>,
    /// Who draws spans of what ended, if anybody does.
    pub traces: Traces,
    shared: Arc<Shared>,
}

impl Services {
    pub fn new(config: Arc<Config>, shared: Shared) -> Self {
        Self { config, traces: Traces::default(), shared: Arc::new(shared) }
    }
}

impl Deref for Services {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// What all flights share.
pub struct Shared {
    pub jobs: JobTable,
    pub fleet: Fleet,
    pub ledger: Ledger,
    /// Extra attempts that all flights together may make.
    pub retries: RetryBudget,
    /// What hedges may cost.
    pub hedges: HedgeBudget,
    pub classifier: Address<ClassifierMsg>,
    pub router: Address<RouterMsg>,
    pub scores: Scores,
    pub keys: Keys,
    /// What ended lately, for people who watch.
    pub recent: Recent,
    /// Chaos: what is to go wrong with calls.
    pub faults: Faults,
}

/// What the HTTP edge hears of a request. A stream: `Started`, `Delta`s and `Finish`es, then `Done` or `Failed`.
/// Otherwise: `Whole` then `Done`, or `Failed`. The channel closing without `Done` or `Failed` is a bug of ours.
#[derive(Debug)]
pub enum FlightEvent {
    Started(Head),
    Delta(Delta),
    Finish {
        choice: u32,
        reason: String,
    },
    Whole(Box<WholeAnswer>),
    /// Instead of `Whole`, one vector for each input in its order.
    Embedded(Vec<Vec<f32>>),
    Done(Box<FlightReport>),
    Failed(GatewayError),
}

/// What is known when the first token arrives.
#[derive(Debug, Clone)]
pub struct Head {
    pub target: TargetName,
    pub model: ModelName,
    pub complexity: Complexity,
    pub attempts: usize,
    pub simulated: bool,
    pub imprint: Option<Imprint>,
}

/// Starts the flight of an admitted request. Dropping the receiver cancels it.
pub fn launch(services: Services, guard: JobGuard) -> mpsc::Receiver<FlightEvent> {
    let (events, outbox) = mpsc::channel(EVENTS);
    // A flight is ten kilobytes, which would be moved several times on the way into its task.
    task::detached(Box::pin(run(services, guard, events)));
    outbox
}

/// Why an attempt ended without an answer.
struct Failure {
    error: GatewayError,
    /// When it was noticed.
    at: Instant,
    /// The engine died under it.
    death: Option<Death>,
    /// No attempt was made: our own pool or breaker had no place. The target is not used up.
    sent_away: bool,
    /// There was an answer, which is kept: the attempt ended well and its target is used up.
    poor: bool,
    /// The ledger refused it, so no attempt was made.
    unpaid: Option<Refused>,
}

/// From where a failover is timed.
#[derive(Debug, Clone, Copy)]
struct Lost {
    at: Instant,
    /// How long it took until the request knew.
    heard: Duration,
}

impl Lost {
    fn noticed(at: Instant) -> Self {
        Self { at, heard: at.elapsed() }
    }
}

impl From<GatewayError> for Failure {
    fn from(error: GatewayError) -> Self {
        Self { error, at: Instant::now(), death: None, sent_away: false, poor: false, unpaid: None }
    }
}

struct Flight {
    services: Services,
    job: Arc<Job>,
    outbox: Outbox,
    attempts: Vec<AttemptReport>,
    /// Of the attempt under way.
    course: Course,
    /// For spans: see `course.rs`.
    steps: Vec<Step>,
    reasons: Vec<&'static str>,
    /// What the client was told instead of an answer, for spans.
    failure: Option<GatewayError>,
    /// The decision of the current (or last) attempt.
    decision: Option<Decision>,
    first_failure: Option<GatewayError>,
    /// The last target's death, until the next attempt's first token.
    mourning: Option<Death>,
    /// The attempt that another target's is to replace, until that one's first token.
    lost: Option<Lost>,
    sent: Sent,
    started: bool,
    finished: bool,
    /// The client has text and its target failed.
    cut: Option<Cut>,
    resumed: Option<Resumed>,
    /// See [`FlightReport::met_stop`].
    met_stop: Option<String>,
    /// A poor answer, shown if nothing better comes.
    kept: Option<Kept>,
    /// A hedge was made.
    hedged: bool,
    retried_only_target: bool,
    engine_deaths: usize,
    target_faults: usize,
    /// Cloud targets that failed in a way that passes.
    faulty: Vec<TargetKey>,
    sent_away: usize,
    /// A cloud attempt failed: another one is extra.
    cloud_failed: bool,
    /// Money was set aside: the answer's end waits for the ledger.
    paid: bool,
    /// The attempt under way.
    under_way: Option<SoFar>,
    /// Its share of the electricity, if it is local and at work.
    draw: Option<Draw>,
    /// What is set aside for it, if it is paid.
    reserved: Option<Reservation>,
    /// The word of a paid answer's cost, written down together with the request's own row.
    settled: Option<Receipt>,
    usage: TokenUsage,
    /// Of the attempt that is shown.
    imprint: Option<Imprint>,
    waited: Duration,
    first_token_at: Option<Instant>,
    /// When the last piece of a stream that flows was given on.
    piece_at: Option<Instant>,
}

enum End {
    Landed,
    Failed(GatewayError),
    ClientGone,
}

async fn run(services: Services, guard: JobGuard, events: mpsc::Sender<FlightEvent>) {
    let job = Arc::clone(guard.job());
    let gone = events.clone();
    let mut flight = Flight::new(services, Arc::clone(&job), events);
    let end = tokio::select! {
        biased;
        () = job.cancelled() => End::Failed(shutting_down()),
        () = gone.closed() => End::ClientGone,
        result = flight.fly() => result.map_or_else(End::Failed, |()| End::Landed),
        () = tokio::time::sleep_until(job.deadline) => End::Failed(flight_timeout(&job)),
    };
    drop(gone);
    let end = flight.fall_back(end).await;
    flight.conclude(end, guard).await;
}

fn flight_timeout(job: &Job) -> GatewayError {
    let waited = job.deadline.duration_since(job.admitted_at);
    let kind = if job.request.is_local_only() { ErrorKind::LocalOnlyUnavailable } else { ErrorKind::Timeout };
    GatewayError::gateway(kind, format!("no complete answer within {} s", waited.as_secs()))
        .retry_after(Duration::from_secs(1))
}

impl Flight {
    fn new(services: Services, job: Arc<Job>, events: mpsc::Sender<FlightEvent>) -> Self {
        Self {
            services,
            job,
            outbox: Outbox::new(events),
            attempts: Vec::new(),
            course: Course::default(),
            steps: Vec::new(),
            reasons: Vec::new(),
            failure: None,
            decision: None,
            first_failure: None,
            mourning: None,
            lost: None,
            sent: Sent::default(),
            started: false,
            finished: false,
            cut: None,
            resumed: None,
            met_stop: None,
            kept: None,
            hedged: false,
            retried_only_target: false,
            engine_deaths: 0,
            target_faults: 0,
            faulty: Vec::new(),
            sent_away: 0,
            cloud_failed: false,
            paid: false,
            under_way: None,
            draw: None,
            reserved: None,
            settled: None,
            usage: TokenUsage::default(),
            imprint: None,
            waited: Duration::ZERO,
            first_token_at: None,
            piece_at: None,
        }
    }

    fn request(&self) -> &ChatRequest {
        &self.job.request
    }

    /// Decides and attempts until one attempt lands or nothing is left to try.
    async fn fly(&mut self) -> Result<(), GatewayError> {
        self.services.retries.on_request(Instant::now());
        loop {
            let asked = Instant::now();
            let decided = self.decide().await;
            self.note_step(asked, &decided);
            let decision = match decided {
                Ok(decision) => decision,
                Err(error) => return Err(self.last_word(error)),
            };
            if self.decision.is_none() {
                let now = Instant::now();
                let took = now.saturating_duration_since(self.job.admitted_at);
                self.services.jobs.planned(took.saturating_sub(decision.waited), now);
            }
            self.waited += decision.waited;
            let key = decision.candidate.key;
            if !self.pays_for_extra(&decision) {
                // Not another paid call; a local target may still serve it.
                self.job.tried(key);
                continue;
            }
            self.decision = Some(decision.clone());
            let result = match key {
                TargetKey::Gpu { .. } => self.fly_local(&decision).await,
                TargetKey::Cloud { provider, model } => self.fly_cloud(&decision, provider, model).await,
            };
            let Err(failure) = result else { return Ok(()) };
            // A hedge may have become the attempt.
            let decision = self.decision.clone().unwrap_or(decision);
            if self.after_failure(failure, &decision).await?.is_break() {
                return Ok(());
            }
        }
    }

    /// Whether another attempt may be made, or the client has all that it asked for; else the error that it reads.
    async fn after_failure(&mut self, failure: Failure, decision: &Decision) -> Result<ControlFlow<()>, GatewayError> {
        const AGAIN: Result<ControlFlow<()>, GatewayError> = Ok(ControlFlow::Continue(()));
        if failure.poor {
            return AGAIN;
        }
        if let Some(refused) = failure.unpaid {
            // The next plan does without it, and says why if nothing else is left.
            self.job.unpaid(decision.candidate.key, matches!(refused, Refused::Budget(_)));
            return AGAIN;
        }
        if failure.sent_away {
            self.sent_away += 1;
            return if self.sent_away < SENT_AWAY { AGAIN } else { Err(failure.error) };
        }
        self.cloud_failed |= matches!(decision.candidate.key, TargetKey::Cloud { .. });
        if self.started && !self.finished {
            if self.has_all(decision) {
                self.end_at_limit(decision).await;
                return Ok(ControlFlow::Break(()));
            }
            return self.take_over(failure, decision).map(ControlFlow::Continue);
        }
        let Failure { error, at, death, .. } = failure;
        self.first_failure.get_or_insert_with(|| error.clone());
        if self.finished || !error.may_try_elsewhere() {
            return Err(error);
        }
        // What was generated and not shown belongs to the model that generated it.
        self.sent = Sent::default();
        match &death {
            Some(_) => self.engine_deaths += 1,
            None => self.target_faults += 1,
        }
        let next = self.next_step(&error, death.is_some(), decision);
        self.ask_clouds_again(death.is_some(), self.engine_deaths);
        self.mourning = death;
        self.lost = next.is_a_failover().then(|| Lost::noticed(at));
        self.use_up(next, error, decision.candidate.key).await.map(ControlFlow::Continue)
    }

    fn is_only_target(&self, decision: &Decision) -> bool {
        let tried = self.job.progress().tried;
        !decision.plan.candidates.iter().any(|other| other.key != decision.candidate.key && !tried.contains(&other.key))
    }

    /// An attempt is about to leave for its target.
    fn note_dispatch(&mut self, decision: &Decision, so_far: SoFar) {
        if let Some(last) = self.attempts.last() {
            observe::failover(self.job.who(), &last.target, decision.candidate.target.as_str(), last.outcome);
        }
        if let Some(Lost { at, heard }) = self.lost {
            observe::failover_stage("detect", heard);
            observe::failover_stage("redispatch", at.elapsed());
        }
        self.piece_at = None;
        self.under_way = Some(so_far);
    }

    async fn conclude(mut self, end: End, guard: JobGuard) {
        let outcome = match end {
            End::Landed => {
                let report = self.report();
                self.keep("ok").await;
                let done = self.outbox.send(FlightEvent::Done(Box::new(report)));
                // A client that never reads its last event has not got its answer.
                match tokio::time::timeout_at(self.job.deadline.max(Instant::now() + LAST_WORD), done).await {
                    Ok(Ok(())) => Outcome::Completed,
                    Ok(Err(_)) | Err(_) => Outcome::ClientGone,
                }
            }
            End::ClientGone => {
                self.keep(Outcome::ClientGone.label()).await;
                Outcome::ClientGone
            }
            End::Failed(error) => {
                let outcome = Outcome::Failed(error.kind);
                self.keep(outcome.label()).await;
                if self.started {
                    observe::stream_broken(error.kind.label());
                }
                let origin = match &error.origin {
                    Origin::Target(name) => name.as_str(),
                    Origin::Client | Origin::Gateway => "",
                };
                observe::request_failed(self.job.who(), error.kind.label(), origin);
                self.failure = Some(error.clone());
                let last_word = self.outbox.break_off(FlightEvent::Failed(error));
                let _ = tokio::time::timeout(LAST_WORD, last_word).await;
                outcome
            }
        };
        self.observe_end(outcome);
        let ended = self.remember(outcome);
        self.tell_trace(&ended, outcome);
        self.settle_tokens();
        guard.settle(outcome);
    }

    fn observe_end(&mut self, outcome: Outcome) {
        self.close_attempt_under_way();
        let took = self.job.admitted_at.elapsed();
        let inside: Duration = self.attempts.iter().map(|attempt| attempt.took).sum();
        let decision = self.decision.as_ref();
        observe::request_ended(&observe::RequestEnd {
            who: self.job.who(),
            client_id: self.request().client_id.as_deref(),
            target: decision.map_or("none", |decision| decision.candidate.target.as_str()),
            model: decision.map_or("none", |decision| decision.candidate.model.as_str()),
            complexity: decision.map_or("none", |decision| decision.plan.complexity.as_str()),
            outcome: outcome.label(),
            took,
            elsewhere: inside + self.waited,
            attempts: self.attempts.len(),
        });
    }

    /// What the attempt that just ended says of its target.
    fn note_score(&self, decision: &Decision) {
        let Some(last) = self.attempts.last() else { return };
        let fact = AttemptFact {
            good: AttemptFact::verdict(last.outcome, last.first_token.is_some()),
            first_token: last.first_token,
            took: last.took,
            completion_tokens: last.usage.completion_tokens,
        };
        self.services.scores.note(decision.candidate.key, fact, Instant::now());
    }
}
