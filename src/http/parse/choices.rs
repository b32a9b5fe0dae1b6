//! Prompts, and how many answers each of them gets: `prompt`, `n`, `best_of`, `echo`, `suffix`.

use super::fields::{Bounds, Fields, fault, missing, wrong_type};
use serde_json::Value;
use spillway_actors::domain::{Choices, GatewayError, Input, MAX_CHOICES, Needs, Passage, RequestKind};

/// What is asked for, and what a target must be able to do for it.
pub(super) fn choices(
    body: Fields<'_>,
    kind: RequestKind,
    input: &Input,
    needs: &mut Needs,
) -> Result<Choices, GatewayError> {
    let n = count(body, "n")?.unwrap_or(1);
    let mut choices = Choices { n, best_of: n, ..Choices::default() };
    if kind == RequestKind::Completion {
        completion_only(body, input, &mut choices)?;
    }
    let prompts = if let Input::Several(passages) = input { passages.len() } else { 1 };
    let each = choices.best_of as usize;
    if prompts.saturating_mul(each) > MAX_CHOICES as usize {
        let message = format!(
            "Invalid request: {prompts} prompts with {each} answers each; at most {MAX_CHOICES} answers in one request."
        );
        return Err(fault(if prompts > 1 { "prompt" } else { "n" }, message));
    }
    needs.several_choices = n > 1;
    needs.batch = prompts > 1;
    needs.best_of = choices.best_of > n;
    needs.echo = choices.echo;
    needs.suffix = choices.suffix.is_some();
    Ok(choices)
}

/// What only the old endpoint knows.
fn completion_only(body: Fields<'_>, input: &Input, choices: &mut Choices) -> Result<(), GatewayError> {
    // 0 is how some clients say "not set".
    let best_of = body.integer("best_of", Bounds::new(0.0, f64::from(MAX_CHOICES)))?;
    if let Some(best_of) = best_of.and_then(|best_of| u32::try_from(best_of).ok()).filter(|best_of| *best_of > 0) {
        if best_of < choices.n {
            return Err(fault("best_of", "Invalid 'best_of': it must be at least 'n'."));
        }
        if best_of > choices.n && body.flag("stream")?.unwrap_or(false) {
            return Err(fault("best_of", "'best_of' above 'n' cannot be streamed: the best is known at the end."));
        }
        choices.best_of = best_of;
    }
    choices.echo = body.flag("echo")?.unwrap_or(false);
    choices.suffix = body.text("suffix")?.filter(|suffix| !suffix.is_empty()).map(str::to_owned);
    let is_ids = match input {
        Input::Tokens(_) => true,
        Input::Several(passages) => passages.iter().any(|passage| passage.text().is_none()),
        Input::Messages(_) | Input::Text(_) => false,
    };
    if choices.suffix.is_some() && is_ids {
        return Err(fault("suffix", "'suffix' needs a prompt of text, not of token ids."));
    }
    Ok(())
}

fn count(body: Fields<'_>, name: &'static str) -> Result<Option<u32>, GatewayError> {
    let count = body.integer(name, Bounds::new(1.0, f64::from(MAX_CHOICES)))?;
    Ok(count.and_then(|count| u32::try_from(count).ok()))
}

/// A string, an array of token ids, or an array of either.
pub(super) fn prompt(body: Fields<'_>) -> Result<Input, GatewayError> {
    let items = match body.get("prompt") {
        None => return Err(missing("prompt")),
        Some(Value::String(text)) => return text_of(text, "prompt").map(one),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type("prompt", "a string or an array", other)),
    };
    match items.as_slice() {
        [] => Err(fault("prompt", "Invalid 'prompt': empty array.")),
        [Value::Number(_), ..] => tokens_of(items, "prompt").map(one),
        _ if items.len() > MAX_CHOICES as usize => {
            let message = format!("Invalid 'prompt': array too long. Expected at most {MAX_CHOICES} prompts.");
            Err(fault("prompt", message))
        }
        [single] => passage(single, "prompt").map(one),
        _ => {
            let passages = items.iter().enumerate().map(|(index, item)| passage(item, &format!("prompt[{index}]")));
            Ok(Input::Several(passages.collect::<Result<_, _>>()?))
        }
    }
}

fn one(passage: Passage) -> Input {
    match passage {
        Passage::Text(text) => Input::Text(text),
        Passage::Tokens(tokens) => Input::Tokens(tokens),
    }
}

/// One of several inputs, at `at` in the body.
pub(super) fn passage(item: &Value, at: &str) -> Result<Passage, GatewayError> {
    match item {
        Value::String(text) => text_of(text, at),
        Value::Array(tokens) => tokens_of(tokens, at),
        other => Err(wrong_type(at, "a string or an array of token ids", other)),
    }
}

pub(super) fn text_of(text: &str, at: &str) -> Result<Passage, GatewayError> {
    if text.is_empty() {
        return Err(fault(at, format!("Invalid '{at}': it is empty; at least one token is needed.")));
    }
    Ok(Passage::Text(text.to_owned()))
}

pub(super) fn tokens_of(items: &[Value], at: &str) -> Result<Passage, GatewayError> {
    if items.is_empty() {
        return Err(fault(at, format!("Invalid '{at}': it is empty; at least one token is needed.")));
    }
    let tokens = items.iter().map(super::wishes::token).collect::<Option<Vec<i32>>>();
    tokens.map(Passage::Tokens).ok_or_else(|| fault(at, format!("Invalid '{at}': token ids must be integers from 0.")))
}
