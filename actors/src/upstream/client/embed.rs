//! `POST /embeddings` at one provider, bounded in time and bytes like every other call.

use super::{CallId, Patience, ProviderClient, connections::Response, models::beside};
use crate::{
    domain::GatewayError,
    upstream::embed::{self, Embedded},
};
use bytes::Bytes;
use http::Method;
use secrecy::SecretString;
use tokio::time::Instant;

/// Two thousand vectors of three thousand numbers, written out.
const MAX_BODY_BYTES: usize = 96 << 20;

impl ProviderClient {
    /// Sends `body` (see [`embed::body`]) and waits for `due` vectors.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn embed(
        &self,
        body: Bytes,
        id: impl Into<CallId>,
        key: &SecretString,
        due: usize,
        deadline: Instant,
    ) -> Result<Embedded, GatewayError> {
        let patience = Patience { target: self.target.clone(), deadline };
        let until = Instant::now() + self.timeouts.first_byte_unstreamed;
        self.suffer_before(&patience, until).await?;
        let headers = self.headers(&id.into(), key, false)?;
        let url = beside(self.address.url(), "embeddings").into();
        let sending = self.http.send(Method::POST, &url, headers, body.clone());
        let response = patience.within(until, "did not answer in time", sending).await?.map_err(|error| {
            let failed = patience.failed(&error.in_words());
            if error.is_connect() { failed.unworked() } else { failed }
        })?;
        if !response.status().is_success() {
            return Err(patience.refused(response, key, &body).await);
        }
        let answer = self.read(&patience, response).await?;
        self.suffer_whole(&patience).await?;
        embed::read(&answer, due).ok_or_else(|| patience.failed("sent something that is no list of embeddings"))
    }

    async fn read(&self, patience: &Patience, mut response: Response) -> Result<Vec<u8>, GatewayError> {
        let mut body = Vec::new();
        loop {
            let until = Instant::now() + self.timeouts.idle;
            let piece = patience.within(until, "stopped in the middle of its answer", response.chunk()).await?;
            match piece.map_err(|error| patience.failed(&error.in_words()))? {
                None => return Ok(body),
                Some(piece) if body.len() + piece.len() > MAX_BODY_BYTES => {
                    return Err(patience.failed("sent more than an answer may hold"));
                }
                Some(piece) => body.extend_from_slice(&piece),
            }
        }
    }
}
