//! The child's first acts: die with the parent, gain no privileges, leave no core file, spin only so long.
//!
//! No socket, no model. `PR_SET_PDEATHSIG` fires when the *thread* that forked this process ends; that thread's life is
//! the gateway's business.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    process::Command,
};

/// Exit codes of the engine, for the operator and the tests. 0 is an ordered end, 1 a failed load or chaos.
pub mod exit {
    pub const LOAD_FAILED: u8 = 1;
    /// Bad arguments, or the parent named in them is not ours.
    pub const WRONG_PARENT: u8 = 2;
    pub const WRONG_VERSION: u8 = 3;
    /// The peer does not speak frames, or not in the agreed order.
    pub const PROTOCOL: u8 = 4;
    /// In a decode, as against a failed load.
    pub const OUT_OF_MEMORY: u8 = 5;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arguments {
    pub parent_pid: i32,
    pub chaos: bool,
    /// No model, only its motions.
    pub simulated: bool,
}

/// Reads `--parent-pid PID [--chaos [--simulated]]`.
pub fn parse_arguments(arguments: impl IntoIterator<Item = OsString>) -> Option<Arguments> {
    let (mut parent_pid, mut chaos, mut simulated) = (None, false, false);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.to_str()? {
            "--parent-pid" => parent_pid = Some(arguments.next()?.to_str()?.parse().ok()?),
            "--chaos" => chaos = true,
            "--simulated" => simulated = true,
            _ => return None,
        }
    }
    // A simulation is for tests, and tests say so.
    (chaos || !simulated).then_some(Arguments { parent_pid: parent_pid?, chaos, simulated })
}

/// Confines this process. Fails when a limit cannot be set or the parent is not `parent_pid`: it may have died between
/// the fork and the moment the death signal was armed.
pub fn confine(parent_pid: i32) -> Result<(), String> {
    let text = |what: &str, error: rustix::io::Errno| format!("{what}: {error}");
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| text("parent death signal", error))?;
        rustix::thread::set_no_new_privs(true).map_err(|error| text("no new privileges", error))?;
    }
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none).map_err(|error| text("core limit", error))?;
    let parent = rustix::process::getppid().map_or(0, rustix::process::Pid::as_raw_pid);
    if parent == parent_pid { Ok(()) } else { Err(format!("parent is {parent}, not {parent_pid}")) }
}

/// Turns of the loop in which an idle OpenMP thread waits for work before it sleeps: some tens of microseconds.
///
/// llama.cpp has many barriers per token. OpenMP's default spins until the time slice ends, which is fastest on quiet
/// cores and ruinous on shared ones. Measured with a 135M model on two cores, tokens/s of one sequence and of eight,
/// beside no, one and two processes that never sleep (rounded; they scatter by a fifth):
///
/// | two threads, spinning | quiet | one | two |
/// |---|---|---|---|
/// | default | 142, 191 | 49, 24 | 8, 63 |
/// | 20000 turns | 120, 190 | 12, 30 | 60, 90 |
/// | 1000 turns | 130, 190 | 36, 82 | 55, 90 |
/// | none (`passive`) | 39, 140 | not measured | 31, 87 |
/// | one thread | 85, 105 | 85, 95 | 59, 73 |
const SPIN_TURNS: &str = "1000";

/// Starts this program once more, as the same process, with [`SPIN_TURNS`] in its environment: OpenMP reads it before
/// `main`. Does nothing when the environment already decides how to wait, so there is no third start.
pub fn bound_spinning(arguments: impl IntoIterator<Item = OsString>) {
    if ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    // Returns only on failure; then the engine is merely slower on busy cores.
    let error = Command::new(program).args(arguments).env("GOMP_SPINCOUNT", SPIN_TURNS).exec();
    say(&format!("OpenMP spins without bound: {error}"));
}

/// Ends this process whatever its threads are doing, without running anything at exit: C++ destructors beside a thread
/// that still computes are how a clean end becomes a crash.
pub fn kill_self() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// As [`kill_self`], but with an exit code, as a library that gives up by itself would leave one.
#[expect(unsafe_code, reason = "std's exit runs what C++ registered for it, beside threads that compute")]
pub fn leave(code: u8) -> ! {
    // SAFETY: it takes no pointer and returns to nobody.
    unsafe { libc::_exit(code.into()) }
}

/// Runs `work` with stderr closed to the world: llama.cpp prints the grammar it cannot parse, which is a client's data.
/// A line that another thread says meanwhile, which is microseconds, is lost.
pub fn hushed<T>(work: impl FnOnce() -> T) -> T {
    let stderr = io::stderr();
    let kept = stderr.as_fd().try_clone_to_owned();
    let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null");
    let (Ok(kept), Ok(nowhere)) = (kept, nowhere) else { return work() };
    let _ = rustix::stdio::dup2_stderr(&nowhere);
    let done = work();
    let _ = rustix::stdio::dup2_stderr(&kept);
    done
}

/// One line for the operator on stderr, which the gateway reads. Never prompt text.
pub fn say(message: &str) {
    let _ = writeln!(io::stderr(), "spillway-engine: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Option<Arguments> {
        parse_arguments(arguments.iter().map(OsString::from))
    }

    #[test]
    fn the_parent_must_be_named() {
        assert_eq!(parse(&["--parent-pid", "17"]), Some(Arguments { parent_pid: 17, chaos: false, simulated: false }));
        assert_eq!(
            parse(&["--chaos", "--parent-pid", "17"]),
            Some(Arguments { parent_pid: 17, chaos: true, simulated: false })
        );
        assert!(parse(&["--chaos", "--simulated", "--parent-pid", "17"]).unwrap().simulated);
        for bad in [
            &["--chaos"][..],
            &["--parent-pid", "1", "--simulated"],
            &["--parent-pid"],
            &["--parent-pid", "x"],
            &["--parent-pid", "1", "--verbose"],
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
