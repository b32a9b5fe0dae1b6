//! What a soak came to, as JSON or as a table, and which rules it broke. Pure.

use super::{
    mix::Mixed,
    vitals::{Trend, Vitals},
};
use crate::{bench::stats::columns, chaos::report::Report as Kept};
use serde::Serialize;

/// A shorter time behind the warm-up says nothing of hours.
const JUDGED_FROM_S: f64 = 600.0;
/// Looks that a report holds.
const SHOWN: usize = 60;

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) mib_per_hour: f64,
    pub(super) left_over: f64,
}

/// Everything that a run has shown.
pub(super) struct Soaked {
    pub(super) kept: Kept,
    pub(super) mixed: Mixed,
    pub(super) looks: Vec<Vitals>,
    /// Before the load, and when everything had come to rest behind it.
    pub(super) rested: Vitals,
    pub(super) settled: Vitals,
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
    pub(super) settled: Vitals,
    /// Open files and tasks, without kept connections.
    pub(super) left_over: (f64, f64),
    pub(super) others: Mixed,
    pub(super) chaos: Kept,
    pub(super) violations: Vec<String>,
    /// Some of the looks, evenly.
    pub(super) looks: Vec<Vitals>,
}

impl Report {
    pub(super) fn of(soaked: Soaked) -> Self {
        let Soaked { kept, mixed, looks, rested, settled, warm_up_s, limits } = soaked;
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
            left_over: settled.left_since(&rested),
            rested,
            settled,
            violations: mixed.violations.clone(),
            others: mixed,
            chaos: kept,
            looks: looks.iter().step_by(every).copied().collect(),
        };
        report.judge(limits);
        report.ok = report.violations.is_empty() && report.others.more_violations == 0 && report.chaos.ok;
        report
    }

    fn judge(&mut self, limits: Limits) {
        let grown = self.resident_mib.per_hour;
        if self.watched_s >= JUDGED_FROM_S && grown > limits.mib_per_hour {
            self.violations.push(format!("memory grows by {grown:.2} MiB/h, {} are allowed", limits.mib_per_hour));
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
        let (before, after) = (&self.rested, &self.settled);
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
        format!(
            "{}\n\n{}\n\n{}\n\nwarm-up {:.0} s, watched for {:.0} s; rules broken by the soak itself: {}\n{}",
            self.chaos.table().trim_end(),
            columns(&others),
            columns(&rows),
            self.warm_up_s,
            self.watched_s,
            self.violations.len() + self.others.more_violations,
            self.violations.iter().map(|violation| format!("  {violation}\n")).collect::<String>()
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
            looks: (0..1000).step_by(10).map(look).collect(),
            rested: Vitals { tasks: 20.0, ..Vitals::default() },
            settled: Vitals { tasks: tasks_after, ..Vitals::default() },
            warm_up_s: 300.0,
            limits: Limits { mib_per_hour: 1.0, left_over: 4.0 },
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
        assert!(Report::of(brief).ok);
        let broken = Soaked { kept: Kept::default(), ..soaked(0.0, 20.0) };
        assert!(!Report::of(broken).ok);
    }

    #[test]
    fn the_table_tells_every_figure() {
        let table = Report::of(soaked(2.0, 20.0)).table();
        assert!(table.contains("memory, MiB") && table.contains("2.00") && table.contains("threads"), "{table}");
    }
}
