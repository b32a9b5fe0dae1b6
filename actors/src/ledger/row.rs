//! What the ledger writes down: one row for each attempt and one for each request. Counts, names and money; never a prompt,
//! an answer or a secret.

use crate::domain::{KeyId, NanoUsd, RequestId, TokenUsage, UnixMs};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Outcome of a reservation that is still open.
pub(super) const RESERVED: &str = "reserved";
/// Outcome of an attempt that was left on its way: its tokens and cost are those that came, reckoned with a margin; or those
/// reserved, if its flight died and nobody knows.
pub(super) const ABANDONED: &str = "abandoned";
/// Outcome of an attempt whose gateway died under it: charged as reserved, because nobody knows better.
pub(super) const INTERRUPTED: &str = "interrupted";
/// Outcome of a reservation that nobody closed by its deadline: charged as reserved.
pub(super) const EXPIRED: &str = "expired";

/// One attempt of one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRow {
    pub request: RequestId,
    /// Whose key; `None` where no keys are required.
    pub key: Option<KeyId>,
    /// When it began: the day and month it is charged to.
    pub at: UnixMs,
    pub target: String,
    pub model: String,
    pub outcome: Cow<'static, str>,
    pub usage: TokenUsage,
    pub cost: NanoUsd,
    /// What was set aside for it; zero for an attempt that costs nothing.
    pub reserved: NanoUsd,
    /// What the client's answer would have cost on the baseline model, in the row of the attempt that ended it: never more
    /// than once a request, whatever its other attempts took.
    pub baseline: NanoUsd,
    /// Electricity of a local attempt, in thousandths of a joule; zero when nobody measures or states any.
    pub energy_mj: u64,
}

impl AttemptRow {
    /// A row in which only the names are filled.
    pub fn new(request: RequestId, key: Option<KeyId>, at: UnixMs, target: &str, model: &str) -> Self {
        Self {
            request,
            key,
            at,
            target: target.to_owned(),
            model: model.to_owned(),
            outcome: RESERVED.into(),
            usage: TokenUsage::default(),
            cost: NanoUsd::ZERO,
            reserved: NanoUsd::ZERO,
            baseline: NanoUsd::ZERO,
            energy_mj: 0,
        }
    }

    pub fn key_text(&self) -> &str {
        self.key.as_ref().map_or("", KeyId::as_str)
    }
}

/// One request, ended. What it cost is the sum of its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRow {
    pub request: RequestId,
    pub key: Option<KeyId>,
    /// When it was admitted.
    pub at: UnixMs,
    /// Of the last attempt, else "none".
    pub target: String,
    pub model: String,
    pub complexity: Cow<'static, str>,
    pub outcome: Cow<'static, str>,
    pub stream: bool,
    pub attempts: u32,
    /// Of the answer as its client has it.
    pub usage: TokenUsage,
    pub took_ms: u64,
}
