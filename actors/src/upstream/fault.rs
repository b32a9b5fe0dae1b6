//! Statuses and error bodies of providers as [`GatewayError`]s. Pure.
//!
//! Only a refused request (400, 422) carries the provider's own words, because only those help the client; never the key,
//! and not if they quote the prompt.

use crate::domain::{ErrorKind, GatewayError};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// No provider may make us wait longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);
const MAX_MESSAGE_CHARS: usize = 300;
const MAX_PARAM_BYTES: usize = 64;
/// A run of this many characters shared with the prompt counts as a quote of it.
const QUOTE_CHARS: usize = 16;
/// A shorter model name may stand in a sentence by chance.
const MODEL_NAME_MIN: usize = 3;
/// A larger request is not searched for quotes: the provider's words are dropped.
const MAX_SEARCHED_BYTES: usize = 1 << 20;

/// An answer that is no 2xx.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    pub target: &'a str,
    pub status: StatusCode,
    /// Possibly cut at a bound.
    pub body: &'a [u8],
    pub retry_after: Option<Duration>,
}

impl Refusal<'_> {
    /// The error for the client. `secrets`: the key, and the request's body for the prompt.
    pub fn into_error(self, key: &str, request_body: &[u8]) -> GatewayError {
        let words = Words::of(self.body);
        let kind = kind_of(self.status, &words);
        let mut error = GatewayError::target(self.target, kind, self.text(kind)).unworked();
        error.status = Some(self.status.as_u16());
        error.of_model = kind == ErrorKind::RateLimited && words.name_model_of(request_body);
        error.retry_after =
            self.retry_after.filter(|_| kind == ErrorKind::RateLimited || self.status.is_server_error());
        if kind == ErrorKind::InvalidRequest {
            let shown = |param: &String| is_place(param, request_body) && !leaks(param, key);
            error.param = words.param.clone().filter(shown);
            if let Some(said) = words.quotable(key, request_body) {
                error.message = format!("the provider refused the request: {said}");
            }
        }
        error
    }

    fn text(&self, kind: ErrorKind) -> String {
        let status = self.status.as_u16();
        match kind {
            ErrorKind::Unauthorized => format!("the provider refused its API key ({status})"),
            ErrorKind::Forbidden => format!("the provider forbids this request ({status})"),
            ErrorKind::InsufficientQuota => format!("the provider's credit is spent ({status})"),
            ErrorKind::RateLimited => format!("the provider limits its rate ({status})"),
            ErrorKind::ModelNotFound => format!("the provider does not know the model ({status})"),
            ErrorKind::ContextLengthExceeded => "the request exceeds the model's context length".into(),
            ErrorKind::ContentFilter => "the provider's content filter refused the request".into(),
            ErrorKind::InvalidRequest | ErrorKind::TooLarge => format!("the provider refused the request ({status})"),
            _ if self.status.is_redirection() => {
                format!("the provider answered with a redirect ({status}), not followed")
            }
            _ => format!("the provider failed ({status})"),
        }
    }
}

/// The error object, as far as it decides something.
#[derive(Debug, Default)]
struct Words {
    /// `code` and `type`, lower-cased.
    codes: [String; 2],
    message: String,
    param: Option<String>,
}

impl Words {
    fn of(body: &[u8]) -> Self {
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return Self::default() };
        // Some servers leave out the wrapping object, or put a bare text into it.
        let error = body.get("error").filter(|error| !error.is_null()).unwrap_or(&body);
        let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
        let message = error.as_str().map(str::to_owned).or_else(|| text("message")).unwrap_or_default();
        let codes = ["code", "type"].map(|name| text(name).unwrap_or_default().to_lowercase());
        Self { codes, message, param: text("param") }
    }

    fn code_is(&self, names: &[&str]) -> bool {
        self.codes.iter().any(|code| names.contains(&code.as_str()))
    }

    fn is_context_length(&self) -> bool {
        let message = self.message.to_lowercase();
        // The last is llama-server's.
        self.code_is(&["context_length_exceeded", "string_above_max_length", "exceed_context_size_error"])
            || [
                "maximum context length",
                "context window",
                "context length exceeded",
                "context limit",
                "prompt is too long",
            ]
            .iter()
            .any(|said| message.contains(said))
    }

    fn is_content_filter(&self) -> bool {
        self.code_is(&["content_filter", "content_policy_violation", "data_inspection_failed"])
            || self.message.contains("content filtering policy")
    }

    fn is_spent(&self) -> bool {
        self.code_is(&[
            "insufficient_quota",
            "billing_hard_limit_reached",
            "insufficient_balance",
            "insufficient_user_quota",
            "billing_error",
        ]) || self.message.contains("credit balance is too low")
    }

    /// Whether the message names the model that was asked for: "Rate limit reached for gpt-4.1 in organization …".
    fn name_model_of(&self, request_body: &[u8]) -> bool {
        if request_body.len() > MAX_SEARCHED_BYTES {
            return false;
        }
        let body = serde_json::from_slice::<Value>(request_body).unwrap_or_default();
        let model = body.get("model").and_then(Value::as_str).unwrap_or_default();
        let is_word = |before: &str, after: &str| {
            let joins = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
            let mut after = after.chars();
            let next = after.next().filter(|c| *c != '.' || after.next().is_some_and(char::is_alphanumeric));
            !before.chars().next_back().is_some_and(joins) && !next.is_some_and(joins)
        };
        let mut places = self.message.match_indices(model).filter(|_| model.len() >= MODEL_NAME_MIN);
        places.any(|(at, name)| is_word(&self.message[..at], &self.message[at + name.len()..]))
    }

    /// The message on one line and trimmed; `None` when there is nothing to say or it must not be said.
    fn quotable(&self, key: &str, request_body: &[u8]) -> Option<String> {
        let line: String = self.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let said = line.trim();
        if said.is_empty() || leaks(said, key) || quotes_prompt(said, request_body) {
            return None;
        }
        Some(said.chars().take(MAX_MESSAGE_CHARS).collect())
    }
}

fn kind_of(status: StatusCode, words: &Words) -> ErrorKind {
    match status.as_u16() {
        401 => ErrorKind::Unauthorized,
        402 => ErrorKind::InsufficientQuota,
        400 | 403 | 429 if words.is_spent() => ErrorKind::InsufficientQuota,
        400 | 403 | 422 if words.is_content_filter() => ErrorKind::ContentFilter,
        400 | 413 | 422 if words.is_context_length() => ErrorKind::ContextLengthExceeded,
        400 if words.code_is(&["model_not_found"]) => ErrorKind::ModelNotFound,
        400 | 422 => ErrorKind::InvalidRequest,
        403 => ErrorKind::Forbidden,
        // Without a word about the model it is a wrong base URL, or somebody else's page.
        404 if words.code_is(&["model_not_found"]) || words.message.to_lowercase().contains("model") => {
            ErrorKind::ModelNotFound
        }
        413 => ErrorKind::TooLarge,
        429 => ErrorKind::RateLimited,
        _ => ErrorKind::Upstream,
    }
}

/// Whether a text shows the key or a telling part of it.
fn leaks(text: &str, key: &str) -> bool {
    const TELLING: usize = 8;
    !key.is_empty() && (text.contains(key) || shares_run(text, key, TELLING))
}

/// Whether it is the place of a field of the request, as `messages[0].content`, and no more.
fn is_place(param: &str, request_body: &[u8]) -> bool {
    let in_place = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte);
    if param.len() > MAX_PARAM_BYTES || !param.bytes().all(in_place) || request_body.len() > MAX_SEARCHED_BYTES {
        return false;
    }
    let (field, inside) = param.split_at(param.find(['.', '[']).unwrap_or(param.len()));
    let body = serde_json::from_slice::<Value>(request_body).unwrap_or_default();
    body.get(field).is_some() && !quotes_prompt(inside, request_body)
}

/// Whether the provider's words repeat the prompt.
fn quotes_prompt(said: &str, request_body: &[u8]) -> bool {
    if request_body.len() > MAX_SEARCHED_BYTES {
        return true;
    }
    let Ok(body) = serde_json::from_slice::<Value>(request_body) else { return true };
    ["messages", "prompt", "tools", "input", "system"].into_iter().filter_map(|field| body.get(field)).any(|part| {
        texts_any(part, &|text| (text.len() >= 4 && said.contains(text)) || shares_run(said, text, QUOTE_CHARS))
    })
}

/// Whether `test` holds for a text inside `value`; roles and type tags are the API's own words, not the client's.
fn texts_any(value: &Value, test: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => test(text),
        Value::Array(items) => items.iter().any(|item| texts_any(item, test)),
        Value::Object(fields) => {
            fields.iter().any(|(name, field)| !matches!(name.as_str(), "role" | "type") && texts_any(field, test))
        }
        _ => false,
    }
}

/// Whether some run of `length` characters of `said` stands in `text`. `said` is short or cut, `text` may be megabytes.
fn shares_run(said: &str, text: &str, length: usize) -> bool {
    let said: Vec<char> = said.chars().take(2 * MAX_MESSAGE_CHARS).collect();
    said.windows(length).any(|run| text.contains(&run.iter().collect::<String>()))
}

/// `retry-after-ms`, or `retry-after` in seconds or as an HTTP date; at most five minutes.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = |text: &str| {
        let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite())?;
        // A million is far above the cap and keeps the conversion from overflowing.
        Duration::try_from_secs_f64(seconds.min(1e6)).ok()
    };
    let milliseconds = text("retry-after-ms").and_then(seconds).map(|thousandfold| thousandfold / 1000);
    let waits = milliseconds.or_else(|| {
        let text = text("retry-after")?;
        seconds(text)
            .or_else(|| httpdate::parse_http_date(text).ok().map(|at| at.duration_since(now).unwrap_or_default()))
    })?;
    Some(waits.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests;
