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

#[cfg(test)]
mod tests {
    use super::*;

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
