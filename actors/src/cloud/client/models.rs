//! `GET /v1/models`: which models a provider lists. Cheap and free of charge, so it also serves as a probe: it proves that
//! the address, the key and the provider's front door work, never that completions do.

use super::{Patience, ProviderClient, broken};
use crate::domain::GatewayError;
use http::{HeaderMap, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;

/// Longest list read, in bytes; 256 models take a tenth of it.
const MAX_LIST_BYTES: usize = 1 << 20;
/// Models taken from one list.
pub const MAX_MODELS: usize = 256;
/// Longest id taken, in bytes.
pub const MAX_ID_BYTES: usize = 128;

impl ProviderClient {
    /// The ids the provider lists, in its order, all inside `deadline`.
    ///
    /// # Errors
    /// As [`ProviderClient::start`]; a list that is none is the provider's failure.
    pub async fn models(&self, key: &SecretString, deadline: Instant) -> Result<Vec<String>, GatewayError> {
        let patience = Patience { target: self.target.clone(), deadline };
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop().pop().push("models");
        }
        let headers = self.list_headers(key)?;
        let sending = self.http.get(url).headers(headers).send();
        let late = "did not answer in time";
        let mut response =
            patience.within(deadline, late, sending).await?.map_err(|error| patience.failed(&broken(&error)))?;
        if !response.status().is_success() {
            return Err(patience.refused(response, key, &[]).await);
        }
        let mut body = Vec::new();
        while let Some(piece) = patience
            .within(deadline, late, response.chunk())
            .await?
            .map_err(|error| patience.failed(&broken(&error)))?
        {
            if body.len() + piece.len() > MAX_LIST_BYTES {
                return Err(patience.failed("lists more models than a list may hold"));
            }
            body.extend_from_slice(&piece);
        }
        parse(&body).ok_or_else(|| patience.failed("sent something that is no list of models"))
    }

    fn list_headers(&self, key: &SecretString) -> Result<HeaderMap, GatewayError> {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if !key.expose_secret().is_empty() {
            headers.insert(header::AUTHORIZATION, self.bearer(key)?);
        }
        Ok(headers)
    }
}

#[derive(Deserialize)]
struct List {
    data: Vec<serde_json::Value>,
}

/// The ids of an OpenAI model list: plain ones only, each once, at most [`MAX_MODELS`]. `None` for anything else.
fn parse(body: &[u8]) -> Option<Vec<String>> {
    let list: List = serde_json::from_slice(body).ok()?;
    let plain = |id: &&str| !id.is_empty() && id.len() <= MAX_ID_BYTES && id.chars().all(|c| c.is_ascii_graphic());
    let mut seen = std::collections::HashSet::new();
    let ids = list.data.iter().filter_map(|model| model.get("id")?.as_str()).filter(plain);
    Some(ids.filter(|id| seen.insert(*id)).take(MAX_MODELS).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cloud::client::Timeouts, domain::ErrorKind, task};
    use std::time::Duration;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::oneshot,
    };

    #[test]
    fn ids_are_taken_plain_once_and_bounded() {
        let list = |data: &str| parse(format!("{{\"object\": \"list\", \"data\": {data}}}").as_bytes());
        let ids =
            list(r#"[{"id": "a", "owned_by": "x"}, {"id": "b/c:d"}, {"id": "a"}, {"id": 7}, {}, {"id": "x y"}, 3]"#);
        assert_eq!(ids.unwrap(), ["a", "b/c:d"]);
        let many: Vec<_> = (0..300).map(|n| serde_json::json!({"id": format!("m{n}")})).collect();
        assert_eq!(list(&serde_json::to_string(&many).unwrap()).unwrap().len(), MAX_MODELS);
        let long = "x".repeat(MAX_ID_BYTES + 1);
        assert_eq!(list(&format!("[{{\"id\": \"{long}\"}}]")).unwrap(), Vec::<String>::new());
        for wrong in ["", "<html>", "[]", "{}", r#"{"data": 1}"#, r#"{"error": {"message": "no"}}"#] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    /// What the provider is asked, and what is made of `answer`; an empty one is silence.
    async fn ask(answer: &'static str) -> (String, Result<Vec<String>, GatewayError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (tell, request) = oneshot::channel();
        let _serving = task::owned(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\r\n\r\n") {
                socket.read_buf(&mut bytes).await.unwrap();
            }
            tell.send(String::from_utf8(bytes).unwrap()).unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            if answer.is_empty() {
                std::future::pending::<()>().await;
            }
        });
        let client = ProviderClient::new("up".into(), &url, Timeouts::default()).unwrap();
        let patience = Duration::from_millis(if answer.is_empty() { 50 } else { 10_000 });
        let models = client.models(&SecretString::from("sk-1"), Instant::now() + patience).await;
        (request.await.unwrap(), models)
    }

    #[tokio::test]
    async fn the_list_is_asked_for_beside_the_completions_and_with_the_key() {
        let (request, models) =
            ask("HTTP/1.1 200 OK\r\ncontent-length: 23\r\n\r\n{\"data\": [{\"id\": \"m1\"}]}").await;
        assert!(request.starts_with("GET /v1/models HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer sk-1\r\n"), "{request}");
        assert!(models.is_err(), "the length cuts the list: {models:?}");
        let (_, models) = ask("HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{\"data\": [{\"id\": \"m1\"}]}").await;
        assert_eq!(models.unwrap(), ["m1"]);
    }

    #[tokio::test]
    async fn a_refused_key_silence_and_a_web_page_are_told_apart() {
        let (_, refused) = ask("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!(refused.unwrap_err().kind, ErrorKind::Unauthorized);
        let (_, silent) = ask("").await;
        assert_eq!(silent.unwrap_err().kind, ErrorKind::Timeout);
        let (_, page) = ask("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>").await;
        assert_eq!(page.unwrap_err().kind, ErrorKind::Upstream);
    }
}
