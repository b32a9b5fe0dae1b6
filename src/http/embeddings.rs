//! The answer of `POST /v1/embeddings`: vectors as numbers or as base64, their usage and where they came from.

use super::{
    answer::label,
    error,
    frames::bug,
    parse::{Fields, Format, format},
    render,
};
use axum::{body::Body, response::Response};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderValue, header::CONTENT_TYPE};
use serde::Serialize;
use serde_json::{Map, Value, json};
use spillway_actors::{
    config::Config,
    domain::GatewayError,
    flight::{FlightEvent, FlightReport},
};
use tokio::sync::mpsc;

/// Writing out more numbers than this takes milliseconds: it must not hold up a thread that serves others.
const MANY_NUMBERS: usize = 1 << 16;

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Datum<'a>>,
    model: &'a str,
    usage: Value,
    routing: render::Routing<'a>,
}

#[derive(Serialize)]
struct Datum<'a> {
    object: &'static str,
    index: usize,
    embedding: Numbers<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Numbers<'a> {
    Floats(&'a [f32]),
    Base64(String),
}

/// The form that a parsed body asks for.
pub(super) fn format_of(body: &Map<String, Value>) -> Format {
    format(Fields(body)).unwrap_or(Format::Float)
}

/// Waits until the flight has settled. `held` lives as long.
pub(super) async fn answer<H>(
    mut events: mpsc::Receiver<FlightEvent>,
    format: Format,
    config: &Config,
    _held: H,
) -> Response {
    match landed(&mut events).await {
        Ok((vectors, report)) => {
            let simulated = config.clouds.iter().any(|cloud| cloud.simulated && cloud.name.as_str() == report.target);
            let (target, complexity, attempts) = (report.target.clone(), report.complexity, report.attempts.len());
            let Ok(body) = written(vectors, report, format).await else { return error::respond(&bug()) };
            let mut response = Response::new(Body::from(body));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            label(headers, &target, complexity.as_str(), attempts, simulated);
            response
        }
        Err(error) => error::respond(&error),
    }
}

async fn landed(events: &mut mpsc::Receiver<FlightEvent>) -> Result<(Vec<Vec<f32>>, FlightReport), GatewayError> {
    let (mut vectors, mut report) = (None, None);
    while let Some(event) = events.recv().await {
        match event {
            FlightEvent::Embedded(embedded) => vectors = Some(embedded),
            FlightEvent::Done(done) => report = Some(*done),
            FlightEvent::Failed(error) => return Err(error),
            _ => {}
        }
    }
    vectors.zip(report).ok_or_else(bug)
}

async fn written(vectors: Vec<Vec<f32>>, report: FlightReport, format: Format) -> Result<Vec<u8>, GatewayError> {
    if vectors.iter().map(Vec::len).sum::<usize>() <= MANY_NUMBERS {
        return Ok(json_of(&vectors, &report, format));
    }
    let writing = tokio::task::spawn_blocking(move || json_of(&vectors, &report, format));
    writing.await.map_err(|_| bug())
}

fn json_of(vectors: &[Vec<f32>], report: &FlightReport, format: Format) -> Vec<u8> {
    let tokens = report.usage.prompt_tokens;
    let list = List {
        object: "list",
        data: vectors.iter().enumerate().map(|(index, vector)| datum(index, vector, format)).collect(),
        model: &report.model,
        usage: json!({"prompt_tokens": tokens, "total_tokens": tokens}),
        routing: render::Routing::of(report),
    };
    // Our own types, into memory: cannot fail.
    serde_json::to_vec(&list).unwrap_or_default()
}

fn datum(index: usize, vector: &[f32], format: Format) -> Datum<'_> {
    let embedding = match format {
        Format::Float => Numbers::Floats(vector),
        Format::Base64 => Numbers::Base64(base64_of(vector)),
    };
    Datum { object: "embedding", index, embedding }
}

fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::render::tests::report;

    #[test]
    fn both_forms_hold_the_same_numbers() {
        let vectors = [vec![0.25, -1.0], vec![1.5e-8, 0.0]];
        let read = |format| serde_json::from_slice::<Value>(&json_of(&vectors, &report(), format)).unwrap();
        let floats = read(Format::Float);
        assert_eq!((&floats["object"], &floats["model"]), (&json!("list"), &json!("smollm2-135m")));
        assert_eq!(floats["usage"], json!({"prompt_tokens": 21, "total_tokens": 21}));
        assert_eq!(floats["data"][1]["index"], 1);
        assert_eq!(floats["data"][1]["object"], "embedding");
        assert_eq!(floats["data"][0]["embedding"], json!([0.25, -1.0]));
        assert!(floats["routing"]["attempts"].is_array());
        let coded = read(Format::Base64);
        for (index, vector) in vectors.iter().enumerate() {
            let bytes = BASE64_STANDARD.decode(coded["data"][index]["embedding"].as_str().unwrap()).unwrap();
            let numbers: Vec<f32> =
                bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
            assert_eq!(numbers, *vector);
        }
    }
}
