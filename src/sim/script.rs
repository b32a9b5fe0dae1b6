//! What to send for one answer, step by step. Pure: [`play`](super::play) keeps the time and touches the socket.

use super::fault::Fault;
use super::log::Outcome;
use super::request::SimRequest;
use super::shape::{Shape, TokenFrames, Usage};
use super::text::Words;
use bytes::Bytes;
use serde_json::json;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// One token of each choice, when its time has come.
    Token(Bytes),
    /// At once.
    Send(Bytes),
    /// What was sent so far must be on the wire, apart from what follows.
    Flush,
    /// Reset the connection.
    Reset,
    /// Close the connection, whatever was promised.
    Close,
    /// Nothing more, ever.
    Stall,
    /// The body ends here.
    End(Outcome),
}

pub(super) type Steps = Box<dyn Iterator<Item = Step> + Send>;

/// One answer, decided but not yet sent.
#[derive(Debug, Clone)]
pub(super) struct Script {
    shape: Shape,
    frames: TokenFrames,
    fault: Fault,
    words: Words,
    /// Places of the words to say.
    first: u32,
    end: u32,
    reason: &'static str,
    prompt_tokens: u64,
}

impl Script {
    /// `length` is how many tokens a whole answer has, a continued one together with its prefix.
    pub(super) fn new(request: &SimRequest, fault: Fault, seed: u64, length: u32, id: String, created: u64) -> Self {
        let mut words = Words::new(seed, &request.prompt);
        if fault == Fault::SplitUtf8 {
            words = words.wide();
        }
        if let (Fault::PrefixOk, Some(prefix)) = (fault, &request.prefix) {
            words = words.continuing(prefix);
        }
        let first = words.first();
        let left = length.saturating_sub(first);
        let cap = request.max_tokens.unwrap_or(u32::MAX);
        let shape = Shape {
            endpoint: request.endpoint,
            id,
            created,
            model: request.model.clone(),
            choices: request.choices,
            tool: request.tool.clone(),
            around: request.around.clone(),
            echo: request.echo.clone(),
            logprobs: request.logprobs,
            usage_asked: request.include_usage && fault != Fault::NoUsage,
        };
        Self {
            frames: shape.token_frames(),
            shape,
            fault,
            words,
            first,
            end: first.saturating_add(left.min(cap)),
            reason: if cap < left { "length" } else { "stop" },
            prompt_tokens: request.prompt_tokens,
        }
    }

    /// Of one choice.
    pub(super) fn tokens(&self) -> u32 {
        self.end - self.first
    }

    pub(super) const fn words(&self) -> Words {
        self.words
    }

    pub(super) fn choices(&self) -> u32 {
        self.shape.choices
    }

    /// The body of a streamed answer.
    pub(super) fn stream(self) -> Steps {
        let (break_at, break_with) = self.breaking();
        let opening = self.shape.opening(self.prompt_tokens).map(Step::Send);
        let middle = break_at.map_or(self.end, |at| self.first.saturating_add(at).min(self.end));
        let ends = break_with.last().is_some_and(Step::is_last);
        let rest = if ends { middle..middle } else { middle..self.end };
        let tail = if ends { Vec::new() } else { self.tail() };
        let said = self.clone();
        opening
            .into_iter()
            .chain((self.first..middle).flat_map(move |place| said.word(place)))
            .chain(break_with)
            .chain(rest.flat_map(move |place| self.word(place)))
            .chain(tail)
            .boxed()
    }

    /// The body of an answer in one piece, and its promised length.
    pub(super) fn whole(self) -> (Steps, usize) {
        let words: Vec<String> = (self.first..self.end).map(|place| self.words.word(place)).collect();
        let usage = (self.fault != Fault::NoUsage).then(|| self.usage());
        let body = Bytes::from(self.shape.whole(&words, self.reason, usage));
        let length = body.len();
        let half = body.slice(..length / 2);
        let broken = |step| [Step::Send(half.clone()), Step::Flush, step];
        let steps = match self.fault {
            Fault::Cut(_) => broken(Step::Close).to_vec(),
            Fault::Stall(_) => broken(Step::Stall).to_vec(),
            // Broken JSON of the promised length: the transport has nothing to complain about.
            Fault::Malformed(_) | Fault::Truncate => {
                return (vec![Step::Send(half), Step::End(Outcome::Fault)].boxed(), length / 2);
            }
            _ => vec![Step::Send(body), Step::End(Outcome::Completed)],
        };
        (steps.boxed(), length)
    }

    fn usage(&self) -> Usage {
        Usage { prompt: self.prompt_tokens, completion: u64::from(self.tokens()) * u64::from(self.shape.choices) }
    }

    /// One token; wide words in two packets, cut inside their first wide character.
    fn word(&self, place: u32) -> Vec<Step> {
        let event = self.frames.frame(&self.words.word(place));
        match event.iter().position(|byte| !byte.is_ascii()) {
            Some(at) => {
                vec![Step::Token(event.slice(..=at)), Step::Flush, Step::Send(event.slice(at + 1..)), Step::Flush]
            }
            None => vec![Step::Token(event)],
        }
    }

    /// After how many tokens something happens, and what.
    fn breaking(&self) -> (Option<u32>, Vec<Step>) {
        match self.fault {
            Fault::Cut(at) => (Some(at), vec![Step::Flush, Step::Reset]),
            Fault::Stall(at) => (Some(at), vec![Step::Stall]),
            Fault::Malformed(at) => (Some(at), vec![Step::Send(self.shape.broken_event())]),
            Fault::SseError(at) => (Some(at), vec![Step::Send(self.shape.error_event()), Step::End(Outcome::Fault)]),
            Fault::Truncate => (Some(u32::MAX), vec![Step::End(Outcome::Fault)]),
            _ => (None, Vec::new()),
        }
    }

    fn tail(&self) -> Vec<Step> {
        let mut tail: Vec<Step> = self.shape.closing(self.reason, self.usage()).into_iter().map(Step::Send).collect();
        match self.fault {
            Fault::NoDone => {}
            _ => tail.push(Step::Send(self.shape.end())),
        }
        let outcome = match self.fault {
            Fault::NoDone | Fault::Malformed(_) => Outcome::Fault,
            _ => Outcome::Completed,
        };
        tail.push(Step::End(outcome));
        tail
    }
}

impl Step {
    fn is_last(&self) -> bool {
        matches!(self, Self::Reset | Self::Close | Self::Stall | Self::End(_))
    }
}

/// What `GET /v1/models` lists.
pub(super) fn models(created: u64) -> serde_json::Value {
    const NAMES: &[&str] = &[
        "ok",
        "slow-500",
        "slow-5000",
        "error-500",
        "error-500-2",
        "error-503",
        "429",
        "429-2",
        "429-once",
        "cut-40",
        "stall",
        "hang",
        "reset",
        "malformed",
        "no-done",
        "truncate",
        "error-body",
        "sse-error",
        "html",
        "empty",
        "context-length",
        "content-filter",
        "401",
        "402",
        "403",
        "no-usage",
        "split-utf8",
        "prefix-ok",
        "prefix-ignored",
        "prefix-rejected",
        "deepseek-v3.2",
        "gpt-4.1",
        "claude-sonnet-4.5",
    ];
    let model = |id: &&str| json!({"id": id, "object": "model", "created": created, "owned_by": "spillway-sim"});
    json!({"object": "list", "data": NAMES.iter().map(model).collect::<Vec<_>>()})
}

trait BoxedSteps {
    fn boxed(self) -> Steps;
}

impl<I: IntoIterator<Item = Step, IntoIter: Send + 'static>> BoxedSteps for I {
    fn boxed(self) -> Steps {
        Box::new(self.into_iter())
    }
}
