//! A key as it is kept: who it is for, what it may, and the digest it is found by. Its secret cannot be had from it.

use super::limiter::Limits;
use crate::domain::{BudgetLimits, Caller, KeyId, ModelName, Priority};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Keys in one store, revoked ones included.
pub const MAX_KEYS: usize = 10_000;
/// Groups in one store: each is a label of metrics.
pub const MAX_GROUPS: usize = 64;

/// What a key may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyPolicy {
    /// Names of models and targets; `None` = all.
    pub models: Option<Vec<String>>,
    pub local_only: bool,
    pub limits: Limits,
    pub budget_nanousd: BudgetLimits,
    pub priority: Priority,
}

/// The digest of a secret: of no use to anybody without secret and pepper, and not shown all the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(hex).map_err(serde::de::Error::custom)?;
        Ok(Self(hash.into()))
    }
}

/// One key. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Public, and all that the rest of the gateway knows it by.
    pub id: String,
    pub name: String,
    pub group: String,
    /// The beginning of its secret, so that people find it again.
    pub prefix: String,
    pub digest: Digest,
    /// Which pepper the digest was made with.
    pub pepper: String,
    pub created_at: u64,
    pub expires_at: Option<u64>,
    pub revoked_at: Option<u64>,
    pub policy: KeyPolicy,
}

/// Whether a key is good, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    Active,
    Expired,
    Revoked,
}

impl KeyState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl KeyRecord {
    pub fn state(&self, now: u64) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            KeyState::Expired
        } else {
            KeyState::Active
        }
    }

    /// What requests of this key carry along.
    pub fn caller(&self) -> Caller {
        let KeyPolicy { models, local_only, budget_nanousd, priority, .. } = &self.policy;
        Caller {
            key: KeyId::new(self.id.as_str()),
            group: self.group.as_str().into(),
            local_only: *local_only,
            models: models.as_ref().map(|names| names.iter().map(|name| ModelName::from(name.as_str())).collect()),
            budget: *budget_nanousd,
            priority: *priority,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::keys::tests::record;

    use super::*;

    #[test]
    fn a_key_expires_at_its_second_and_a_revoked_one_stays_revoked() {
        let mut key = KeyRecord { expires_at: Some(100), ..record(1) };
        assert_eq!([99, 100].map(|now| key.state(now)), [KeyState::Active, KeyState::Expired]);
        key.revoked_at = Some(50);
        assert_eq!([10, 99, 100].map(|now| key.state(now)), [KeyState::Revoked; 3]);
    }

    #[test]
    fn a_record_survives_being_written_down() {
        let key = KeyRecord {
            policy: KeyPolicy {
                models: Some(vec!["tiny".into()]),
                local_only: true,
                limits: Limits { requests_per_minute: Some(3), ..Limits::default() },
                priority: Priority::High,
                ..KeyPolicy::default()
            },
            ..record(7)
        };
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<KeyRecord>(&text).unwrap(), key);
        assert!(!format!("{key:?}").contains(&text[text.find("\"digest\":\"").unwrap() + 10..][..16]));
    }
}
