//! Everything but the input: sampling, limits, abilities asked for, and our own fields with their header twins.

use super::fields::{Bounds, Fields, fault, whole, wrong_type};
use http::HeaderMap;
use serde_json::Value;
use spillway_actors::domain::{Format, GatewayError, Needs, OutputWish, RequestKind, SamplingWish};
use std::time::Duration;

const MAX_STOPS: usize = 16;
/// The engine looks for each after every token.
const MAX_STOP_CHARS: usize = 1024;
const MAX_INTEGER: f64 = 9.2e18;
/// Longer than any deadline, and far from overflowing a sum of durations.
const MAX_LATENCY_MS: f64 = 86_400_000.0;
/// Longest name of a session.
const MAX_NAME: usize = 256;
/// Our own body fields, which no provider shall see.
pub(super) const OURS: [&str; 3] = ["budget_sensitive", "local_only", "max_latency_ms"];

pub(super) fn sampling(body: Fields<'_>) -> Result<SamplingWish, GatewayError> {
    let decimal = |name, bounds| Ok(body.decimal(name, bounds)?.map(|value| value as f32));
    let penalty = Bounds::above(0.0, 10.0);
    // The second name is that of other servers.
    let repeat_penalty = match decimal("repeat_penalty", penalty)? {
        Some(value) => Some(value),
        None => decimal("repetition_penalty", penalty)?,
    };
    // -1 and 0 both mean "off" in the wild.
    let top_k = body.integer("top_k", Bounds::new(-1.0, f64::from(i32::MAX)))?;
    Ok(SamplingWish {
        temperature: decimal("temperature", Bounds::new(0.0, 2.0))?,
        top_p: decimal("top_p", Bounds::above(0.0, 1.0))?,
        top_k: top_k.map(|value| i32::try_from(value.max(0)).unwrap_or(i32::MAX)),
        min_p: decimal("min_p", Bounds::new(0.0, 1.0))?,
        presence_penalty: decimal("presence_penalty", Bounds::new(-2.0, 2.0))?,
        frequency_penalty: decimal("frequency_penalty", Bounds::new(-2.0, 2.0))?,
        repeat_penalty,
        seed: body.integer("seed", Bounds::new(f64::MIN, f64::MAX))?.map(folded),
    })
}

/// Small seeds stay as they are.
const fn folded(seed: i64) -> u32 {
    (seed as u64 ^ (seed as u64 >> 32)) as u32
}

/// `max_completion_tokens`, else its old name. 0 is for a text completion that wants its prompt back and nothing after it:
/// how likely each of its tokens is. Elsewhere it counts as not given, as the official clients' own tests send it.
pub(super) fn max_tokens(body: Fields<'_>, gives_prompt: bool) -> Result<Option<u32>, GatewayError> {
    let bounds = Bounds::new(0.0, MAX_INTEGER);
    let given = |value: &i64| *value > 0 || gives_prompt;
    let old = body.integer("max_tokens", bounds)?.filter(given);
    let new = body.integer("max_completion_tokens", bounds)?.filter(given);
    Ok(new.or(old).map(|value| u32::try_from(value).unwrap_or(u32::MAX)))
}

pub(super) fn stop(body: Fields<'_>) -> Result<Option<Vec<String>>, GatewayError> {
    let stops = match body.get("stop") {
        None => return Ok(None),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(items)) => {
            let text = |(index, item): (usize, &Value)| {
                let text = item.as_str().ok_or_else(|| wrong_type(format!("stop[{index}]"), "a string", item))?;
                Ok(text.to_owned())
            };
            items.iter().take(MAX_STOPS + 1).enumerate().map(text).collect::<Result<Vec<_>, GatewayError>>()?
        }
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", other)),
    };
    if stops.len() > MAX_STOPS {
        return Err(fault("stop", format!("Invalid 'stop': array too long. Expected at most {MAX_STOPS} strings.")));
    }
    if stops.iter().any(String::is_empty) {
        return Err(fault("stop", "Invalid 'stop': a stop string must not be empty."));
    }
    if stops.iter().any(|stop| stop.chars().nth(MAX_STOP_CHARS).is_some()) {
        let message =
            format!("Invalid 'stop': string too long. Expected strings of at most {MAX_STOP_CHARS} characters.");
        return Err(fault("stop", message));
    }
    Ok(Some(stops))
}

/// `stream` and `stream_options.include_usage`.
pub(super) fn stream(body: Fields<'_>) -> Result<(bool, bool), GatewayError> {
    let stream = body.flag("stream")?.unwrap_or(false);
    let usage = match body.object("stream_options")? {
        Some(options) => options.flag("include_usage").map_err(|mut error| {
            error.param = Some("stream_options.include_usage".to_owned());
            error
        })?,
        None => None,
    };
    Ok((stream, stream && usage.unwrap_or(false)))
}

/// What the fields, beside the messages, need of a target.
pub(super) fn needs(
    body: Fields<'_>,
    kind: RequestKind,
    output: &OutputWish,
    needs: &mut Needs,
) -> Result<(), GatewayError> {
    needs.logit_bias = !output.logit_bias.is_empty();
    needs.logprobs = output.logprobs.is_some();
    if kind == RequestKind::Completion {
        return Ok(());
    }
    // Also tools of kinds that only a provider knows.
    needs.tools = output.tools.is_some() || output.unmet.as_ref().is_some_and(|unmet| unmet.param.starts_with("tool"));
    needs.response_format = output.format != Format::Text;
    if let Some(modalities) = body.array("modalities")? {
        needs.audio |= modalities.iter().any(|modality| modality == "audio");
    }
    Ok(())
}

/// Our own fields; a header wins over the body, but nothing takes back that a request may not leave this machine.
pub(super) struct Ours {
    pub(super) budget_sensitive: bool,
    pub(super) local_only: bool,
    pub(super) max_latency: Option<Duration>,
    /// Has no twin in the body: `user` and `prompt_cache_key` there are OpenAI's.
    pub(super) session: Option<String>,
}

pub(super) fn ours(body: Fields<'_>, headers: &HeaderMap) -> Result<Ours, GatewayError> {
    let flag = |field, header| {
        let in_body = body.flag(field)?;
        Ok::<bool, GatewayError>(header_flag(headers, header)?.or(in_body).unwrap_or(false))
    };
    let header_local_only = header_flag(headers, "x-spillway-local-only")?;
    let body_local_only = body.flag("local_only")?;
    let in_body = body.decimal("max_latency_ms", Bounds::above(0.0, f64::MAX))?;
    let max_latency_ms = header_ms(headers, "x-spillway-max-latency-ms")?.or(in_body);
    Ok(Ours {
        budget_sensitive: flag("budget_sensitive", "x-spillway-budget-sensitive")?,
        local_only: header_local_only == Some(true) || body_local_only == Some(true),
        max_latency: max_latency_ms.map(|ms| Duration::from_secs_f64(ms.min(MAX_LATENCY_MS) / 1000.0)),
        session: header_name(headers, "x-spillway-session")?,
    })
}

/// A name of the client's own making.
fn header_name(headers: &HeaderMap, name: &str) -> Result<Option<String>, GatewayError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str().map(str::trim) {
        Ok(text) if (1..=MAX_NAME).contains(&text.len()) => Ok(Some(text.to_owned())),
        _ => Err(fault(name, format!("Invalid header '{name}': expected 1 to {MAX_NAME} visible ASCII characters."))),
    }
}

fn header_flag(headers: &HeaderMap, name: &str) -> Result<Option<bool>, GatewayError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
        b"true" | b"1" => Ok(Some(true)),
        b"false" | b"0" => Ok(Some(false)),
        _ => Err(fault(name, format!("Invalid header '{name}': expected true, 1, false or 0."))),
    }
}

fn header_ms(headers: &HeaderMap, name: &str) -> Result<Option<f64>, GatewayError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    match number.filter(|ms| ms.is_finite() && *ms > 0.0) {
        Some(ms) => Ok(Some(ms)),
        None => Err(fault(name, format!("Invalid header '{name}': expected a number of milliseconds above 0."))),
    }
}

/// A token id as the engine takes it.
pub(super) fn token(value: &Value) -> Option<i32> {
    whole(value).and_then(|id| i32::try_from(id).ok()).filter(|id| *id >= 0)
}
