//! `[supervision]`, resolved: when what died is started again, and when no more.

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SupervisionConfig {
    pub gpu: EngineRestart,
    pub actors: ActorRestart,
}

/// `[supervision.gpu]`: deaths of engine children.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineRestart {
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Healthy time after which the backoff starts over.
    pub reset_after: Duration,
    /// Deaths before the first passed canary, inside `failed_starts_window`, that quarantine.
    pub max_failed_starts: u32,
    pub failed_starts_window: Duration,
    /// Deaths of any kind inside `deaths_window` that quarantine.
    pub max_deaths: u32,
    pub deaths_window: Duration,
    /// First probe of a quarantined GPU, doubling to `probe_max`.
    pub probe_min: Duration,
    pub probe_max: Duration,
}

impl Default for EngineRestart {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(10),
            reset_after: Duration::from_secs(300),
            max_failed_starts: 5,
            failed_starts_window: Duration::from_secs(60),
            max_deaths: 20,
            deaths_window: Duration::from_secs(600),
            probe_min: Duration::from_secs(15),
            probe_max: Duration::from_secs(300),
        }
    }
}

/// `[supervision.actors]`: deaths of actors, each child counted by its supervisor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActorRestart {
    /// More deaths than this inside `window` spend the supervisor's budget.
    pub max_deaths: u32,
    pub window: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for ActorRestart {
    fn default() -> Self {
        Self {
            max_deaths: 5,
            window: Duration::from_secs(10),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
        }
    }
}
