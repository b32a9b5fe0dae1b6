//! What a soak came to, as JSON or as a table, and which rules it broke. Pure.

use super::{
    mix::Mixed,
    vitals::{Trend, Vitals, Watched},
};
use crate::{bench::stats::columns, chaos::report::Report as Kept};
use serde::Serialize;

/// A shorter time behind the warm-up says nothing of hours.
const JUDGED_FROM_S: f64 = 600.0;
/// Looks that a report holds.
const SHOWN: usize = 60;
/// Looks that may fail, whose machine may be busy. Nothing that a soak breaks is asked for them.
const FEW_FAILED: usize = 5;

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) mib_per_hour: f64,
    pub(super) mib_at_rest: f64,
    pub(super) left_over: f64,
}

/// Everything that a run has shown.
pub(super) struct Soaked {
    pub(super) kept: Kept,
    pub(super) mixed: Mixed,
    pub(super) watched: Watched,
    /// Before the load, and when everything had come to rest behind it; or why nobody knows.
    pub(super) rested: Vitals,
    pub(super) settled: Result<Vitals, String>,
    /// For so long it was waited for that.
    pub(super) settled_for_s: u64,
    pub(super) warm_up_s: f64,
    pub(super) limits: Limits,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) ok: bool,
    pub(super) warm_up_s: f64,
    /// Behind the warm-up.
    pub(super) watched_s: f64,
    pub(super) resident_mib: Trend,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proportional_mib: Option<Trend>,
    pub(super) open_files: Trend,
    pub(super) tasks: Trend,
    pub(super) threads: Trend,
    pub(super) rested: Vitals,
    pub(super) settled: Option<Vitals>,
    /// At rest, since before the load.
    pub(super) mib_at_rest: f64,
    /// Open files and tasks; without kept connections, of which so many are none.
    pub(super) left_over: (f64, f64),
    pub(super) may_be_kept: f64,
    pub(super) failed_looks: usize,
    /// What the run was too short for.
    pub(super) not_judged: Vec<String>,
    pub(super) others: Mixed,
    pub(super) chaos: Kept,
    pub(super) violations: Vec<String>,
    /// Some of the looks, evenly.
    pub(super) looks: Vec<Vitals>,
}

impl Report {
    pub(super) fn of(soaked: Soaked) -> Self {
        let Soaked { kept, mixed, watched, rested, settled, settled_for_s, warm_up_s, limits } = soaked;
        let may_be_kept = watched.kept(settled_for_s);
        let Watched { looks, failed, why } = watched;
        let trend = |figure: fn(&Vitals) -> f64| Trend::of(&looks, warm_up_s, figure);
        let end_s = looks.last().map_or(0.0, |look| look.at_s);
        let every = looks.len().div_ceil(SHOWN).max(1);
        let mut report = Self {
            ok: false,
            warm_up_s,
            watched_s: (end_s - warm_up_s).max(0.0),
            resident_mib: trend(|look| look.resident_mib),
            proportional_mib: rested.proportional_mib.map(|_| trend(|look| look.proportional_mib.unwrap_or_default())),
            open_files: trend(|look| look.open_files),
            tasks: trend(|look| look.tasks),
            threads: trend(|look| look.threads),
            mib_at_rest: settled.as_ref().map_or(0.0, |settled| settled.resident_mib - rested.resident_mib),
            left_over: settled.as_ref().map_or((0.0, 0.0), |settled| settled.left_since(&rested, may_be_kept)),
            may_be_kept,
            failed_looks: failed,
            not_judged: Vec::new(),
            rested,
            settled: settled.as_ref().ok().copied(),
            violations: mixed.violations.clone(),
            others: mixed,
            chaos: kept,
            looks: looks.iter().step_by(every).copied().collect(),
        };
        let unknown = settled.err().map(|why| format!("nobody knows what is left over: {why}"));
        report.violations.extend(unknown);
        if failed > FEW_FAILED {
            let why = why.unwrap_or_default();
            report.violations.push(format!("{failed} looks failed, {FEW_FAILED} may, the first of them because {why}"));
        }
        report.judge(limits);
        report.ok = report.violations.is_empty() && report.others.more_violations == 0 && report.chaos.ok;
        report
    }

    fn judge(&mut self, limits: Limits) {
        let grown = self.resident_mib.per_hour;
        if self.watched_s < JUDGED_FROM_S {
            let watched = self.watched_s;
            self.not_judged.push(format!("memory: not judged (watched {watched:.0} s, {JUDGED_FROM_S:.0} wanted)"));
        } else if grown > limits.mib_per_hour {
            self.violations.push(format!("memory grows by {grown:.2} MiB/h, {} are allowed", limits.mib_per_hour));
        }
        let (more, allowed) = (self.mib_at_rest, limits.mib_at_rest);
        if more > allowed {
            self.violations.push(format!("at rest memory is {more:.1} MiB more than before, {allowed} are allowed"));
        }
        let (files, tasks) = self.left_over;
        for (what, left) in [("open files", files), ("tasks", tasks)] {
            if left > limits.left_over {
                self.violations.push(format!("{left} {what} are left over, {} are allowed", limits.left_over));
            }
        }
    }

    pub(super) fn table(&self) -> String {
        let head = ["behind the warm-up", "first", "last", "most", "per hour", "at rest before", "at rest after"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let nothing = Vitals::default();
        let (before, after) = (&self.rested, self.settled.as_ref().unwrap_or(&nothing));
        let share = [before, after].map(|look| look.proportional_mib.unwrap_or_default());
        for (what, trend, rest) in [
            ("memory, MiB", self.resident_mib, [before.resident_mib, after.resident_mib]),
            ("its share of it", self.proportional_mib.unwrap_or_default(), share),
            ("open files", self.open_files, [before.open_files, after.open_files]),
            ("tasks", self.tasks, [before.tasks, after.tasks]),
            ("threads", self.threads, [before.threads, after.threads]),
        ] {
            let figures = [trend.first, trend.last, trend.most, trend.per_hour, rest[0], rest[1]];
            rows.push([what.to_owned()].into_iter().chain(figures.map(|figure| format!("{figure:.2}"))).collect());
        }
        let mut others = vec![["beside the chats", "sent", "answered", "refused", "left"].map(str::to_owned).to_vec()];
        for (kind, count) in &self.others.kinds {
            let counts = [count.sent, count.answered, count.refused, count.left].map(|count| count.to_string());
            others.push([format!("{kind:?}")].into_iter().chain(counts).collect());
        }
        let (files, tasks) = self.left_over;
        let lines =
            |indent: &str, lines: &[String]| lines.iter().map(|line| format!("{indent}{line}\n")).collect::<String>();
        format!(
            "{}\n\n{}\nuntouched by any trouble {}, of which refused {}\n\n{}\n\n\
             at rest {:+.1} MiB, {files:+} open files, {tasks:+} tasks (up to {} kept connections are none)\n\
             warm-up {:.0} s, watched for {:.0} s, {} looks failed\n{}rules broken by the soak itself: {}\n{}",
            self.chaos.table().trim_end(),
            columns(&others),
            self.others.untouched,
            self.others.untouched_refused,
            columns(&rows),
            self.mib_at_rest,
            self.may_be_kept,
            self.warm_up_s,
            self.watched_s,
            self.failed_looks,
            lines("", &self.not_judged),
            self.violations.len() + self.others.more_violations,
            lines("  ", &self.violations)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soaked(per_hour: f64, tasks_after: f64) -> Soaked {
        let look = |at: u32| Vitals {
            at_s: f64::from(at),
            resident_mib: 50.0 + f64::from(at) * per_hour / 3600.0,
            ..Vitals::default()
        };
        Soaked {
            kept: Kept { ok: true, ..Kept::default() },
            mixed: Mixed::default(),
            watched: Watched { looks: (0..1000).step_by(10).map(look).collect(), ..Watched::default() },
            rested: Vitals { tasks: 20.0, ..Vitals::default() },
            settled: Ok(Vitals { tasks: tasks_after, ..Vitals::default() }),
            settled_for_s: 200,
            warm_up_s: 300.0,
            limits: Limits { mib_per_hour: 1.0, mib_at_rest: 32.0, left_over: 4.0 },
        }
    }

    #[test]
    fn growth_and_left_overs_break_a_rule_and_a_good_run_none() {
        let good = Report::of(soaked(0.5, 24.0));
        assert!(good.ok && good.violations.is_empty(), "{:?}", good.violations);
        let leak = Report::of(soaked(3.0, 20.0));
        assert!(!leak.ok && leak.violations[0].contains("3.00 MiB/h"), "{:?}", leak.violations);
        let left = Report::of(soaked(0.0, 26.0));
        assert!(!left.ok && left.violations[0].contains("6 tasks"), "{:?}", left.violations);
    }

    #[test]
    fn a_short_time_is_not_called_growth_and_chaos_has_a_word() {
        let brief = Soaked { warm_up_s: 900.0, ..soaked(100.0, 20.0) };
        let brief = Report::of(brief);
        assert!(brief.ok);
        assert_eq!(brief.not_judged, ["memory: not judged (watched 90 s, 600 wanted)"]);
        assert!(brief.table().contains("memory: not judged (watched 90 s, 600 wanted)"));
        assert!(Report::of(soaked(0.0, 20.0)).not_judged.is_empty());
        let broken = Soaked { kept: Kept::default(), ..soaked(0.0, 20.0) };
        assert!(!Report::of(broken).ok);
    }

    #[test]
    fn a_late_step_of_memory_has_no_slope_and_shows_at_rest() {
        let run = |mib: f64| {
            let mut late = soaked(0.0, 20.0);
            late.watched.looks.iter_mut().filter(|look| look.at_s > 850.0).for_each(|look| look.resident_mib += mib);
            late.settled = Ok(Vitals { tasks: 20.0, resident_mib: mib, ..Vitals::default() });
            Report::of(late)
        };
        let step = run(500.0);
        assert_eq!(step.resident_mib.per_hour, 0.0);
        assert_eq!(step.violations, ["at rest memory is 500.0 MiB more than before, 32 are allowed"]);
        assert!(run(31.0).ok && run(-10.0).ok);
    }

    #[test]
    fn what_was_not_seen_is_no_good_run() {
        let failed = |count| {
            let mut blind = soaked(0.0, 20.0);
            (0..count).for_each(|_| blind.watched.add(Err("it is silent".to_owned())));
            Report::of(blind)
        };
        assert!(failed(FEW_FAILED).ok);
        let blind = failed(FEW_FAILED + 1);
        assert!(!blind.ok && blind.violations[0].contains("6 looks failed") && blind.violations[0].contains("silent"));
        let end = Report::of(Soaked { settled: Err("it is silent".to_owned()), ..soaked(0.0, 20.0) });
        assert!(!end.ok && end.violations[0].contains("left over: it is silent"), "{:?}", end.violations);
    }

    #[test]
    fn connections_that_stay_are_left_over_once_the_pools_had_time_to_close_them() {
        let leaked = |settled_for_s| {
            let after = Vitals { tasks: 664.0, open_files: 644.0, connections: Some(644.0), ..Vitals::default() };
            let before = Vitals { tasks: 20.0, connections: Some(0.0), ..Vitals::default() };
            Report::of(Soaked { rested: before, settled: Ok(after), settled_for_s, ..soaked(0.0, 20.0) })
        };
        for seconds in [10, 200] {
            let told = leaked(seconds).violations;
            assert!(told[0].contains("644 open files") && told[1].contains("644 tasks"), "{told:?}");
        }
    }

    #[test]
    fn the_table_tells_every_figure() {
        let table = Report::of(soaked(2.0, 20.0)).table();
        assert!(table.contains("memory, MiB") && table.contains("2.00") && table.contains("threads"), "{table}");
    }
}
