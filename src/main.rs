//! The `spillway` command.

use std::process::ExitCode;

/// A request is some hundred small allocations, made by one worker and freed by another: mimalloc takes half the time of
/// glibc's for those (`docs/benchmarks.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    spillway::cli::run()
}
