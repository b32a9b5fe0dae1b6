//! The small sections: supervision, health, chaos.

use crate::config::{ActorRestart, EngineRestart, HealthConfig, StrainLimits, SupervisionConfig, section::Section};
use std::{path::PathBuf, time::Duration};

const MAX_DEATHS: u32 = 10_000;

pub(super) fn supervision(section: Section<'_>) -> Option<SupervisionConfig> {
    let gpu = section.section("gpu").and_then(engine_restart);
    let actors = section.section("actors").and_then(actor_restart);
    section.finish();
    Some(SupervisionConfig { gpu: gpu?, actors: actors? })
}

fn engine_restart(section: Section<'_>) -> Option<EngineRestart> {
    let (backoff_min, backoff_max) = span(&section, "backoff_min_ms", "backoff_max_ms");
    let reset_after = section.millis("reset_after_ms", 1);
    let max_failed_starts = section.small("max_failed_starts", 1..=MAX_DEATHS);
    let failed_starts_window = section.millis("failed_starts_window_ms", 1);
    let max_deaths = section.small("max_deaths", 1..=MAX_DEATHS);
    let deaths_window = section.millis("deaths_window_ms", 1);
    let (probe_min, probe_max) = span(&section, "probe_min_ms", "probe_max_ms");
    section.finish();
    Some(EngineRestart {
        backoff_min: backoff_min?,
        backoff_max: backoff_max?,
        reset_after: reset_after?,
        max_failed_starts: max_failed_starts?,
        failed_starts_window: failed_starts_window?,
        max_deaths: max_deaths?,
        deaths_window: deaths_window?,
        probe_min: probe_min?,
        probe_max: probe_max?,
    })
}

fn actor_restart(section: Section<'_>) -> Option<ActorRestart> {
    let max_deaths = section.small("max_deaths", 1..=MAX_DEATHS);
    let window = section.millis("window_ms", 1);
    let (backoff_min, backoff_max) = span(&section, "backoff_min_ms", "backoff_max_ms");
    section.finish();
    Some(ActorRestart {
        max_deaths: max_deaths?,
        window: window?,
        backoff_min: backoff_min?,
        backoff_max: backoff_max?,
    })
}

/// Two durations, the first not above the second.
fn span(section: &Section<'_>, least: &'static str, most: &'static str) -> (Option<Duration>, Option<Duration>) {
    let (low, high) = (section.millis(least, 1), section.millis(most, 1));
    if let (Some(low), Some(high), Some(entry)) = (low, high, section.entry(least))
        && low > high
    {
        section.refuse(least, &entry.node.origin, format_args!("is above {most} = {}", high.as_millis()));
    }
    (low, high)
}

pub(super) fn health(section: Section<'_>) -> Option<HealthConfig> {
    let interval = section.millis("interval_ms", 10);
    let timeout = section.millis("timeout_ms", 1);
    let canary_interval = section.millis("canary_interval_ms", 0);
    let provider_probe = section.millis("provider_probe_ms", 0);
    let drain = section.millis("drain_ms", 0);
    let bad_gpu_retry = section.millis("bad_gpu_retry_ms", 1000);
    let heat = band(&section, "heat_enter_celsius", "heat_leave_celsius", 150);
    let memory = band(&section, "memory_enter_percent", "memory_leave_percent", 100);
    let nvml_library = section.text("nvml_library");
    section.finish();
    let ((heat_enter, heat_leave), (memory_enter, memory_leave)) = (heat?, memory?);
    Some(HealthConfig {
        interval: interval?,
        timeout: timeout?,
        canary_interval: Some(canary_interval?).filter(|interval| !interval.is_zero()),
        provider_probe: Some(provider_probe?).filter(|interval| !interval.is_zero()),
        drain: drain?,
        bad_gpu_retry: bad_gpu_retry?,
        strain: StrainLimits { heat_enter, heat_leave, memory_enter, memory_leave },
        nvml_library: Some(nvml_library?.value).filter(|path| !path.is_empty()).map(PathBuf::from),
    })
}

/// Where a strain begins and, below that, where it ends.
fn band(section: &Section<'_>, enter: &'static str, leave: &'static str, most: u32) -> Option<(u32, u32)> {
    let (high, low) = (section.small(enter, 1..=most), section.small(leave, 1..=most));
    if let (Some(high), Some(low), Some(entry)) = (high, low, section.entry(leave))
        && low > high
    {
        section.refuse(leave, &entry.node.origin, format_args!("is above {enter} = {high}"));
    }
    Some((high?, low?))
}

pub(super) fn chaos(section: Section<'_>) -> Option<bool> {
    let enabled = section.flag("enabled");
    section.finish();
    enabled
}
