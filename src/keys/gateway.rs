//! The running gateway, asked through its admin listener.

use super::OrderError;
use crate::{call, cli::WANTS_TOKEN};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use spillway_actors::{config::Config, keys::KeyWish};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// A gateway on this machine answers in no time; one that hangs must not hang the command.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer: a page of keys is a tenth of it.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Keys asked for at once.
const PAGE: usize = 1000;

pub(super) struct Gateway {
    http: reqwest::Client,
    url: String,
    token: Option<SecretString>,
}

/// Where to call: who listens everywhere also listens here.
pub(crate) fn reachable(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

impl Gateway {
    /// `None` = nobody listens there. Without a `token`, the configuration's.
    pub(super) async fn find(config: &Config, token: Option<SecretString>) -> Result<Option<Self>, OrderError> {
        let listens = config.server.admin_listen;
        if listens.port() == 0 {
            return Ok(None);
        }
        let url = format!("http://{}", reachable(listens));
        let failed = |why: String| OrderError::Gateway { url: url.clone(), why };
        let http = call::client(&url).timeout(PATIENCE).build();
        let http = http.map_err(|error| failed(format!("cannot be asked: {error}")))?;
        match http.get(format!("{url}/health")).send().await {
            Err(error) if error.is_connect() => Ok(None),
            Err(error) => Err(failed(format!("does not answer: {error}; --offline works on the key store itself"))),
            Ok(_) => Ok(Some(Self { http, url, token: token.or_else(|| config.server.admin_token.clone()) })),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn failed(&self, why: String) -> OrderError {
        OrderError::Gateway { url: self.url.clone(), why }
    }

    /// Status and object of an answer.
    async fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<(StatusCode, Value), OrderError> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.map_err(|error| self.failed(format!("does not answer: {error}")))?;
        let status = answer.status();
        if let Some(elsewhere) = call::elsewhere(&answer) {
            return Err(self.failed(format!("is none: {elsewhere}")));
        }
        let body =
            call::body(answer, MAX_ANSWER_BYTES).await.map_err(|why| self.failed(format!("breaks off: {why}")))?;
        let object = serde_json::from_slice(&body).map_err(|_| {
            self.failed(format!(
                "answers {status} and no JSON: is it a spillway gateway? --offline works on the key store itself"
            ))
        })?;
        Ok((status, object))
    }

    /// The object of a good answer.
    fn good(&self, (status, object): (StatusCode, Value)) -> Result<Value, OrderError> {
        if status.is_success() {
            return Ok(object);
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(self.failed(WANTS_TOKEN.to_owned()));
        }
        let message = object["error"]["message"].as_str().unwrap_or("no reason given");
        Err(self.failed(format!("refuses ({}): {message}", status.as_u16())))
    }

    pub(super) async fn create(&self, wish: &KeyWish) -> Result<Value, OrderError> {
        let body = serde_json::to_string(wish).map_err(|error| self.failed(error.to_string()))?;
        self.good(self.ask(Method::POST, "/admin/keys", Some(body)).await?)
    }

    pub(super) async fn list(&self) -> Result<Vec<Value>, OrderError> {
        let mut keys = Vec::new();
        loop {
            let page = format!("/admin/keys?from={}&limit={PAGE}", keys.len());
            let mut answer = self.good(self.ask(Method::GET, &page, None).await?)?;
            let Value::Array(more) = answer["data"].take() else { return Err(self.failed("lists no keys".to_owned())) };
            let is_last = more.len() < PAGE;
            keys.extend(more);
            if is_last {
                return Ok(keys);
            }
        }
    }

    /// `None` = no such key.
    pub(super) async fn revoke(&self, id: &str) -> Result<Option<Value>, OrderError> {
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Ok(None);
        }
        match self.ask(Method::DELETE, &format!("/admin/keys/{id}"), None).await? {
            (StatusCode::NOT_FOUND, object) if object["error"]["code"] == "key_not_found" => Ok(None),
            answer => self.good(answer).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_called_on_loopback() {
        let called = ["0.0.0.0:1", "[::]:2", "10.0.0.1:3"].map(|at| reachable(at.parse().unwrap()).to_string());
        assert_eq!(called, ["127.0.0.1:1", "[::1]:2", "10.0.0.1:3"]);
    }
}
