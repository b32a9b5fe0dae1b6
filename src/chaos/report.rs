//! What a run came to, as JSON or as a table; and which rules it broke. Pure.

use super::{
    admin::Status,
    conduct::Wake,
    history::{Tally, too_many_failed},
    load::Harvest,
    metrics::{AtMost, Exposition},
    scenario::Expect,
};
use crate::bench::stats::{Percentiles, columns};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _};

const MIB: f64 = (1 << 20) as f64;

/// Everything that a run has shown.
pub struct Run<'a> {
    pub scenario: &'a str,
    pub seed: u64,
    pub seconds: u64,
    pub expect: Expect,
    pub harvest: Harvest,
    pub wake: Wake,
    pub before: &'a Exposition,
    pub after: &'a Exposition,
    /// The last look, and whether everything had come to rest.
    pub status: &'a Status,
    pub at_rest: bool,
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub ok: bool,
    pub scenario: String,
    pub seed: u64,
    pub seconds: u64,
    pub requests: Tally,
    /// `None`: nobody was without text when something broke.
    pub uncommitted_success_percent: Option<f64>,
    /// Answers whose tokens could be checked one by one.
    pub checked: usize,
    pub held_back: usize,
    pub errors: BTreeMap<String, usize>,
    pub orders: BTreeMap<String, usize>,
    pub orders_missed: usize,
    /// Milliseconds by stage, as the gateway measured them.
    pub failover: BTreeMap<String, AtMost>,
    /// Milliseconds from the order of a death.
    pub actor_restart: Percentiles,
    /// Of actors that had died within ten seconds before, which the restart policy makes wait.
    pub actor_restart_again: Percentiles,
    pub gpu_actor_restart: Percentiles,
    pub engine_recovery: Percentiles,
    pub hang_recovery: Percentiles,
    /// The slowest of both, with actor and way.
    pub slowest_restarts: Vec<(String, f64)>,
    pub restarts: BTreeMap<String, u64>,
    pub engine_deaths: BTreeMap<String, u64>,
    pub streams_broken: BTreeMap<String, u64>,
    pub streams_resumed: BTreeMap<String, u64>,
    pub same_process: bool,
    /// Of the gateway without its engines, before and after.
    pub memory_mib: [f64; 2],
    pub open_files: [u64; 2],
    pub violations: Vec<String>,
    pub more_violations: usize,
}

impl Report {
    pub fn of(run: Run<'_>) -> Self {
        let Run { harvest, wake, before, after, .. } = run;
        let tally = Tally::of(&harvest.seen, &wake.troubles);
        let started = |exposition: &Exposition| exposition.value("process_start_time_seconds");
        let mut report = Self {
            scenario: run.scenario.to_owned(),
            seed: run.seed,
            seconds: run.seconds,
            uncommitted_success_percent: tally.uncommitted_success_percent(),
            requests: tally,
            checked: harvest.checked,
            held_back: harvest.held_back,
            errors: harvest.errors,
            orders: wake.orders,
            orders_missed: wake.missed,
            failover: after.percentiles(before, "spillway_failover_seconds", "stage"),
            actor_restart: Percentiles::of(wake.actors),
            actor_restart_again: Percentiles::of(wake.again),
            slowest_restarts: slowest(wake.restarts),
            gpu_actor_restart: Percentiles::of(wake.gpu_actors),
            engine_recovery: Percentiles::of(wake.engines),
            hang_recovery: Percentiles::of(wake.hangs),
            restarts: after.grown(before, "spillway_actor_restarts_total", &["actor"]),
            engine_deaths: after.grown(before, "spillway_engine_deaths_total", &["gpu", "cause"]),
            streams_broken: after.grown(before, "spillway_streams_broken_total", &["cause"]),
            streams_resumed: after.grown(before, "spillway_streams_resumed_total", &["how"]),
            same_process: started(before).is_some() && started(before) == started(after),
            memory_mib: [before, after].map(|exposition| gauge(exposition, "process_resident_memory_bytes") / MIB),
            open_files: [before, after].map(|exposition| gauge(exposition, "process_open_fds") as u64),
            violations: harvest.violations,
            more_violations: harvest.more_violations,
            ok: false,
        };
        report.violations.extend(wake.complaints);
        report.judge(&run.expect, run.status, run.at_rest);
        report.ok = report.violations.is_empty() && report.more_violations == 0;
        report
    }

    /// The rules of the run as a whole.
    fn judge(&mut self, expect: &Expect, status: &Status, at_rest: bool) {
        let (got, wanted) = (self.uncommitted_success_percent.unwrap_or(100.0), expect.uncommitted_success_percent.0);
        let Tally { requests, complete, untouched, untouched_errors, .. } = self.requests;
        let too_many = too_many_failed(untouched_errors, untouched, expect.untouched_success_percent.0);
        let mut rule = |kept: bool, what: String| {
            if !kept {
                self.violations.push(what);
            }
        };
        rule(requests > 0, "nothing was asked".to_owned());
        rule(requests == 0 || complete > 0, format!("none of {requests} requests was answered"));
        rule(too_many.is_none(), too_many.unwrap_or_default());
        rule(
            got >= wanted,
            format!("{got:.2} % of the requests without text at a trouble were answered, {wanted} % are expected"),
        );
        rule(self.same_process, "the gateway's process has begun anew".to_owned());
        rule(status.requests.conserved(), format!("requests are not conserved: {:?}", status.requests));
        let seconds = expect.recovers_within_s.0;
        for gpu in status.gpus.iter().filter(|gpu| !gpu.serving) {
            let cause = gpu.cause.as_deref().unwrap_or("no cause");
            rule(false, format!("{} does not serve {seconds} s after the end: {} ({cause})", gpu.name, gpu.state));
        }
        let left = (status.requests.running, status.leases, status.queue);
        let serve = status.gpus.iter().all(|gpu| gpu.serving);
        rule(at_rest || !serve, format!("not at rest {seconds} s after the end: running, leases, queue = {left:?}"));
    }

    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a string never fails.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let tally = &self.requests;
        let orders: usize = self.orders.values().sum();
        writeln!(out, "chaos {}: {} s, seed {}", self.scenario, self.seconds, self.seed)?;
        writeln!(out, "\n{orders} orders ({} more found nobody alive):", self.orders_missed)?;
        counts(out, &self.orders)?;
        writeln!(out, "\nrequests                               {}", tally.requests)?;
        for (what, count) in [
            ("complete", tally.complete),
            ("explicit errors", tally.explicit_errors),
            ("untouched by any trouble", tally.untouched),
            ("of them ended in an error", tally.untouched_errors),
            ("lost (no outcome at all)", tally.lost),
            ("doubled or missing tokens", tally.torn),
            ("truncated, but shown as complete", tally.shown_as_complete),
            ("protocol broken", tally.broken_protocol),
            ("checked token by token", self.checked),
            ("not sent, too many were open", self.held_back),
        ] {
            writeln!(out, "  {what:<36} {count}")?;
        }
        let answered =
            self.uncommitted_success_percent.map_or("-".to_owned(), |percent| format!("{percent:.2} % were answered"));
        writeln!(out, "  without text when something broke    {}, of which {answered}", tally.uncommitted)?;
        writeln!(
            out,
            "  streaming when something broke       {}, of which {} went on to a whole answer",
            tally.committed, tally.committed_complete
        )?;
        counts(out, &self.errors)?;
        writeln!(out, "\n{}", self.times())?;
        let slowest: Vec<String> = self.slowest_restarts.iter().map(|(who, ms)| format!("{who} {ms:.1}")).collect();
        writeln!(out, "slowest restarts: {}", slowest.join(", "))?;
        for (what, found) in [
            ("restarts of actors", &self.restarts),
            ("deaths of engines", &self.engine_deaths),
            ("streams broken, with an error frame", &self.streams_broken),
            ("streams resumed", &self.streams_resumed),
        ] {
            writeln!(out, "\n{what}: {}", found.values().sum::<u64>())?;
            counts(out, found)?;
        }
        writeln!(out, "\nthe gateway's process: {}", if self.same_process { "the same" } else { "ANOTHER ONE" })?;
        let ([mib, mib_after], [open, open_after]) = (self.memory_mib, self.open_files);
        writeln!(out, "its memory: {mib:.1} MiB before, {mib_after:.1} after; open files: {open}, {open_after}")?;
        writeln!(out, "rules broken: {}", self.violations.len() + self.more_violations)?;
        self.violations.iter().try_for_each(|violation| writeln!(out, "  {violation}"))
    }

    fn times(&self) -> String {
        let head = ["milliseconds", "samples", "p50", "p95", "p99", "max"].map(str::to_owned).to_vec();
        let mut rows = vec![head];
        let no_sample = AtMost::default();
        for stage in ["detect", "redispatch", "first_token"] {
            let AtMost { samples, p50, p95, p99, max } = self.failover.get(stage).unwrap_or(&no_sample);
            let bound = |bound: Option<f64>| bound.map_or("more".to_owned(), |bound| format!("≤ {bound}"));
            rows.push(row(&format!("failover, {stage}"), *samples, [p50, p95, p99, max].map(|at| bound(*at))));
        }
        for (what, found) in [
            ("actor death → successor runs", &self.actor_restart),
            ("the same, again within 10 s", &self.actor_restart_again),
            ("GPU actor death → successor runs", &self.gpu_actor_restart),
            ("engine death → serves again", &self.engine_recovery),
            ("engine hang → serves again", &self.hang_recovery),
        ] {
            let Percentiles { samples, p50, p95, p99, max } = found;
            rows.push(row(what, *samples as u64, [p50, p95, p99, max].map(|at| format!("{at:.1}"))));
        }
        columns(&rows)
    }
}

/// Of nothing there is no percentile.
fn row(what: &str, samples: u64, cells: [String; 4]) -> Vec<String> {
    let cells = if samples == 0 { std::array::from_fn(|_| "–".to_owned()) } else { cells };
    [vec![what.to_owned(), samples.to_string()], cells.to_vec()].concat()
}

fn gauge(exposition: &Exposition, name: &str) -> f64 {
    exposition.value(name).unwrap_or(0.0)
}

/// The five slowest, in milliseconds.
fn slowest(mut restarts: Vec<(String, std::time::Duration)>) -> Vec<(String, f64)> {
    restarts.sort_by_key(|restart| std::cmp::Reverse(restart.1));
    restarts.into_iter().take(5).map(|(who, took)| (who, took.as_secs_f64() * 1e3)).collect()
}

fn counts<C: std::fmt::Display>(out: &mut String, of: &BTreeMap<String, C>) -> std::fmt::Result {
    of.iter().try_for_each(|(what, count)| writeln!(out, "    {what:<34} {count}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        history::{End, Seen},
        scenario::UpTo,
    };

    fn judged(complete: usize, errors: usize, wanted: f64) -> Vec<String> {
        let seen = |end| Seen {
            sent_ns: 0,
            first_ns: None,
            ended_ns: 1,
            end,
            stream: false,
            torn: false,
            broke_protocol: false,
            false_end: false,
            resumed: false,
        };
        let ends = [vec![seen(End::Complete); complete], vec![seen(End::Error(429)); errors]].concat();
        let exposition = Exposition::read("process_start_time_seconds 1");
        let status = r#"{"gpus": [], "queue": 0, "leases": 0, "breakers": [], "requests": {"admitted": 0, "running": 0,
            "ended": {}}, "chaos": false}"#;
        let report = Report::of(Run {
            scenario: "s",
            seed: 1,
            seconds: 1,
            expect: Expect { untouched_success_percent: UpTo(wanted), ..Expect::default() },
            harvest: Harvest { seen: ends, ..Harvest::default() },
            wake: Wake::default(),
            before: &exposition,
            after: &exposition,
            status: &serde_json::from_str(status).unwrap(),
            at_rest: true,
        });
        assert_eq!(report.ok, report.violations.is_empty());
        report.violations
    }

    #[test]
    fn a_run_whose_requests_fail_untouched_by_any_trouble_is_no_good_one() {
        assert!(judged(4, 614, 99.0)[0].contains("614 of 618"));
        assert!(judged(0, 2, 99.0)[0].contains("none of 2 requests was answered"));
        assert!(judged(500, 1, 100.0)[0].contains("1 of 501"));
        assert_eq!(judged(500, 3, 99.0), [""; 0]);
        assert_eq!(judged(500, 0, 100.0), [""; 0]);
    }

    #[test]
    fn what_was_not_measured_has_no_figure() {
        let measured = AtMost { samples: 3, p50: Some(5.0), p95: None, p99: None, max: None };
        let report = Report { failover: [("detect".to_owned(), measured)].into(), ..Report::default() };
        let times = report.times();
        let cells = |what: &str| {
            let line = times.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}:\n{times}"));
            line[what.len()..].split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(cells("failover, detect"), "3 ≤ 5 more more more");
        assert_eq!(cells("failover, redispatch"), "0 – – – –");
        assert_eq!(cells("engine death → serves again"), "0 – – – –");
        assert!(!times.contains("0.0"), "{times}");
    }
}
