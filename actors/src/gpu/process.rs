//! Engine children as processes: one dedicated thread spawns them all, each is reaped by a waiting thread of its own.
//!
//! The kernel delivers PDEATHSIG when the *thread* that forked ends, so children are never spawned from a runtime
//! worker. The child's environment is built from an allow-list: no provider key can leak into it.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    ffi::OsString,
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{self, unix::pipe},
    sync::{oneshot, watch},
};

/// Orders waiting for the spawner thread; one per local target is plenty.
const ORDERS: usize = 64;

/// Environment variables an engine may see.
const ENV_ALLOWED: [&str; 9] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
];
/// Prefixes of further allowed variables.
const ENV_PREFIXES: [&str; 3] = ["GGML_", "OMP_", "NVIDIA_"];

/// How to start one engine.
#[derive(Debug, Clone)]
pub struct EngineCommand {
    pub program: PathBuf,
    /// Lets the engine obey chaos frames.
    pub chaos: bool,
    /// Without a model. Only with `chaos`.
    pub simulated: bool,
    /// Set in its environment, over what it would inherit: which GPUs it may see.
    pub environment: Vec<(&'static str, String)>,
}

/// A started engine: its process, the gateway's end of its socket, and its output pipes.
struct Spawned {
    child: EngineChild,
    socket: UnixStream,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// What a link reads.
pub type Source = Box<dyn AsyncRead + Send + Unpin>;

/// A started engine, its ends registered with the runtime.
pub struct Ends {
    pub(super) child: EngineChild,
    pub(super) frames: Source,
    pub(super) orders: Box<dyn AsyncWrite + Send + Unpin>,
    pub(super) stdout: Source,
    pub(super) stderr: Source,
}

impl Ends {
    fn of(spawned: Spawned) -> io::Result<Self> {
        let (frames, orders) = net::UnixStream::from_std(spawned.socket)?.into_split();
        Ok(Self {
            child: spawned.child,
            frames: Box::new(frames),
            orders: Box::new(orders),
            stdout: Box::new(pipe::Receiver::from_owned_fd(OwnedFd::from(spawned.stdout))?),
            stderr: Box::new(pipe::Receiver::from_owned_fd(OwnedFd::from(spawned.stderr))?),
        })
    }
}

type Signals = Box<dyn Fn(Signal) -> io::Result<()> + Send + Sync>;

/// A running (or ended) engine process. Dropping it kills the process; the reaper thread collects it.
pub struct EngineChild {
    pid: u32,
    signals: Signals,
    exit: watch::Receiver<Option<String>>,
}

impl EngineChild {
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to exactly this process, never to a later owner of its pid.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        (self.signals)(signal)
    }

    /// The exit status in words, once it is reaped.
    pub fn exit(&self) -> watch::Receiver<Option<String>> {
        self.exit.clone()
    }
}

#[cfg(test)]
impl Ends {
    /// Of an engine in this process, without output.
    pub(crate) fn simulated(
        pid: u32,
        exit: watch::Receiver<Option<String>>,
        signals: Signals,
        socket: tokio::io::DuplexStream,
    ) -> Self {
        let (frames, orders) = tokio::io::split(socket);
        let child = EngineChild { pid, signals, exit };
        let nothing = || Box::new(tokio::io::empty());
        Self { child, frames: Box::new(frames), orders: Box::new(orders), stdout: nothing(), stderr: nothing() }
    }
}

impl Drop for EngineChild {
    fn drop(&mut self) {
        if self.exit.borrow().is_none() {
            let _ = self.signal(Signal::KILL);
        }
    }
}

struct Order {
    command: EngineCommand,
    reply_to: oneshot::Sender<io::Result<Spawned>>,
}

/// Handle of the spawner thread, which lives as long as the last handle.
#[derive(Clone)]
pub struct Spawner {
    orders: SyncSender<Order>,
    /// Engines in this process instead.
    #[cfg(test)]
    simulated: Option<Simulate>,
}

/// Starts a simulated engine.
#[cfg(test)]
pub(crate) type Simulate = std::sync::Arc<dyn Fn(&EngineCommand) -> io::Result<Ends> + Send + Sync>;

impl Spawner {
    pub fn start() -> io::Result<Self> {
        let (orders, inbox) = sync_channel(ORDERS);
        thread::Builder::new().name("engine-spawner".to_owned()).spawn(move || serve(&inbox))?;
        Ok(Self {
            orders,
            #[cfg(test)]
            simulated: None,
        })
    }

    #[cfg(test)]
    pub(crate) fn simulated(simulate: Simulate) -> Self {
        Self { orders: sync_channel(1).0, simulated: Some(simulate) }
    }

    /// Starts an engine. If the caller goes away meanwhile, the child is killed again.
    pub async fn spawn(&self, command: EngineCommand) -> io::Result<Ends> {
        #[cfg(test)]
        if let Some(simulate) = &self.simulated {
            return simulate(&command);
        }
        let (reply_to, reply) = oneshot::channel();
        self.orders.try_send(Order { command, reply_to }).map_err(|_| io::Error::other("engine spawner is busy"))?;
        Ends::of(reply.await.map_err(|_| io::Error::other("engine spawner is gone"))??)
    }
}

fn serve(inbox: &Receiver<Order>) {
    while let Ok(order) = inbox.recv() {
        let _ = order.reply_to.send(spawn(&order.command));
    }
}

fn spawn(command: &EngineCommand) -> io::Result<Spawned> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut process = Command::new(&command.program);
    process
        .arg("--parent-pid")
        .arg(std::process::id().to_string())
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| is_allowed(name)))
        .env("GGML_NO_BACKTRACE", "1")
        .envs(command.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C in a terminal reaches the gateway only: it drains first and then stops the engine.
        .process_group(0);
    if command.chaos {
        process.arg("--chaos");
    }
    if command.simulated {
        process.arg("--simulated");
    }
    let mut child = process.spawn()?;
    let missing = || io::Error::other("engine has no output pipe");
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let child = supervise(child)?;
    ours.set_nonblocking(true)?;
    Ok(Spawned { child, socket: ours, stdout, stderr })
}

/// Opens the pidfd and starts the reaper.
fn supervise(mut child: Child) -> io::Result<EngineChild> {
    let pid = child.id();
    let pidfd = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("pid out of range"))
        .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
    let pidfd = match pidfd {
        Ok(pidfd) => pidfd,
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    };
    let (ended, exit) = watch::channel(None);
    thread::Builder::new().name(format!("reap-{pid}")).spawn(move || {
        let text = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        ended.send_replace(Some(text));
    })?;
    let signals = Box::new(move |signal| Ok(pidfd_send_signal(&pidfd, signal)?));
    Ok(EngineChild { pid, signals, exit })
}

fn is_allowed(name: &OsString) -> bool {
    name.to_str()
        .is_some_and(|name| ENV_ALLOWED.contains(&name) || ENV_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_reach_the_engine() {
        assert!(is_allowed(&"OMP_NUM_THREADS".into()));
        assert!(!is_allowed(&"HOLYSHEEP_API_KEY".into()));
        assert!(!is_allowed(&"SPILLWAY__CLOUD__0__API_KEY_FILE".into()));
    }

    #[tokio::test]
    async fn a_missing_binary_is_an_error_and_the_thread_goes_on() {
        let spawner = Spawner::start().unwrap();
        for _ in 0..2 {
            let command = EngineCommand {
                program: "/nonexistent/engine".into(),
                chaos: false,
                simulated: false,
                environment: Vec::new(),
            };
            assert_eq!(spawner.spawn(command).await.err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
        }
    }

    #[tokio::test]
    async fn a_dropped_child_is_killed_and_reaped() {
        let spawner = Spawner::start().unwrap();
        // `cat` ignores the extra arguments' meaning by failing on them; `sleep` would too. A shell script would need
        // a file: `yes` prints until its pipe is full and then blocks, whatever its arguments.
        let spawned = spawner
            .spawn(EngineCommand { program: "yes".into(), chaos: false, simulated: false, environment: Vec::new() })
            .await
            .unwrap();
        let mut exit = spawned.child.exit();
        drop(spawned.child);
        let status = tokio::time::timeout(std::time::Duration::from_secs(5), exit.wait_for(Option::is_some)).await;
        assert!(status.unwrap().unwrap().is_some());
    }
}
