//! `GET /v1/models` at one provider: the ids it lists. It also leaves an open connection behind, which the next call
//! finds in the pool. Bounded in time, bytes and ids.

use super::{Patience, ProviderClient, connections::Response};
use crate::domain::{GatewayError, RequestId};
use bytes::Bytes;
use http::Method;
use reqwest::Url;
use secrecy::SecretString;
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_LIST_BYTES: usize = 1 << 20;
const MAX_IDS: usize = 4096;

#[derive(Deserialize)]
struct List {
    data: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
}

impl ProviderClient {
    /// The ids of the provider's models, as it lists them.
    ///
    /// # Errors
    /// It did not answer in time, refused, or sent no such list.
    pub async fn models(&self, key: &SecretString) -> Result<Vec<String>, GatewayError> {
        let until = Instant::now() + TIMEOUT;
        let patience = Patience { target: self.target.clone(), deadline: until };
        let headers = self.headers(&RequestId::random().into(), key, false)?;
        let url = models_url(self.address.url()).into();
        let asking = self.http.send(Method::GET, &url, headers, Bytes::new());
        let response = patience.within(until, "did not answer in time", asking).await?;
        let response = response.map_err(|error| patience.failed(&error.in_words()))?;
        if !response.status().is_success() {
            return Err(patience.refused(response, key, b"").await);
        }
        let body = read(&patience, response, until).await?;
        read_ids(&body).ok_or_else(|| patience.failed("sent no list of models"))
    }
}

/// Beside the endpoint for answers, whichever of the two wire formats that speaks.
pub(super) fn models_url(answers: &Url) -> Url {
    beside(answers, "models")
}

/// Another endpoint of the same provider.
pub(super) fn beside(answers: &Url, name: &str) -> Url {
    let base = answers.path().trim_end_matches('/');
    let base = base.strip_suffix("/chat/completions").or_else(|| base.strip_suffix("/messages")).unwrap_or(base);
    let mut url = answers.clone();
    url.set_path(&format!("{base}/{name}"));
    url
}

async fn read(patience: &Patience, mut response: Response, until: Instant) -> Result<Vec<u8>, GatewayError> {
    let mut body = Vec::new();
    loop {
        let piece = patience.within(until, "stopped in the middle of its list", response.chunk()).await?;
        match piece.map_err(|error| patience.failed(&error.in_words()))? {
            None => return Ok(body),
            Some(piece) if body.len() + piece.len() > MAX_LIST_BYTES => {
                return Err(patience.failed("lists more models than anybody has"));
            }
            Some(piece) => body.extend_from_slice(&piece),
        }
    }
}

/// The whole of a list that is not too long; whoever calls bounds the time.
pub(super) async fn read_list(mut response: Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.ok()? {
        if body.len() + piece.len() > MAX_LIST_BYTES {
            return None;
        }
        body.extend_from_slice(&piece);
    }
    Some(body)
}

pub(super) fn read_ids(body: &[u8]) -> Option<Vec<String>> {
    let list: List = serde_json::from_slice(body).ok()?;
    Some(list.data.into_iter().take(MAX_IDS).map(|listed| listed.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_stands_beside_the_endpoint_for_answers() {
        for (answers, list) in [
            ("https://p.example/v1/chat/completions", "https://p.example/v1/models"),
            ("https://p.example/a/v1/messages", "https://p.example/a/v1/models"),
            ("https://p.example/chat/completions", "https://p.example/models"),
        ] {
            assert_eq!(models_url(&Url::parse(answers).unwrap()).as_str(), list);
        }
    }

    #[test]
    fn ids_are_read_and_anything_else_is_no_list() {
        let body = br#"{"object": "list", "data": [{"id": "a", "owned_by": null}, {"id": "b"}], "x": 1}"#;
        assert_eq!(read_ids(body), Some(vec!["a".to_owned(), "b".to_owned()]));
        for wrong in ["", "[]", "{}", r#"{"data": [{"name": "a"}]}"#, "<html>", r#"{"data": "a"}"#] {
            assert_eq!(read_ids(wrong.as_bytes()), None, "{wrong}");
        }
        let long = format!(r#"{{"data": [{}]}}"#, vec![r#"{"id": "a"}"#; MAX_IDS + 1].join(","));
        assert_eq!(read_ids(long.as_bytes()).map(|ids| ids.len()), Some(MAX_IDS));
    }
}
