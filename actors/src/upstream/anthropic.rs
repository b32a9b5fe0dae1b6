//! Anthropic's `POST /v1/messages`: our request in its words, its events and answers in ours. Pure.
//!
//! Anthropic refuses fields it does not know, so only what has a counterpart is sent ([`body`]). What changes an answer's
//! form and has none (`n`, logprobs, …) is [`unmet`] and belongs to another target; advice without a counterpart
//! (penalties, `seed`, `min_p`, `reasoning_effort`) is left out. Its own `thinking` and `output_config` go through.

mod body;
mod events;
mod tools;
mod turns;
mod whole;

pub use body::{body, is_continuable, unmet};
pub use events::EventReader;
pub use whole::read_whole;

use super::chunk::{Malformed, tokens};
use crate::domain::{ErrorKind, TokenUsage};
use serde_json::Value;

/// Why an answer ended, in OpenAI's words.
fn finish_reason(stop_reason: &str) -> &'static str {
    match stop_reason {
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        // end_turn, stop_sequence, and whatever comes later: the provider says that the answer is whole.
        _ => "stop",
    }
}

/// What an error object inside a 200 means. Overload, and whatever is not told apart here, is the provider's failure.
fn in_band(error: &Value) -> Malformed {
    match error.get("type").and_then(Value::as_str).unwrap_or_default() {
        "rate_limit_error" => Malformed::Refused(ErrorKind::RateLimited),
        "authentication_error" => Malformed::Refused(ErrorKind::Unauthorized),
        "permission_error" => Malformed::Refused(ErrorKind::Forbidden),
        "billing_error" => Malformed::Refused(ErrorKind::InsufficientQuota),
        _ => Malformed::InBandError,
    }
}

/// Token counts as they come, in several events. Each is cumulative, and zeros stand for "not yet".
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    input: Option<u64>,
    cache_read: u64,
    cache_written: u64,
    output: Option<u64>,
}

impl Counts {
    fn absorb(&mut self, usage: &Value) {
        let count = |name: &str| usage.get(name).and_then(tokens);
        self.input = self.input.max(count("input_tokens"));
        self.output = self.output.max(count("output_tokens"));
        self.cache_read = self.cache_read.max(count("cache_read_input_tokens").unwrap_or(0));
        self.cache_written = self.cache_written.max(count("cache_creation_input_tokens").unwrap_or(0));
    }

    /// `input_tokens` are only those that no cache had or took.
    fn usage(self) -> Option<TokenUsage> {
        Some(TokenUsage {
            prompt_tokens: self.input?.saturating_add(self.cache_read).saturating_add(self.cache_written),
            completion_tokens: self.output?,
            cached_tokens: self.cache_read,
            written_tokens: self.cache_written,
            ..TokenUsage::default()
        })
    }
}
