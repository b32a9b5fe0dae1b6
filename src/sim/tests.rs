//! Each fault as a client sees it: on the wire for shapes, through the gateway's own provider client for outcomes.

use super::*;
use bytes::Bytes;
use reqwest::{Client, Method, Response};
use secrecy::SecretString;
use serde_json::{Value, json};
use spillway_actors::cloud::{Answer, Asked, ProviderClient, Timeouts};
use spillway_actors::config::Wire;
use spillway_actors::domain::{ErrorKind, GatewayError, GenerationEvent, RequestId, TokenUsage};
use tokio::time::Instant;

mod faults;
mod messages;
mod shapes;

const LONG: Duration = Duration::from_secs(20);

struct Running {
    url: String,
    client: Client,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

async fn sim(options: SimOptions) -> Running {
    let sim = Sim::bind("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    let url = format!("http://{}", sim.local_addr);
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(sim.serve(shutdown.clone()));
    // The provider client installs the TLS provider that every client needs, even without TLS.
    ProviderClient::new("sim".into(), &url, Timeouts::default()).unwrap();
    let client = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    Running { url, client, shutdown, tasks }
}

async fn default_sim() -> Running {
    sim(SimOptions::default()).await
}

/// What came of one attempt.
#[derive(Debug, Default)]
struct Seen {
    text: String,
    /// The arguments of a called tool.
    arguments: String,
    pieces: usize,
    reason: Option<String>,
    usage: Option<TokenUsage>,
    error: Option<GatewayError>,
}

impl Seen {
    fn kind(&self) -> Option<ErrorKind> {
        self.error.as_ref().map(|error| error.kind)
    }
}

impl Running {
    async fn send(&self, method: Method, path: &str, body: &Value) -> Response {
        let url = format!("{}{path}", self.url);
        let asked = self.client.request(method, url).header("x-request-id", "req_1").json(body);
        asked.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        self.send(Method::GET, path, &Value::Null).await.json().await.unwrap()
    }

    async fn seen(&self, body: Value) -> Seen {
        self.seen_with(body, Timeouts::default()).await
    }

    async fn seen_with(&self, body: Value, timeouts: Timeouts) -> Seen {
        self.seen_in(Wire::OpenAi, body, timeouts).await
    }

    /// One attempt with the gateway's client, whatever comes of it.
    async fn seen_in(&self, wire: Wire, body: Value, timeouts: Timeouts) -> Seen {
        let client = ProviderClient::new("sim".into(), &format!("{}/v1", self.url), timeouts).unwrap().speaking(wire);
        let stream = body["stream"].as_bool().unwrap_or(false);
        let answers = body["n"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        let (key, deadline) = (SecretString::from(""), Instant::now() + LONG);
        let body = Bytes::from(body.to_string());
        let mut seen = Seen::default();
        match client.start(body, RequestId::from_bits(7), &key, Asked { stream, answers }, deadline).await {
            Err(error) => seen.error = Some(error),
            Ok(Answer::Body(answer)) => {
                let message = Value::Object(answer.choices[0].message.clone());
                seen.text = message["content"].as_str().unwrap_or_default().into();
                seen.arguments = arguments(&message);
                seen.reason = Some(answer.choices[0].finish_reason.clone());
                seen.usage = answer.usage;
            }
            Ok(Answer::Stream(mut stream)) => loop {
                match stream.next().await {
                    Ok(Some(GenerationEvent::Delta(delta))) => {
                        seen.arguments += &arguments(&Value::Object(delta.other));
                        seen.text += &delta.content.unwrap_or_default();
                        seen.pieces += 1;
                    }
                    Ok(Some(GenerationEvent::Finish { reason, .. })) => seen.reason = Some(reason),
                    Ok(Some(GenerationEvent::Usage(usage))) => seen.usage = Some(usage),
                    Ok(None) => break,
                    Err(error) => {
                        seen.error = Some(error);
                        break;
                    }
                }
            },
        }
        seen
    }

    /// Waits until the last request has ended and gives its record.
    async fn last_record(&self) -> Value {
        let deadline = Instant::now() + LONG;
        loop {
            let records = self.get("/sim/requests").await;
            let last = records.as_array().unwrap().last().unwrap().clone();
            if last["outcome"] != "open" {
                return last;
            }
            assert!(Instant::now() < deadline, "still open: {last}");
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LONG, self.tasks.join_all()).await.unwrap();
    }
}

fn arguments(message: &Value) -> String {
    let arguments = message.pointer("/tool_calls/0/function/arguments").and_then(Value::as_str);
    arguments.unwrap_or_default().to_owned()
}

fn ask(model: &str, stream: bool) -> Value {
    let mut body = json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hello"}]});
    if stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

/// Word numbers in order, from `first` to before `end`.
fn assert_words(text: &str, first: usize, end: usize) {
    let places: Vec<&str> =
        text.split_whitespace().map(|word| word.strip_prefix("sim").unwrap().split_once('-').unwrap().0).collect();
    assert_eq!(places, (first..end).map(|place| place.to_string()).collect::<Vec<_>>());
}
