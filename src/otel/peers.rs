//! Who the targets are, as a trace names them. Read once from the configuration: targets come and go with a restart only.

use reqwest::Url;
use spillway_actors::config::{CloudConfig, Config, LocalConfig, Wire};
use std::collections::HashMap;

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `gen_ai.provider.name`.
    pub provider: String,
    /// Of a server.
    pub address: Option<(String, u16)>,
    /// Our own engine, whose queue, prefill and decoding are known.
    pub is_engine: bool,
}

/// By target name.
pub type Peers = HashMap<String, Peer>;

/// Hosts of providers that the semantic conventions have a name for; a leading dot stands for every host under it.
const KNOWN: [(&str, &str); 12] = [
    ("api.openai.com", "openai"),
    (".openai.azure.com", "azure.ai.openai"),
    (".services.ai.azure.com", "azure.ai.inference"),
    ("api.anthropic.com", "anthropic"),
    ("api.deepseek.com", "deepseek"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.groq.com", "groq"),
    ("api.x.ai", "x_ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.cohere.com", "cohere"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    (".amazonaws.com", "aws.bedrock"),
];

pub fn peers(config: &Config) -> Peers {
    let locals = config.locals.iter().map(|local| (local.name.to_string(), local_peer(local)));
    let clouds = config.clouds.iter().map(|cloud| (cloud.name.to_string(), cloud_peer(cloud)));
    locals.chain(clouds).collect()
}

fn local_peer(local: &LocalConfig) -> Peer {
    match &local.server {
        None => Peer { provider: "llama.cpp".to_owned(), address: None, is_engine: true },
        Some(server) => Peer { provider: local.name.to_string(), address: address(&server.base_url), is_engine: false },
    }
}

fn cloud_peer(cloud: &CloudConfig) -> Peer {
    let address = address(&cloud.base_url);
    let host = address.as_ref().map_or("", |(host, _)| host.as_str());
    let is_host = |known: &str| if known.starts_with('.') { host.ends_with(known) } else { host == known };
    let known = KNOWN.iter().find(|(known, _)| is_host(known)).map(|(_, name)| *name);
    let by_wire = (cloud.wire == Wire::Anthropic).then_some("anthropic");
    let provider = known.or(by_wire).map_or_else(|| cloud.name.to_string(), str::to_owned);
    Peer { provider, address, is_engine: false }
}

fn address(base_url: &str) -> Option<(String, u16)> {
    let url = Url::parse(base_url).ok()?;
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}
