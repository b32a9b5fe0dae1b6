//! The ways to end an actor or an engine on purpose, by the names that the chaos endpoint takes.

use crate::{
    chaos::faults::{MAX_FAULTS, WrongWish},
    gpu::frame::EngineChaos,
};
use rustix::process::Signal;
use std::{fmt, str::FromStr};

/// A way to end an actor or an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillWay {
    Kill,
    Panic,
    Error,
    Stop,
    Sigkill,
    Sigabrt,
    Sigstop,
    Exit,
    Garbage,
    HalfFrame,
    HangDecode,
    OutOfMemory,
}

pub(super) enum EngineOrder {
    Signal(Signal),
    Frame(EngineChaos),
}

impl KillWay {
    const ALL: [(&'static str, Self); 12] = [
        ("kill", Self::Kill),
        ("panic", Self::Panic),
        ("error", Self::Error),
        ("stop", Self::Stop),
        ("sigkill", Self::Sigkill),
        ("sigabrt", Self::Sigabrt),
        ("sigstop", Self::Sigstop),
        ("exit", Self::Exit),
        ("garbage", Self::Garbage),
        ("half-frame", Self::HalfFrame),
        ("hang-decode", Self::HangDecode),
        ("out-of-memory", Self::OutOfMemory),
    ];

    pub(super) fn on_engine(self) -> Option<EngineOrder> {
        Some(match self {
            Self::Sigkill => EngineOrder::Signal(Signal::KILL),
            Self::Sigabrt => EngineOrder::Signal(Signal::ABORT),
            Self::Sigstop => EngineOrder::Signal(Signal::STOP),
            Self::Exit => EngineOrder::Frame(EngineChaos::Exit),
            Self::Garbage => EngineOrder::Frame(EngineChaos::Garbage),
            Self::HalfFrame => EngineOrder::Frame(EngineChaos::HalfFrame),
            Self::HangDecode => EngineOrder::Frame(EngineChaos::HangDecode),
            Self::OutOfMemory => EngineOrder::Frame(EngineChaos::OutOfMemory),
            Self::Kill | Self::Panic | Self::Error | Self::Stop => return None,
        })
    }
}

impl FromStr for KillWay {
    type Err = ChaosError;

    fn from_str(text: &str) -> Result<Self, ChaosError> {
        let known = Self::ALL.iter().find(|(name, _)| *name == text);
        known.map(|(_, way)| *way).ok_or_else(|| ChaosError::UnknownWay(text.to_owned()))
    }
}

impl fmt::Display for KillWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, way)| way == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChaosError {
    #[error("no actor is called {0}; /admin/actors lists them")]
    UnknownActor(String),
    #[error(
        "{0} is no way to end an actor; known: kill, panic, error, stop, and for a GPU's engine sigkill, sigabrt, sigstop, exit, garbage, half-frame, hang-decode, out-of-memory"
    )]
    UnknownWay(String),
    #[error("{0} has no engine child: signals and frames go to gpu/<name>")]
    NoEngine(String),
    #[error(
        "{0} is served by a server that this gateway did not start: only its actor can be ended (kill, panic, error, stop)"
    )]
    ForeignEngine(String),
    #[error("no provider, cloud model or local server is called {0}")]
    UnknownTarget(String),
    #[error("{0} is no server but an engine of ours: /admin/chaos/kill ends it")]
    OwnEngine(String),
    #[error(transparent)]
    WrongFault(#[from] WrongWish),
    #[error("{MAX_FAULTS} faults are in force; DELETE /admin/chaos/faults ends them")]
    TooManyFaults,
    #[error("{0} is not alive right now")]
    NotAlive(String),
}
