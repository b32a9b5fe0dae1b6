//! The report as text.

use crate::{Report, measure::Percentiles};
use std::fmt::Write;

pub fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string never fails.
    let _ = write(&mut out, report);
    out
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    let tally = &report.tally;
    let kills: usize = report.kills.values().sum();
    writeln!(out, "chaos report: {} s, seed {}, {} clients", report.seconds, report.seed, report.clients)?;
    writeln!(out, "\nkills: {kills}")?;
    for (kind, count) in &report.kills {
        writeln!(out, "  {kind:<28} {count}")?;
    }
    writeln!(out, "\nrequests: {} (admitted {}, ended {:?})", tally.requests, report.admitted, report.ended)?;
    writeln!(out, "  complete                     {}", tally.complete)?;
    writeln!(out, "  explicit errors              {}", tally.explicit_errors)?;
    writeln!(out, "  lost                         {}", tally.lost)?;
    writeln!(out, "  doubled or missing tokens    {}", tally.torn)?;
    writeln!(out, "  protocol broken, cut shown as complete among it: {}", tally.broken_protocol)?;
    let (uncommitted, percent) = (tally.uncommitted, report.uncommitted_success_percent);
    writeln!(out, "  nothing sent at a kill       {uncommitted}, of which {percent:.2} % succeeded")?;
    let (committed, resumed) = (tally.committed, tally.committed_complete);
    writeln!(out, "  streaming at a kill          {committed}, of which {resumed} went on to a whole answer")?;
    writeln!(out, "\nmilliseconds                            samples      p50      p95      p99      max")?;
    for (what, times) in [
        ("engine death → cloud attempt on the wire", &report.failover),
        ("hang → cloud attempt on the wire", &report.failover_hang),
        ("SIGSTOP, idle → declared dead", &report.detect_idle),
        ("SIGSTOP, decoding → declared dead", &report.detect_decoding),
        ("engine death → serves again", &report.back_in_service),
        ("engine death → first local token", &report.local_again),
        ("GPU actor death → engine adopted", &report.adopted),
        ("actor death → successor runs", &report.actor_restart),
        ("process start → /health 200", &report.start_to_health),
    ] {
        line(out, what, times)?;
    }
    writeln!(out, "by the way the engine died, to the cloud attempt on the wire:")?;
    for (way, times) in &report.failover_by_way {
        line(out, way, times)?;
    }
    let deaths: usize = report.engine_deaths.values().sum();
    writeln!(out, "\nengine deaths: {deaths}, of which {} were ordered", report.engine_deaths_ordered)?;
    for (cause, count) in &report.engine_deaths {
        writeln!(out, "  {count:>3} {cause}")?;
    }
    writeln!(out, "\nprocess start → local target serves: {:.0} ms", report.start_to_serving_ms)?;
    let (before, after) = (report.resident_mib_before, report.resident_mib_after);
    writeln!(out, "gateway memory: {before:.1} MiB before, {after:.1} MiB after")?;
    let (before, after) = (report.open_files_before, report.open_files_after);
    writeln!(out, "open files: {before} before, {after} after; zombies: {}", report.zombies)?;
    writeln!(out, "\nrules broken: {}", report.violations.len())?;
    for violation in &report.violations {
        writeln!(out, "  {violation}")?;
    }
    Ok(())
}

fn line(out: &mut String, what: &str, times: &Percentiles) -> std::fmt::Result {
    let Percentiles { samples, p50, p95, p99, max } = times;
    writeln!(out, "  {what:<42} {samples:>4} {p50:>8.1} {p95:>8.1} {p99:>8.1} {max:>8.1}")
}
