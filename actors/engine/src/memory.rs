//! Whether memory ran out, as far as llama.cpp says: its calls only fail, and the reason stands in its log. Keeps no line.

use spillway_actors::gpu::memory::tells_of_no_memory;
use std::{
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

static RAN_OUT: AtomicBool = AtomicBool::new(false);

/// Whether a line of the log has told of it since the last call.
pub fn ran_out() -> bool {
    RAN_OUT.swap(false, Ordering::AcqRel)
}

/// Stderr, read on the way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watched;

impl Write for Watched {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if tells_of_no_memory(&String::from_utf8_lossy(line)) {
            RAN_OUT.store(true, Ordering::Release);
        }
        io::stderr().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Bytes that may still be taken: of the machine, and of the group that this process is confined to, if it says so.
pub fn available() -> Option<u64> {
    let free = kib_line(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // Version 2 of control groups, then version 1; without a limit the first holds no number, the second a huge one.
    let group = [
        ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"],
        ["/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"],
    ];
    let left = group.iter().find_map(|[limit, used]| Some(number(limit)?.saturating_sub(number(used)?)));
    Some(left.map_or(free, |left| left.min(free)))
}

/// The value of a line of `/proc/meminfo`, in bytes.
pub fn kib_line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       16000 kB\nMemAvailable:   9000 kB\nHugePages_Total: 3\n";
        assert_eq!(kib_line(text, "MemAvailable:"), Some(9000 * 1024));
        assert_eq!((kib_line(text, "Cached:"), kib_line(text, "HugePages_Total:")), (None, None));
    }

    #[test]
    fn a_failed_allocation_is_noticed_once() {
        let say = |line: &str| Watched.write_all(line.as_bytes()).unwrap();
        say("llama_context: CPU output buffer size = 0.21 MiB\n");
        assert!(!ran_out());
        say(
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9 MiB on device 0: cudaMalloc failed: out of memory\n",
        );
        assert!(ran_out() && !ran_out());
    }
}
