//! The instance under chaos, through its admin listener.

use crate::{call, cli::WANTS_TOKEN};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use spillway_actors::chaos::faults::FaultWish;
use std::{collections::BTreeMap, time::Duration};

/// It answers in no time, even on a machine that has none to spare.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer: an exposition of metrics is a fraction of it.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Why an order was not given.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("{url} does not answer: {why}")]
    Unreachable { url: String, why: String },
    #[error(
        "chaos is off at {url}: set `[chaos] enabled = true` in the configuration of an instance that may be harmed"
    )]
    Off { url: String },
    #[error("{url} {WANTS_TOKEN}")]
    Unauthorized { url: String },
    #[error("{0}")]
    Token(String),
    #[error("{url} refuses ({status}): {why}")]
    Refused { url: String, status: u16, why: String },
}

/// One line of `/admin/actors`.
#[derive(Debug, Clone, Deserialize)]
pub struct ActorLine {
    pub name: String,
    pub state: String,
    pub restarts: u64,
    pub uptime_s: f64,
}

/// `/admin/status`, as far as it is needed.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    pub gpus: Vec<Gpu>,
    pub queue: Option<u64>,
    pub leases: u64,
    pub breakers: Vec<Breaker>,
    pub requests: Totals,
    pub chaos: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Gpu {
    pub name: String,
    pub engine: String,
    pub state: String,
    pub cause: Option<String>,
    pub epoch: u64,
    pub serving: bool,
}

/// Of each model of a provider with a key.
#[derive(Debug, Clone, Deserialize)]
pub struct Breaker {
    pub target: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Totals {
    pub admitted: u64,
    pub running: u64,
    pub ended: BTreeMap<String, u64>,
}

impl Totals {
    /// Every admitted request is running or has ended, once.
    pub fn conserved(&self) -> bool {
        self.admitted == self.running + self.ended.values().sum::<u64>()
    }
}

#[derive(Debug, Clone)]
pub struct Admin {
    http: reqwest::Client,
    url: String,
    token: Option<SecretString>,
}

impl Admin {
    /// # Errors
    /// No HTTP client can be made on this host.
    pub fn new(url: &str, token: Option<SecretString>) -> Result<Self, AdminError> {
        let url = url.trim_end_matches('/').to_owned();
        let http = call::client(&url).timeout(PATIENCE).build();
        let http = http.map_err(|error| AdminError::Unreachable { url: url.clone(), why: error.to_string() })?;
        Ok(Self { http, url, token })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, String), AdminError> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let failed = |why: String| AdminError::Unreachable { url: self.url.clone(), why };
        let answer = request.send().await.map_err(|error| failed(whole(&error)))?;
        let status = answer.status();
        if let Some(elsewhere) = call::elsewhere(&answer) {
            return Err(failed(elsewhere));
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(AdminError::Unauthorized { url: self.url.clone() });
        }
        let body = call::body(answer, MAX_ANSWER_BYTES).await.map_err(failed)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn good<T: DeserializeOwned>(&self, (status, body): (StatusCode, String)) -> Result<T, AdminError> {
        let refused = |why: String| AdminError::Refused { url: self.url.clone(), status: status.as_u16(), why };
        let object: Value = serde_json::from_str(&body).unwrap_or_default();
        if status.is_success() {
            return serde_json::from_value(object).map_err(|error| refused(format!("no answer of a gateway: {error}")));
        }
        Err(refused(object["error"]["message"].as_str().unwrap_or("no reason given").to_owned()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        self.good(self.ask(Method::GET, path, None).await?)
    }

    /// An order, or word that there is no chaos here.
    async fn order<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, AdminError> {
        let (status, text) = self.ask(method, path, body).await?;
        if status == StatusCode::NOT_FOUND {
            return Err(AdminError::Off { url: self.url.clone() });
        }
        self.good((status, text))
    }

    pub async fn status(&self) -> Result<Status, AdminError> {
        self.get("/admin/status").await
    }

    pub async fn actors(&self) -> Result<Vec<ActorLine>, AdminError> {
        #[derive(Deserialize)]
        struct Actors {
            actors: Vec<ActorLine>,
        }
        Ok(self.get::<Actors>("/admin/actors").await?.actors)
    }

    /// The exposition of `/metrics`.
    pub async fn metrics(&self) -> Result<String, AdminError> {
        let (status, text) = self.ask(Method::GET, "/metrics", None).await?;
        if status.is_success() {
            return Ok(text);
        }
        Err(AdminError::Refused { url: self.url.clone(), status: status.as_u16(), why: "no metrics".to_owned() })
    }

    /// When it was done, in nanoseconds since 1970; `None`: nobody lives there just now.
    pub async fn kill(&self, actor: &str, how: &str) -> Result<Option<u64>, AdminError> {
        let body = json!({"actor": actor, "how": how});
        match self.order::<Value>(Method::POST, "/admin/chaos/kill", Some(body)).await {
            Ok(done) => Ok(done["unix_ns"].as_u64()),
            Err(AdminError::Refused { status: 409, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn fault(&self, wish: &FaultWish) -> Result<Value, AdminError> {
        self.order(Method::POST, "/admin/chaos/fault", Some(json!(wish))).await
    }

    pub async fn faults(&self) -> Result<Value, AdminError> {
        self.order(Method::GET, "/admin/chaos/faults", None).await
    }

    pub async fn clear(&self) -> Result<Value, AdminError> {
        self.order(Method::DELETE, "/admin/chaos/faults", None).await
    }
}

/// An error with what caused it.
fn whole(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::{pointing, server};

    async fn told(url: String) -> String {
        let admin = Admin::new(&url, None).unwrap();
        admin.kill("router", "kill").await.unwrap_err().to_string().replace(&url, "URL")
    }

    #[tokio::test]
    async fn why_an_order_was_not_given_says_what_to_do() {
        let closed = server("HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n\r\n{}");
        assert_eq!(told(closed).await, "URL wants its token: --token-file FILE, or SPILLWAY_ADMIN_TOKEN");
        let away = told(pointing("http://elsewhere.example/")).await;
        assert_eq!(away, "URL does not answer: it points to http://elsewhere.example/, and redirects are not followed");
        let off = server("HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n{}");
        assert!(told(off).await.contains("[chaos] enabled = true"));
    }
}
