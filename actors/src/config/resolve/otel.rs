//! `[otel]`. What OpenTelemetry's own variables say counts where the section says nothing.

use super::{Context, cloud::is_loopback};
use crate::config::{
    OtelConfig,
    section::{Placed, Section},
};
use http::{HeaderName, HeaderValue};
use reqwest::Url;
use secrecy::SecretString;
use std::path::Path;

const ENDPOINT_VAR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const SERVICE_VAR: &str = "OTEL_SERVICE_NAME";
const PROTOCOL_VAR: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
/// What we speak.
const PROTOCOL: &str = "http/protobuf";
/// What OTLP over HTTP adds to a collector's base URL.
const PATH: &str = "/v1/traces";
const DEFAULT_SERVICE: &str = "spillway";

type Headers = Vec<(String, SecretString)>;

/// `Some(None)`: nothing is traced.
pub(super) fn otel(section: Section<'_>, context: &Context<'_>) -> Option<Option<OtelConfig>> {
    let endpoint = section.text("endpoint");
    let service_name = section.text("service_name");
    let sample_ratio = section.decimal("sample_ratio", 0.0..=1.0);
    let headers_env = section.text("headers_env");
    let headers_file = section.text("headers_file");
    let timeout = section.millis("timeout_ms", 1);
    let flush = section.millis("flush_ms", 1);
    let queue = section.size("queue", 1..=1_000_000);
    let shutdown = section.millis("shutdown_ms", 0);
    let url = endpoint.map(|endpoint| url(&section, context, endpoint));
    // Only who is traced needs headers: a file that is not there yet must not keep the gateway from starting.
    let is_on = matches!(url, Some(Some(Some(_))));
    let headers = if is_on { headers(&section, context, headers_env?, headers_file?) } else { Some(Vec::new()) };
    section.finish();
    let Some(url) = url?? else { return Some(None) };
    Some(Some(OtelConfig {
        url,
        service_name: or_variable(context, service_name?.value, SERVICE_VAR)
            .unwrap_or_else(|| DEFAULT_SERVICE.to_owned()),
        sample_ratio: f64::from(sample_ratio?),
        headers: headers?,
        timeout: timeout?,
        flush: flush?,
        queue: queue?,
        shutdown: shutdown?,
    }))
}

fn or_variable(context: &Context<'_>, said: String, variable: &str) -> Option<String> {
    if said.is_empty() { context.sources.variable(variable).map(str::to_owned) } else { Some(said) }
}

/// `Some(None)`: there is no collector.
fn url(section: &Section<'_>, context: &Context<'_>, endpoint: Placed<String>) -> Option<Option<String>> {
    const KEY: &str = "endpoint";
    let from_variable = endpoint.value.is_empty();
    let Some(text) = or_variable(context, endpoint.value, ENDPOINT_VAR) else { return Some(None) };
    let wrong = |why: &str| {
        let whose = if from_variable { format!("takes {ENDPOINT_VAR}, which ") } else { String::new() };
        section.refuse_unseen(KEY, &endpoint.origin, format!("{whose}{why}"));
    };
    let Some(url) = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    else {
        wrong("must be an http or https URL, such as http://127.0.0.1:4318");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        wrong("must hold no user or password: headers come from headers_env or headers_file");
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() {
        wrong("must end with its path: no `?` or `#`");
        return None;
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        let host = url.host_str().unwrap_or_default();
        let path = section.path_of(KEY);
        context.report.warn(format!("`{path}` is plain http: names and figures of requests travel readable to {host}"));
    }
    if context.sources.variable(PROTOCOL_VAR).is_some_and(|protocol| protocol != PROTOCOL) {
        context.report.warn(format!("{PROTOCOL_VAR} asks for another protocol: traces are sent as {PROTOCOL}"));
    }
    let base = text.trim_end_matches('/');
    Some(Some(if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") }))
}

/// Of the variable and of the file: `name=value`, separated by commas in the one and lines in the other.
fn headers(
    section: &Section<'_>,
    context: &Context<'_>,
    variable: Placed<String>,
    file: Placed<String>,
) -> Option<Headers> {
    let mut headers = Vec::new();
    if let Some(text) = context.sources.variable(&variable.value) {
        let refuse = || section.refuse("headers_env", &variable.origin, unreadable(&variable.value, "a comma"));
        headers.extend(pairs(text.split(','), unescaped, refuse)?);
    }
    if !file.value.is_empty() {
        let text = (context.read)(Path::new(&file.value));
        if let Err(error) = &text {
            section.refuse("headers_file", &file.origin, format_args!("cannot be read: {error}"));
        }
        let refuse = || section.refuse("headers_file", &file.origin, unreadable(&file.value, "a new line"));
        headers.extend(pairs(text.ok()?.lines(), |value| Some(value.to_owned()), refuse)?);
    }
    Some(headers)
}

fn unreadable(place: &str, between: &str) -> String {
    format!("finds something in {place} that is no header: it must hold NAME=VALUE, with {between} between two of them")
}

fn pairs<'t>(
    parts: impl Iterator<Item = &'t str>,
    read: impl Fn(&str) -> Option<String>,
    refuse: impl Fn(),
) -> Option<Headers> {
    let meant = parts.map(str::trim).filter(|part| !part.is_empty() && !part.starts_with('#'));
    let pairs: Option<Headers> = meant.map(|part| pair(part, &read)).collect();
    if pairs.is_none() {
        refuse();
    }
    pairs
}

fn pair(part: &str, read: impl Fn(&str) -> Option<String>) -> Option<(String, SecretString)> {
    let (name, value) = part.split_once('=')?;
    let name = HeaderName::try_from(name.trim()).ok()?;
    let value = HeaderValue::try_from(read(value.trim())?).ok()?;
    Some((name.as_str().to_owned(), SecretString::from(value.to_str().ok()?)))
}

/// OpenTelemetry's variable spells what a list could not hold as `%20`.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}
