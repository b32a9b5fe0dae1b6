//! A request that has been parsed and validated: once a [`ChatRequest`] exists, every field is in range.
//!
//! The HTTP edge makes it from JSON; everything after reads it. The client's own body is kept as parsed JSON, because
//! fields this gateway does not know go through to the cloud untouched.

use super::{
    caller::Caller,
    count::TextCount,
    name::{ModelName, RequestId},
    output::OutputWish,
    sampling::Sampling,
    trace::{Trace, Who},
};
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};

/// Which endpoint asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    Chat,
    Completion,
    /// Texts become vectors.
    Embedding,
}

/// The `model` field, resolved against configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelChoice {
    /// Let the router grade the request.
    Auto,
    /// Any local target.
    Local,
    /// A configured cloud model, or the model or name of one local target.
    Named(ModelName),
}

/// One chat message. `content` is kept for the classifier and the local template; the cloud gets the raw body.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub role: String,
    /// Text parts joined with a newline; empty when the message has none (an assistant's tool call).
    pub content: String,
    /// The whole message as the client sent it.
    pub raw: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Messages(Vec<Message>),
    Text(String),
    Tokens(Vec<i32>),
    /// A batch of prompts, or texts to embed: at least one.
    Several(Vec<Passage>),
}

/// One of several inputs; never empty.
#[derive(Debug, Clone, PartialEq)]
pub enum Passage {
    Text(String),
    Tokens(Vec<i32>),
}

impl Passage {
    /// `None`: it is made of token ids.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Tokens(_) => None,
        }
    }

    /// As [`ChatRequest::estimated_prompt_tokens`].
    pub fn estimated_tokens(&self) -> u64 {
        match self {
            Self::Text(text) => TextCount::of(text).tokens() + 1,
            Self::Tokens(tokens) => tokens.len() as u64,
        }
    }
}

/// How many answers are wanted, and what they have around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    /// Answers to each prompt, 1 to [`MAX_CHOICES`] in all.
    pub n: u32,
    /// Generated for each prompt, of which the `n` most likely are shown; at least `n`.
    pub best_of: u32,
    /// The prompt comes before each answer.
    pub echo: bool,
    /// What follows the answer; never empty.
    pub suffix: Option<String>,
}

/// Answers of one request, over all of its prompts.
pub const MAX_CHOICES: u32 = 128;

impl Default for Choices {
    fn default() -> Self {
        Self { n: 1, best_of: 1, echo: false, suffix: None }
    }
}

/// What a target must be able to do to serve this request at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    pub tools: bool,
    pub response_format: bool,
    pub images: bool,
    /// Images and files by an address that the target would fetch.
    pub links: bool,
    pub audio: bool,
    pub logprobs: bool,
    pub logit_bias: bool,
    /// `n` > 1.
    pub several_choices: bool,
    /// Vectors instead of text.
    pub embeddings: bool,
    /// Vectors of a length that the client names.
    pub dimensions: bool,
    /// Several prompts.
    pub batch: bool,
    /// `best_of` above `n`.
    pub best_of: bool,
    /// The prompt before the answer.
    pub echo: bool,
    /// Text that follows the answer.
    pub suffix: bool,
}

impl Needs {
    pub const NONE: Self = Self::each(false);
    pub const ALL: Self = Self::each(true);
    /// What providers' chat endpoints know.
    pub const OF_CHAT: Self = Self {
        embeddings: false,
        dimensions: false,
        batch: false,
        best_of: false,
        echo: false,
        suffix: false,
        ..Self::ALL
    };

    const fn each(on: bool) -> Self {
        Self {
            tools: on,
            response_format: on,
            images: on,
            links: on,
            audio: on,
            logprobs: on,
            logit_bias: on,
            several_choices: on,
            embeddings: on,
            dimensions: on,
            batch: on,
            best_of: on,
            echo: on,
            suffix: on,
        }
    }

    /// What is needed and not offered.
    #[must_use]
    pub const fn without(self, offered: Self) -> Self {
        Self {
            tools: self.tools && !offered.tools,
            response_format: self.response_format && !offered.response_format,
            images: self.images && !offered.images,
            links: self.links && !offered.links,
            audio: self.audio && !offered.audio,
            logprobs: self.logprobs && !offered.logprobs,
            logit_bias: self.logit_bias && !offered.logit_bias,
            several_choices: self.several_choices && !offered.several_choices,
            embeddings: self.embeddings && !offered.embeddings,
            dimensions: self.dimensions && !offered.dimensions,
            batch: self.batch && !offered.batch,
            best_of: self.best_of && !offered.best_of,
            echo: self.echo && !offered.echo,
            suffix: self.suffix && !offered.suffix,
        }
    }

    /// Names of the request fields behind the needs, for an error a client can act on.
    pub fn field_names(self) -> Vec<&'static str> {
        [
            (self.tools, "tools"),
            (self.response_format, "response_format"),
            (self.images, "image parts"),
            (self.links, "images or files by address (send them as data: URLs)"),
            (self.audio, "audio parts"),
            (self.logprobs, "logprobs"),
            (self.logit_bias, "logit_bias"),
            (self.several_choices, "n > 1"),
            (self.embeddings, "embeddings"),
            (self.dimensions, "dimensions"),
            (self.batch, "several prompts"),
            (self.best_of, "best_of"),
            (self.echo, "echo"),
            (self.suffix, "suffix"),
        ]
        .into_iter()
        .filter_map(|(needed, name)| needed.then_some(name))
        .collect()
    }

    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// Sampling fields as the client gave them: `None` means the target's own default.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingWish {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<i32>,
    pub min_p: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub repeat_penalty: Option<f32>,
    pub seed: Option<u32>,
}

impl SamplingWish {
    /// Fills what the client left open.
    pub fn or(self, default: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_p: self.top_p.unwrap_or(default.top_p),
            top_k: self.top_k.unwrap_or(default.top_k),
            min_p: self.min_p.unwrap_or(default.min_p),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            seed: self.seed.or(default.seed),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    pub id: RequestId,
    pub kind: RequestKind,
    pub model: ModelChoice,
    pub input: Input,
    pub choices: Choices,
    pub needs: Needs,
    pub sampling: SamplingWish,
    /// What the answer must be, for local targets.
    pub output: OutputWish,
    /// Explicit `max_completion_tokens` or `max_tokens`; at least 1, or 0 with [`Choices::echo`].
    pub max_tokens: Option<u32>,
    /// At most 16 non-empty strings; `None` when the client gave no `stop`.
    pub stop: Option<Vec<String>>,
    pub stream: bool,
    /// `stream_options.include_usage`.
    pub include_usage: bool,
    pub budget_sensitive: bool,
    pub local_only: bool,
    /// Overrides the rule's bound on expected queue wait + expected time to the first token.
    pub max_latency: Option<Duration>,
    /// The client's own name for the conversation this belongs to.
    pub session: Option<String>,
    /// Whose key this came with; `None` where no keys are required.
    pub caller: Option<Arc<Caller>>,
    /// Its place in a distributed trace, if traces are on.
    pub trace: Option<Trace>,
    /// The client's own name for it, where that is short and plain.
    pub client_id: Option<Arc<str>>,
    /// The client's body without our own fields, for the cloud.
    pub body: Map<String, Value>,
    /// What it said in words of Anthropic's API alone: for targets that speak it, and for no others, which would refuse them.
    pub anthropic: Map<String, Value>,
}

impl ChatRequest {
    /// Whether it must stay on this machine: it says so itself, or its key does.
    pub fn is_local_only(&self) -> bool {
        self.local_only || self.caller.as_ref().is_some_and(|caller| caller.local_only)
    }

    /// Whether it wants its prompt back and nothing after it.
    pub fn wants_prompt_only(&self) -> bool {
        self.max_tokens == Some(0)
    }

    /// What a target is asked for of the `most` it may make: something, unless nothing is wanted.
    pub fn output_cap(&self, most: u32) -> u32 {
        if self.wants_prompt_only() { 0 } else { most.max(1) }
    }

    /// Whom a line of the log is about.
    pub fn who(&self) -> Who {
        Who { request: self.id, trace: self.trace.as_ref().map(|trace| trace.id) }
    }

    /// Prompts that are answered each for itself.
    pub fn prompts(&self) -> usize {
        if let Input::Several(passages) = &self.input { passages.len() } else { 1 }
    }

    /// Answers that are shown, over all prompts.
    pub fn answers(&self) -> u32 {
        self.choices.n.saturating_mul(u32::try_from(self.prompts()).unwrap_or(u32::MAX)).max(1)
    }

    /// The last user message (or the text prompt), the part that is graded.
    pub fn last_user_text(&self) -> &str {
        match &self.input {
            Input::Messages(messages) => {
                messages.iter().rev().find(|message| message.role == "user").map_or("", |message| &message.content)
            }
            Input::Text(text) => text,
            Input::Tokens(_) => "",
            Input::Several(passages) => passages.iter().find_map(Passage::text).unwrap_or_default(),
        }
    }

    /// User and assistant messages before the last user message.
    pub fn earlier_messages(&self) -> usize {
        match &self.input {
            Input::Messages(messages) => {
                let last_user = messages.iter().rposition(|message| message.role == "user").unwrap_or(messages.len());
                let before = messages.get(..last_user).unwrap_or(messages);
                before.iter().filter(|message| matches!(message.role.as_str(), "user" | "assistant")).count()
            }
            Input::Text(_) | Input::Tokens(_) | Input::Several(_) => 0,
        }
    }

    /// A cheap estimate of prompt tokens: the texts' (see [`TextCount`]) plus 4 per message, rounded up. Exact counts come
    /// from the engine's tokenizer later.
    pub fn estimated_prompt_tokens(&self) -> u64 {
        match &self.input {
            Input::Messages(messages) => {
                messages.iter().map(|message| TextCount::of(&message.content).tokens() + 4).sum::<u64>() + 3
            }
            Input::Text(text) => TextCount::of(text).tokens() + 1,
            Input::Tokens(tokens) => tokens.len() as u64,
            Input::Several(passages) => passages.iter().map(Passage::estimated_tokens).sum(),
        }
    }

    /// Of the longest input: what must fit into one context.
    pub fn estimated_longest_tokens(&self) -> u64 {
        match &self.input {
            Input::Several(passages) => passages.iter().map(Passage::estimated_tokens).max().unwrap_or(0),
            _ => self.estimated_prompt_tokens(),
        }
    }

    /// Whether some input is made of token ids, which mean something to one tokenizer only.
    pub fn has_token_ids(&self) -> bool {
        match &self.input {
            Input::Messages(_) | Input::Text(_) => false,
            Input::Tokens(_) => true,
            Input::Several(passages) => passages.iter().any(|passage| passage.text().is_none()),
        }
    }
}

#[cfg(test)]
impl ChatRequest {
    /// A chat of one text, everything else left open: what tests start from.
    pub(crate) fn plain(text: &str) -> Self {
        Self {
            id: RequestId::from_bits(1),
            kind: RequestKind::Chat,
            model: ModelChoice::Auto,
            input: Input::Text(text.to_owned()),
            choices: Choices::default(),
            needs: Needs::default(),
            sampling: SamplingWish::default(),
            output: OutputWish::default(),
            max_tokens: None,
            stop: None,
            stream: false,
            include_usage: false,
            budget_sensitive: false,
            local_only: false,
            max_latency: None,
            session: None,
            caller: None,
            trace: None,
            client_id: None,
            body: Map::new(),
            anthropic: Map::new(),
        }
    }
}

/// A request that may leave this machine. The cloud path takes nothing else, and a local-only request cannot become one.
#[derive(Debug, Clone, Copy)]
pub struct CloudBound<'a>(&'a ChatRequest);

impl<'a> CloudBound<'a> {
    /// `None` for a local-only request, or one that came with a local-only key.
    pub fn new(request: &'a ChatRequest) -> Option<Self> {
        (!request.is_local_only()).then_some(Self(request))
    }

    pub const fn request(self) -> &'a ChatRequest {
        self.0
    }
}

/// Whose machines a server runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Premises {
    /// This machine, or one the operator vouches for: what must stay local may go there.
    Own,
    Anywhere,
}

/// A request on its way to one certain server, which may be told all of it.
#[derive(Debug, Clone, Copy)]
pub struct Outbound<'a>(&'a ChatRequest);

impl<'a> Outbound<'a> {
    /// To a server of the operator's. `None` for a local-only request unless the server is on the operator's premises.
    pub fn to_local(request: &'a ChatRequest, premises: Premises) -> Option<Self> {
        (premises == Premises::Own || !request.is_local_only()).then_some(Self(request))
    }

    pub const fn request(self) -> &'a ChatRequest {
        self.0
    }
}

impl<'a> From<CloudBound<'a>> for Outbound<'a> {
    fn from(bound: CloudBound<'a>) -> Self {
        Self(bound.request())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_only_request_goes_to_no_cloud_and_only_to_a_server_on_the_premises() {
        let open = ChatRequest::plain("a");
        let bound = ChatRequest { local_only: true, ..open.clone() };
        assert!(CloudBound::new(&open).is_some() && CloudBound::new(&bound).is_none());
        assert!(Outbound::to_local(&open, Premises::Anywhere).is_some());
        assert!(Outbound::to_local(&bound, Premises::Own).is_some());
        assert!(Outbound::to_local(&bound, Premises::Anywhere).is_none());
    }
}
