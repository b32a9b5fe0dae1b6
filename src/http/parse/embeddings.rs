//! A body of `POST /v1/embeddings`.
//!
//! `auto`, `local` and no model at all mean one fixed model, because vectors of different models cannot be compared: what
//! is stored today must fit what is asked tomorrow, whatever is warm or cheap then.

use super::{
    choices::{passage, text_of, tokens_of},
    fields::{Bounds, Fields, fault, missing, wrong_type},
    json, model, wishes,
};
use http::HeaderMap;
use serde_json::{Map, Value};
use spillway_actors::{
    config::{CloudConfig, Config, ModelKind},
    domain::{
        ChatRequest, Choices, ErrorKind, GatewayError, Input, ModelChoice, ModelName, Needs, Origin, OutputWish,
        Passage, RequestId, RequestKind, SamplingWish,
    },
};

/// As OpenAI's.
const MAX_INPUTS: usize = 2048;

/// How the numbers of a vector are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Format {
    Float,
    /// Little-endian 32-bit floats.
    Base64,
}

/// # Errors
/// As [`chat`](super::chat).
pub fn embeddings(
    id: RequestId,
    body: &[u8],
    headers: &HeaderMap,
    config: &Config,
) -> Result<ChatRequest, GatewayError> {
    let mut body = json::object(body)?;
    let fields = Fields(&body);
    let input = input(fields)?;
    format(fields)?;
    fields.text("user")?;
    let dimensions = fields.integer("dimensions", Bounds::new(1.0, 65_536.0))?.is_some();
    let wishes::Ours { budget_sensitive, local_only, max_latency, session } = wishes::ours(fields, headers)?;
    let model = fixed(model::exactly(fields, config)?, local_only, config)?;
    for name in wishes::OURS {
        body.shift_remove(name);
    }
    Ok(ChatRequest {
        id,
        kind: RequestKind::Embedding,
        model,
        input: Input::Several(input),
        choices: Choices::default(),
        needs: Needs { embeddings: true, dimensions, ..Needs::default() },
        sampling: SamplingWish::default(),
        output: OutputWish::default(),
        max_tokens: None,
        stop: None,
        stream: false,
        include_usage: false,
        budget_sensitive,
        local_only,
        max_latency,
        session,
        caller: None,
        trace: None,
        client_id: None,
        body,
        anthropic: Map::new(),
    })
}

/// # Errors
/// It is neither of the two.
pub(in crate::http) fn format(body: Fields<'_>) -> Result<Format, GatewayError> {
    match body.text("encoding_format")? {
        None | Some("float") => Ok(Format::Float),
        Some("base64") => Ok(Format::Base64),
        Some(_) => {
            let message = "Invalid value for 'encoding_format'. Supported values are: 'float' and 'base64'.";
            Err(fault("encoding_format", message))
        }
    }
}

/// One model, whatever the fleet is like: the first local target that makes vectors, else the first model in the cloud.
fn fixed(choice: ModelChoice, local_only: bool, config: &Config) -> Result<ModelChoice, GatewayError> {
    let local = config.locals.iter().find(|local| local.embedding_tokens.is_some()).map(|local| local.model.clone());
    let cloud = || config.clouds.iter().filter(|_| !local_only).find_map(first_of);
    let found = match &choice {
        ModelChoice::Named(_) => return Ok(choice),
        ModelChoice::Local => local,
        ModelChoice::Auto => local.or_else(cloud),
    };
    found.map(ModelChoice::Named).ok_or_else(|| {
        let message = "no configured target makes embeddings: set `embeddings = true` in a [[local]], or configure a \
            [[cloud.models]] of kind = \"embedding\"";
        let mut error = GatewayError::new(Origin::Client, ErrorKind::ModelNotFound, message);
        error.param = Some("model".to_owned());
        error
    })
}

fn first_of(cloud: &std::sync::Arc<CloudConfig>) -> Option<ModelName> {
    let model = cloud.models.iter().find(|model| model.kind == ModelKind::Embedding)?;
    cloud.is_usable().then(|| model.name.clone())
}

/// A string, an array of token ids, or an array of either.
fn input(body: Fields<'_>) -> Result<Vec<Passage>, GatewayError> {
    let items = match body.get("input") {
        None => return Err(missing("input")),
        Some(Value::String(text)) => return Ok(vec![text_of(text, "input")?]),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type("input", "a string or an array", other)),
    };
    match items.as_slice() {
        [] => Err(fault("input", "Invalid 'input': empty array.")),
        [Value::Number(_), ..] => Ok(vec![tokens_of(items, "input")?]),
        _ if items.len() > MAX_INPUTS => {
            let message = format!("Invalid 'input': array too long. Expected at most {MAX_INPUTS} inputs.");
            Err(fault("input", message))
        }
        _ => items.iter().enumerate().map(|(index, item)| passage(item, &format!("input[{index}]"))).collect(),
    }
}

#[cfg(test)]
mod tests;
