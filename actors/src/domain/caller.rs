//! Who asks: an API key's identity and what its owner allowed it. Made at the edge when a key was recognised; the secret
//! itself never gets here.

use super::{
    money::NanoUsd,
    name::{KeyId, ModelName},
};

/// What a key may spend, in each period that starts anew at midnight UTC (day) or on the first (month); `None` = no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BudgetLimits {
    pub day: Option<NanoUsd>,
    pub month: Option<NanoUsd>,
    pub total: Option<NanoUsd>,
}

/// The owner of a request, for as long as the request lives: a key that is changed or revoked changes later requests only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub key: KeyId,
    /// Requests of this key never leave the machine.
    pub local_only: bool,
    /// Models and targets it may use; `None` = all.
    pub models: Option<Vec<ModelName>>,
    pub budget: BudgetLimits,
}
