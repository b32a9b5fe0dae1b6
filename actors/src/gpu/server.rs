//! A local target that is a server somebody else started: how it is spoken to, and whether it is there. It is never
//! started or stopped from here; what "restarting" means for it is looking again.

use super::{frame::LoadedInfo, life::Cause};
use crate::{
    config::{LocalConfig, LocalServer},
    domain::{GatewayError, Premises},
    tools::ChatTraits,
    upstream::{Presence, ProviderClient, Timeouts},
};
use parking_lot::Mutex;
use secrecy::SecretString;
use std::{sync::Arc, time::Duration};

/// On the operator's own network a connection is quick or it is none.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a server that says it is loading may go on saying so.
pub const LOADING: Duration = Duration::from_secs(600);
/// Pause between two looks at a server that is loading.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Ids named in a message.
const NAMED: usize = 5;

#[derive(Debug)]
pub struct Server {
    config: LocalServer,
    /// What clients call its model.
    model: String,
    client: ProviderClient,
    key: SecretString,
    /// The server's own id of the model, once it has been seen.
    upstream: Mutex<Arc<str>>,
}

impl Server {
    /// # Errors
    /// The address is no http(s) URL, or the host's certificates cannot be read.
    pub fn new(target: &LocalConfig, config: &LocalServer) -> Result<Self, GatewayError> {
        let timeouts = Timeouts {
            connect: CONNECT,
            first_byte: config.timeouts.first_token,
            first_byte_unstreamed: config.timeouts.first_token,
            first_token: Some(config.timeouts.first_token),
            idle: config.timeouts.idle,
            ..Timeouts::default()
        };
        let client = ProviderClient::new(target.name.clone(), &config.base_url, timeouts)?;
        let model = target.model.to_string();
        let upstream = config.upstream.clone().unwrap_or_else(|| model.clone());
        let key = config.key.clone().unwrap_or_else(|| SecretString::from(""));
        Ok(Self { config: config.clone(), model, client, key, upstream: Mutex::new(upstream.into()) })
    }

    pub const fn client(&self) -> &ProviderClient {
        &self.client
    }

    pub const fn key(&self) -> &SecretString {
        &self.key
    }

    pub const fn config(&self) -> &LocalServer {
        &self.config
    }

    pub const fn premises(&self) -> Premises {
        self.config.premises
    }

    pub fn upstream(&self) -> Arc<str> {
        Arc::clone(&self.upstream.lock())
    }

    /// Looks until the server serves its model, or surely does not. One that is loading is waited for.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn awaited(&self) -> Result<(), Cause> {
        loop {
            match self.look().await {
                Err(Look::Loading) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(Look::Bad(cause)) => return Err(cause),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// It is not there, is loading again, or serves something else.
    pub async fn still_serves(&self) -> Result<(), Cause> {
        self.look().await.map_err(|look| match look {
            Look::Loading => Cause::Unreachable("it is loading its model again".to_owned()),
            Look::Bad(cause) => cause,
        })
    }

    async fn look(&self) -> Result<(), Look> {
        match self.client.presence(&self.key).await {
            Presence::Serves(listed) => {
                let found = choose(&listed, self.config.upstream.as_deref(), &self.model).map_err(Look::Bad)?;
                *self.upstream.lock() = found.into();
                Ok(())
            }
            Presence::Loading => Err(Look::Loading),
            Presence::KeyRefused => {
                Err(Look::Bad(Cause::NotLoadable("the server refuses the key of api_key_env".to_owned())))
            }
            Presence::Absent(what) => Err(Look::Bad(Cause::Unreachable(format!("the server {what}")))),
        }
    }
}

/// What a look found amiss.
enum Look {
    Loading,
    Bad(Cause),
}

/// What stands for a loaded model's own description. `gpu = "cpu"` in its entry says that it computes on a processor.
pub(super) fn info(target: &LocalConfig) -> LoadedInfo {
    let request = target.max_request_tokens.unwrap_or(target.context_tokens);
    LoadedInfo {
        name: target.model.to_string(),
        device: target.server.as_ref().map_or_else(String::new, |server| server.base_url.clone()),
        on_gpu: target.gpu.as_deref() != Some("cpu"),
        context_tokens: target.context_tokens,
        max_request_tokens: request.min(target.context_tokens),
        parallel: target.parallel,
        has_chat_template: true,
        // The server renders its own prompts.
        chat: ChatTraits::default(),
        layers: 0,
        gpu_layers: 0,
        load_ms: 0,
        generates: true,
        embeddings: None,
        infills: false,
    }
}

/// The id to ask for. What is configured must be listed; else the model's own name, or the only one there is.
fn choose<'a>(listed: &'a [String], configured: Option<&'a str>, model: &'a str) -> Result<&'a str, Cause> {
    let wanted = configured.unwrap_or(model);
    let is_listed = listed.iter().any(|id| id == wanted);
    match listed {
        _ if is_listed => Ok(wanted),
        [only] if configured.is_none() => Ok(only),
        // It lists nothing before the first request.
        [] => Ok(wanted),
        _ => {
            let some = listed.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = if listed.len() > NAMED { ", …" } else { "" };
            Err(Cause::NotLoadable(format!(
                "the server lists no model `{wanted}`; it has {some}{more}: set `upstream`"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_configured_one_the_models_own_name_or_the_only_one() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        for (listed, configured, id) in [
            (&["a", "b"][..], None, Some("a")),
            (&["a", "b"], Some("b"), Some("b")),
            (&["/models/a.gguf"], None, Some("/models/a.gguf")),
            (&["b", "c"], None, None),
            (&["b"], Some("c"), None),
            (&[], Some("c"), Some("c")),
        ] {
            assert_eq!(choose(&ids(listed), configured, "a").ok(), id, "{listed:?} {configured:?}");
        }
        let Err(Cause::NotLoadable(what)) = choose(&ids(&["b", "c"]), None, "a") else { panic!("not there") };
        assert_eq!(what, "the server lists no model `a`; it has b, c: set `upstream`");
    }
}
