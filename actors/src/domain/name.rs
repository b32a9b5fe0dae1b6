//! Identities: requests, models, targets, tiers.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Of a [`RequestId`], below its time.
const RANDOM_BITS: u32 = 80;

/// One admitted request, for its whole life: the same id in logs, headers, ledger and upstream's `x-request-id`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u128);

impl RequestId {
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// What `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("req_").filter(|digits| digits.len() == 32)?;
        u128::from_str_radix(digits, 16).ok().map(Self)
    }

    /// A fresh id: 48 bits of milliseconds since 1970, then random ones. Ids of one time lie side by side in an index, so
    /// that rows are appended to it and not strewn over all its pages.
    pub fn random() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::at(since.as_millis(), rand::random())
    }

    const fn at(unix_ms: u128, random: u128) -> Self {
        Self(unix_ms << RANDOM_BITS | random >> (u128::BITS - RANDOM_BITS))
    }
}

/// As people read it in text formats, as its bits in others.
impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u128::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("no request id"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req_{:032x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self::new(name)
            }
        }
    };
}

name_type! {
    /// A model as configuration and clients name it.
    ModelName
}
name_type! {
    /// An API key, by its public id: the secret cannot be found from it.
    KeyId
}
name_type! {
    /// A place that can answer: the name of a `[[local]]` or a `[[cloud]]` entry.
    TargetName
}

/// How hard a request is judged to be; orders from easy to hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Complexity {
    Trivial,
    Moderate,
    Complex,
    Premium,
}

impl Complexity {
    pub const ALL: [Self; 4] = [Self::Trivial, Self::Moderate, Self::Complex, Self::Premium];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trivial => "trivial",
            Self::Moderate => "moderate",
            Self::Complex => "complex",
            Self::Premium => "premium",
        }
    }
}

impl fmt::Display for Complexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
