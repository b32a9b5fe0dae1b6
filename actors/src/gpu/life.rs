//! The life of one local target as a state machine: pure, every transition in one function, illegal ones refused.

use super::watchdog::Hang;
use std::fmt;
use tokio::time::Instant;

/// Why an engine died or cannot run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The child ended: exit status as the kernel tells it.
    Exited(String),
    /// The socket ended before the child did.
    LinkClosed,
    /// Bytes that are no frame, or a frame out of order.
    Garbage(String),
    /// Silent or stuck for longer than allowed.
    Hang(Hang),
    CanaryFailed(String),
    LoadFailed(String),
    /// Memory ran out, at the load or in a decode.
    OutOfMemory(String),
    /// Ended on purpose, to be loaded again with more than it had to make do with.
    TakenBack,
    /// The model file or the engine binary is missing or unusable: a restart alone mends nothing.
    NotLoadable(String),
    /// A server that somebody else runs is not there.
    Unreachable(String),
    /// SIGKILL was sent and the child is still there.
    Unreapable,
    /// The driver reported an error that a fresh engine cures.
    Xid(u64),
    /// The card itself is bad: a fresh engine on it would only fail again, or worse, answer wrongly.
    BadGpu(String),
    /// It serves, but is better left alone while others can.
    Strained(Strain),
    /// Asked for.
    Shutdown,
}

impl Cause {
    /// Every label of what an engine dies of.
    pub const LABELS: [&'static str; 13] = [
        "exited",
        "link_closed",
        "garbage",
        "hang",
        "canary_failed",
        "load_failed",
        "out_of_memory",
        "not_loadable",
        "unreachable",
        "unreapable",
        "xid",
        "bad_gpu",
        "shutdown",
    ];

    /// The bounded metric label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::LinkClosed => "link_closed",
            Self::Garbage(_) => "garbage",
            Self::Hang(_) => "hang",
            Self::CanaryFailed(_) => "canary_failed",
            Self::LoadFailed(_) => "load_failed",
            Self::OutOfMemory(_) => "out_of_memory",
            Self::TakenBack => "taken_back",
            Self::NotLoadable(_) => "not_loadable",
            Self::Unreachable(_) => "unreachable",
            Self::Unreapable => "unreapable",
            Self::Xid(_) => "xid",
            Self::BadGpu(_) => "bad_gpu",
            Self::Strained(strain) => strain.kind.label(),
            Self::Shutdown => "shutdown",
        }
    }
}

/// Whose doing an engine's death was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guilt {
    /// It crashed or got stuck by itself: what it worked on may be why.
    Inside,
    /// A signal, the hardware, the driver, or us.
    Outside,
    /// The exit status will tell.
    Unknown,
}

/// Signals that a process raises against itself.
const CRASHES: [i32; 6] = [4, 5, 6, 7, 8, 11];

impl Cause {
    pub fn guilt(&self) -> Guilt {
        match self {
            Self::LinkClosed => Guilt::Unknown,
            Self::Garbage(_) | Self::Hang(Hang::Stuck(_)) => Guilt::Inside,
            Self::Exited(status) if is_crash(status) => Guilt::Inside,
            _ => Guilt::Outside,
        }
    }
}

/// Whether a process ended by its own fault, by the status as [`std::process::ExitStatus`] writes it.
fn is_crash(status: &str) -> bool {
    let number = |text: &str| text.split_whitespace().next().and_then(|number| number.parse::<i32>().ok());
    if let Some(signal) = status.strip_prefix("signal: ").and_then(number) {
        return CRASHES.contains(&signal);
    }
    status.strip_prefix("exit status: ").and_then(number).is_some_and(|code| code != 0)
}

/// What strains a GPU that still serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StrainKind {
    Heat,
    Memory,
    /// The hardware slows its clocks for another reason than heat.
    Slow,
    /// The driver does not answer, or answers with errors: the card's state is unknown.
    Nvml,
}

impl StrainKind {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Heat => "heat",
            Self::Memory => "memory",
            Self::Slow => "slow",
            Self::Nvml => "nvml",
        }
    }
}

/// Why a target is degraded; the detail is for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strain {
    pub kind: StrainKind,
    pub detail: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "engine ended: {status}"),
            Self::LinkClosed => f.write_str("engine closed its socket"),
            Self::Garbage(what) => write!(f, "engine sent garbage: {what}"),
            Self::Hang(what) => write!(f, "engine hangs: {what}"),
            Self::CanaryFailed(what) => write!(f, "canary decode failed: {what}"),
            Self::LoadFailed(what) | Self::NotLoadable(what) => write!(f, "model did not load: {what}"),
            Self::Unreachable(what) => f.write_str(what),
            Self::OutOfMemory(what) => write!(f, "out of memory: {what}"),
            Self::TakenBack => f.write_str("loaded again with less given up"),
            Self::Unreapable => f.write_str("engine does not die after SIGKILL"),
            Self::Xid(xid) => write!(f, "the driver reported Xid {xid}"),
            Self::BadGpu(what) => write!(f, "bad GPU: {what}"),
            Self::Strained(strain) => write!(f, "{}: {}", strain.kind.label(), strain.detail),
            Self::Shutdown => f.write_str("shut down"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuState {
    Cold,
    /// A child exists; its model is being loaded or its first canary is out.
    Loading,
    Warm,
    Draining,
    Degraded(Cause),
    /// No child. With `look_at`: looked at again then; without: its supervisor decides next.
    Down {
        cause: Cause,
        look_at: Option<Instant>,
    },
    Backoff {
        cause: Cause,
        until: Instant,
    },
    Quarantined {
        cause: Cause,
        until: Instant,
    },
}

/// What can happen to a local target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuInput {
    ChildSpawned,
    CanaryPassed,
    Died(Cause),
    RetryAt(Instant),
    QuarantineUntil(Instant),
    LookAt(Instant),
    Drain,
    Strained(Strain),
    Relieved,
    Stopped,
}

impl GpuState {
    /// The next state, or `None` if the input makes no sense in this one.
    pub fn next(&self, input: GpuInput) -> Option<Self> {
        Some(match (self, input) {
            (
                Self::Cold | Self::Backoff { .. } | Self::Quarantined { .. } | Self::Down { look_at: Some(_), .. },
                GpuInput::ChildSpawned,
            ) => Self::Loading,
            (Self::Loading | Self::Warm, GpuInput::CanaryPassed) => Self::Warm,
            // A strained engine decodes all the same: a canary is no reason to trust it again.
            (Self::Degraded(cause), GpuInput::CanaryPassed) => Self::Degraded(cause.clone()),
            (Self::Warm | Self::Degraded(_), GpuInput::Strained(strain)) => Self::Degraded(Cause::Strained(strain)),
            (Self::Degraded(_), GpuInput::Relieved) => Self::Warm,
            // A start can fail before there is a child, hence from the waiting states too.
            (_, GpuInput::Died(cause)) => Self::Down { cause, look_at: None },
            (Self::Down { cause, .. }, GpuInput::RetryAt(until)) => Self::Backoff { cause: cause.clone(), until },
            (Self::Down { cause, .. }, GpuInput::QuarantineUntil(until)) => {
                Self::Quarantined { cause: cause.clone(), until }
            }
            (Self::Down { cause, .. }, GpuInput::LookAt(at)) => Self::Down { cause: cause.clone(), look_at: Some(at) },
            (Self::Warm | Self::Degraded(_) | Self::Loading, GpuInput::Drain) => Self::Draining,
            (_, GpuInput::Stopped) => Self::Cold,
            _ => return None,
        })
    }

    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Loading => "loading",
            Self::Warm => "warm",
            Self::Draining => "draining",
            Self::Degraded(_) => "degraded",
            Self::Down { .. } => "down",
            Self::Backoff { .. } => "backoff",
            Self::Quarantined { .. } => "quarantined",
        }
    }

    pub const fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Degraded(cause)
            | Self::Down { cause, .. }
            | Self::Backoff { cause, .. }
            | Self::Quarantined { cause, .. } => Some(cause),
            _ => None,
        }
    }

    /// Whether requests may be answered here.
    pub const fn serves(&self) -> bool {
        matches!(self, Self::Warm | Self::Degraded(_))
    }

    /// When this state ends by itself, if it does.
    pub const fn wakes_at(&self) -> Option<Instant> {
        match self {
            Self::Backoff { until, .. } | Self::Quarantined { until, .. } => Some(*until),
            Self::Down { look_at, .. } => *look_at,
            _ => None,
        }
    }

    /// Whether waiting for this target is hopeful: it serves, loads or comes back after a short backoff.
    pub const fn comes_back_soon(&self) -> bool {
        !matches!(self, Self::Quarantined { .. } | Self::Draining | Self::Down { look_at: Some(_), .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn walk(inputs: Vec<GpuInput>) -> Vec<&'static str> {
        let mut state = GpuState::Cold;
        let mut names = vec![state.name()];
        for input in inputs {
            state = state.next(input).unwrap();
            names.push(state.name());
        }
        names
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_with_a_crash_and_a_quarantine() {
        let later = Instant::now() + Duration::from_secs(1);
        let died = || GpuInput::Died(Cause::LinkClosed);
        assert_eq!(
            walk(vec![
                GpuInput::ChildSpawned,
                GpuInput::CanaryPassed,
                died(),
                GpuInput::RetryAt(later),
                GpuInput::ChildSpawned,
                died(),
                GpuInput::QuarantineUntil(later),
                GpuInput::ChildSpawned,
                GpuInput::CanaryPassed,
                GpuInput::Drain,
                GpuInput::Stopped,
            ]),
            [
                "cold",
                "loading",
                "warm",
                "down",
                "backoff",
                "loading",
                "down",
                "quarantined",
                "loading",
                "warm",
                "draining",
                "cold"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_target_is_never_declared_warm_and_never_spawned_without_a_verdict() {
        let down = GpuState::Down { cause: Cause::LinkClosed, look_at: None };
        assert_eq!(down.next(GpuInput::CanaryPassed), None);
        assert_eq!(down.next(GpuInput::ChildSpawned), None);
        assert_eq!(GpuState::Warm.next(GpuInput::ChildSpawned), None, "a second owner of the card");
    }

    #[tokio::test(start_paused = true)]
    async fn a_strained_target_serves_and_becomes_warm_only_when_it_is_relieved() {
        let strain = Strain { kind: StrainKind::Heat, detail: "90 °C".into() };
        let degraded = GpuState::Warm.next(GpuInput::Strained(strain.clone())).unwrap();
        assert!(degraded.serves());
        assert_eq!(degraded.cause().unwrap().to_string(), "heat: 90 °C");
        assert_eq!(degraded.next(GpuInput::CanaryPassed).unwrap(), degraded, "a canary does not cool it");
        assert_eq!(degraded.next(GpuInput::Relieved), Some(GpuState::Warm));
        assert_eq!(GpuState::Loading.next(GpuInput::Strained(strain)), None, "first it must serve");
    }

    #[test]
    fn a_crash_is_the_engines_own_doing_and_a_kill_is_not() {
        use std::os::unix::process::ExitStatusExt;
        let guilt = |raw: i32| Cause::Exited(std::process::ExitStatus::from_raw(raw).to_string()).guilt();
        for crash in [6, 11, 7, 8, 4, 6 | 0x80, 101 << 8, 1 << 8] {
            assert_eq!(guilt(crash), Guilt::Inside, "{crash}");
        }
        for outside in [9, 15, 0] {
            assert_eq!(guilt(outside), Guilt::Outside, "{outside}");
        }
        assert_eq!(Cause::LinkClosed.guilt(), Guilt::Unknown);
        assert_eq!(Cause::Hang(Hang::Silent("stopped".into())).guilt(), Guilt::Outside);
        assert_eq!(Cause::Xid(13).guilt(), Guilt::Outside);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_target_that_drains() {
        let draining = GpuState::Warm.next(GpuInput::Drain).unwrap();
        assert!(!draining.serves() && !draining.comes_back_soon());
    }
}
