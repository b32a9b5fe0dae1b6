//! A scenario's file: what load, what breaks how often, and what is expected. Every number has a bound, every key is known:
//! what is wrong is told with line and column.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use spillway_actors::{
    chaos::faults::{FaultKind, FaultWish},
    runtime::KillWay,
};
use std::{fmt, str::FromStr};

/// A whole number inside its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Within<const MIN: u64, const MAX: u64>(pub u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Within<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let number = u64::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
        number.map(Self).ok_or_else(|| D::Error::custom(format!("must be {MIN} to {MAX}")))
    }
}

/// From 0 to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub struct UpTo<const MAX: u64>(pub f64);

impl<'de, const MAX: u64> Deserialize<'de> for UpTo<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        let fits = (0.0..=MAX as f64).contains(&number);
        if fits { Ok(Self(number)) } else { Err(D::Error::custom(format!("must be 0 to {MAX}"))) }
    }
}

/// Some of it, and not without bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Few<T>(pub Vec<T>);

const FEW: usize = 32;

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Vec::deserialize(deserializer)?;
        let fits = (1..=FEW).contains(&list.len());
        if fits { Ok(Self(list)) } else { Err(D::Error::custom(format!("must have 1 to {FEW} entries"))) }
    }
}

/// A name, or its beginning and a `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Pattern(pub String);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let star = text.find('*');
        if text.is_empty() || star.is_some_and(|at| at + 1 != text.len()) {
            return Err(D::Error::custom("must be a name, or its beginning and one `*` at the end"));
        }
        Ok(Self(text))
    }
}

impl Pattern {
    pub fn matches(&self, name: &str) -> bool {
        self.0.strip_suffix('*').map_or(self.0 == name, |beginning| name.starts_with(beginning))
    }
}

/// A way to end somebody, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How(pub KillWay);

impl<'de> Deserialize<'de> for How {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

impl Serialize for How {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Of load; things break for a little less.
    pub seconds: Within<2, 86_400>,
    pub load: LoadPlan,
    #[serde(default, rename = "kill")]
    pub kills: Vec<Kill>,
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
    #[serde(default)]
    pub expect: Expect,
}

/// What is asked meanwhile.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LoadPlan {
    /// Open loop: sent whether or not those before are answered.
    pub requests_per_second: UpTo<500>,
    /// Beside those, so many clients that always hold a stream open.
    pub streams: Within<0, 512>,
    /// Of the open loop's requests.
    pub stream_share: UpTo<1>,
    /// Requests that are graded complex, for the cloud first.
    pub hard_share: UpTo<1>,
    #[serde(default = "nothing")]
    pub local_only_share: UpTo<1>,
    /// One of these each.
    pub max_tokens: Few<Within<1, 4096>>,
    #[serde(default = "auto")]
    pub model: String,
    /// Environment variables with API keys, used in turn; none: the one of --key.
    #[serde(default)]
    pub keys_env: Vec<String>,
}

fn nothing() -> UpTo<1> {
    UpTo(0.0)
}

fn auto() -> String {
    "auto".to_owned()
}

/// Deaths.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// As `/admin/actors` names them.
    pub actors: Few<Pattern>,
    pub how: Few<How>,
    /// On average.
    pub every_ms: Within<100, 3_600_000>,
    /// Every actor that is named, instead of one of them.
    #[serde(default)]
    pub all: bool,
}

/// Providers that fail for a time.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Providers.
    pub targets: Few<Pattern>,
    pub kind: FaultKind,
    pub every_ms: Within<100, 3_600_000>,
    pub for_ms: Within<1, 600_000>,
    /// Every provider that is named, instead of one of them.
    #[serde(default)]
    pub all: bool,
    pub ms: Option<u64>,
    pub status: Option<u16>,
    pub retry_after_s: Option<u64>,
    pub after_tokens: Option<u32>,
    pub times: Option<u64>,
    pub share: Option<f64>,
}

impl Fault {
    /// The order for one target.
    pub fn wish(&self, target: &str, seed: u64) -> FaultWish {
        FaultWish {
            target: target.to_owned(),
            kind: self.kind,
            ms: self.ms,
            status: self.status,
            retry_after_s: self.retry_after_s,
            after_tokens: self.after_tokens,
            times: self.times,
            for_ms: Some(self.for_ms.0),
            share: self.share,
            seed,
        }
    }
}

/// What a run must keep, beside the rules that always hold.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Of the requests that had no text yet when something broke.
    pub uncommitted_success_percent: UpTo<100>,
    /// Of the requests that met nothing broken; a trouble may leave a tripped breaker or a full queue behind.
    pub untouched_success_percent: UpTo<100>,
    /// After the load's end everything serves again within this time.
    pub recovers_within_s: Within<1, 600>,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            uncommitted_success_percent: UpTo(99.0),
            untouched_success_percent: UpTo(99.0),
            recovers_within_s: Within(60),
        }
    }
}

/// What is wrong with a scenario, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadScenario(String);

impl fmt::Display for BadScenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.trim_end())
    }
}

impl FromStr for Scenario {
    type Err = BadScenario;

    fn from_str(text: &str) -> Result<Self, BadScenario> {
        let scenario: Self = toml::from_str(text).map_err(|error| BadScenario(error.to_string()))?;
        let entries = scenario.kills.len().max(scenario.faults.len());
        if entries > FEW || scenario.load.keys_env.len() > FEW {
            return Err(BadScenario(format!("at most {FEW} of [[kill]], [[fault]] and keys_env each")));
        }
        for (at, fault) in scenario.faults.iter().enumerate() {
            let told = |wrong| BadScenario(format!("[[fault]] number {} ({}): {wrong}", at + 1, fault.kind.name()));
            fault.wish("", 0).check().map_err(told)?;
        }
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests;
