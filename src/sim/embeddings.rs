//! `POST /v1/embeddings` of the simulated provider: a vector counts the words of its text, so texts of the same words are
//! near each other. Pure; understands nothing.

use super::fault::Fault;
use super::request::{SimRequest, text_of, tokens_of};
use serde::Deserialize;
use serde_json::{Value, json};

/// Unless the request names another number.
const DIMENSIONS: usize = 64;
const MAX_DIMENSIONS: usize = 4096;

#[derive(Debug, Deserialize)]
struct Raw {
    #[serde(default)]
    model: String,
    input: Value,
    dimensions: Option<usize>,
}

/// Each text, and how long its vector shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Texts {
    texts: Vec<String>,
    dimensions: usize,
}

/// # Errors
/// What is wrong with the body, for its sender.
pub(super) fn parse(body: &[u8]) -> Result<SimRequest, String> {
    let raw: Raw = serde_json::from_slice(body).map_err(|error| format!("invalid body: {error}"))?;
    let texts: Vec<String> = match &raw.input {
        Value::Array(items) if !items.iter().any(Value::is_number) => items.iter().map(text_of).collect(),
        one => vec![text_of(one)],
    };
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err("input is missing or empty".to_owned());
    }
    let prompt_tokens = texts.iter().map(|text| tokens_of(text)).sum();
    let dimensions = raw.dimensions.unwrap_or(DIMENSIONS).clamp(1, MAX_DIMENSIONS);
    Ok(SimRequest::to_embed(raw.model, prompt_tokens, Texts { texts, dimensions }))
}

pub(super) fn answer(request: &SimRequest, fault: Fault) -> Value {
    let Texts { texts, dimensions } = &request.texts;
    let datum = |(index, text): (usize, &String)| json!({"object": "embedding", "index": index, "embedding": vector(text, *dimensions)});
    let data: Vec<Value> = texts.iter().enumerate().map(datum).collect();
    let tokens = request.prompt_tokens;
    let mut answer = json!({
        "object": "list", "data": data, "model": request.model, "system_fingerprint": "simulated",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    });
    if let (Fault::NoUsage, Some(fields)) = (fault, answer.as_object_mut()) {
        fields.remove("usage");
    }
    answer
}

fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let mut counts = vec![0_f32; dimensions];
    for word in text.split_whitespace() {
        let hash = word.bytes().fold(0xcbf2_9ce4_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        if let Some(count) = counts.get_mut(hash as usize % dimensions) {
            *count += 1.0;
        }
    }
    let length = counts.iter().map(|count| count * count).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    counts.into_iter().map(|count| count / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(body: &Value) -> Value {
        answer(&parse(body.to_string().as_bytes()).unwrap(), Fault::Ok)
    }

    #[test]
    fn every_input_gets_a_vector_of_length_one_and_of_the_length_asked_for() {
        for (input, count) in [(json!("a b"), 1), (json!(["a", "b c"]), 2), (json!([1, 2]), 1), (json!([[1], [2]]), 2)]
        {
            let answer = answered(&json!({"model": "m", "input": input, "dimensions": 16}));
            let data = answer["data"].as_array().unwrap();
            assert_eq!(data.len(), count);
            for datum in data {
                let vector: Vec<f64> =
                    datum["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
                assert_eq!(vector.len(), 16);
                assert!((vector.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-5);
            }
        }
        for wrong in [json!({}), json!({"input": []}), json!({"input": ""}), json!({"input": ["a", ""]})] {
            assert!(parse(wrong.to_string().as_bytes()).is_err(), "{wrong}");
        }
    }
}
