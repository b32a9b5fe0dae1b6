//! A hedge: when the first token of a local attempt is late, the cloud is asked as well, and the first visible token
//! wins. It holds clones only, so it runs beside the flight's own attempt; dropped, it closes its socket and is charged
//! as any abandoned attempt. It never waits for a lease: a request in the queue has no local attempt yet.

mod budget;

pub use budget::HedgeBudget;

use super::{
    AttemptReport, Course, Failure, Flight, Services,
    cloud::{PLACE_PATIENCE, acquire, busy, deadline, limits},
    leave::{ABANDONED, cost_of_left},
    sent::Sent,
    so_far::SoFar,
};
use crate::{
    cloud::{Answer, Asked, CallEnd, Grant},
    config::{HedgeConfig, PrefillStyle},
    domain::{ChatRequest, CloudBound, ErrorKind, GatewayError, GenerationEvent, ModelChoice, NanoUsd, TokenUsage},
    jobs::{Job, TargetKey},
    ledger::{AttemptRow, Refused, Reservation},
    observe,
    route::{Candidate, Decision, plan::Plan, policy::Standing},
    upstream::OutputCap,
};
use budget::Stake;
use parking_lot::Mutex;
use std::{future::pending, pin::Pin, sync::Arc};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until, timeout},
};

/// At most one of them beside each local attempt.
pub(super) struct Hedge(State);

enum State {
    /// None is made.
    Off,
    Due {
        at: Instant,
        order: Order,
    },
    Running {
        call: Pin<Box<dyn Future<Output = Result<Called, GatewayError>> + Send>>,
        tab: Tab,
    },
    Failed {
        error: GatewayError,
        tab: Tab,
    },
    Won(Won),
}

/// A hedge that was first.
pub(super) struct Won {
    called: Called,
    tab: Tab,
}

/// All that a call needs.
struct Order {
    services: Services,
    job: Arc<Job>,
    decision: Decision,
    /// What is reserved for it.
    row: AttemptRow,
}

/// A call whose first token is there.
struct Called {
    _place: OwnedSemaphorePermit,
    grant: Grant,
    answer: Answer,
}

/// What a hedge costs, known from outside of its call.
struct Tab {
    decision: Decision,
    stake: Stake,
    sent: Arc<Mutex<Option<Sending>>>,
}

/// A call that has left for its provider.
struct Sending {
    began: Instant,
    course: Course,
    headed: bool,
    reservation: Reservation,
    /// What it is set aside for.
    most: TokenUsage,
}

impl Sending {
    /// Ends a call that nobody waits for any more, before anything of it was seen.
    fn call_off(self, decision: &Decision) -> (TokenUsage, NanoUsd) {
        let so_far = SoFar::asked(self.began, self.most.prompt_tokens);
        let price = &decision.candidate.price;
        let (usage, cost) = cost_of_left(&so_far, self.most.completion_tokens, price, &self.reservation);
        drop(self.reservation.settle(ABANDONED, usage, cost, NanoUsd::ZERO));
        (usage, cost)
    }
}

impl Tab {
    /// The call's money, from now on spent as a whole unless somebody knows better.
    fn take(&mut self) -> Option<Sending> {
        let sending = self.sent.lock().take();
        if sending.is_some() {
            self.stake.spend(self.stake.amount());
        }
        sending
    }
}

impl Drop for Tab {
    /// Whoever drops it unsettled has left in the middle.
    fn drop(&mut self) {
        if let Some(sending) = self.take() {
            self.stake.spend(sending.call_off(&self.decision).1);
        }
    }
}

/// Where a hedge would go: the plan's first cloud model that works and was not tried. Only for who left the choice to us
/// and has not asked for local or cheap.
fn hedge_candidate<'a>(
    request: &ChatRequest,
    config: HedgeConfig,
    plan: &'a Plan,
    tried: &[TargetKey],
) -> Option<&'a Candidate> {
    let free = matches!(request.model, ModelChoice::Auto) && !request.is_local_only() && !request.budget_sensitive;
    let is_there = |candidate: &&Candidate| {
        let is_cloud = matches!(candidate.key, TargetKey::Cloud { .. });
        is_cloud && candidate.standing == Standing::Ready && !tried.contains(&candidate.key)
    };
    plan.candidates.iter().filter(|_| config.enabled && free).find(is_there)
}

impl Hedge {
    /// Resolves when its first token is there; never, if it comes to nothing. Cancel safe.
    pub(super) async fn wins(&mut self) {
        loop {
            match &self.0 {
                State::Won(_) => return,
                State::Off | State::Failed { .. } => pending().await,
                State::Due { .. } | State::Running { .. } => self.advance().await,
            }
        }
    }

    /// Waits until a call under way has won or failed: the local attempt is lost, so there is no race any more.
    pub(super) async fn last_chance(&mut self) {
        if matches!(self.0, State::Running { .. }) {
            self.advance().await;
        }
    }

    pub(super) fn won(self) -> Option<Won> {
        if let State::Won(won) = self.0 { Some(won) } else { None }
    }

    async fn advance(&mut self) {
        let ended = match &mut self.0 {
            State::Due { at, .. } => {
                sleep_until(*at).await;
                None
            }
            State::Running { call, .. } => Some(call.as_mut().await),
            State::Off | State::Failed { .. } | State::Won(_) => return,
        };
        self.0 = match (std::mem::replace(&mut self.0, State::Off), ended) {
            (State::Due { order, .. }, _) => start(order),
            (State::Running { tab, .. }, Some(Ok(called))) => State::Won(Won { called, tab }),
            (State::Running { tab, .. }, Some(Err(error))) => State::Failed { error, tab },
            (other, _) => other,
        };
    }
}

/// Starts the call if there is money for it.
fn start(order: Order) -> State {
    let now = Instant::now();
    let stake = order.services.hedges.withdraw(order.row.cost, now);
    let Some(stake) = stake.filter(|_| order.services.retries.withdraw(now)) else {
        observe::hedge("capped");
        return State::Off;
    };
    let sent = Arc::default();
    let tab = Tab { decision: order.decision.clone(), stake, sent: Arc::clone(&sent) };
    State::Running { call: Box::pin(call(order, sent)), tab }
}

/// Place, permission, call, first token. Dropped on its way, it gives all of them back.
async fn call(order: Order, sent: Arc<Mutex<Option<Sending>>>) -> Result<Called, GatewayError> {
    let Order { services, job, decision, row } = order;
    let target = decision.candidate.target.clone();
    let internal = |what| GatewayError::target(&target, ErrorKind::Internal, what);
    let TargetKey::Cloud { provider, model } = decision.candidate.key else { return Err(internal("no cloud model")) };
    let provider = services.fleet.providers.get(provider).ok_or_else(|| internal("no such provider"))?;
    let place = timeout(PLACE_PATIENCE, provider.place()).await.ok().flatten().ok_or_else(|| busy(provider))?;
    let grant = acquire(provider, model, job.deadline).await?;
    let bound = CloudBound::new(&job.request).ok_or_else(|| internal("a local-only request"))?;
    let model = provider.model(model).ok_or_else(|| internal("no such model"))?;
    let wire = model.wire(provider.config().wire);
    let cap = OutputCap {
        tokens: job.request.output_cap(decision.candidate.output_cap),
        field: provider.config().limit_field,
    };
    let body = wire.body(bound, &model.upstream, cap, true)?;
    let key = grant.key().ok_or_else(|| internal("no such key"))?;
    let most = row.usage;
    let reservation = services.ledger.reserve(row, limits(&job), deadline(&job)).await.map_err(Refused::told)?;
    let began = Instant::now();
    let course = Course::begin(&job, began);
    *sent.lock() = Some(Sending { began, course, headed: false, reservation, most });
    let client = provider.client().continuing(PrefillStyle::None).speaking(wire);
    let headed = || sent.lock().iter_mut().for_each(|sending| sending.headed = true);
    let answering = async {
        let answer =
            client.start(body, course.call_id_abroad(&job), key, Asked::by(&job.request), job.deadline).await?;
        headed();
        first_token(answer).await
    };
    match answering.await {
        Ok(answer) => Ok(Called { _place: place, grant, answer }),
        Err(error) => {
            grant.report(CallEnd::of(&error), Instant::now());
            Err(error)
        }
    }
}

/// The answer, once something of it can be seen.
async fn first_token(answer: Answer) -> Result<Answer, GatewayError> {
    let Answer::Stream(mut events) = answer else { return Ok(answer) };
    loop {
        match events.next().await? {
            Some(GenerationEvent::Delta(delta)) if delta.is_visible() => {
                events.put_back(GenerationEvent::Delta(delta));
                return Ok(Answer::Stream(events));
            }
            Some(_) => {}
            None => return Err(events.failed("ended without a token")),
        }
    }
}

impl Flight {
    /// The hedge of a local attempt that begins now. One request is hedged once, and only while nobody has seen anything.
    pub(super) fn hedge(&self, decision: &Decision, began: Instant) -> Hedge {
        let config = self.services.config.router.hedge;
        let fresh = !self.hedged && !self.started && self.kept.is_none();
        let tried = self.job.progress().tried;
        let Some(candidate) = hedge_candidate(self.request(), config, &decision.plan, &tried).filter(|_| fresh) else {
            return Hedge(State::Off);
        };
        let decision = Decision { candidate: candidate.clone(), ..decision.clone() };
        let row = self.reserved_row(&decision, self.set_aside(crate::cloud::count::prompt_tokens(self.request())));
        let order = Order { services: self.services.clone(), job: Arc::clone(&self.job), decision, row };
        Hedge(State::Due { at: began + config.after, order })
    }

    /// The local attempt is first, or nothing came of the hedge: it is closed and its money accounted for.
    pub(super) fn call_off(&mut self, hedge: &mut Hedge) {
        if matches!(hedge.0, State::Won(_)) {
            return;
        }
        let (error, mut tab) = match std::mem::replace(&mut hedge.0, State::Off) {
            State::Running { call, tab } => {
                drop(call);
                (None, tab)
            }
            State::Failed { error, tab } => (Some(error), tab),
            State::Off | State::Due { .. } | State::Won(_) => return,
        };
        self.hedged = true;
        observe::hedge(if error.is_some() { "failed" } else { "lost" });
        let Some(sending) = tab.take() else { return };
        match error {
            Some(error) => self.note_failed(sending, error, &mut tab),
            None => self.note_lost(sending, &mut tab),
        }
    }

    fn note_failed(&mut self, sending: Sending, error: GatewayError, tab: &mut Tab) {
        // The local attempt goes on.
        let under_way = self.under_way.take();
        let course = std::mem::replace(&mut self.course, sending.course);
        let mut progress = self.begin(sending.began);
        progress.headed = sending.headed;
        self.reserved = Some(sending.reservation);
        self.settle(&tab.decision, &progress, &Err(Failure::from(error)));
        (self.under_way, self.course) = (under_way, course);
        self.note_spent(tab);
    }

    fn note_lost(&mut self, sending: Sending, tab: &mut Tab) {
        let candidate = &tab.decision.candidate;
        let (took, course) = (sending.began.elapsed(), sending.course);
        let (usage, cost) = sending.call_off(&tab.decision);
        observe::attempt(candidate.target.as_str(), ABANDONED);
        self.attempts.push(AttemptReport {
            target: candidate.target.to_string(),
            model: candidate.model.to_string(),
            outcome: ABANDONED,
            first_token: None,
            took,
            usage,
            cost,
            course,
        });
        self.note_spent(tab);
    }

    fn note_spent(&self, tab: &mut Tab) {
        if let Some(last) = self.attempts.last() {
            tab.stake.spend(last.cost);
        }
    }

    /// The hedge was first: the flight goes on with its stream as with any other.
    pub(super) async fn go_on_with(&mut self, won: Won) -> Result<(), Failure> {
        let Won { called, mut tab } = won;
        let lost = GatewayError::target(&tab.decision.candidate.target, ErrorKind::Internal, "no call was made");
        let sending = tab.take().ok_or(lost)?;
        observe::hedge("won");
        (self.hedged, self.paid) = (true, true);
        self.sent = Sent::default();
        let decision = tab.decision.clone();
        self.decision = Some(decision.clone());
        let mut progress = self.begin(sending.began);
        progress.headed = true;
        (self.under_way, self.reserved) = (Some(progress.so_far), Some(sending.reservation));
        self.course = sending.course;
        self.note_answering();
        let result = self.pass(called.answer, &decision, &mut progress).await;
        called.grant.report(progress.call_end(&result), Instant::now());
        self.settle(&decision, &progress, &result);
        self.note_spent(&mut tab);
        result
    }
}

#[cfg(test)]
mod tests;
