//! A collector of traces in this process: takes OTLP over HTTP as a real one does, and keeps the spans. Reads protobuf by the
//! numbers of the published definitions, with code of its own: what gateway and test got wrong alike would not show.

use super::poll::until;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::{Map, Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};

/// One span, as it arrived. Ids are hexadecimal, times nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty: it has none.
    pub parent: String,
    pub state: String,
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: u64,
    pub start: u64,
    pub end: u64,
    pub attributes: Map<String, Value>,
    pub is_error: bool,
    pub flags: u64,
    /// Attributes of who sent it.
    pub resource: Map<String, Value>,
}

impl Span {
    pub fn text(&self, key: &str) -> &str {
        self.attributes.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn number(&self, key: &str) -> Option<i64> {
        self.attributes.get(key).and_then(Value::as_i64)
    }
}

#[derive(Debug, Default)]
struct Taken {
    spans: Vec<Span>,
    bodies: Vec<Bytes>,
    headers: Vec<HeaderMap>,
    refuse: Option<StatusCode>,
}

#[derive(Debug)]
pub struct Collector {
    pub addr: SocketAddr,
    taken: Arc<Mutex<Taken>>,
    serving: JoinHandle<()>,
}

impl Collector {
    pub async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// At an address of the test's choice, for one that comes later.
    pub async fn start_at(addr: SocketAddr) -> Self {
        let listener =
            until("the address is free", Duration::from_secs(10), || async { TcpListener::bind(addr).await.ok() })
                .await;
        let taken: Arc<Mutex<Taken>> = Arc::default();
        let addr = listener.local_addr().expect("it is bound");
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&taken));
        let serve = async move { axum::serve(listener, router).await.expect("it serves") };
        #[expect(clippy::disallowed_methods, reason = "owned by this value, whose Drop ends it")]
        let serving = tokio::spawn(serve);
        Self { addr, taken, serving }
    }

    /// What makes a gateway send its traces here, soon.
    pub fn config(&self) -> String {
        config(self.addr)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.taken.lock().expect("no holder panicked").spans.clone()
    }

    pub fn bodies(&self) -> Vec<Bytes> {
        self.taken.lock().expect("no holder panicked").bodies.clone()
    }

    /// Of each batch.
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.taken.lock().expect("no holder panicked").headers.clone()
    }

    /// From now on every batch is answered with this.
    pub fn refuse(&self, status: Option<u16>) {
        let status = status.map(|status| StatusCode::from_u16(status).expect("a status"));
        self.taken.lock().expect("no holder panicked").refuse = status;
    }

    /// The spans of one request, once they are there: its root first.
    pub async fn of(&self, request: &str) -> Vec<Span> {
        let whose = |span: &Span| span.text("spillway.request.id") == request;
        until(&format!("{request} is traced"), Duration::from_secs(10), || async {
            let all = self.spans();
            let root = all.iter().find(|span| whose(span))?.clone();
            let mut tree = vec![root.clone()];
            tree.extend(all.into_iter().filter(|span| span.trace == root.trace && span.id != root.id));
            Some(tree)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What makes a gateway send its traces there, soon.
pub fn config(addr: SocketAddr) -> String {
    format!("[otel]\nendpoint = \"http://{addr}\"\nservice_name = \"gateway-under-test\"\nflush_ms = 50\n")
}

async fn take(State(taken): State<Arc<Mutex<Taken>>>, headers: HeaderMap, body: Bytes) -> (StatusCode, Vec<u8>) {
    let mut taken = taken.lock().expect("no holder panicked");
    if let Some(status) = taken.refuse {
        return (status, Vec::new());
    }
    if headers.get("content-type").is_none_or(|media| media != "application/x-protobuf") {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, Vec::new());
    }
    taken.spans.extend(spans(&body));
    taken.bodies.push(body);
    taken.headers.push(headers);
    (StatusCode::OK, Vec::new())
}

/// Of an `ExportTraceServiceRequest`.
pub fn spans(body: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for sent in Fields(body).messages(1) {
        let resource = Fields(sent).messages(1).next().map(|resource| attributes(resource, 1)).unwrap_or_default();
        for scope in Fields(sent).messages(2) {
            spans.extend(Fields(scope).messages(2).map(|span| read(span, &resource)));
        }
    }
    spans
}

fn read(span: &[u8], resource: &Map<String, Value>) -> Span {
    let fields = Fields(span);
    let hex = |number| fields.messages(number).next().unwrap_or_default().iter().map(|b| format!("{b:02x}")).collect();
    let text = |number| String::from_utf8(fields.messages(number).next().unwrap_or_default().to_vec()).expect("UTF-8");
    let status = fields.messages(15).next().unwrap_or_default();
    Span {
        trace: hex(1),
        id: hex(2),
        state: text(3),
        parent: hex(4),
        name: text(5),
        kind: fields.number(6),
        start: fields.number(7),
        end: fields.number(8),
        attributes: attributes(span, 9),
        is_error: Fields(status).number(3) == 2,
        flags: fields.number(16),
        resource: resource.clone(),
    }
}

fn attributes(message: &[u8], number: u64) -> Map<String, Value> {
    let pairs = Fields(message).messages(number).map(|pair| {
        let key = String::from_utf8(Fields(pair).messages(1).next().expect("a key").to_vec()).expect("UTF-8");
        (key, any(Fields(pair).messages(2).next().expect("a value")))
    });
    pairs.collect()
}

/// An `AnyValue`.
fn any(value: &[u8]) -> Value {
    match Fields(value).all().into_iter().next().expect("one of the kinds") {
        (1, Field::Bytes(text)) => json!(String::from_utf8(text.to_vec()).expect("UTF-8")),
        (2, Field::Number(flag)) => json!(flag == 1),
        (3, Field::Number(number)) => json!(number.cast_signed()),
        (4, Field::Number(bits)) => json!(f64::from_bits(bits)),
        (5, Field::Bytes(list)) => Fields(list).messages(1).map(any).collect(),
        other => panic!("an attribute of an unknown kind: {other:?}"),
    }
}

#[derive(Debug)]
enum Field<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// The fields of one message.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn all(&self) -> Vec<(u64, Field<'b>)> {
        let (mut at, mut fields) = (0, Vec::new());
        while at < self.0.len() {
            let key = self.varint(&mut at);
            let field = match key & 7 {
                0 => Field::Number(self.varint(&mut at)),
                1 => Field::Number(u64::from_le_bytes(self.bytes(&mut at, 8).try_into().expect("eight bytes"))),
                2 => {
                    let length = self.varint(&mut at);
                    Field::Bytes(self.bytes(&mut at, usize::try_from(length).expect("a length")))
                }
                5 => Field::Number(u32::from_le_bytes(self.bytes(&mut at, 4).try_into().expect("four bytes")).into()),
                other => panic!("no protobuf has the wire type {other}"),
            };
            fields.push((key >> 3, field));
        }
        fields
    }

    fn bytes(&self, at: &mut usize, length: usize) -> &'b [u8] {
        let bytes = &self.0[*at..*at + length];
        *at += length;
        bytes
    }

    fn varint(&self, at: &mut usize) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.0[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }

    fn messages(&self, wanted: u64) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        self.all().into_iter().filter_map(move |(number, field)| match field {
            Field::Bytes(bytes) if number == wanted => Some(bytes),
            _ => None,
        })
    }

    fn number(&self, wanted: u64) -> u64 {
        let found = self.all().into_iter().find_map(|(number, field)| match field {
            Field::Number(value) if number == wanted => Some(value),
            _ => None,
        });
        found.unwrap_or(0)
    }
}
