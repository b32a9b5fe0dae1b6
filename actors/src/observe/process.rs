//! What the kernel says of this process, under the names that Prometheus' own clients use. Written as text beside the
//! recorder's, because processor time is a counter with fractions, which the recorder has not. Linux only; elsewhere there
//! is nothing to tell.

use rustix::process::{Resource, getrlimit};
use std::{fmt::Write as _, fs};

/// One reading. `None`: the kernel does not tell.
#[derive(Debug, Default, Clone, Copy)]
struct Facts {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    threads: Option<f64>,
    start_seconds: Option<f64>,
    open_files: Option<f64>,
    most_files: Option<f64>,
}

/// In which the kernel counts processor time for others to read, a second; the same on every architecture Rust knows Linux on.
const TICKS: f64 = 100.0;

/// The lines of `/metrics` about this process.
pub fn exposition() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").ok();
    let facts = Facts {
        // The listing itself is one of them.
        open_files: open.map(|entries| entries.count().saturating_sub(1) as f64),
        most_files: getrlimit(Resource::Nofile).current.map(|most| most as f64),
        ..facts(&read("/proc/self/stat"), &read("/proc/self/status"), &read("/proc/stat"))
    };
    text(&facts)
}

/// What the process' `stat` and `status` hold, and when the system was booted.
fn facts(stat: &str, status: &str, system: &str) -> Facts {
    let kib = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let booted = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    // Fields are counted from 1, and from 3 on behind the name in parentheses, which may hold anything.
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Facts {
        cpu_seconds: field(14).zip(field(15)).map(|(user, kernel)| (user + kernel) / TICKS),
        start_seconds: field(22).zip(booted).map(|(after, booted)| booted + after / TICKS),
        resident_bytes: kib("VmRSS").map(|kib| kib * 1024.0),
        virtual_bytes: kib("VmSize").map(|kib| kib * 1024.0),
        threads: kib("Threads"),
        ..Facts::default()
    }
}

fn text(facts: &Facts) -> String {
    let families = [
        ("process_cpu_seconds_total", "counter", "Processor time of the gateway, in seconds", facts.cpu_seconds),
        ("process_resident_memory_bytes", "gauge", "Resident memory of the gateway", facts.resident_bytes),
        ("process_virtual_memory_bytes", "gauge", "Address space of the gateway", facts.virtual_bytes),
        ("process_threads", "gauge", "Threads of the gateway", facts.threads),
        ("process_start_time_seconds", "gauge", "When the gateway started, in Unix time", facts.start_seconds),
        ("process_open_fds", "gauge", "Open files of the gateway", facts.open_files),
        ("process_max_fds", "gauge", "Files that the gateway may have open", facts.most_files),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in families {
        if let Some(value) = value {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_counted_behind_a_name_that_may_hold_parentheses() {
        let stat = "42 (a) b (c)) S 1 1 1 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 7 0 600 1048576 300 0 0";
        let status = "Name:\ta) b (c\nVmSize:\t    1024 kB\nVmRSS:\t     512 kB\nThreads:\t7\n";
        let facts = facts(stat, status, "cpu 1 2 3\nbtime 1000\n");
        assert_eq!((facts.cpu_seconds, facts.threads, facts.start_seconds), (Some(3.0), Some(7.0), Some(1_006.0)));
        assert_eq!((facts.virtual_bytes, facts.resident_bytes), (Some(1_048_576.0), Some(524_288.0)));
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_not_written() {
        assert_eq!(text(&facts("", "", "")), "");
        let one = text(&Facts { threads: Some(3.0), ..Facts::default() });
        assert_eq!(
            one,
            "# HELP process_threads Threads of the gateway\n# TYPE process_threads gauge\nprocess_threads 3\n\n"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_threads_files_and_a_past() {
        let text = exposition();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6 && value("process_threads") >= 1.0);
        assert!(value("process_open_fds") >= 3.0 && value("process_start_time_seconds") > 1.7e9);
    }
}
