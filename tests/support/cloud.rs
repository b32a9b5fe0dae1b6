//! The simulated provider, in this process, and its own account of what reached it.

use super::{client::Client, poll::until};
use serde::Deserialize;
use serde_json::json;
use spillway::sim::{Sim, SimOptions};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The key that the gateway must send; it is in no file.
pub const KEY: &str = "sk-simulated-0123456789";

/// The provider takes every key that begins like [`KEY`]; they differ in their last four characters.
pub fn key(number: usize) -> String {
    if number == 0 { KEY.to_owned() } else { format!("{KEY}-{number:04}") }
}

/// What the provider's account tells of a key.
pub fn key_tail(number: usize) -> String {
    let key = key(number);
    key[key.len() - 4..].to_owned()
}

/// Most keys of one provider in a test.
const KEYS: usize = 4;

pub struct Cloud {
    pub addr: SocketAddr,
    client: Client,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// One line of the provider's account.
#[derive(Debug, Clone, Deserialize)]
pub struct Arrived {
    pub request_id: String,
    pub model: String,
    pub received_unix_ns: u64,
    pub outcome: String,
    pub status: u16,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub key_tail: String,
    /// `traceparent` and the like, as they came.
    #[serde(default)]
    pub trace: BTreeMap<String, String>,
    /// What the answer said, of a provider that keeps it.
    pub text: Option<String>,
}

impl Cloud {
    pub async fn start(options: SimOptions) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), options).await
    }

    /// At an address of the test's choice, for one that dies and comes back.
    pub async fn start_at(addr: SocketAddr, options: SimOptions) -> Self {
        let keys: Vec<String> = (0..KEYS).map(key).collect();
        let options = SimOptions { api_key: Some(keys.join(",")), keep_text: true, ..options };
        let sim = until("the address is free", Duration::from_secs(10), || async {
            Sim::bind(addr, options.clone()).await.ok()
        })
        .await;
        let (addr, stop) = (sim.local_addr, CancellationToken::new());
        #[expect(clippy::disallowed_methods, reason = "owned by this value, whose Drop ends it")]
        let serving = tokio::spawn(sim.serve(stop.clone()));
        Self { addr, client: Client::new(), stop, serving }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Everything that arrived, in order of arrival.
    pub async fn arrived(&self) -> Vec<Arrived> {
        let records = self.client.get_json(&self.url("/sim/requests")).await.expect("the simulated provider answers");
        let mut arrived: Vec<Arrived> = serde_json::from_value(records).expect("its own records");
        arrived.sort_by_key(|arrived| arrived.received_unix_ns);
        arrived
    }

    /// Calls that arrived so far.
    pub async fn calls(&self) -> usize {
        self.arrived().await.len()
    }

    /// Forgets what arrived so far.
    pub async fn forget(&self) {
        let asked = self.client.raw().delete(self.url("/sim/requests")).send().await;
        assert!(asked.expect("the simulated provider answers").status().is_success());
    }

    /// Calls that came with this key.
    pub async fn calls_with_key(&self, number: usize) -> usize {
        let tail = key_tail(number);
        self.arrived().await.iter().filter(|arrived| arrived.key_tail == tail).count()
    }

    /// From now on every call with this key goes wrong in this way.
    pub async fn fault_of_key(&self, number: usize, fault: &str) {
        self.fault(&format!("key:{}", key_tail(number)), fault).await;
    }

    /// Whether anything with this request id ever arrived.
    pub async fn saw(&self, id: &str) -> bool {
        self.arrived().await.iter().any(|arrived| arrived.request_id == id)
    }

    /// From now on every call of `model` goes wrong in this way; `ok` undoes it.
    pub async fn fault(&self, model: &str, fault: &str) {
        let asked = self.client.raw().put(self.url("/sim/faults")).json(&json!({"model": model, "fault": fault}));
        let status = asked.send().await.expect("the simulated provider answers").status();
        assert!(status.is_success(), "the simulated provider knows the fault {fault}: {status}");
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.stop.cancel();
        self.serving.abort();
    }
}
