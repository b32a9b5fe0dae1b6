//! Who asks: an API key's identity and what its owner allowed it. Made at the edge when a key was recognised; the secret
//! itself never gets here.

use super::{
    money::NanoUsd,
    name::{KeyId, ModelName, TargetName},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a key may spend, in each period that starts anew at midnight UTC (day) or on the first (month); `None` = no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetLimits {
    pub day: Option<NanoUsd>,
    pub month: Option<NanoUsd>,
    pub total: Option<NanoUsd>,
}

impl BudgetLimits {
    /// Whether there is a bound.
    pub const fn any(&self) -> bool {
        self.day.is_some() || self.month.is_some() || self.total.is_some()
    }
}

/// Whose requests go first when there is not room for all; orders from last to first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

impl Priority {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// The group of keys that were given none.
pub const DEFAULT_GROUP: &str = "default";

/// Stands for every local target in a list of models.
const ANY_LOCAL: &str = "local";

/// The owner of a request, for as long as the request lives: a key that is changed or revoked changes later requests only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub key: KeyId,
    /// Who the key belongs to; one of few, so that it may label a metric.
    pub group: Arc<str>,
    /// Requests of this key never leave the machine.
    pub local_only: bool,
    /// Models and targets it may use, `local` = every local target; `None` = all.
    pub models: Option<Vec<ModelName>>,
    pub budget: BudgetLimits,
    pub priority: Priority,
}

impl Caller {
    /// A key without any limit.
    pub fn unlimited(key: impl Into<KeyId>) -> Self {
        Self {
            key: key.into(),
            group: DEFAULT_GROUP.into(),
            local_only: false,
            models: None,
            budget: BudgetLimits::default(),
            priority: Priority::Normal,
        }
    }

    /// Keys of one named group share what a local model has computed of their prompts; keys that belong to nobody in
    /// particular do not even share it with each other, and nobody shares it with requests that came without a key (0).
    pub fn cache_scope(&self) -> u64 {
        let (kind, name) =
            if &*self.group == DEFAULT_GROUP { (b"key ", self.key.as_str()) } else { (b"team", &*self.group) };
        let digest = blake3::Hasher::new().update(kind).update(name.as_bytes()).finalize();
        let first = digest.as_bytes().first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes));
        first.max(1)
    }

    fn lists(&self, names: [&str; 3]) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|model| names.contains(&model.as_str())))
    }

    /// Whether it may use this local target.
    pub fn allows_local(&self, target: &TargetName, model: &ModelName) -> bool {
        self.lists([ANY_LOCAL, target.as_str(), model.as_str()])
    }

    /// Whether it may use this model of this provider.
    pub fn allows_cloud(&self, provider: &TargetName, model: &ModelName) -> bool {
        !self.local_only && self.lists([model.as_str(), provider.as_str(), model.as_str()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_a_named_group_share_what_was_computed() {
        let scope = |key: &str, group: &str| Caller { group: group.into(), ..Caller::unlimited(key) }.cache_scope();
        assert_eq!(scope("a", "shop"), scope("b", "shop"));
        assert_ne!(scope("a", DEFAULT_GROUP), scope("b", DEFAULT_GROUP));
        assert_ne!(scope("shop", DEFAULT_GROUP), scope("a", "shop"), "a key's name is no group's");
        assert_ne!(scope("a", DEFAULT_GROUP), 0);
    }

    #[test]
    fn a_list_names_models_targets_or_everything_local() {
        let caller = |names: &[&str]| Caller {
            models: Some(names.iter().map(|name| (*name).into()).collect()),
            ..Caller::unlimited("k")
        };
        let local = |caller: &Caller| caller.allows_local(&"gpu0".into(), &"tiny".into());
        let cloud = |caller: &Caller| caller.allows_cloud(&"sheep".into(), &"big".into());
        let all = [Caller::unlimited("k"), caller(&["tiny"]), caller(&["gpu0"]), caller(&["local"]), caller(&[])];
        assert_eq!(all.each_ref().map(local), [true, true, true, true, false]);
        let all = [Caller::unlimited("k"), caller(&["big"]), caller(&["sheep"]), caller(&["local"]), caller(&[])];
        assert_eq!(all.each_ref().map(cloud), [true, true, true, false, false]);
        let here = Caller { local_only: true, ..Caller::unlimited("k") };
        assert_eq!((local(&here), cloud(&here)), (true, false));
    }
}
