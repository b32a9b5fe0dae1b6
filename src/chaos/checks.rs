//! Judging answers: the error object's shape, and whether a text lacks or doubles a token.

use serde_json::Value;

/// The default model goes on counting here, token for token, whatever else is in its batch.
pub const COUNT: &str = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,";
const COUNTED: u64 = 12;

/// The place that a word of a simulated provider or engine tells, as it is written; two of them run together are none.
fn place(word: &str) -> Option<&str> {
    let (place, rest) = word.strip_prefix("sim")?.split_once('-')?;
    (!place.is_empty() && place.bytes().all(|byte| byte.is_ascii_digit()) && !rest.contains('-')).then_some(place)
}

/// The simulated provider's words, one after the other from any place.
fn numbered_words(text: &str) -> Result<(), String> {
    let place = |word: &str| place(word)?.parse::<u64>().ok();
    let mut due = None;
    for word in text.split_whitespace() {
        let place = place(word).ok_or_else(|| format!("{word} is no word of the provider's: {text:?}"))?;
        if due.is_some_and(|due| due != place) {
            return Err(format!("{word} where {due:?} was due: {text:?}"));
        }
        due = Some(place + 1);
    }
    Ok(())
}

/// The OpenAI error object with all four keys.
pub fn error_object(body: &Value) -> Result<(), String> {
    let keys = body["error"].as_object().map(|error| error.keys().map(String::as_str).collect::<Vec<_>>());
    let Some(mut keys) = keys else { return Err(format!("no error object: {body}")) };
    keys.sort_unstable();
    if keys != ["code", "message", "param", "type"] {
        return Err(format!("the error object has other keys than its four: {body}"));
    }
    let error = &body["error"];
    let texts = error["message"].as_str().is_some_and(|text| !text.is_empty()) && error["type"].is_string();
    let optional = |key: &str| error[key].is_string() || error[key].is_null();
    if texts && optional("param") && optional("code") { Ok(()) } else { Err(format!("wrong types in {body}")) }
}

/// Whether a text whose pieces tell their own place lacks, doubles or swaps one: the simulated provider's words
/// (`sim0-… sim1-…`) from any prompt, or numbers counted up after [`COUNT`]. Other texts pass. The last piece may be cut
/// by the token limit.
///
/// A local answer that the simulated provider continued is both: its words are numbered after those before them.
pub fn continuity(prompt: &str, text: &str) -> Result<(), String> {
    if let Some(seam) = text.find("sim").filter(|_| prompt == COUNT && !text.trim_start().starts_with("sim")) {
        let (counted, words) = text.split_at(seam);
        return continuity(prompt, counted.trim_end()).and_then(|()| numbered_words(words));
    }
    let places: Vec<String> = if text.trim_start().starts_with("sim") {
        text.split_whitespace().map(|word| place(word).unwrap_or("?").to_owned()).collect()
    } else if prompt == COUNT {
        text.split(',').map(|number| number.trim().to_owned()).collect()
    } else {
        return Ok(());
    };
    let first = if prompt == COUNT && !text.trim_start().starts_with("sim") { COUNTED + 1 } else { 0 };
    let last = places.len().saturating_sub(1);
    for (at, (place, due)) in places.iter().zip(first..).enumerate() {
        let due = due.to_string();
        let cut = at == last && due.starts_with(place.as_str());
        if *place != due && !cut {
            return Err(format!("{place} where {due} was due: {text:?}"));
        }
    }
    Ok(())
}

/// Words of a text that tells their places; `None` of any other, or of one that two kinds of target wrote: one that begins with
/// white space has its first token from a model that only began to speak.
pub fn words(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace().peekable();
    words.peek().filter(|_| !text.starts_with(char::is_whitespace))?;
    words.clone().all(|word| place(word).is_some()).then(|| words.count())
}
