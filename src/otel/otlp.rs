//! Spans in the words of OTLP (`opentelemetry/proto`, version 1): what `POST /v1/traces` takes, and what of its answer
//! matters. Numbers of fields are those of the published definitions; a test has them read by their authors' own classes.

use super::{
    draw::{Kind, Span, Value},
    protobuf::{Message, Read, fields},
};
use spillway_actors::domain::Trace;

/// The conventions that names of attributes are from.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";
const SCOPE: &str = "spillway";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Flags of a span: its trace is kept; it is said whether its parent is another process's; it is.
const SAMPLED: u32 = 1;
const KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;
/// `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;

/// `Resource`: who sends, the same for all batches of a process.
pub fn resource(service_name: &str, instance: &str) -> Message {
    let attributes = [
        ("service.name", service_name),
        ("service.version", VERSION),
        ("service.instance.id", instance),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.name", SCOPE),
        ("telemetry.sdk.version", VERSION),
    ];
    Message::default().messages(1, attributes.map(|(key, text)| key_value(key, &Value::from(text))))
}

/// `ExportTraceServiceRequest`: one resource, one scope.
pub fn body(resource: &Message, spans: impl IntoIterator<Item = Message>) -> Vec<u8> {
    let scope = Message::default().text(1, SCOPE).text(2, VERSION);
    let scope_spans = Message::default().message(1, &scope).messages(2, spans).text(3, SCHEMA);
    let resource_spans = Message::default().message(1, resource).message(2, &scope_spans).text(3, SCHEMA);
    Message::default().message(1, &resource_spans).into_bytes()
}

/// Spans that the collector did not want, of a batch that it took: `ExportTraceServiceResponse`.
pub fn rejected(body: &[u8]) -> u64 {
    let partial = fields(body).find_map(|field| if let (1, Read::Bytes(bytes)) = field { Some(bytes) } else { None });
    let mut counts = fields(partial.unwrap_or_default());
    counts.find_map(|field| if let (1, Read::Number(count)) = field { Some(count) } else { None }).unwrap_or(0)
}

/// `Span`.
pub fn span(drawn: &Span, trace: &Trace) -> Message {
    let is_remote = drawn.id == trace.root && trace.parent.is_some();
    let status = Message::default().number(3, if drawn.is_error { ERROR } else { 0 });
    Message::default()
        .bytes(1, &trace.id.to_bytes())
        .bytes(2, &drawn.id.to_bytes())
        .text(3, trace.state.as_deref().unwrap_or_default())
        .bytes(4, drawn.parent.map(|parent| parent.to_bytes()).as_ref().map_or(&[], |parent| parent.as_slice()))
        .text(5, &drawn.name)
        .number(6, kind(drawn.kind))
        .fixed64(7, drawn.time.start)
        .fixed64(8, drawn.time.end)
        .messages(9, drawn.attributes.iter().map(|(key, value)| key_value(key, value)))
        .message(15, &status)
        .fixed32(16, SAMPLED | KNOWN | if is_remote { REMOTE } else { 0 })
}

const fn kind(kind: Kind) -> u64 {
    match kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
    }
}

fn key_value(key: &str, value: &Value) -> Message {
    Message::default().text(1, key).message(2, &any_value(value))
}

fn any_value(value: &Value) -> Message {
    let any = Message::default();
    match value {
        Value::Text(text) => any.chosen_text(1, text),
        Value::Flag(flag) => any.chosen_number(2, u64::from(*flag)),
        // Two's complement, as the format has it for a number with a sign.
        Value::Integer(number) => any.chosen_number(3, number.cast_unsigned()),
        Value::Number(number) => any.chosen_double(4, *number),
        Value::Texts(texts) => {
            let values = texts.iter().map(|text| Message::default().chosen_text(1, text));
            any.message(5, &Message::default().messages(1, values))
        }
    }
}
