//! The client of the tests: [`spillway::chaos::reading`] with a test's patience, and plain HTTP for everything else.

use bytes::Bytes;
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::Value;
use spillway::chaos::reading;
pub use spillway::chaos::reading::{Ask, Outcome, Record, unix_ns};
use spillway_actors::upstream::client::install_tls_provider;
use std::time::Duration;
use tokio::sync::mpsc;

/// No answer of a test takes longer; a client that waited this long saw a request without an end.
const PATIENCE: Duration = Duration::from_secs(90);
/// Answers that are no generation.
const SHORT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    pub fn new() -> Self {
        install_tls_provider();
        // One connection for each request: a client that goes closes exactly its own.
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).pool_max_idle_per_host(0);
        Self { http: http.build().expect("a client without TLS") }
    }

    /// Trusts only who shows this certificate (PEM).
    pub fn trusting(cert: &str) -> Self {
        install_tls_provider();
        let cert = reqwest::Certificate::from_pem(cert.as_bytes()).expect("a certificate");
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([cert]).pool_max_idle_per_host(0);
        Self { http: http.build().expect("a client") }
    }

    pub fn raw(&self) -> &reqwest::Client {
        &self.http
    }

    /// `None` unless it is answered 200 with JSON.
    pub async fn get_json(&self, url: &str) -> Option<Value> {
        let answer = self.http.get(url).timeout(SHORT).send().await.ok()?;
        if answer.status() == StatusCode::OK { answer.json().await.ok() } else { None }
    }

    /// Status, headers and body of anything.
    pub async fn send(&self, method: Method, url: &str, body: impl Into<Bytes>) -> (u16, HeaderMap, Bytes) {
        let asked = self.http.request(method, url).header("content-type", "application/json").body(body.into());
        let answer = asked.timeout(PATIENCE).send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, answer.bytes().await.expect("a whole body"))
    }

    /// Asks and writes down what comes, to the end.
    pub async fn ask(&self, api: &str, ask: Ask) -> Record {
        self.ask_telling(api, ask, None).await
    }

    /// As [`Client::ask`]; `pieces` hears every piece of text as it comes, and stops the reading when it is closed.
    pub async fn ask_telling(&self, api: &str, ask: Ask, pieces: Option<mpsc::Sender<String>>) -> Record {
        reading::ask(&self.http, api, &ask, pieces, PATIENCE).await
    }
}
