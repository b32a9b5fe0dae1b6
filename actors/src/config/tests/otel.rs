//! `[otel]`: off until somebody names a collector, in the file or as OpenTelemetry has it.

use super::*;
use secrecy::ExposeSecret;

fn otel(sources: &Sources) -> Option<OtelConfig> {
    loaded(sources).0.otel
}

#[test]
fn nothing_is_traced_until_a_collector_is_named() {
    assert!(otel(&sources("")).is_none());
    assert!(otel(&sources("[otel]\nheaders_file = \"not-there\"\n")).is_none(), "what nobody needs is not read");
    let traced = otel(&sources("otel.endpoint = \"http://127.0.0.1:4318\"")).unwrap();
    assert_eq!((traced.url.as_str(), traced.service_name.as_str()), ("http://127.0.0.1:4318/v1/traces", "spillway"));
    assert_eq!((traced.sample_ratio, traced.queue, traced.headers.len()), (1.0, 2048, 0));
}

#[test]
fn the_path_is_added_once() {
    for (endpoint, url) in [
        ("https://collector.example", "https://collector.example/v1/traces"),
        ("https://collector.example/otlp/", "https://collector.example/otlp/v1/traces"),
        ("https://collector.example/otlp/v1/traces", "https://collector.example/otlp/v1/traces"),
    ] {
        assert_eq!(otel(&sources(&format!("otel.endpoint = \"{endpoint}\""))).unwrap().url, url);
    }
}

#[test]
fn opentelemetrys_own_variables_count_where_the_file_says_nothing() {
    let mut sources = with_env("", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9/");
    sources.env.push(("OTEL_SERVICE_NAME".into(), "edge".into()));
    sources.env.push(("OTEL_EXPORTER_OTLP_HEADERS".into(), "Authorization=Basic%20a%3Db, x-tenant = 7".into()));
    let traced = otel(&sources).unwrap();
    assert_eq!((traced.url.as_str(), traced.service_name.as_str()), ("http://127.0.0.1:9/v1/traces", "edge"));
    let headers: Vec<_> = traced.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(headers, [("authorization", "Basic a=b"), ("x-tenant", "7")]);
    sources.env.push(("OTEL_EXPORTER_OTLP_PROTOCOL".into(), "grpc".into()));
    assert!(loaded(&sources).1.iter().any(|warning| warning.contains("another protocol")));
    sources.file =
        Some(("my.toml".into(), "[otel]\nendpoint = \"http://127.0.0.1:8\"\nservice_name = \"own\"\n".into()));
    let traced = otel(&sources).unwrap();
    assert_eq!((traced.url.as_str(), traced.service_name.as_str()), ("http://127.0.0.1:8/v1/traces", "own"));
}

#[test]
fn what_cannot_be_is_a_fault_and_shows_no_secret() {
    for (file, why) in [
        ("endpoint = \"ftp://a\"", "must be an http or https URL"),
        ("endpoint = \"localhost:4318\"", "must be an http or https URL"),
        ("endpoint = \"http://user:s3cret@a\"", "must hold no user or password"),
        ("endpoint = \"http://a/?token=s3cret\"", "must end with its path"),
        ("sample_ratio = 1.5", "must be from 0 to 1"),
        ("queue = 0", "must be from 1 to"),
        ("endpoint = \"http://127.0.0.1:1\"\nheaders_file = \"gone\"", "cannot be read"),
    ] {
        let found = load(&sources(&format!("[otel]\n{file}\n")), &no_files).expect_err(file).to_string();
        assert!(found.contains(why) && !found.contains("s3cret"), "{file}: {found}");
    }
    let mut sources = with_env("otel.endpoint = \"http://127.0.0.1:1\"", "OTEL_EXPORTER_OTLP_HEADERS", "s3cret");
    let found = load(&sources, &no_files).expect_err("no header").to_string();
    assert!(found.contains("NAME=VALUE") && !found.contains("s3cret"), "{found}");
    sources.env.pop();
    assert!(load(&sources, &no_files).is_ok());
    let (_, warnings) = loaded(&super::sources("otel.endpoint = \"http://collector.example\""));
    assert!(warnings.iter().any(|warning| warning.contains("plain http")), "{warnings:?}");
}
