//! Samples of sums become rates. Pure.

use super::picture::Sample;
use serde::Serialize;
use std::collections::VecDeque;

/// Rates are taken over this long, so that one request is no peak.
const STEP_MS: u64 = 5000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    pub(super) local_per_second: f64,
    pub(super) cloud_per_second: f64,
    pub(super) failed_per_second: f64,
    pub(super) local_tokens_per_second: f64,
    pub(super) cloud_tokens_per_second: f64,
}

impl Rates {
    pub(super) fn answers(&self) -> f64 {
        self.local_per_second + self.cloud_per_second
    }

    pub(super) fn tokens(&self) -> f64 {
        self.local_tokens_per_second + self.cloud_tokens_per_second
    }
}

/// What came to be over all samples that are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Gained {
    pub(super) local: u64,
    pub(super) cloud: u64,
    pub(super) failed: u64,
    pub(super) left: u64,
}

/// The rates of the last seconds; `None` with fewer than two samples.
pub(super) fn now(samples: &VecDeque<Sample>) -> Option<Rates> {
    let last = samples.back()?;
    let from = samples.iter().rfind(|sample| last.at_ms - sample.at_ms.min(last.at_ms) >= STEP_MS);
    between(from.or(samples.front())?, last)
}

/// Oldest first.
pub(super) fn steps(samples: &VecDeque<Sample>) -> Vec<Rates> {
    let mut steps = Vec::new();
    let mut from: Option<&Sample> = None;
    for sample in samples {
        match from {
            Some(start) if sample.at_ms.saturating_sub(start.at_ms) < STEP_MS => {}
            start => {
                steps.extend(start.and_then(|start| between(start, sample)));
                from = Some(sample);
            }
        }
    }
    steps
}

pub(super) fn gained(samples: &VecDeque<Sample>) -> Gained {
    let (Some(first), Some(last)) = (samples.front(), samples.back()) else { return Gained::default() };
    let of = |read: fn(&Sample) -> u64| read(last).saturating_sub(read(first));
    Gained { local: of(|s| s.local), cloud: of(|s| s.cloud), failed: of(|s| s.failed), left: of(|s| s.left) }
}

/// After a restart sums begin anew: what they lost says nothing.
fn between(from: &Sample, to: &Sample) -> Option<Rates> {
    let seconds = to.at_ms.checked_sub(from.at_ms).filter(|ms| *ms > 0)? as f64 / 1000.0;
    let rate = |read: fn(&Sample) -> u64| read(to).saturating_sub(read(from)) as f64 / seconds;
    Some(Rates {
        local_per_second: rate(|s| s.local),
        cloud_per_second: rate(|s| s.cloud),
        failed_per_second: rate(|s| s.failed),
        local_tokens_per_second: rate(|s| s.tokens_local),
        cloud_tokens_per_second: rate(|s| s.tokens_cloud),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(sums: &[(u64, u64)]) -> VecDeque<Sample> {
        sums.iter().map(|(at, local)| Sample { at_ms: at * 1000, local: *local, ..Sample::default() }).collect()
    }

    #[test]
    fn rates_are_differences_over_seconds_and_a_restart_is_no_rate() {
        let steady = samples(&[(0, 0), (1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12), (7, 14)]);
        assert_eq!(now(&steady).unwrap().local_per_second, 2.0);
        assert_eq!(steps(&steady).len(), 1);
        assert_eq!(gained(&steady), Gained { local: 14, ..Gained::default() });
        let restarted = samples(&[(0, 100), (6, 3), (12, 9)]);
        let rates: Vec<f64> = steps(&restarted).iter().map(|rates| rates.local_per_second).collect();
        assert_eq!(rates, [0.0, 1.0]);
        assert_eq!(now(&samples(&[(0, 1)])), None);
        assert_eq!(now(&samples(&[(9, 1), (3, 2)])), None, "a clock that was set back");
    }
}
