//! What the tests of every dialect start from.

use super::dialect::{Arrived, Asked, Endpoint, Frames, Next};
use bytes::BytesMut;
use http::HeaderMap;
use serde_json::{Map, Value};
use spillway_actors::{
    config::{Config, Sources, load},
    domain::{Complexity, Delta, GatewayError, RequestId},
    flight::{FlightEvent, Head},
};
use std::{io, path::PathBuf, sync::LazyLock};

/// The built-in defaults with a provider that has a key.
pub(super) static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let sources = Sources {
        file: Some((PathBuf::from("my.toml"), String::new())),
        env: vec![("HOLYSHEEP_API_KEY".into(), "secret-key".into())],
        cache_dir: PathBuf::from("/cache"),
        ..Sources::default()
    };
    load(&sources, &|_| Err(io::Error::other("no file"))).unwrap().0
});

pub(super) const ARRIVED: Arrived = Arrived { id: RequestId::from_bits(0xab), at: 1_764_000_000 };

pub(super) fn read(endpoint: Endpoint, body: &Value) -> Result<Asked, GatewayError> {
    endpoint.read(ARRIVED, body.to_string().as_bytes(), &HeaderMap::new(), &CONFIG)
}

/// What a chat's provider would get.
pub(super) fn chat(endpoint: Endpoint, body: &Value) -> Value {
    Value::Object(read(endpoint, body).unwrap_or_else(|error| panic!("{body}: {error:?}")).request.body)
}

/// "param: message" of a refusal.
pub(super) fn refusal(endpoint: Endpoint, body: &Value) -> String {
    let error = read(endpoint, body).err().unwrap_or_else(|| panic!("refused: {body}"));
    format!("{}: {}", error.param.unwrap_or_default(), error.message)
}

pub(super) fn head() -> Head {
    Head {
        target: "sheep".into(),
        model: "m".into(),
        complexity: Complexity::Trivial,
        attempts: 1,
        simulated: false,
        imprint: None,
    }
}

pub(super) fn text(text: &str) -> FlightEvent {
    FlightEvent::Delta(Delta { content: Some(text.into()), ..Delta::default() })
}

/// A delta without text.
pub(super) fn other(fields: Value) -> FlightEvent {
    let Value::Object(other) = fields else { panic!("an object") };
    FlightEvent::Delta(Delta { other, ..Delta::default() })
}

pub(super) fn finish(reason: &str) -> FlightEvent {
    FlightEvent::Finish { choice: 0, reason: reason.into() }
}

pub(super) fn done() -> FlightEvent {
    FlightEvent::Done(Box::new(super::render::tests::report()))
}

/// Every byte of a stream.
pub(super) fn written(mut frames: Box<dyn Frames>, events: impl IntoIterator<Item = FlightEvent>) -> String {
    let mut out = BytesMut::new();
    frames.begin(&mut out);
    for event in events {
        if frames.write(event, &mut out) == Next::End {
            break;
        }
    }
    String::from_utf8(out.to_vec()).unwrap()
}

/// The events of a stream, each without the fields that are always the same or tested apart.
pub(super) fn events(text: &str, without: &[&str]) -> Vec<String> {
    let event = |block: &str| {
        let (name, data) = block.split_once("\ndata: ").unwrap_or_else(|| panic!("an event: {block}"));
        let mut data: Map<String, Value> = serde_json::from_str(data).unwrap();
        assert_eq!(Some(data["type"].as_str().unwrap()), name.strip_prefix("event: "), "the name is the type");
        without.iter().for_each(|name| drop(data.shift_remove(*name)));
        Value::Object(data).to_string()
    };
    assert!(text.is_empty() || text.ends_with("\n\n"));
    text.split("\n\n").filter(|block| !block.is_empty()).map(event).collect()
}
