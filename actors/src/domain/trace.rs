//! Where a request stands in a distributed trace, as W3C's Trace Context says it: who called us, under which ids our own
//! spans go, whether they are kept. Drawing and sending spans is the edge's business. What a caller sends that breaks the
//! format is as if it had sent nothing; `baggage` is not read, and so not passed on.

use super::RequestId;
use http::{HeaderMap, HeaderValue, header::HeaderName};
use std::{fmt, num::NonZeroU64, num::NonZeroU128, sync::Arc};
use tokio::time::Instant;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The flag of a trace that is kept.
const SAMPLED: u8 = 1;
/// `00-<32>-<16>-<2>`.
const LENGTH: usize = 55;
/// What every platform must pass on of `tracestate`; more of it is dropped.
const MAX_STATE_BYTES: usize = 512;
const MAX_STATE_MEMBERS: usize = 32;
/// Of a trace id, the low bits that W3C promises to be random.
const RANDOM_BITS: u32 = 56;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    pub fn new(bits: u128) -> Option<Self> {
        NonZeroU128::new(bits).map(Self)
    }

    pub fn random() -> Self {
        Self(NonZeroU128::new(rand::random()).unwrap_or(NonZeroU128::MIN))
    }

    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// Whether it is among this share of all traces; everyone who asks decides alike.
    pub fn is_among(self, ratio: f64) -> bool {
        let scale = 1_u64 << RANDOM_BITS;
        let place = u64::try_from(self.0.get() % u128::from(scale)).unwrap_or(0);
        (place as f64) < ratio * scale as f64
    }
}

impl SpanId {
    pub fn new(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }

    pub fn random() -> Self {
        Self(NonZeroU64::new(rand::random()).unwrap_or(NonZeroU64::MIN))
    }

    /// The one after it, for spans that nobody but their own tree names.
    #[must_use]
    pub fn nth(self, nth: u64) -> Self {
        // Odd, so that ids of one tree do not meet; zero is left out.
        let bits = self.0.get().wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MAX))
    }

    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What `traceparent` says: the trace, the span that is the parent of whoever reads it, whether it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: TraceId,
    pub span: SpanId,
    pub sampled: bool,
}

impl TraceParent {
    /// `None` for anything that is not exactly what version 00 allows, or a later version that begins like it.
    pub fn parse(text: &str) -> Option<Self> {
        let head = text.get(..LENGTH)?;
        let version = hex(head.get(..2)?)?;
        let rest = text.get(LENGTH..).unwrap_or_default();
        let fits = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
        let dashes = [2, 35, 52].iter().all(|at| head.as_bytes().get(*at) == Some(&b'-'));
        if version == 0xff || !fits || !dashes {
            return None;
        }
        let trace = TraceId::new(hex(head.get(3..35)?)?)?;
        let span = SpanId::new(u64::try_from(hex(head.get(36..52)?)?).ok()?)?;
        let flags = u8::try_from(hex(head.get(53..)?)?).ok()?;
        Some(Self { trace, span, sampled: flags & SAMPLED != 0 })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// Lower case only, as the format wants it.
fn hex(digits: &str) -> Option<u128> {
    let good = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if good { u128::from_str_radix(digits, 16).ok() } else { None }
}

/// A request's place in its trace, from its first byte on.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub id: TraceId,
    /// The caller's span, if the trace began before us.
    pub parent: Option<SpanId>,
    /// The span of the request as a whole.
    pub root: SpanId,
    /// Its spans are kept.
    pub sampled: bool,
    /// The caller's `tracestate`, as it came.
    pub state: Option<Arc<str>>,
    pub arrived: Instant,
}

impl Trace {
    /// Goes on with the caller's trace; without one, a new one begins, of which this share is kept.
    pub fn of(headers: &HeaderMap, ratio: f64, arrived: Instant) -> Self {
        let root = SpanId::random();
        match only(headers, &TRACEPARENT).and_then(TraceParent::parse) {
            Some(TraceParent { trace, span, sampled }) => {
                Self { id: trace, parent: Some(span), root, sampled, state: state(headers), arrived }
            }
            None => {
                let id = TraceId::random();
                Self { id, parent: None, root, sampled: id.is_among(ratio), state: None, arrived }
            }
        }
    }

    /// What is said to whoever works for this span of ours.
    pub fn outgoing(&self, span: SpanId) -> Outgoing {
        let parent = TraceParent { trace: self.id, span, sampled: self.sampled };
        Outgoing { parent, state: self.state.clone() }
    }
}

/// Whom a line of the log is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    pub request: RequestId,
    pub trace: Option<TraceId>,
}

/// The header's only value: two of them contradict each other.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

/// `tracestate` may be spread over several headers. It is passed on as it came or not at all.
fn state(headers: &HeaderMap) -> Option<Arc<str>> {
    let values: Option<Vec<&str>> = headers.get_all(TRACESTATE).iter().map(|value| value.to_str().ok()).collect();
    let whole = values.unwrap_or_default().join(",");
    let members = whole.split(',').map(str::trim).filter(|member| !member.is_empty());
    let (mut count, mut sound) = (0, true);
    for member in members {
        count += 1;
        sound &= member.split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty());
    }
    let fits = (1..=MAX_STATE_MEMBERS).contains(&count) && whole.len() <= MAX_STATE_BYTES;
    (fits && sound).then(|| whole.into())
}

/// Trace Context on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    parent: TraceParent,
    state: Option<Arc<str>>,
}

impl Outgoing {
    /// To a third party: the ids it needs, and nothing of what callers' systems say to each other.
    #[must_use]
    pub fn without_state(self) -> Self {
        Self { state: None, ..self }
    }

    pub fn write(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(self.parent.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        if let Some(value) = self.state.as_deref().and_then(|state| HeaderValue::from_str(state).ok()) {
            headers.insert(TRACESTATE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
            headers
        })
    }

    #[test]
    fn a_callers_trace_is_gone_on_with_as_it_wants_it() {
        for (flags, sampled) in [("01", true), ("00", false), ("03", true), ("fe", false)] {
            let came = format!("{}{flags}", &GOOD[..53]);
            let all = headers(&[("traceparent", &came), ("tracestate", "a=1,b=2"), ("baggage", "user=7")]);
            let trace = Trace::of(&all, if sampled { 0.0 } else { 1.0 }, Instant::now());
            assert_eq!(trace.sampled, sampled, "{flags}: the caller has decided");
            assert_eq!(trace.id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(trace.parent.unwrap().to_string(), "00f067aa0ba902b7");
            let span = SpanId::random();
            let mut sent = HeaderMap::new();
            trace.outgoing(span).write(&mut sent);
            let flags = u8::from(sampled);
            assert_eq!(sent["traceparent"], format!("00-{}-{span}-{flags:02x}", trace.id));
            assert_eq!((&sent["tracestate"], sent.len()), (&HeaderValue::from_static("a=1,b=2"), 2), "no baggage");
            let mut sent = HeaderMap::new();
            trace.outgoing(span).without_state().write(&mut sent);
            assert_eq!(sent.len(), 1);
        }
    }

    #[test]
    fn what_breaks_the_format_is_as_if_nothing_had_come() {
        let shorter = &GOOD[..54];
        let bad = [
            "",
            "00",
            shorter,
            "garbage",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-01",
            "+0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0é4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01xx",
        ];
        for text in bad {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
        let later = format!("cc{}-what-comes", &GOOD[2..]);
        assert!(TraceParent::parse(&later).is_some(), "a later version is read as far as it is known");
        let twice = headers(&[("traceparent", GOOD), ("traceparent", GOOD), ("tracestate", "a=1")]);
        let trace = Trace::of(&twice, 0.0, Instant::now());
        assert_eq!((trace.parent, trace.state, trace.sampled), (None, None, false));
    }

    #[test]
    fn a_state_is_passed_on_whole_or_not_at_all() {
        let of = |values: &[&str]| {
            let mut all = vec![("traceparent", GOOD)];
            all.extend(values.iter().map(|value| ("tracestate", *value)));
            Trace::of(&headers(&all), 1.0, Instant::now()).state
        };
        assert_eq!(of(&["a=1", "b=2"]).as_deref(), Some("a=1,b=2"));
        let long = format!("a={}", "x".repeat(MAX_STATE_BYTES));
        let many = (0..=MAX_STATE_MEMBERS).map(|at| format!("k{at}=1")).collect::<Vec<_>>().join(",");
        for bad in ["", "a", "=1", "a=", "a=1,b", &long, &many] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
    }

    #[test]
    fn the_share_that_is_kept_is_the_share_that_was_asked_for() {
        let ids: Vec<TraceId> = (0..20_000).map(|_| TraceId::random()).collect();
        for ratio in [0.0, 0.1, 0.5, 1.0] {
            let kept = ids.iter().filter(|id| id.is_among(ratio)).count() as f64 / ids.len() as f64;
            assert!((kept - ratio).abs() < 0.02, "{ratio}: {kept}");
        }
        assert!(ids.iter().all(|id| id.is_among(1.0) && !id.is_among(0.0)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace in 1u128.., span in 1u64.., sampled: bool) {
            let parent = TraceParent { trace: TraceId::new(trace).unwrap(), span: SpanId::new(span).unwrap(), sampled };
            prop_assert_eq!(TraceParent::parse(&parent.to_string()), Some(parent));
        }

        #[test]
        fn no_text_breaks_the_reading(text in ".{0,80}") {
            let _ = TraceParent::parse(&text);
        }

        #[test]
        fn nothing_but_one_spelling_is_taken(text in "[0-9a-fA-F-]{50,60}") {
            if let Some(parent) = TraceParent::parse(&text) && text.starts_with("00") {
                // Unknown flags are not passed on.
                prop_assert_eq!(&parent.to_string()[..53], &text[..53]);
            }
        }
    }
}
