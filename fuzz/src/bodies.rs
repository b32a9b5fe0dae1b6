//! What every fuzz target does with its bytes, and what must hold whatever they are. Used twice: by the targets of this
//! crate, and by `tests/corpus.rs` of the gateway, which feeds every seed through the same functions.
//!
//! A body may use public interfaces only, and panics when a promise is broken.

use http::{HeaderMap, HeaderValue, StatusCode};
use spillway::http::{Endpoint, error::ErrorReply, request_in};
use spillway_actors::{
    classify,
    cloud::{
        fault::{Refusal, retry_after},
        sse::{MAX_EVENT_BYTES, SseError, SseEvent, SseParser},
    },
    config::{self, ClassifierKind, Config, Sources, Wire},
    constrain::schema_grammar,
    domain::{ChatRequest, CloudBound, GatewayError, GenerationEvent},
    gpu::frame::{self, FromEngine, ToEngine},
    ledger::journal::{self, Entry, Folder, FolderError, Position, replay},
    tools::{Dialect, Piece, Reader},
};
use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, for whoever runs all of them.
pub const TARGETS: &[Target] = &[
    ("sse", sse),
    ("stream", stream),
    ("whole", whole),
    ("chat", chat),
    ("completion", completion),
    ("responses", responses),
    ("messages", messages),
    ("gguf", gguf),
    ("frames", frames),
    ("journal", journal),
    ("config", configuration),
    ("retry_after", waits),
    ("refusal", refusal),
    ("schema", schema),
    ("calls", calls),
];

/// The events of a stream, and how it failed if it did, read in pieces of `cut` bytes.
fn events(bytes: &[u8], cut: usize) -> (Vec<SseEvent>, Option<SseError>) {
    let mut parser = SseParser::new();
    let mut events = Vec::new();
    for piece in bytes.chunks(cut.max(1)) {
        if let Err(error) = parser.push(piece) {
            return (events, Some(error));
        }
        loop {
            match parser.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    match parser.finish() {
        Ok(last) => events.extend(last),
        Err(error) => return (events, Some(error)),
    }
    (events, None)
}

/// Where the bytes are cut changes nothing.
pub fn sse(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = events(bytes, bytes.len());
    assert_eq!(events(bytes, usize::from(*cut)), whole, "cut every {cut} bytes");
    assert_eq!(events(bytes, 1), whole, "cut after every byte");
    for event in &whole.0 {
        assert!(event.data.len() <= MAX_EVENT_BYTES);
    }
}

/// A provider's stream in either wire format: what is complete stays complete, a choice ends once.
pub fn stream(bytes: &[u8]) {
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        let mut reader = wire.stream_reader(1);
        let mut out = VecDeque::new();
        let mut ended = Vec::new();
        let mut was_complete = false;
        for event in events(bytes, bytes.len()).0 {
            if reader.read(&event, &mut out).is_err() {
                break;
            }
            for event in out.drain(..) {
                if let GenerationEvent::Finish { choice, .. } = event {
                    assert!(!ended.contains(&choice), "choice {choice} ended twice");
                    ended.push(choice);
                }
            }
            was_complete |= reader.is_complete() && wire == Wire::Anthropic;
            assert!(!was_complete || reader.is_complete(), "a complete answer was taken back");
            let _ = reader.usage();
        }
    }
}

/// A provider's answer in one piece.
pub fn whole(bytes: &[u8]) {
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        if let Ok(answer) = wire.read_whole(bytes) {
            assert!(!answer.choices.is_empty());
        }
    }
}

/// A client's JSON schema: a grammar of bounded size, or a refusal of bounded length.
pub fn schema(bytes: &[u8]) {
    let Ok(schema) = serde_json::from_slice(bytes) else { return };
    match schema_grammar(&schema) {
        Ok(grammar) => assert!(grammar.len() <= 640 << 10 && grammar.contains("root ::= ")),
        Err(unfit) => assert!(unfit.to_string().len() < 600, "{unfit}"),
    }
}

/// Text and calls of an answer, each call with its name and arguments.
fn read_calls(dialect: Dialect, pieces: impl Iterator<Item = String>) -> (String, Vec<(String, String)>) {
    let mut reader = Reader::new(dialect, ["look".to_owned(), "f".to_owned()]);
    let mut all: Vec<Piece> = pieces.flat_map(|piece| reader.push(&piece)).collect();
    all.extend(reader.finish(false));
    let (mut text, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for piece in all {
        match piece {
            Piece::Text(more) => text.push_str(&more),
            Piece::Call { index, name } => {
                assert_eq!(index, calls.len(), "calls are counted from 0");
                calls.push((name, String::new()));
            }
            Piece::Arguments { index, text } => {
                assert_eq!(index + 1, calls.len(), "arguments belong to the last call");
                calls.last_mut().unwrap().1.push_str(&text);
            }
        }
    }
    (text, calls)
}

/// A model's text in every dialect of calls: where it is cut changes nothing.
pub fn calls(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for dialect in [Dialect::Generic, Dialect::Hermes, Dialect::Llama, Dialect::Mistral, Dialect::MistralArgs] {
        let whole = read_calls(dialect, std::iter::once(text.clone().into_owned()));
        assert_eq!(read_calls(dialect, text.chars().map(String::from)), whole, "{dialect:?}");
    }
}

/// The built-in configuration.
fn built_in() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| match load("") {
        Ok((config, _)) => config,
        Err(faults) => panic!("the built-in configuration is good: {faults}"),
    })
}

fn load(text: &str) -> Result<(Config, Vec<config::Warning>), config::ConfigFaults> {
    let file = Some((PathBuf::from("fuzz.toml"), text.to_owned()));
    let env = vec![("HOLYSHEEP_API_KEY".to_owned(), "sk-fuzz".to_owned())];
    config::load(&Sources { file, env, ..Sources::default() }, &|_| Err(io::ErrorKind::NotFound.into()))
}

/// A refusal is the client's fault and reads as an OpenAI error object.
fn refused(error: &GatewayError) {
    let reply = ErrorReply::from(error);
    assert!(reply.status.is_client_error(), "{reply:?}");
    let object = reply.object();
    for key in ["message", "type", "param", "code"] {
        assert!(object["error"].get(key).is_some(), "{object}");
    }
}

/// What happens to every request that was understood, whatever its target.
fn understood(request: &ChatRequest) {
    let _ = classify::by_keywords(request);
    if let ClassifierKind::Learned(cuts) = built_in().router.classifier {
        let grade = classify::by_weights(request, cuts);
        assert!((0.0..=1.0).contains(&grade.confidence), "{grade:?}");
    }
    let Some(bound) = CloudBound::new(request) else { return };
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        if wire.unmet(request).is_some() {
            continue;
        }
        match wire.body(bound, "upstream", 16, true) {
            Ok(body) => {
                let sent: serde_json::Value = serde_json::from_slice(&body).expect("a provider gets JSON");
                assert_eq!((&sent["model"], &sent["stream"]), (&"upstream".into(), &true.into()));
            }
            Err(error) => refused(&error),
        }
    }
}

fn body(endpoint: Endpoint, bytes: &[u8]) {
    match request_in(endpoint, bytes, &HeaderMap::new(), built_in()) {
        Ok(request) => understood(&request),
        Err(error) => refused(&error),
    }
}

/// Bodies of `POST /v1/chat/completions`.
pub fn chat(bytes: &[u8]) {
    body(Endpoint::Chat, bytes);
}

/// Bodies of `POST /v1/completions`.
pub fn completion(bytes: &[u8]) {
    body(Endpoint::Completion, bytes);
}

/// Bodies of `POST /v1/responses`.
pub fn responses(bytes: &[u8]) {
    body(Endpoint::Responses, bytes);
}

/// Bodies of `POST /v1/messages`.
pub fn messages(bytes: &[u8]) {
    body(Endpoint::Messages, bytes);
}

/// Model files: no header, however wrong, costs more memory than its file has bytes for.
pub fn gguf(bytes: &[u8]) {
    let _ = spillway_actors::gguf::read(io::Cursor::new(bytes), bytes.len() as u64);
}

/// Frames between gateway and engine: what decodes encodes again to the same value.
pub fn frames(bytes: &[u8]) {
    if let Ok(Some((value, used))) = frame::take::<FromEngine>(bytes) {
        assert!(used <= bytes.len());
        again(&value);
    }
    if let Ok(value) = frame::decode::<ToEngine>(bytes) {
        again(&value);
    }
}

/// A whole segment of the ledger's journal, and the number it was begun with.
const SEGMENT: &[u8] = include_bytes!("../seeds/journal/whole");
const SEGMENT_NUMBER: u64 = 1;

/// A folder of this thread's own.
fn journal_folder() -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
    std::env::temp_dir().join(format!("spillway-journal-{}-{thread}", std::process::id()))
}

/// What a start reads of these segments, numbered from [`SEGMENT_NUMBER`] on; what is filled into the database is part
/// of it. `None` = written by another version.
fn replayed(path: &Path, segments: &[&[u8]]) -> Option<Vec<Entry>> {
    let _ = fs::remove_dir_all(path);
    let folder = Folder::hold(path).expect("a folder of our own");
    let mut position = Position::default();
    for (number, bytes) in (SEGMENT_NUMBER..).zip(segments) {
        fs::write(path.join(format!("{number:012}.journal")), bytes).expect("room for a segment");
        position = Position { segment: number, bytes: bytes.len() as u64 };
    }
    let mut heard = Vec::new();
    let summary = match replay(&folder, |entry| heard.push(entry.clone())) {
        Ok(summary) => summary,
        Err(FolderError::OtherVersion { .. }) => return None,
        Err(error) => panic!("the folder can be read: {error}"),
    };
    assert!(heard.iter().all(|entry| entry.seq < summary.next_seq));
    assert!(summary.next_segment > position.segment);
    // A run that follows begins a new segment: everything before it is read as complete.
    let mut reader = journal::Reader::new(path.to_owned(), SEGMENT_NUMBER, 0);
    loop {
        reader.read(Position { segment: position.segment + 1, bytes: 0 }).expect("the folder can be read");
        let entries = reader.entries(usize::MAX);
        if entries.is_empty() {
            break;
        }
        assert!(entries.iter().all(|entry| heard.contains(entry)), "the database gets what a start has seen");
        let count = entries.len();
        reader.take(count);
    }
    Some(heard)
}

/// Segments of the journal, torn, changed or invented: they are read, and take no whole record with them.
pub fn journal(bytes: &[u8]) {
    let path = journal_folder();
    let whole = replayed(&path, &[SEGMENT]).expect("our own version");
    assert!(!whole.is_empty());
    replayed(&path, &[bytes]);
    // Behind a segment's last record stands what was being written when the machine stopped.
    let torn = replayed(&path, &[&[SEGMENT, bytes].concat()]).expect("our own version");
    assert!(torn.starts_with(&whole), "what is behind a record takes it away");
    if let Some(beside) = replayed(&path, &[SEGMENT, bytes]) {
        assert!(beside.starts_with(&whole), "a bad segment takes a good one away");
    }
    let _ = fs::remove_dir_all(&path);
}

/// Compared as bytes, because a NaN equals nothing.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) {
    let encoded = |value: &T| {
        let mut out = Vec::new();
        frame::encode(value, &mut out).map(|()| out)
    };
    let Ok(first) = encoded(value) else { return };
    let (back, used) = frame::take::<T>(&first).expect("our own frame").expect("a whole frame");
    assert_eq!((used, encoded(&back).as_ref()), (first.len(), Ok(&first)));
}

/// Configuration files: faults have a place inside the text and can be shown.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Err(faults) = load(text) else { return };
    assert!(!faults.faults().is_empty(), "refused for a reason");
    assert!(!faults.to_string().is_empty());
    let lines = text.lines().count().max(1);
    for fault in faults.faults().iter().filter(|fault| fault.file == "fuzz.toml") {
        assert!((1..=lines + 1).contains(&fault.line) && fault.column >= 1, "{fault:?}");
    }
}

/// `retry-after` and `retry-after-ms` of a provider: never longer than five minutes.
pub fn waits(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    let name = if which % 2 == 0 { "retry-after" } else { "retry-after-ms" };
    let headers = HeaderMap::from_iter([(http::HeaderName::from_static(name), value)]);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    if let Some(wait) = retry_after(&headers, now) {
        assert!(wait <= Duration::from_secs(300), "{wait:?}");
    }
}

/// A provider's refusal: its words are bounded and never show the key or the prompt.
pub fn refusal(bytes: &[u8]) {
    const KEY: &str = "sk-canary-0123456789abcdef";
    const PROMPT: &str = "the canary prompt sings at dawn";
    let Some((status, body)) = bytes.split_first() else { return };
    let status = StatusCode::from_u16(400 + u16::from(*status) % 200).expect("a status");
    let asked = serde_json::json!({"model": "upstream", "messages": [{"role": "user", "content": PROMPT}]});
    let refusal = Refusal { target: "fuzz", status, body, retry_after: None };
    let error = refusal.into_error(KEY, asked.to_string().as_bytes());
    let told = format!("{error:?} {}", ErrorReply::from(&error).object());
    assert!(!told.contains(KEY) && !told.contains(PROMPT), "{told}");
    assert!(error.message.chars().count() < 400, "{told}");
}
