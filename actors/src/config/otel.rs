//! `[otel]`: where traces go, if anywhere.

use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct OtelConfig {
    /// Where batches are posted, e.g. `http://127.0.0.1:4318/v1/traces`.
    pub url: String,
    pub service_name: String,
    /// Of the traces that begin here; a caller's own is kept if the caller keeps it.
    pub sample_ratio: f64,
    /// Sent with each batch: names in lower case, and values that may be secrets.
    pub headers: Vec<(String, SecretString)>,
    /// For one batch to be taken.
    pub timeout: Duration,
    /// How long a trace waits at most for others to go with.
    pub flush: Duration,
    /// Traced requests that may wait; the next ones are dropped.
    pub queue: usize,
    /// What the end of the process waits for the last of them.
    pub shutdown: Duration,
}

impl PartialEq for OtelConfig {
    fn eq(&self, other: &Self) -> bool {
        let Self { url, service_name, sample_ratio, headers, timeout, flush, queue, shutdown } = self;
        let told = |headers: &[(String, SecretString)]| -> Vec<(String, String)> {
            headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect()
        };
        told(headers) == told(&other.headers)
            && (url, service_name, sample_ratio) == (&other.url, &other.service_name, &other.sample_ratio)
            && (timeout, flush, queue, shutdown) == (&other.timeout, &other.flush, &other.queue, &other.shutdown)
    }
}
