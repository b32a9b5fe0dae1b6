//! How a process does over time: memory, open files, connections, tasks, threads. The gateway tells most of it itself; with its
//! pid the kernel is asked for the rest. Trends are pure.

use crate::chaos::metrics::Exposition;
use serde::Serialize;
use std::{collections::HashSet, fs};

const MIB: f64 = (1 << 20) as f64;
const HOUR: f64 = 3600.0;
/// The gateway closes a connection to a provider that was idle for 90 s, and looks for such every 90 s.
pub(super) const POOLS_CLOSE_S: u64 = 180;

/// One look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Vitals {
    /// Since the first look.
    pub(super) at_s: f64,
    pub(super) resident_mib: f64,
    /// Shared pages by their share, so it rises when others that share them end; only with a pid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proportional_mib: Option<f64>,
    pub(super) open_files: f64,
    /// Established TCP connections, those to providers among them; only with a pid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connections: Option<f64>,
    pub(super) tasks: f64,
    pub(super) threads: f64,
    pub(super) running: f64,
}

impl Vitals {
    /// # Errors
    /// A figure is missing, which is not the same as none.
    pub(super) fn of(exposition: &Exposition, pid: Option<u32>, at_s: f64) -> Result<Self, String> {
        let told = |name: &str| {
            let value = exposition.value(name).filter(|value| value.is_finite());
            value.ok_or_else(|| format!("/metrics does not tell {name}"))
        };
        let of_process = |figure: fn(u32) -> Option<f64>| {
            pid.map(|pid| figure(pid).ok_or_else(|| format!("this machine tells nothing of process {pid}"))).transpose()
        };
        Ok(Self {
            at_s,
            resident_mib: told("process_resident_memory_bytes")? / MIB,
            proportional_mib: of_process(proportional_mib)?,
            open_files: told("process_open_fds")?,
            connections: of_process(connections)?,
            tasks: told("spillway_tasks")?,
            threads: told("process_threads")?,
            running: told("spillway_requests_running")?,
        })
    }

    /// What is there beyond `before`: open files, tasks. Up to `kept` new connections are none of it: they wait for the next
    /// request.
    pub(super) fn left_since(&self, before: &Self, kept: f64) -> (f64, f64) {
        let kept = match (self.connections, before.connections) {
            (Some(now), Some(then)) => (now - then).clamp(0.0, kept.max(0.0)),
            _ => 0.0,
        };
        (self.open_files - before.open_files - kept, self.tasks - before.tasks - kept)
    }
}

/// All looks of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    pub(super) looks: Vec<Vitals>,
    /// Looks that told nothing, or not all of it, and why the first of them did not.
    pub(super) failed: usize,
    pub(super) why: Option<String>,
}

impl Watched {
    pub(super) fn add(&mut self, look: Result<Vitals, String>) {
        match look {
            Ok(look) => self.looks.push(look),
            Err(why) => {
                self.failed += 1;
                self.why.get_or_insert(why);
            }
        }
    }

    /// As many connections as there ever were requests at once may be kept for the next ones, while the gateway's pools
    /// have had no time to close them.
    pub(super) fn kept(&self, settled_for_s: u64) -> f64 {
        let most = self.looks.iter().map(|look| look.running).fold(0.0, f64::max);
        if settled_for_s < POOLS_CLOSE_S { most } else { 0.0 }
    }
}

/// Linux only, as everything that asks the kernel here.
fn proportional_mib(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

fn connections(pid: u32) -> Option<f64> {
    let mut established = HashSet::new();
    for family in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{family}")).unwrap_or_default();
        established.extend(table.lines().skip(1).filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (*fields.get(3)? == "01").then(|| format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()))
        }));
    }
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Some(targets.filter(|target| target.to_str().is_some_and(|target| established.contains(target))).count() as f64)
}

/// What became of one figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Trend {
    pub(super) first: f64,
    pub(super) last: f64,
    pub(super) most: f64,
    pub(super) per_hour: f64,
}

impl Trend {
    /// Of the looks from `from_s` on.
    pub(super) fn of(looks: &[Vitals], from_s: f64, figure: impl Fn(&Vitals) -> f64) -> Self {
        let points: Vec<(f64, f64)> =
            looks.iter().filter(|look| look.at_s >= from_s).map(|look| (look.at_s, figure(look))).collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return Self::default() };
        let most = points.iter().map(|(_, value)| *value).fold(f64::MIN, f64::max);
        Self { first: first.1, last: last.1, most, per_hour: slope(&points) * HOUR }
    }
}

/// Theil and Sen's: the median of the slopes between every two points. A few outliers (a burst, an engine's death) do not move
/// it, as they would a least-squares line (P. K. Sen, J. Am. Stat. Assoc. 63, 1968).
fn slope(points: &[(f64, f64)]) -> f64 {
    let mut slopes = Vec::with_capacity(points.len() * points.len().saturating_sub(1) / 2);
    for (at, one) in points.iter().enumerate() {
        let later = points.iter().skip(at + 1).filter(|other| other.0 > one.0);
        slopes.extend(later.map(|other| (other.1 - one.1) / (other.0 - one.0)));
    }
    crate::bench::stats::median(slopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(memory: impl Fn(f64) -> f64) -> Vec<Vitals> {
        let look = |at: u32| {
            let at_s = f64::from(at) * 10.0;
            Vitals { at_s, resident_mib: memory(at_s), ..Vitals::default() }
        };
        (0..100).map(look).collect()
    }

    #[test]
    fn a_slope_is_that_of_most_of_the_time_whatever_single_looks_say() {
        let leak = looks(|at| 50.0 + at / 3600.0 + if (at as u64).is_multiple_of(100) { 40.0 } else { 0.0 });
        let trend = Trend::of(&leak, 0.0, |look| look.resident_mib);
        assert!((trend.per_hour - 1.0).abs() < 0.05, "{trend:?}");
        let flat = Trend::of(&looks(|at| if at < 300.0 { at } else { 300.0 }), 300.0, |look| look.resident_mib);
        assert_eq!((flat.per_hour, flat.first, flat.last, flat.most), (0.0, 300.0, 300.0, 300.0));
    }

    #[test]
    fn nothing_seen_has_no_trend() {
        assert_eq!(Trend::of(&[], 0.0, |look| look.resident_mib), Trend::default());
        assert_eq!(Trend::of(&looks(|_| 1.0)[..1], 0.0, |look| look.resident_mib).per_hour, 0.0);
    }

    #[test]
    fn connections_are_nothing_left_over_only_as_far_as_the_pools_may_keep_them() {
        let before = Vitals { open_files: 20.0, tasks: 30.0, connections: Some(2.0), ..Vitals::default() };
        let after = Vitals { open_files: 25.0, tasks: 36.0, connections: Some(7.0), ..Vitals::default() };
        assert_eq!(after.left_since(&before, 16.0), (0.0, 1.0));
        assert_eq!(after.left_since(&before, 3.0), (2.0, 3.0), "three may be kept, not five");
        assert_eq!(after.left_since(&before, 0.0), (5.0, 6.0), "none may be kept any more");
        assert_eq!(Vitals { connections: None, ..after }.left_since(&before, 16.0), (5.0, 6.0), "they are not known");
        let look = |running| Ok(Vitals { running, ..before });
        let mut watched = Watched::default();
        [look(1.0), look(9.0), look(2.0)].into_iter().for_each(|look| watched.add(look));
        assert_eq!((watched.kept(POOLS_CLOSE_S - 1), watched.kept(POOLS_CLOSE_S)), (9.0, 0.0));
    }

    #[test]
    fn a_figure_that_is_missing_is_told_and_is_not_nought() {
        let all = "process_resident_memory_bytes 1048576\nprocess_open_fds 9\nspillway_tasks 20\nprocess_threads 5\n\
                   spillway_requests_running 0\n";
        let look = Vitals::of(&Exposition::read(all), None, 3.0).unwrap();
        assert_eq!((look.at_s, look.resident_mib, look.open_files, look.running), (3.0, 1.0, 9.0, 0.0));
        let mut watched = Watched::default();
        for name in ["process_resident_memory_bytes", "process_open_fds", "spillway_tasks", "spillway_requests_running"]
        {
            let without = all.replace(name, "something_else");
            let told = Vitals::of(&Exposition::read(&without), None, 0.0);
            assert_eq!(told, Err(format!("/metrics does not tell {name}")));
            watched.add(told);
        }
        let strange = Vitals::of(&Exposition::read(&all.replace(" 20", " NaN")), None, 0.0);
        assert_eq!(strange, Err("/metrics does not tell spillway_tasks".to_owned()));
        assert!(Vitals::of(&Exposition::read(all), Some(u32::MAX), 0.0).unwrap_err().contains("process 4294967295"));
        assert_eq!((watched.looks.len(), watched.failed), (0, 4));
        assert_eq!(watched.why.as_deref(), Some("/metrics does not tell process_resident_memory_bytes"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_of_its_own_and_its_connections_are_counted() {
        let own = std::process::id();
        assert!(proportional_mib(own).is_some_and(|mib| mib > 0.5));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(connections(own).is_some_and(|count| count >= 1.0));
        assert_eq!((proportional_mib(u32::MAX), connections(u32::MAX)), (None, None));
    }
}
