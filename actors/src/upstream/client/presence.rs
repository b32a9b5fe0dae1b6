//! Whether a server is there and what it serves, told by its list of models; by `/health` of its host where it has none.
//! Says nothing of whether an answer would come.

use super::{
    ProviderClient,
    connections::Response,
    models::{models_url, read_ids, read_list},
};
use crate::domain::RequestId;
use bytes::Bytes;
use http::{Method, StatusCode};
use reqwest::Url;
use secrecy::SecretString;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A server that takes longer for this is as good as gone.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a look at a server showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It is there, with these models; none, if it does not list them.
    Serves(Vec<String>),
    /// It says that it cannot serve yet (503).
    Loading,
    KeyRefused,
    /// Why not, as what follows "the server".
    Absent(String),
}

impl ProviderClient {
    /// One look, bounded in time.
    pub async fn presence(&self, key: &SecretString) -> Presence {
        let until = Instant::now() + TIMEOUT;
        let looking = async {
            let listed = match self.get(models_url(self.address.url()), key).await {
                Ok(response) => response,
                Err(absent) => return absent,
            };
            match listed.status() {
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                    match self.get(health_url(self.address.url()), key).await {
                        Ok(health) => of_status(health.status()),
                        Err(absent) => absent,
                    }
                }
                StatusCode::OK => match read_list(listed).await.as_deref().and_then(read_ids) {
                    Some(ids) => Presence::Serves(ids),
                    None => Presence::Absent("sent no list of models".to_owned()),
                },
                status => of_status(status),
            }
        };
        match timeout_at(until, looking).await {
            Ok(presence) => presence,
            Err(_) => Presence::Absent(format!("did not answer within {} s", TIMEOUT.as_secs())),
        }
    }

    async fn get(&self, url: Url, key: &SecretString) -> Result<Response, Presence> {
        let absent = |what: String| Presence::Absent(what);
        let headers = self.headers(&RequestId::random().into(), key, false).map_err(|error| absent(error.message))?;
        self.http.send(Method::GET, &url.into(), headers, Bytes::new()).await.map_err(|error| absent(error.in_words()))
    }
}

fn of_status(status: StatusCode) -> Presence {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Presence::Loading,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Presence::KeyRefused,
        status if status.is_success() => Presence::Serves(Vec::new()),
        status if status.is_redirection() => {
            Presence::Absent(format!("answered with a redirect ({}), not followed", status.as_u16()))
        }
        status => Presence::Absent(format!("answered {}", status.as_u16())),
    }
}

/// Servers have it beside their API, not below it.
fn health_url(answers: &Url) -> Url {
    let mut url = answers.clone();
    url.set_path("/health");
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_loading_refused_and_gone_apart() {
        for (status, presence) in [
            (200, Presence::Serves(vec![])),
            (503, Presence::Loading),
            (401, Presence::KeyRefused),
            (302, Presence::Absent("answered with a redirect (302), not followed".into())),
            (500, Presence::Absent("answered 500".into())),
        ] {
            assert_eq!(of_status(StatusCode::from_u16(status).unwrap()), presence);
        }
        let url = Url::parse("http://127.0.0.1:8000/v1/chat/completions").unwrap();
        assert_eq!(health_url(&url).as_str(), "http://127.0.0.1:8000/health");
    }
}
