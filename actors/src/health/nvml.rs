//! NVML on a thread of its own: a driver call can block for as long as it likes without holding up an actor. Where there
//! is no driver the thread answers "no GPU" and looks again at every question. Between two questions the thread collects
//! the driver's events, never waiting inside the driver for one, so that a reading is never held up by them.

mod event;
mod look;

pub use event::{EventQueue, GpuEvent, GpuEventKind};

use look::Session;
use nvml_wrapper::{Nvml, error::NvmlError};
use serde::Serialize;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};
use tokio::sync::oneshot;

/// Events are collected this often.
const EVENTS_EVERY: Duration = Duration::from_millis(100);

/// Why the driver cannot say more of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuFault {
    /// It fell off the bus.
    Lost,
    ResetRequired,
}

/// Why a card runs below its clocks, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Slowdown {
    Thermal,
    /// Power brake, or a slowdown the hardware gives no reason for.
    Power,
}

/// One GPU as the driver describes it. What the driver does not tell is `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GpuReading {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    pub fault: Option<GpuFault>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    /// 0 to 1.
    pub utilization_ratio: Option<f64>,
    pub temperature_celsius: Option<u32>,
    /// Where the card itself begins to slow down.
    pub slowdown_celsius: Option<u32>,
    pub slowdown: Option<Slowdown>,
    pub power_watts: Option<f64>,
    /// Since the driver was loaded.
    pub energy_millijoules: Option<u64>,
    /// Uncorrected memory errors since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
}

impl GpuReading {
    /// A card of which nothing more is known.
    pub fn of(uuid: &str, index: u32) -> Self {
        Self {
            index,
            name: String::new(),
            uuid: uuid.to_owned(),
            fault: None,
            memory_used_bytes: None,
            memory_total_bytes: None,
            utilization_ratio: None,
            temperature_celsius: None,
            slowdown_celsius: None,
            slowdown: None,
            power_watts: None,
            energy_millijoules: None,
            ecc_uncorrected: None,
        }
    }
}

/// What one look at the driver gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// There is no driver on this host, or it lists no GPU.
    NoGpu(String),
    Gpus(Vec<GpuReading>),
    /// There is a driver and it fails.
    Error(String),
    /// The driver did not answer in time; the thread still waits for it.
    Stuck,
}

type Question = oneshot::Sender<Reading>;

/// Handle of the NVML thread; it lives outside HealthActor and survives it.
#[derive(Debug, Clone)]
pub struct NvmlProbe {
    questions: SyncSender<Question>,
    events: Arc<EventQueue>,
    /// No thread: a host without a driver.
    #[cfg(test)]
    absent: bool,
}

impl NvmlProbe {
    /// `library`: path of libnvidia-ml, `None` = the system's.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(library: Option<PathBuf>) -> io::Result<Self> {
        let (questions, inbox) = sync_channel(1);
        let events = Arc::new(EventQueue::default());
        let heard = Arc::clone(&events);
        thread::Builder::new().name("nvml".to_owned()).spawn(move || serve(&inbox, library.as_deref(), &heard))?;
        Ok(Self {
            questions,
            events,
            #[cfg(test)]
            absent: false,
        })
    }

    #[cfg(test)]
    pub(crate) fn absent() -> Self {
        Self { questions: sync_channel(1).0, events: Arc::default(), absent: true }
    }

    pub fn events(&self) -> &Arc<EventQueue> {
        &self.events
    }

    /// Asks the driver, at most for `timeout`.
    pub async fn read(&self, timeout: Duration) -> Reading {
        #[cfg(test)]
        if self.absent {
            return Reading::NoGpu("no driver in virtual time".to_owned());
        }
        let (reply_to, reply) = oneshot::channel();
        if self.questions.try_send(reply_to).is_err() {
            return Reading::Stuck;
        }
        match tokio::time::timeout(timeout, reply).await {
            Ok(Ok(reading)) => reading,
            Ok(Err(_)) => Reading::Error("the NVML thread has ended".to_owned()),
            Err(_) => Reading::Stuck,
        }
    }
}

/// Cards seen since the thread began, in the order of their indices: one that is no longer listed has fallen off the bus.
type Known = Vec<GpuReading>;

fn serve(inbox: &Receiver<Question>, library: Option<&Path>, heard: &EventQueue) {
    let mut known = Known::new();
    while let Ok(first) = inbox.recv() {
        match open(library) {
            Ok(nvml) => attend(&nvml, first, inbox, &mut known, heard),
            Err(error) => drop(first.send(refusal(&error, library.is_some()))),
        }
    }
}

/// Answers questions and collects events until the driver fails; then it is opened anew for the next question.
fn attend(nvml: &Nvml, first: Question, inbox: &Receiver<Question>, known: &mut Known, heard: &EventQueue) {
    let mut session = Session::new(nvml);
    let mut question = Some(first);
    loop {
        if let Some(reply_to) = question.take() {
            let reading = session.look(known, heard);
            let failed = matches!(reading, Reading::Error(_));
            let _ = reply_to.send(reading);
            if failed {
                return;
            }
        }
        match inbox.recv_timeout(EVENTS_EVERY) {
            Ok(next) => question = Some(next),
            Err(RecvTimeoutError::Timeout) => session.collect(heard),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn open(library: Option<&Path>) -> Result<Nvml, NvmlError> {
    match library {
        Some(path) => Nvml::builder().lib_path(path.as_os_str()).init(),
        None => Nvml::init(),
    }
}

/// What a driver that cannot be opened says. A library that was named must be there.
fn refusal(error: &NvmlError, named: bool) -> Reading {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound if named => {
            Reading::Error("[health] nvml_library cannot be loaded".to_owned())
        }
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded => {
            Reading::NoGpu("no NVIDIA driver on this host".to_owned())
        }
        error => Reading::Error(failure(error)),
    }
}

/// A driver's failure in words that say what to do.
fn failure(error: &NvmlError) -> String {
    match error {
        NvmlError::LibRmVersionMismatch => {
            "driver and NVML library are of different versions: reload the driver or reboot".to_owned()
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
