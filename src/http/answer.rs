//! From a launched flight to a response. The first event decides the status: until then nothing has been sent.

use super::{dialect::Voice, error, frames::bug, stream::EventBody};
use axum::{body::Body, response::Response};
use http::{
    HeaderMap, HeaderValue,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use spillway_actors::{
    cloud::WholeAnswer,
    config::Config,
    domain::GatewayError,
    flight::{FlightEvent, FlightReport, Head},
};
use std::time::Duration;
use tokio::sync::mpsc;

type Events = mpsc::Receiver<FlightEvent>;

/// How the client wants to hear the answer.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) voice: Box<dyn Voice>,
    pub(super) stream: bool,
    pub(super) keep_alive: Option<Duration>,
}

/// Waits for the flight's first word and answers. `held` lives as long as the answer.
pub(super) async fn answer<H>(mut events: Events, wish: Wish, config: &Config, held: H) -> Response
where
    H: Send + Unpin + 'static,
{
    let result = if wish.stream {
        match events.recv().await {
            Some(FlightEvent::Started(head)) => return streamed(events, &wish, &head, held),
            Some(FlightEvent::Failed(error)) => Err(error),
            _ => Err(bug()),
        }
    } else {
        landed(&mut events).await
    };
    match result {
        Ok((answer, report)) => whole(&*wish.voice, answer, &report, config),
        Err(error) => error::respond(&error),
    }
}

fn streamed<H>(events: Events, wish: &Wish, head: &Head, held: H) -> Response
where
    H: Send + Unpin + 'static,
{
    let frames = wish.voice.stream(head);
    let mut response = Response::new(Body::new(EventBody::new(events, frames, wish.keep_alive, held)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that buffer by default (nginx) must not.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    label(headers, head.target.as_str(), head.complexity.as_str(), head.attempts, head.simulated);
    response
}

/// The answer and its report, once the flight has settled.
async fn landed(events: &mut Events) -> Result<(WholeAnswer, FlightReport), GatewayError> {
    let (mut answer, mut report) = (None, None);
    while let Some(event) = events.recv().await {
        match event {
            FlightEvent::Whole(whole) => answer = Some(*whole),
            FlightEvent::Done(done) => report = Some(*done),
            FlightEvent::Failed(error) => return Err(error),
            FlightEvent::Started(_) | FlightEvent::Delta(_) | FlightEvent::Finish { .. } | FlightEvent::Embedded(_) => {
            }
        }
    }
    answer.zip(report).ok_or_else(bug)
}

fn whole(voice: &dyn Voice, answer: WholeAnswer, report: &FlightReport, config: &Config) -> Response {
    let mut response = Response::new(Body::from(voice.written(answer, report)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let simulated = config.clouds.iter().any(|cloud| cloud.simulated && cloud.name.as_str() == report.target);
    label(headers, &report.target, report.complexity.as_str(), report.attempts.len(), simulated);
    response
}

/// The facts of the `routing` object that fit into headers.
pub(super) fn label(headers: &mut HeaderMap, target: &str, complexity: &'static str, attempts: usize, simulated: bool) {
    if let Ok(target) = HeaderValue::from_str(target) {
        headers.insert("x-spillway-target", target);
    }
    headers.insert("x-spillway-complexity", HeaderValue::from_static(complexity));
    headers.insert("x-spillway-attempts", HeaderValue::from(attempts));
    if simulated {
        headers.insert("x-spillway-simulated", HeaderValue::from_static("true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{
        dialect::{Arrived, Endpoint},
        render::tests::{answer as answered, report},
    };
    use axum::body::to_bytes;
    use serde_json::{Value, json};
    use spillway_actors::{
        config::{Sources, load},
        domain::{Complexity, Delta, ErrorKind, RequestId},
    };
    use std::{io, path::PathBuf};

    fn config() -> Config {
        let file = "[[cloud]]\nname = \"sim\"\nbase_url = \"http://127.0.0.1:1/v1\"\nsimulated = true\n\
            [[cloud.models]]\nname = \"m\"\ninput_usd_per_mtok = 0\noutput_usd_per_mtok = 0\n";
        let sources = Sources {
            file: Some((PathBuf::from("my.toml"), file.to_owned())),
            cache_dir: PathBuf::from("/cache"),
            ..Sources::default()
        };
        load(&sources, &|_| Err(io::Error::other("no file"))).unwrap().0
    }

    fn wish(stream: bool) -> Wish {
        let arrived = Arrived { id: RequestId::from_bits(1), at: 5 };
        let body = br#"{"messages": [{"role": "user", "content": "a"}]}"#;
        let asked = Endpoint::Chat.read(arrived, body, &HeaderMap::new(), &config()).unwrap();
        Wish { voice: asked.voice, stream, keep_alive: None }
    }

    fn started(simulated: bool) -> FlightEvent {
        let head = Head {
            target: "sheep".into(),
            model: "m".into(),
            complexity: Complexity::Complex,
            attempts: 2,
            simulated,
            imprint: None,
        };
        FlightEvent::Started(head)
    }

    fn labels(response: &Response) -> Vec<&str> {
        ["x-spillway-target", "x-spillway-complexity", "x-spillway-attempts", "x-spillway-simulated", "content-type"]
            .iter()
            .filter_map(|name| response.headers().get(*name))
            .map(|value| value.to_str().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn a_stream_begins_when_its_first_event_is_there() {
        let (sender, events) = mpsc::channel(4);
        sender.try_send(started(true)).unwrap();
        let response = answer(events, wish(true), &config(), ()).await;
        assert_eq!(labels(&response), ["sheep", "complex", "2", "true", "text/event-stream"]);
        assert_eq!(response.headers()["cache-control"], "no-cache");
        drop(response);
        assert!(sender.is_closed(), "the flight hears that nobody listens");
    }

    #[tokio::test]
    async fn a_whole_answer_waits_until_its_flight_has_settled() {
        let (sender, events) = mpsc::channel(4);
        let mut report = report();
        report.target = "sim".into();
        sender.try_send(FlightEvent::Whole(Box::new(answered(json!({"content": "a"}), json!({}))))).unwrap();
        sender.try_send(FlightEvent::Done(Box::new(report))).unwrap();
        let config = config();
        let mut answering = Box::pin(answer(events, wish(false), &config, ()));
        assert!(futures_util::poll!(&mut answering).is_pending(), "else the flight takes us for a client gone");
        drop(sender);
        let response = answering.await;
        assert_eq!(labels(&response), ["sim", "trivial", "2", "true", "application/json"]);
        let body: Value = serde_json::from_slice(&to_bytes(response.into_body(), 1 << 16).await.unwrap()).unwrap();
        assert_eq!(body["choices"][0]["message"], json!({"content": "a", "role": "assistant", "refusal": null}));
    }

    #[tokio::test]
    async fn failures_before_the_first_byte_have_a_status_and_broken_promises_are_500() {
        let failed = || FlightEvent::Failed(GatewayError::target("t", ErrorKind::RateLimited, "m"));
        let delta = || FlightEvent::Delta(Delta::default());
        for (stream, events, status) in [
            (true, vec![failed()], 429),
            (false, vec![failed()], 429),
            (true, vec![], 500),
            (false, vec![], 500),
            (true, vec![delta()], 500),
            (false, vec![FlightEvent::Done(Box::new(report()))], 500),
        ] {
            let (sender, receiver) = mpsc::channel(4);
            for event in events {
                sender.try_send(event).unwrap();
            }
            drop(sender);
            let response = answer(receiver, wish(stream), &config(), ()).await;
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()["content-type"], "application/json");
        }
    }
}
