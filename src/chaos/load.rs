//! What is asked meanwhile: an open loop of requests, and clients that always hold a stream open. What each asks for follows
//! from the seed and its number. Every answer is judged when it ends, and little is kept of it.

use super::{
    checks::{COUNT, continuity, words},
    draw::Draw,
    history::{Seen, violations},
    reading::{self, Ask, Outcome, Record},
    scenario::LoadPlan,
};
use crate::call;
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// A request that has not ended by then is lost.
const PATIENCE: Duration = Duration::from_secs(180);
/// Requests of the open loop that may be open at once; those beyond are not sent.
const OPEN: usize = 512;
/// Of a client that was turned away, before it tries again.
const PAUSE: Duration = Duration::from_millis(100);
/// Violations that are told in full.
const TOLD: usize = 50;
/// Unharmed answers asked for at once, and models that are asked for them.
const REFERENCES: usize = 4;
const MODELS: usize = 8;

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    hard: bool,
    max_tokens: u32,
}

/// What an unharmed answer to a kind of request looks like, of whatever model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Whoever is asked to count does count, so that a doubled or lost number shows.
    counts: bool,
    /// Of the shortest in numbered words.
    words: Option<usize>,
}

/// Everything that ended.
#[derive(Debug, Default)]
pub struct Harvest {
    pub seen: Vec<Seen>,
    /// Answers whose tokens could be checked one by one.
    pub checked: usize,
    pub errors: BTreeMap<String, usize>,
    pub violations: Vec<String>,
    pub more_violations: usize,
    /// Not sent: too many were open.
    pub held_back: usize,
}

impl Harvest {
    fn add(&mut self, mut record: Record, reference: Option<Reference>) {
        if let Outcome::Error { status, kind, code, .. } = &record.outcome {
            *self.errors.entry(format!("{status} {}", code.as_str().unwrap_or(kind))).or_default() += 1;
        }
        let counted = record.prompt == COUNT && !record.text.is_empty();
        if reference.is_some_and(|reference| !reference.counts) {
            // Nobody can say how it should go on.
            record.prompt.clear();
        } else {
            self.checked += usize::from(counted || words(&record.text).is_some());
        }
        let whole = reference.and_then(|reference| reference.words);
        let found = violations(&record, whole);
        let mut seen = Seen::of(&record);
        seen.false_end |= whole.is_some_and(|whole| super::history::cut_short(&record, whole).is_some());
        self.seen.push(seen);
        let room = TOLD.saturating_sub(self.violations.len());
        self.more_violations += found.len().saturating_sub(room);
        self.violations.extend(found.into_iter().take(room));
    }
}

/// Who asks.
#[derive(Clone)]
pub struct Load {
    http: reqwest::Client,
    api: String,
    plan: LoadPlan,
    keys: Vec<String>,
    seed: u64,
    references: Arc<BTreeMap<Kind, Reference>>,
    harvest: Arc<Mutex<Harvest>>,
}

impl Load {
    pub fn new(api: &str, plan: &LoadPlan, keys: Vec<String>, seed: u64) -> Result<Self, String> {
        Ok(Self {
            http: call::client(api)
                .tcp_nodelay(true)
                .pool_max_idle_per_host(0)
                .build()
                .map_err(|error| error.to_string())?,
            api: api.trim_end_matches('/').trim_end_matches("/v1").to_owned(),
            plan: plan.clone(),
            keys,
            seed,
            references: Arc::default(),
            harvest: Arc::default(),
        })
    }

    /// Asks every model for unharmed answers, before anything is broken.
    ///
    /// # Errors
    /// Nothing answers.
    pub async fn look_at_the_unharmed(&mut self) -> Result<(), String> {
        let models = self.models().await?;
        let kinds: Vec<Kind> = self.kinds();
        let asks: Vec<(Kind, Ask)> = kinds
            .iter()
            .flat_map(|kind| models.iter().map(|model| (*kind, ask_of(*kind).model(model).stream())))
            .collect();
        let load = &*self;
        let records: Vec<(Kind, Record)> = futures_util::stream::iter(asks)
            .map(|(kind, ask)| async move { (kind, load.ask(ask, 0).await) })
            .buffer_unordered(REFERENCES)
            .collect()
            .await;
        let mut references: BTreeMap<Kind, Reference> = BTreeMap::new();
        for (kind, record) in records.iter().filter(|(_, record)| record.is_complete()) {
            let found = reference(record);
            let known = references.entry(*kind).or_insert(found);
            known.counts &= found.counts;
            known.words = [known.words, found.words].into_iter().flatten().min();
        }
        if references.is_empty() {
            let why = records.first().map(|(_, record)| format!("{:?}", record.outcome)).unwrap_or_default();
            return Err(format!("{} answers no request: {why}", self.api));
        }
        self.references = Arc::new(references);
        Ok(())
    }

    fn kinds(&self) -> Vec<Kind> {
        let share = self.plan.hard_share.0;
        let hard = [false, true].into_iter().filter(|hard| if *hard { share > 0.0 } else { share < 1.0 });
        let lengths = || self.plan.max_tokens.0.iter().map(|tokens| u32::try_from(tokens.0).unwrap_or(u32::MAX));
        let mut kinds: Vec<Kind> =
            hard.flat_map(|hard| lengths().map(move |max_tokens| Kind { hard, max_tokens })).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    async fn models(&self) -> Result<Vec<String>, String> {
        let failed = |error: reqwest::Error| format!("{} does not answer: {error}", self.api);
        let mut request = self.http.get(format!("{}/v1/models", self.api)).timeout(Duration::from_secs(10));
        if let Some(key) = self.keys.first() {
            request = request.bearer_auth(key);
        }
        let answer = request.send().await.map_err(failed)?;
        if let Some(elsewhere) = call::elsewhere(&answer) {
            return Err(format!("{} is no gateway: {elsewhere}", self.api));
        }
        let list: serde_json::Value = answer.json().await.map_err(failed)?;
        let names = list["data"].as_array().ok_or_else(|| format!("{} lists no models: {list}", self.api))?;
        Ok(names.iter().filter_map(|model| model["id"].as_str().map(str::to_owned)).take(MODELS).collect())
    }

    async fn ask(&self, ask: Ask, number: u64) -> Record {
        let key = self.keys.get((number % self.keys.len().max(1) as u64) as usize);
        let ask = match key {
            Some(key) => ask.key(key),
            None => ask,
        };
        reading::ask(&self.http, &self.api, &ask, None, PATIENCE).await
    }

    /// Asks for `seconds`, or until it is to stop, then waits for every answer.
    pub async fn drive(&self, seconds: u64, stop: &CancellationToken) -> Harvest {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut clients = JoinSet::new();
        for number in 0..self.plan.streams.0 {
            clients.spawn(self.clone().hold_streams(number, end, stop.clone()));
        }
        let per_second = self.plan.requests_per_second.0;
        if per_second > 0.0 {
            clients.spawn(self.clone().send_on_time(per_second, end, stop.clone()));
        }
        while clients.join_next().await.is_some() {}
        std::mem::take(&mut *self.harvest.lock())
    }

    async fn send_on_time(self, per_second: f64, end: Instant, stop: CancellationToken) {
        let (began, mut open) = (Instant::now(), JoinSet::new());
        for number in 0_u64.. {
            let due = began + Duration::from_secs_f64(number as f64 / per_second);
            if due >= end {
                break;
            }
            if stop.run_until_cancelled(sleep_until(due)).await.is_none() {
                break;
            }
            while open.try_join_next().is_some() {}
            if open.len() >= OPEN {
                self.harvest.lock().held_back += 1;
                continue;
            }
            let load = self.clone();
            open.spawn(async move {
                let mut draw = Draw::of(load.seed, 1000 + number);
                let stream = draw.hits(load.plan.stream_share.0);
                load.one(&mut draw, number, stream).await;
            });
        }
        while open.join_next().await.is_some() {}
    }

    async fn hold_streams(self, number: u64, end: Instant, stop: CancellationToken) {
        // Their clients do not all come at once.
        let mut draw = Draw::of(self.seed, (1 << 40) + number);
        sleep(Duration::from_secs_f64(draw.share())).await;
        while Instant::now() < end && !stop.is_cancelled() {
            if !self.one(&mut draw, number, true).await {
                sleep(PAUSE).await;
            }
        }
    }

    /// One request. Returns whether its answer was whole.
    async fn one(&self, draw: &mut Draw, number: u64, stream: bool) -> bool {
        let hard = draw.hits(self.plan.hard_share.0);
        let tokens = draw.one_of(&self.plan.max_tokens.0).map_or(1, |tokens| tokens.0);
        let kind = Kind { hard, max_tokens: u32::try_from(tokens).unwrap_or(u32::MAX) };
        let mut ask = ask_of(kind).model(&self.plan.model);
        if stream {
            ask = ask.stream();
        }
        if draw.hits(self.plan.local_only_share.0) {
            ask = ask.local_only();
        }
        let record = self.ask(ask, number).await;
        let whole = record.is_complete();
        self.harvest.lock().add(record, self.references.get(&kind).copied());
        whole
    }
}

fn ask_of(kind: Kind) -> Ask {
    if kind.hard { Ask::hard() } else { Ask::count() }.max_tokens(kind.max_tokens)
}

fn reference(record: &Record) -> Reference {
    Reference { counts: continuity(&record.prompt, &record.text).is_ok(), words: words(&record.text) }
}

#[cfg(test)]
mod tests;
