//! Clients: ask for numbered words, read fast, slowly or not to the end, and hold the gateway to its promises: one honest end,
//! no word twice, none missing, no cut shown as complete.

use super::{
    dice::Dice,
    stage::{POISON, Stage, words},
};
use crate::{
    cloud::WholeAnswer,
    domain::{BudgetLimits, Caller, ChatRequest, Choices, Input, Message, ModelChoice, NanoUsd, Needs, RequestId},
    flight::{FlightEvent, FlightReport, launch},
    jobs::JobGuard,
    keys::{EmbeddedLimiter, Limits, Pass},
    runtime::Runtime,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

pub(super) const LIMITS: Limits =
    Limits { requests_per_minute: Some(600), tokens_per_minute: Some(60_000), concurrency: Some(8) };

/// Beyond the request's own time: for the last word, and for the ledger.
const GRACE: Duration = Duration::from_secs(8);

/// How one request has ended, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    Failed,
    Left,
    Refused,
}

/// What many clients share.
#[derive(Clone)]
pub(super) struct Crowd {
    pub(super) stage: Stage,
    pub(super) runtime: Arc<Runtime>,
    pub(super) limiter: Arc<EmbeddedLimiter>,
    pub(super) ends: Arc<Mutex<Vec<(String, Ended)>>>,
}

/// What one client wants and how it behaves.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) name: String,
    pub(super) model: ModelChoice,
    pub(super) local_only: bool,
    pub(super) stream: bool,
    pub(super) words: u64,
    /// Answers of so many words.
    pub(super) choices: u32,
    pub(super) max_tokens: Option<u32>,
    pub(super) prompt: &'static str,
    pub(super) key: Option<usize>,
    pub(super) session: Option<String>,
    /// It goes away then.
    pub(super) leaves_after: Option<Duration>,
    /// It pauses so long after each piece.
    pub(super) pause: Duration,
    pub(super) poisonous: bool,
}

impl Wish {
    pub(super) fn simple(name: &str, model: ModelChoice, local_only: bool) -> Self {
        Self {
            name: name.to_owned(),
            model,
            local_only,
            stream: true,
            words: 5,
            choices: 1,
            max_tokens: Some(10),
            prompt: "Say it.",
            key: None,
            session: None,
            leaves_after: None,
            pause: Duration::ZERO,
            poisonous: false,
        }
    }

    pub(super) fn any(name: String, dice: &mut Dice, models: &[&str]) -> Self {
        let named = dice.one_of(models);
        let model = match dice.number(0..10) {
            0 => ModelChoice::Local,
            1 | 2 => ModelChoice::Named(named.into()),
            _ => ModelChoice::Auto,
        };
        let local_only = !matches!(model, ModelChoice::Named(_)) && dice.percent(15);
        let prompts = [
            (50, "Say it."),
            (20, "Show your reasoning in full and say it."),
            (10, "Some creative writing, and say it."),
            (20, "Tell me about the weather of the last few days in the mountains, and what it meant for the harvest."),
        ];
        Self {
            name,
            model,
            local_only,
            stream: dice.percent(70),
            words: dice.number(1..60),
            choices: if dice.percent(10) { u32::try_from(dice.number(2..4)).unwrap() } else { 1 },
            max_tokens: dice.percent(50).then(|| u32::try_from(dice.number(1..90)).unwrap()),
            prompt: dice.weighed(&prompts),
            key: dice.percent(70).then(|| usize::try_from(dice.number(0..3)).unwrap()),
            session: dice.percent(20).then(|| format!("talk {}", dice.number(0..4))),
            leaves_after: dice.percent(20).then(|| dice.ms(0..6000)),
            pause: match dice.number(0..100) {
                0..15 => dice.ms(0..400),
                // It has as good as stopped to read.
                15..18 => dice.ms(6_000..20_000),
                _ => Duration::ZERO,
            },
            poisonous: dice.percent(2),
        }
    }

    fn request(&self) -> ChatRequest {
        let poison = if self.poisonous { POISON } else { "" };
        let content = format!("{} {poison} answer={} for {}", self.prompt, self.words, self.name);
        let Value::Object(raw) = json!({"role": "user", "content": content}) else { unreachable!() };
        let mut body = json!({"model": "auto", "messages": [raw.clone()], "stream": self.stream});
        if let Some(max) = self.max_tokens {
            body["max_tokens"] = max.into();
        }
        if self.choices > 1 {
            body["n"] = self.choices.into();
        }
        let Value::Object(body) = body else { unreachable!() };
        ChatRequest {
            id: RequestId::random(),
            model: self.model.clone(),
            input: Input::Messages(vec![Message { role: "user".into(), content, raw }]),
            choices: Choices { n: self.choices, best_of: self.choices, ..Choices::default() },
            needs: Needs { several_choices: self.choices > 1, ..Needs::default() },
            max_tokens: self.max_tokens,
            stream: self.stream,
            local_only: self.local_only,
            session: self.session.clone(),
            caller: self.key.map(|key| Arc::new(caller(key))),
            body,
            ..ChatRequest::plain("")
        }
    }

    /// Words of a whole answer.
    fn due(&self) -> u64 {
        self.max_tokens.map_or(self.words, |max| self.words.min(max.into()))
    }
}

fn caller(key: usize) -> Caller {
    let day = (key == 2).then(|| NanoUsd::new(3_000_000));
    let budget = BudgetLimits { day, ..BudgetLimits::default() };
    Caller { budget, ..Caller::unlimited(format!("key_{key}").as_str()) }
}

impl Crowd {
    /// One request from its coming to its end.
    pub(super) async fn ask(self, wish: Wish) -> Ended {
        let request = wish.request();
        self.stage.say(format_args!("{} asks {}: {wish:?}", wish.name, request.id));
        let ended = self.serve(&wish, request).await;
        self.stage.say(format_args!("{} ends: {ended:?}", wish.name));
        self.ends.lock().push((wish.name, ended.clone()));
        ended
    }

    /// As the edge does it.
    async fn serve(&self, wish: &Wish, request: ChatRequest) -> Ended {
        let _pass = match wish.key {
            None => None,
            Some(key) => {
                let id = caller(key).key;
                match Pass::enter(self.limiter.clone(), id, LIMITS, Instant::now()).await {
                    Ok(pass) => Some(pass),
                    Err(_) => return Ended::Refused,
                }
            }
        };
        let hold = match &_pass {
            None => None,
            Some(pass) => match pass.hold(u64::from(wish.max_tokens.unwrap_or(4096)), Instant::now()).await {
                Ok(hold) => Some(hold),
                Err(_) => return Ended::Refused,
            },
        };
        let config = self.runtime.live.load();
        let guard: JobGuard = match self.runtime.services.jobs.admit(request, config, Instant::now()) {
            Ok(guard) => guard,
            Err(error) => {
                self.stage.say(format_args!("{} is refused: {}", wish.name, error.kind.label()));
                return Ended::Refused;
            }
        };
        if let Some(hold) = hold {
            guard.job().put_hold(hold);
        }
        let deadline = guard.job().deadline;
        let events = launch(self.runtime.services.clone(), guard);
        let mut reader = Reader { stage: &self.stage, wish, choices: BTreeMap::new(), started: 0 };
        let reading = reader.read(events, deadline);
        match wish.leaves_after {
            None => reading.await,
            Some(after) => tokio::select! {
                biased;
                ended = reading => ended,
                () = sleep(after) => Ended::Left,
            },
        }
    }
}

struct Reader<'a> {
    stage: &'a Stage,
    wish: &'a Wish,
    choices: BTreeMap<u32, Answer>,
    started: usize,
}

/// One of the answers, as far as it has come.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    finishes: Vec<String>,
}

impl Reader<'_> {
    async fn read(&mut self, mut events: mpsc::Receiver<FlightEvent>, deadline: Instant) -> Ended {
        let name = &self.wish.name;
        loop {
            // Whoever pauses is waited for.
            let bound = deadline.max(Instant::now()) + GRACE;
            let Ok(event) = timeout_at(bound, events.recv()).await else {
                self.stage.wrong(format_args!("{name} waits for ever"));
                return Ended::Failed;
            };
            let ended = match event {
                // Nobody waits longer than that for who does not read.
                None if self.wish.pause > Duration::from_secs(4) => return Ended::Left,
                None => {
                    self.stage.wrong(format_args!("{name} is left without an end"));
                    return Ended::Failed;
                }
                Some(FlightEvent::Started(head)) => {
                    self.stage.say(format_args!("{name} hears from {}", head.target));
                    self.started += 1;
                    None
                }
                Some(FlightEvent::Delta(delta)) => {
                    self.take(delta.choice, delta.content.as_deref().unwrap_or_default());
                    None
                }
                Some(FlightEvent::Finish { choice, reason }) => {
                    self.choices.entry(choice).or_default().finishes.push(reason);
                    None
                }
                Some(FlightEvent::Whole(answer)) => {
                    self.take_whole(&answer);
                    None
                }
                Some(FlightEvent::Embedded(_)) => {
                    self.stage.wrong(format_args!("{name} is sent vectors"));
                    None
                }
                Some(FlightEvent::Done(report)) => {
                    self.judge(&report);
                    Some(Ended::Done)
                }
                Some(FlightEvent::Failed(error)) => {
                    self.stage.say(format_args!("{name} is told {}: {}", error.kind.label(), error.message));
                    let internal = error.kind.label() == "internal";
                    self.stage.demand(!internal, || format!("{name} is told of a bug: {}", error.message));
                    Some(Ended::Failed)
                }
            };
            if let Some(ended) = ended {
                let after = timeout_at(Instant::now() + GRACE, events.recv()).await;
                self.stage.demand(matches!(after, Ok(None)), || format!("{name} hears more after the end: {after:?}"));
                return ended;
            }
            if !self.wish.pause.is_zero() {
                sleep(self.wish.pause).await;
            }
        }
    }

    /// Whatever it has is the beginning of the answer.
    fn take(&mut self, choice: u32, piece: &str) {
        let name = &self.wish.name;
        self.stage.say(format_args!("{name} reads {piece:?} of {choice}"));
        let answer = self.choices.entry(choice).or_default();
        answer.text.push_str(piece);
        let whole = words(self.wish.words);
        self.stage.demand(whole.starts_with(&answer.text), || format!("{name} has {:?}", answer.text));
        self.stage.demand(answer.finishes.is_empty(), || format!("{name} reads on after the finish"));
    }

    fn take_whole(&mut self, whole: &WholeAnswer) {
        for choice in &whole.choices {
            let text = choice.message.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
            self.take(choice.index, &text);
            self.choices.entry(choice.index).or_default().finishes.push(choice.finish_reason.clone());
        }
    }

    /// It was told that the answer is complete.
    fn judge(&self, report: &FlightReport) {
        let (name, wish) = (&self.wish.name, self.wish);
        self.stage.say(format_args!("{name} is served by {} after {} attempts", report.target, report.attempts.len()));
        self.stage.demand(!wish.local_only || report.is_local, || format!("{name} went to {}", report.target));
        if wish.stream {
            self.stage.demand(self.started == 1, || format!("{name} is started {} times", self.started));
        }
        let got: Vec<u32> = self.choices.keys().copied().collect();
        let wanted: Vec<u32> = (0..wish.choices).collect();
        self.stage.demand(got == wanted, || format!("{name} gets the answers {got:?} of {wanted:?}"));
        self.choices.values().for_each(|answer| self.judge_one(answer, report));
    }

    fn judge_one(&self, Answer { text, finishes }: &Answer, report: &FlightReport) {
        let (name, wish) = (&self.wish.name, self.wish);
        let times = finishes.len();
        self.stage.demand(times == 1, || format!("{name} is told {times} times that an answer is finished"));
        let reason = finishes.first().map_or("", String::as_str);
        let has = text.split_whitespace().count() as u64;
        // Of a text that goes on elsewhere the rest of the cap is an estimate.
        let estimated = report.resumed.is_some() && reason == "length";
        let is_whole = has == wish.due() || (estimated && has <= wish.due() + 1);
        self.stage.demand(is_whole, || format!("{name} is told that {has} words of {} are all", wish.due()));
        let right = if has == wish.words { "stop" } else { "length" };
        self.stage.demand(reason == right || (estimated && reason == "length"), || {
            format!("{name} has {has} words of {} and is told `{reason}`", wish.words)
        });
    }
}
