//! Vectors at a provider, or a server of the operator's: our request as the JSON of `POST /embeddings`, and the answer to it. Pure.
//!
//! The client's own fields go through untouched, but for the model and the form of the numbers: they are asked for as
//! numbers, which every provider knows, whatever form the client gets them in.

use super::chunk::tokens as count;
use crate::domain::{ErrorKind, GatewayError, Outbound, TokenUsage};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

/// What a provider gave: one vector for each input, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    /// `None`: it told none.
    pub usage: Option<TokenUsage>,
}

/// The body for `upstream_model`.
///
/// # Errors
/// A bug of ours: the body could not be encoded.
pub fn body<'a>(request: impl Into<Outbound<'a>>, upstream_model: &str) -> Result<Bytes, GatewayError> {
    let mut body = request.into().request().body.clone();
    body.insert("model".into(), upstream_model.into());
    body.insert("encoding_format".into(), "float".into());
    serde_json::to_vec(&body)
        .map(Bytes::from)
        .map_err(|_| GatewayError::gateway(ErrorKind::Internal, "the request could not be encoded"))
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Datum>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct Datum {
    index: Option<usize>,
    embedding: Vec<f32>,
}

/// Reads an answer to `due` inputs. `None`: it is none, or not one usable vector for each input.
pub fn read(body: &[u8], due: usize) -> Option<Embedded> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let dimensions = answer.data.first().map_or(0, |datum| datum.embedding.len());
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; due];
    for (place, datum) in answer.data.into_iter().enumerate() {
        let vector = vectors.get_mut(datum.index.unwrap_or(place)).filter(|vector| vector.is_none())?;
        let is_usable = dimensions > 0
            && datum.embedding.len() == dimensions
            && datum.embedding.iter().all(|value| value.is_finite());
        *vector = Some(datum.embedding).filter(|_| is_usable);
    }
    Some(Embedded { vectors: vectors.into_iter().collect::<Option<_>>()?, usage: usage(&answer.usage) })
}

/// Some providers tell only the total, which is the same.
fn usage(usage: &Value) -> Option<TokenUsage> {
    let tokens = |field: &str| usage.get(field).and_then(count);
    let prompt_tokens = tokens("prompt_tokens").or_else(|| tokens("total_tokens"))?;
    Some(TokenUsage { prompt_tokens, ..TokenUsage::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ChatRequest, CloudBound};
    use serde_json::json;

    fn read_json(body: &Value, due: usize) -> Option<Embedded> {
        read(body.to_string().as_bytes(), due)
    }

    #[test]
    fn the_clients_fields_go_through_and_numbers_are_asked_for() {
        let fields =
            json!({"input": ["a"], "model": "ours", "encoding_format": "base64", "dimensions": 4, "user": "u"});
        let request = ChatRequest { body: fields.as_object().cloned().unwrap(), ..ChatRequest::plain("") };
        let sent: Value = serde_json::from_slice(&body(CloudBound::new(&request).unwrap(), "theirs").unwrap()).unwrap();
        assert_eq!(
            sent,
            json!({"input": ["a"], "model": "theirs", "encoding_format": "float", "dimensions": 4, "user": "u"})
        );
    }

    #[test]
    fn vectors_come_in_the_order_of_their_inputs_with_whatever_usage_is_told() {
        let data =
            json!([{"index": 1, "embedding": [0.5, 1]}, {"index": 0, "embedding": [1, 0], "object": "embedding"}]);
        for (usage, tokens) in [
            (json!({"prompt_tokens": 7, "total_tokens": 7}), Some(7)),
            (json!({"total_tokens": 5}), Some(5)),
            (json!(null), None),
        ] {
            let answer = read_json(&json!({"object": "list", "data": data, "usage": usage}), 2).unwrap();
            assert_eq!(answer.vectors, [vec![1.0, 0.0], vec![0.5, 1.0]]);
            assert_eq!(answer.usage.map(|usage| usage.prompt_tokens), tokens);
        }
    }

    #[test]
    fn anything_but_one_usable_vector_for_each_input_is_no_answer() {
        for data in [
            json!([]),
            json!([{"index": 0, "embedding": [1]}]),
            json!([{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]),
            json!([{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]),
            json!([{"index": 0, "embedding": []}, {"index": 1, "embedding": []}]),
            json!([{"index": 0, "embedding": [1]}, {"index": 2, "embedding": [1]}]),
            json!([{"index": 0, "embedding": "AACAPw=="}, {"index": 1, "embedding": "AACAPw=="}]),
            json!([{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1e300]}]),
        ] {
            assert_eq!(read_json(&json!({"data": data}), 2), None, "{data}");
        }
        assert_eq!(read(b"<html>", 1), None);
    }
}
