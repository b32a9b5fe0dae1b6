//! The fleet as the configuration lists it, and its facts at one moment. Read directly from what the owners publish; no
//! actor is asked.

use super::{
    facts::{Abilities, CloudFacts, LocalFacts, TargetHealth},
    session::Sessions,
};
use crate::{
    cloud::Provider,
    config::{LocalConfig, ModelKind, PrefillStyle},
    domain::{ModelName, Needs, Premises, TargetName},
    gpu::{EngineSlot, SlotView, life::GpuState, poison::Poison},
    health::{Draws, Vitals},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Every local slot and every usable provider, and where conversations have their cache.
#[derive(Clone, Default)]
pub struct Fleet {
    pub slots: Arc<[Arc<EngineSlot>]>,
    pub providers: Arc<[Arc<Provider>]>,
    pub sessions: Sessions,
    pub vitals: Vitals,
    /// Whose electricity it was.
    pub draws: Draws,
    /// Requests that engines died of.
    pub poison: Poison,
}

impl Fleet {
    /// `queued` requests wait for a lease already.
    pub fn locals(&self, queued: usize, now: Instant) -> Vec<LocalFacts> {
        let facts = |(slot, engine): (usize, &Arc<EngineSlot>)| {
            let config = engine.config();
            let view = engine.view();
            let believed = view.stats.believed(view.leases, now);
            let pool = u64::from(config.context_tokens);
            let loaded = view.info.as_ref().map_or(pool, |info| u64::from(info.max_request_tokens));
            let health =
                TargetHealth { degraded: matches!(view.state, GpuState::Degraded(_)), ..TargetHealth::default() };
            LocalFacts {
                slot,
                name: config.name.clone(),
                model: config.model.clone(),
                believed,
                queued,
                window: loaded.min(config.max_request_tokens.map_or(u64::MAX, u64::from)),
                embedding_window: embedding_window(config, &view),
                default_output: config.defaults.max_tokens,
                max_output: config.defaults.max_output_tokens,
                abilities: abilities(config, &view),
                premises: config.server.as_ref().map_or(Premises::Own, |its| its.premises),
                prefill: config.server.as_ref().map_or(PrefillStyle::None, |its| its.prefill),
                health,
                view,
            }
        };
        self.slots.iter().enumerate().map(facts).collect()
    }

    /// Whether this local target is a server somebody else runs.
    pub fn is_server(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|slot| slot.config().server.is_some())
    }

    pub fn clouds(&self, now: Instant) -> Vec<CloudFacts> {
        let mut facts = Vec::new();
        for (index, provider) in self.providers.iter().enumerate() {
            let config = provider.config();
            if !provider.is_usable() {
                continue;
            }
            for (model_index, model) in provider.models() {
                facts.push(CloudFacts {
                    provider: index,
                    model_index,
                    provider_name: config.name.clone(),
                    model: model.name.clone(),
                    wire: model.wire(config.wire),
                    window: u64::from(model.context_tokens),
                    price: model.price,
                    prefill: model.prefill,
                    view: provider.view(model_index, now),
                    abilities: match model.kind {
                        ModelKind::Chat => Abilities::CLOUD,
                        ModelKind::Completion => Abilities::CLOUD_COMPLETION,
                        ModelKind::Embedding => Abilities::CLOUD_EMBEDDING,
                    },
                    health: self.cloud_health(index, model_index, now),
                });
            }
        }
        facts
    }

    /// A local target's deaths are its life cycle's business; a provider is known by what it did lately.
    fn cloud_health(&self, provider: usize, model: usize, now: Instant) -> TargetHealth {
        let vitals = self.vitals.cloud(provider, model, now);
        TargetHealth {
            success_ratio: vitals.score.recent_success_ratio,
            degraded: vitals.unreachable,
            inter_token: vitals.score.inter_token_ms.map(|ms| Duration::from_secs_f64(ms / 1e3)),
        }
    }

    /// (model, provider) of every model that is not configured but found in a provider's list.
    pub fn found_models(&self) -> Vec<(ModelName, TargetName)> {
        let usable = self.providers.iter().filter(|provider| provider.is_usable());
        let found = |provider: &Arc<Provider>| {
            let owner = provider.config().name.clone();
            provider.found_models().into_iter().map(move |model| (model, owner.clone()))
        };
        usable.flat_map(found).collect()
    }
}

/// What a local target can do. Until its model is loaded it is given the benefit of the doubt: the engine will say.
fn abilities(config: &LocalConfig, view: &SlotView) -> Abilities {
    if let Some(server) = &config.server {
        return Abilities::of_server(server.offers);
    }
    let info = view.info.as_deref();
    let offers = Needs {
        embeddings: config.embedding_tokens.is_some() && info.is_none_or(|info| info.embeddings.is_some()),
        suffix: info.is_none_or(|info| info.infills),
        ..Abilities::LOCAL.offers
    };
    Abilities { offers, generates: info.is_none_or(|info| info.generates), ..Abilities::LOCAL }
}

fn embedding_window(config: &LocalConfig, view: &SlotView) -> u64 {
    let loaded = view.info.as_ref().and_then(|info| info.embeddings).map(|embeddings| embeddings.max_tokens);
    u64::from(loaded.or(config.embedding_tokens).unwrap_or(0))
}
