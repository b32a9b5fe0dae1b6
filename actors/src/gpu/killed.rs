//! Whether the kernel ended a child for want of memory. On a processor that is how memory runs out: no call fails, and what
//! is left is a SIGKILL and a count that has risen.

use std::fs;

/// Processes that the kernel has ended so far for want of memory: those of this process's control group where it keeps such a
/// count, else of the whole machine. `None`: this kernel does not say. Reads of kernel files, which do not block.
pub(super) fn by_the_kernel() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok().and_then(|groups| events_file(&groups));
    let of_group = own.and_then(|path| fs::read_to_string(path).ok()).and_then(|events| count(&events));
    of_group.or_else(|| count(&fs::read_to_string("/proc/vmstat").ok()?))
}

/// Where a control group (version 2) keeps its count, from `/proc/self/cgroup`.
fn events_file(groups: &str) -> Option<String> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(format!("/sys/fs/cgroup{}/memory.events", path.trim_end_matches('/')))
}

fn count(lines: &str) -> Option<u64> {
    lines.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_either_file() {
        assert_eq!(count("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(count("pgfault 7\noom_kill 12\nnuma_hit 3\n"), Some(12));
        assert_eq!(count("oom_kill_disable 0\n"), None);
        assert_eq!(
            events_file("8:pids:/\n0::/user.slice/a\n").as_deref(),
            Some("/sys/fs/cgroup/user.slice/a/memory.events")
        );
        assert_eq!(events_file("0::/\n").as_deref(), Some("/sys/fs/cgroup/memory.events"));
        assert_eq!(events_file("8:pids:/\n"), None);
    }
}
