//! The words spoken between the gateway and one engine child, and how they are framed.
//!
//! One frame is a little-endian `u32` payload length followed by the payload: a [`ToEngine`] or [`FromEngine`] value in
//! postcard encoding. The first frame of either side is its `Hello`, whose first field is [`PROTOCOL_VERSION`]; a peer of
//! another version is refused before anything else is decoded. This file does no I/O on sockets: it turns values into
//! bytes and bytes into values, and refuses what is too large.

mod batch;
mod embed;

pub use crate::{
    domain::{OverrideValue, Rope, RopeScaling, Sampling},
    gguf::KvType,
    tools::ChatTraits,
};
pub use batch::{Batch, Echo, Member};
pub use embed::{EmbedSpec, EmbeddingInfo};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Raised whenever a frame changes shape. Both binaries come from one workspace, so only equality is accepted.
pub const PROTOCOL_VERSION: u32 = 7;

/// Largest payload either side accepts, in bytes. A prompt is at most the edge's body limit; this leaves room above it.
pub const MAX_FRAME_BYTES: usize = 32 << 20;

/// Bytes of the length prefix.
pub const PREFIX_BYTES: usize = 4;

/// One job inside one engine, unique for the life of the gateway.
pub type JobId = u64;

/// What the gateway says to its engine child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToEngine {
    /// First frame. The engine answers with [`FromEngine::Hello`] and echoes `epoch` in every later frame that has one.
    Hello { version: u32, epoch: u64 },
    /// Load this model. Answered by any number of `LoadProgress`, then exactly one `Loaded` or `LoadFailed`.
    Load(LoadSpec),
    /// Start a job. Answered by `Step` outputs that end in exactly one `Finished` or `Failed` for this job.
    Submit(Box<JobSpec>),
    /// The receiver has gone: free the sequence before the next token. No further output for this job follows, but one
    /// [`FromEngine::Left`]. `left_ns`: when it went, by the clock of the host (nanoseconds since 1970).
    Cancel { job: JobId, left_ns: u64 },
    /// Finish nothing more, free the context and exit 0.
    Stop,
    /// Misbehave in the named way (chaos tests; the engine obeys only when started with `--chaos`).
    Chaos(EngineChaos),
    /// Turn texts into vectors. Cancelled like any other job.
    Embed(Box<EmbedSpec>),
    /// Start the jobs of a request of several answers.
    SubmitAll(Box<Batch>),
    /// As `Cancel`, for all jobs of a batch that have not ended.
    CancelAll { group: u64, left_ns: u64 },
    /// Say how many tokens this prompt has, and no more: answered by a `Finished` or `Failed` between two steps.
    Count { job: JobId, prompt: Box<Prompt> },
}

/// What an engine child says to the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromEngine {
    /// Answer to `ToEngine::Hello`.
    Hello { version: u32, epoch: u64, pid: u32 },
    /// Model load progress, 0 to 1. Sent at least whenever llama.cpp calls back and the ratio rose by 0.01.
    LoadProgress { ratio: f32 },
    /// The model is in memory and jobs are accepted.
    Loaded(LoadedInfo),
    /// The model cannot be served; the engine exits with code 1 after this frame.
    LoadFailed(LoadFailure),
    /// Memory ran out in a decode. The engine ends after this frame: what it still holds cannot be trusted.
    /// `embeddings`: it was what vectors need.
    OutOfMemory { message: String, embeddings: bool },
    /// From a thread of its own, every [`HEARTBEAT_MS`], whatever the decode thread does.
    Heartbeat(Heartbeat),
    /// A decode step of `tokens` tokens begins (prompt tokens and one per decoding sequence).
    StepBegin { step: u64, tokens: u32 },
    /// The step ended; everything it produced for all jobs, in order. Also used between steps (`step` of the last one)
    /// for jobs that fail or finish without a decode.
    Step { step: u64, epoch: u64, outputs: Vec<JobOutput> },
    /// A `Cancel` or `CancelAll` is done.
    Left(Left),
}

/// What was computed for a receiver that had gone, because the word of it came too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Jobs that were cancelled; 0 when all had ended already.
    pub jobs: u32,
    /// Tokens of all of them that came out after the receiver had gone.
    pub tokens: u32,
    /// Of the job that had most.
    pub most: u32,
}

/// Interval of `Heartbeat` frames, in milliseconds.
pub const HEARTBEAT_MS: u64 = 250;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Decode steps finished since the load.
    pub steps: u64,
    /// Sequences in work.
    pub running: u32,
    /// Jobs waiting for a sequence.
    pub waiting: u32,
    /// KV cells that jobs hold, of `kv_total`.
    pub kv_used: u32,
    /// KV cells that no job holds, kept for prompts that begin with the same tokens; given up when room is needed.
    pub kv_kept: u32,
    pub kv_total: u32,
}

/// How to load a model. Every field is explicit; the engine has no defaults of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadSpec {
    /// Path of a GGUF file.
    pub model_path: String,
    /// Layers to put on the GPU: `None` = as many as fit.
    pub gpu_layers: Option<u32>,
    /// Which device: `None` = engine's choice, `Some("cpu")`, or an index as text.
    pub device: Option<String>,
    /// It ran on a GPU before: without one the load fails, instead of going on on the CPU.
    pub require_gpu: bool,
    /// KV cells shared by all sequences. Clamped to what the model was trained for × `parallel`.
    pub context_tokens: u32,
    /// Jobs served at once. The engine adds one sequence of its own for canaries.
    pub parallel: u32,
    /// Most tokens (prompt + output) of one request: `None` = as many as there are.
    pub max_request_tokens: Option<u32>,
    /// Sequences get cells of their own only where that takes no more memory.
    pub frugal: bool,
    /// Decode threads: `None` = measured choice.
    pub threads: Option<u32>,
    pub use_mmap: bool,
    pub use_mlock: bool,
    /// Most tokens of one text that is turned into a vector; `None` = the model makes no vectors here. What they need of
    /// memory is taken when the first is asked for.
    pub embedding_tokens: Option<u32>,
    /// Most tokens of one decode: `None` = by device.
    pub batch_tokens: Option<u32>,
    /// Most tokens computed at once.
    pub ubatch_tokens: u32,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
    pub rope: Rope,
    /// Facts of the file that are replaced.
    pub overrides: Vec<(String, OverrideValue)>,
    /// Tests only, ignored without `--chaos`: load on the CPU as if it were a GPU with this many bytes.
    pub simulated_memory: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedInfo {
    /// `general.name` of the file, or its file name.
    pub name: String,
    /// "cpu", or the name of the GPU that holds the layers.
    pub device: String,
    pub on_gpu: bool,
    /// KV cells that one pool holds for all sequences.
    pub context_tokens: u32,
    /// Most tokens (prompt + output) of one request: min(trained context, pool, what was asked for).
    pub max_request_tokens: u32,
    pub parallel: u32,
    pub has_chat_template: bool,
    /// What its chat template can say.
    pub chat: ChatTraits,
    /// Layers, the output layer included, and how many of them the GPU holds.
    pub layers: u32,
    pub gpu_layers: u32,
    /// Load time in milliseconds.
    pub load_ms: u64,
    /// Whether it writes text at all: a model made for embeddings does not.
    pub generates: bool,
    /// `None`: it makes no vectors.
    pub embeddings: Option<EmbeddingInfo>,
    /// Whether it can write what stands between two texts.
    pub infills: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadFailure {
    pub kind: LoadFailureKind,
    /// For the operator; names the file, never a prompt.
    pub message: String,
    /// Layers that were to be on a GPU; 0 on the CPU.
    pub gpu_layers: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadFailureKind {
    /// The file is absent or unreadable.
    Missing,
    /// The file is not a GGUF model this llama.cpp can load.
    Corrupt,
    OutOfMemory,
    Other,
}

/// One request, as the engine sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    pub job: JobId,
    pub prompt: Prompt,
    pub sampling: Sampling,
    /// Most tokens to generate, replayed ones included. At least 1.
    pub max_tokens: u32,
    /// Generation ends before the first occurrence of any of these in the text; the stop text is not sent.
    pub stop: Vec<String>,
    /// Tokens this request has already generated elsewhere (before an engine died). They are evaluated like a prompt,
    /// count as completion tokens and for penalties, and their text is rebuilt.
    pub replay: Vec<i32>,
    /// Bytes of generated text the client already has: not sent again.
    pub sent_bytes: u64,
    /// A canary decode: uses the engine's own spare sequence and never waits behind jobs.
    pub canary: bool,
    /// Log-probabilities of every sampled token, with this many alternatives (at most [`MAX_TOP_LOGPROBS`]); `None` = none.
    pub logprobs: Option<u8>,
    /// Added to the logits of these token ids before anything else; at most [`MAX_LOGIT_BIAS`] entries, each from -100 to 100.
    pub logit_bias: Vec<(i32, f32)>,
    /// What the generated text must be, in llama.cpp's own notation, starting at `root`. The engine checks it before
    /// llama.cpp sees it; a bad one is `Invalid`.
    pub grammar: Option<String>,
    /// Tokens that mark tool calls are text of this job; otherwise they are none.
    pub markers: bool,
    /// Jobs of one scope may use each other's computed beginnings, others not: how soon an answer comes tells whether
    /// somebody has sent the same text before. See [`crate::domain::Caller::cache_scope`].
    pub cache_scope: u64,
}

/// Most alternatives per token, as in OpenAI's interface.
pub const MAX_TOP_LOGPROBS: u8 = 20;

/// Most entries of `logit_bias`.
pub const MAX_LOGIT_BIAS: usize = 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Prompt {
    /// JSON array of OpenAI chat messages (`role`, `content` as plain string, `tool_calls` with arguments as objects, …),
    /// rendered by the model's own chat template.
    Chat {
        messages_json: String,
        /// JSON array of tools, for templates that show them.
        tools_json: Option<String>,
    },
    /// Tokenised as it is, with BOS if the model wants it.
    Text(String),
    Tokens(Vec<i32>),
    /// What is generated stands between these two. `Invalid` where the model has no tokens that say so.
    Between {
        prefix: String,
        suffix: String,
    },
}

/// What one step did for one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobOutput {
    pub job: JobId,
    /// Counts this job's outputs from 0 without gaps, so that a doubled or lost frame shows.
    pub seq: u32,
    pub event: JobEvent,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum JobEvent {
    /// The prompt was tokenised and a sequence given. Before any `Piece`.
    Accepted {
        prompt_tokens: u32,
        cached_tokens: u32,
    },
    /// New text (whole UTF-8 characters; may be empty while a character or a possible stop string is held back) and the
    /// tokens sampled since the last piece.
    Piece {
        text: String,
        tokens: Vec<i32>,
        /// One per token of `tokens`, in their order, when the job asked for them; else empty.
        logprobs: Vec<TokenLogprob>,
    },
    /// The prompt, for a job that wants it before its answer. Its text comes with the first of these, what is known of
    /// its tokens, at most [`ECHO_TOKENS`] at a time, with any of them. Before the first `Piece`.
    Echoed {
        text: String,
        tokens: Vec<PromptToken>,
        /// Nothing of the prompt follows.
        done: bool,
    },
    Finished {
        reason: StopReason,
        prompt_tokens: u32,
        completion_tokens: u32,
        cached_tokens: u32,
    },
    Failed(JobFailure),
    /// The vector of one input of an [`EmbedSpec`], of length 1.
    Vector {
        input: u32,
        values: Vec<f32>,
    },
}

/// How likely a sampled token was, before penalties, filters, biases and temperature (the softmax of the raw logits).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    pub chosen: Alternative,
    /// The most likely tokens, best first; the chosen one may be among them.
    pub top: Vec<Alternative>,
}

/// Tokens of a prompt in one `Echoed`.
pub const ECHO_TOKENS: usize = 256;

/// A token of a prompt, and how likely the model found it after all that came before; nothing came before the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptToken {
    pub token: i32,
    /// As in [`Alternative`].
    pub bytes: Vec<u8>,
    pub logprob: Option<f32>,
    /// As in [`TokenLogprob`].
    pub top: Vec<Alternative>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    pub token: i32,
    /// The token's text, which need not be whole UTF-8 characters.
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// End-of-generation token.
    Stop,
    /// One of the job's stop strings; its place in their list.
    StopText(u32),
    /// `max_tokens` or the context is full.
    Length,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    pub kind: JobFailureKind,
    /// Never contains prompt text.
    pub message: String,
    /// The request's field at fault, if one is.
    pub param: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobFailureKind {
    /// Prompt (+ replay) does not fit: the request cannot be served by this engine.
    ContextLength,
    /// The template, sampling or grammar refused the request: the client's fault.
    Invalid,
    /// A decode failed; another target may do better.
    Decode,
}

/// Ways to misbehave on command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineChaos {
    /// `exit(1)` at once.
    Exit,
    /// Write bytes that are no frame.
    Garbage,
    /// Write half a frame, then exit.
    HalfFrame,
    /// Block the decode thread for ever (heartbeats go on).
    HangDecode,
    /// Let the next decode find no memory.
    OutOfMemory,
}

/// An engine that obeys chaos dies of a prompt with this in it, as llama.cpp has died of prompts.
pub const CHAOS_POISON: &str = "spillway-chaos-poison";

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("frame of {0} bytes is over the limit of {MAX_FRAME_BYTES}")]
    TooLarge(usize),
    #[error("frame does not decode")]
    Garbage,
}

/// Appends one frame to `out`. On an error `out` is as it was.
pub fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let payload = postcard::to_allocvec(value).map_err(|_| FrameError::Garbage)?;
    if payload.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge(payload.len()));
    }
    let len = u32::try_from(payload.len()).map_err(|_| FrameError::TooLarge(payload.len()))?;
    out.reserve(PREFIX_BYTES + payload.len());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&payload);
    Ok(())
}

/// Payload length announced by a prefix.
pub fn payload_len(prefix: [u8; PREFIX_BYTES]) -> Result<usize, FrameError> {
    let len = usize::try_from(u32::from_le_bytes(prefix)).map_err(|_| FrameError::TooLarge(usize::MAX))?;
    if len > MAX_FRAME_BYTES { Err(FrameError::TooLarge(len)) } else { Ok(len) }
}

/// Decodes one whole payload; trailing bytes are garbage.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes::<T>(payload) {
        Ok((value, [])) => Ok(value),
        _ => Err(FrameError::Garbage),
    }
}

/// Takes the first whole frame off the front of `buffer`: its value and the bytes it used, or `None` when more is needed.
pub fn take<T: DeserializeOwned>(buffer: &[u8]) -> Result<Option<(T, usize)>, FrameError> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let len = payload_len(*prefix)?;
    match rest.get(..len) {
        Some(payload) => Ok(Some((decode(payload)?, PREFIX_BYTES + len))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_survives_the_wire_and_arrives_byte_by_byte() {
        let frame = FromEngine::Step {
            step: 7,
            epoch: 2,
            outputs: vec![JobOutput {
                job: 9,
                seq: 0,
                event: JobEvent::Piece { text: "né".into(), tokens: vec![1, 2], logprobs: vec![] },
            }],
        };
        let mut wire = Vec::new();
        encode(&frame, &mut wire).unwrap();
        for cut in 0..wire.len() {
            assert_eq!(take::<FromEngine>(&wire[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(take::<FromEngine>(&wire), Ok(Some((frame, wire.len()))));
    }

    #[test]
    fn an_announced_length_over_the_limit_is_refused_before_it_is_read() {
        assert!(matches!(take::<FromEngine>(&[0xff; 8]), Err(FrameError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = take::<FromEngine>(&bytes);
            let _ = decode::<ToEngine>(&bytes);
        }
    }
}
