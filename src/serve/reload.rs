//! A new configuration while the gateway runs: read again on SIGHUP, on `POST /admin/reload` and when a file it was read
//! from has changed. A faulty one changes nothing. What became of it is logged, and kept for `/admin/status`.

use super::{
    load::{LoadError, Loaded, Loader},
    notify::Systemd,
};
use parking_lot::Mutex;
use serde::Serialize;
use spillway_actors::{config::Fault, observe, runtime::Runtime};
use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the clock of the polling is looked at when polling is off: it may be switched on by a reload.
const ASLEEP: Duration = Duration::from_secs(2);

/// Who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Sighup,
    FileChanged,
    Admin,
}

/// What became of one reading.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub ok: bool,
    pub cause: Cause,
    pub unix_ms: u64,
    /// Why it was not taken over: the last good configuration stays.
    pub faults: Vec<Fault>,
    /// The same, where no place can be told.
    pub error: Option<String>,
}

/// For `/admin/status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConfigStatus {
    /// The user's file; none: built-in defaults and environment.
    file: Option<PathBuf>,
    /// Taken over since the start.
    reloads: u64,
    /// The latest try.
    last: Option<Report>,
    /// What the file says and only a restart will change.
    needs_restart: Vec<String>,
}

/// A file's state, as far as it tells a change. `None`: it cannot be looked at.
type Stamp = Option<(SystemTime, u64, u64)>;

#[derive(Debug, Default)]
struct Watched {
    /// Files of the latest reading, as they were when it began.
    files: Vec<(PathBuf, Stamp)>,
    /// Stamps that differ from those, seen once: a file still being written differs again next time.
    changing: Option<Vec<Stamp>>,
}

pub struct Reloader {
    loader: Loader,
    runtime: Arc<Runtime>,
    systemd: Arc<Systemd>,
    status: Mutex<ConfigStatus>,
    watched: Mutex<Watched>,
    /// One at a time.
    turn: Mutex<()>,
}

impl Reloader {
    /// `files`: what the configuration of the start was read from.
    pub fn new(loader: Loader, files: Vec<PathBuf>, runtime: Arc<Runtime>, systemd: Arc<Systemd>) -> Self {
        let status = ConfigStatus { file: loader.file().map(PathBuf::from), ..ConfigStatus::default() };
        let watched = Watched { files: stamped(files), changing: None };
        Self {
            loader,
            runtime,
            systemd,
            status: Mutex::new(status),
            watched: Mutex::new(watched),
            turn: Mutex::new(()),
        }
    }

    pub fn status(&self) -> ConfigStatus {
        self.status.lock().clone()
    }

    /// Reads and takes over what is good. Reads files: not for a thread that serves.
    pub fn reload(&self, cause: Cause) -> Report {
        let _turn = self.turn.lock();
        self.systemd.reloading();
        let before = self.watched.lock().files.iter().map(|(path, _)| (path.clone(), stamp(path))).collect();
        let (files, loaded) = self.loader.load();
        self.note_files(files, before);
        let report = match loaded {
            Ok(loaded) => self.adopt(loaded, cause),
            Err(error) => refused(error, cause),
        };
        observe::config_reload(report.ok);
        self.systemd.reloaded(report.ok);
        self.status.lock().last = Some(report.clone());
        report
    }

    /// A file that was known is kept with its stamp of before the reading: a change during it is a change.
    fn note_files(&self, files: Vec<PathBuf>, before: Vec<(PathBuf, Stamp)>) {
        let known = |path: &PathBuf| before.iter().find(|(other, _)| other == path).map(|(_, stamp)| *stamp);
        let files = files.into_iter().map(|path| {
            let stamp = known(&path).unwrap_or_else(|| stamp(&path));
            (path, stamp)
        });
        *self.watched.lock() = Watched { files: files.collect(), changing: None };
    }

    fn adopt(&self, loaded: Loaded, cause: Cause) -> Report {
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let needs_restart = self.runtime.adopt(loaded.config);
        tracing::info!(?cause, needs_restart = needs_restart.join(", "), "configuration reloaded");
        let mut status = self.status.lock();
        status.reloads += 1;
        status.needs_restart = needs_restart;
        Report { ok: true, cause, unix_ms: unix_ms(), faults: Vec::new(), error: None }
    }

    /// Whether a file has changed, and has stopped changing.
    fn is_changed(&self) -> bool {
        let mut watched = self.watched.lock();
        let now: Vec<Stamp> = watched.files.iter().map(|(path, _)| stamp(path)).collect();
        if watched.files.iter().map(|(_, stamp)| stamp).eq(&now) {
            watched.changing = None;
            return false;
        }
        let is_settled = watched.changing.as_ref() == Some(&now);
        watched.changing = Some(now);
        is_settled
    }

    /// Reloads on every occasion, until dropped.
    pub async fn follow(self: Arc<Self>, mut hangups: Signal) {
        loop {
            let poll = self.runtime.live.load().server.reload_poll;
            let cause = tokio::select! {
                told = hangups.recv() => if told.is_some() { Some(Cause::Sighup) } else { return },
                () = tokio::time::sleep(poll.unwrap_or(ASLEEP)) => None,
            };
            let this = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                let changed = || poll.is_some() && this.is_changed();
                if let Some(cause) = cause.or_else(|| changed().then_some(Cause::FileChanged)) {
                    this.reload(cause);
                }
            });
            if looked.await.is_err() {
                tracing::error!("reloading the configuration panicked; the last good one stays");
            }
        }
    }
}

/// SIGHUP, caught from now on.
pub(super) fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

fn refused(error: LoadError, cause: Cause) -> Report {
    let (faults, error) = match error {
        LoadError::Faults(faults) => (faults.faults().to_vec(), None),
        LoadError::Unreadable(why) => (Vec::new(), Some(why)),
    };
    for fault in &faults {
        let (place, what) = (format!("{}:{}:{}", fault.file, fault.line, fault.column), &fault.message);
        tracing::error!(?cause, place, "configuration not reloaded, the last good one stays: {what}");
    }
    if let Some(why) = &error {
        tracing::error!(?cause, "configuration not reloaded, the last good one stays: {why}");
    }
    Report { ok: false, cause, unix_ms: unix_ms(), faults, error }
}

fn stamped(files: Vec<PathBuf>) -> Vec<(PathBuf, Stamp)> {
    files.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

fn stamp(path: &PathBuf) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
