//! The link to what serves a slot. To an engine child: reads its frames into the slot, writes orders, watches its pulse. To
//! a server: its address, no more. It belongs to the slot, so an actor's death does not touch a running stream.

use super::{
    frame::{self, EngineChaos, FromEngine, LoadFailureKind, LoadSpec, PROTOCOL_VERSION, ToEngine},
    killed,
    life::Cause,
    memory::tells_of_no_memory,
    process::{Ends, EngineChild, Source},
    server::Server,
    slot::EngineSlot,
    watchdog::{Pace, Pulse},
};
use crate::task;
use parking_lot::Mutex;
use rustix::process::Signal;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
    time::Instant,
};

/// Orders waiting to be written. At most `parallel` submits and cancels are ever under way.
const ORDERS: usize = 2048;
/// How often the pulse is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Read buffer of the socket and the pipes, in bytes.
const READ_BYTES: usize = 16 << 10;
/// Longest piece of an engine's log line that is passed on, in bytes.
const LOG_LINE_BYTES: usize = 400;

/// What a child said within this time of its end, it died of.
const LAST_WORDS: Duration = Duration::from_secs(3);

pub struct Link {
    epoch: u64,
    far: Far,
    pulse: Arc<Mutex<Pulse>>,
    /// Chaos has ended it, or is about to.
    told_to_die: AtomicBool,
}

/// What is at the other end.
enum Far {
    Child {
        child: EngineChild,
        orders: mpsc::Sender<Vec<u8>>,
        last_words: watch::Receiver<LastWords>,
        /// Of the kernel, when it began.
        kills_before: Option<u64>,
    },
    Server(Arc<Server>),
}

/// What the child's stderr has told, as far as it matters after its death.
#[derive(Debug, Clone, Default)]
struct LastWords {
    /// The line that told of memory running out, and when.
    no_memory: Option<(String, Instant)>,
    ended: Option<Instant>,
}

impl Link {
    /// Starts the tasks of a link and orders the load. They end with the socket, the child, or the epoch.
    pub fn start(slot: &Arc<EngineSlot>, epoch: u64, ends: Ends, load: LoadSpec) -> Arc<Self> {
        let (orders, queue) = mpsc::channel(ORDERS);
        let pulse = Arc::new(Mutex::new(Pulse::new(Instant::now(), slot.view().stats.pace)));
        let exit = ends.child.exit();
        let (tell, last_words) = watch::channel(LastWords::default());
        let pid = ends.child.pid();
        let far = Far::Child { child: ends.child, orders, last_words, kills_before: killed::by_the_kernel() };
        let told_to_die = AtomicBool::new(false);
        let link = Arc::new(Self { epoch, far, pulse: Arc::clone(&pulse), told_to_die });
        link.send(&ToEngine::Hello { version: PROTOCOL_VERSION, epoch });
        link.send(&ToEngine::Load(load));
        task::detached(write_orders(ends.orders, queue));
        task::detached(read_frames(Arc::clone(slot), epoch, ends.frames, Arc::clone(&pulse)));
        task::detached(watch_pulse(Arc::clone(slot), epoch, pulse, pid));
        task::detached(watch_exit(Arc::clone(slot), epoch, exit));
        let name = slot.name().to_owned();
        task::detached(pass_log(name.clone(), ends.stdout, None));
        task::detached(pass_log(name, ends.stderr, Some(tell)));
        link
    }

    /// A link to a server that is there already, or is said to be.
    pub fn to_server(epoch: u64, server: Arc<Server>) -> Arc<Self> {
        let pulse = Arc::new(Mutex::new(Pulse::new(Instant::now(), Pace::default())));
        Arc::new(Self { epoch, far: Far::Server(server), pulse, told_to_die: AtomicBool::new(false) })
    }

    /// `None` for a server: its processes are its own business.
    pub const fn pid(&self) -> Option<u32> {
        match &self.far {
            Far::Child { child, .. } => Some(child.pid()),
            Far::Server(_) => None,
        }
    }

    pub const fn server(&self) -> Option<&Arc<Server>> {
        match &self.far {
            Far::Child { .. } => None,
            Far::Server(server) => Some(server),
        }
    }

    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn pulse(&self) -> &Mutex<Pulse> {
        &self.pulse
    }

    /// Queues an order. `false`: the queue is full or the writer is gone, and the watchdog or the reader tells why; or a
    /// server is there, which takes none.
    pub fn send(&self, order: &ToEngine) -> bool {
        let Far::Child { orders, .. } = &self.far else { return false };
        let mut bytes = Vec::new();
        frame::encode(order, &mut bytes).is_ok() && orders.try_send(bytes).is_ok()
    }

    pub fn kill(&self) {
        if let Far::Child { child, .. } = &self.far {
            let _ = child.signal(Signal::KILL);
        }
    }

    /// For chaos: what the child dies of from now on is nobody's fault.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let Far::Child { child, .. } = &self.far else { return Err(io::ErrorKind::Unsupported.into()) };
        self.told_to_die.store(true, Ordering::Release);
        child.signal(signal)
    }

    /// As [`signal`](Self::signal).
    pub fn chaos(&self, chaos: EngineChaos) {
        self.told_to_die.store(true, Ordering::Release);
        self.send(&ToEngine::Chaos(chaos));
    }

    pub fn was_told_to_die(&self) -> bool {
        self.told_to_die.load(Ordering::Acquire)
    }

    /// Why a dead child is known to have died for want of memory, if it is: by the line with which it told so (llama.cpp ends
    /// the process where it could have said it), or because the kernel ended it. Waits for the end of its output, at most
    /// `bound`.
    pub async fn ran_out_of_memory(&self, bound: Duration) -> Option<String> {
        let Far::Child { last_words, .. } = &self.far else { return None };
        let mut words = last_words.clone();
        let _ = tokio::time::timeout(bound, words.wait_for(|words| words.ended.is_some())).await;
        let words = words.borrow().clone();
        // Some failed allocations are lived with: only one that it died of is among its last words.
        let end = words.ended.unwrap_or_else(Instant::now);
        let last = words.no_memory.filter(|(_, at)| end.saturating_duration_since(*at) < LAST_WORDS);
        last.map(|(line, _)| line).or_else(|| self.ended_by_the_kernel())
    }

    fn ended_by_the_kernel(&self) -> Option<String> {
        let Far::Child { child, kills_before: Some(before), .. } = &self.far else { return None };
        let was_killed = child.exit().borrow().as_ref().is_some_and(|status| status.starts_with("signal: 9"));
        let has_risen = killed::by_the_kernel().is_some_and(|now| now > *before);
        (was_killed && has_risen && !self.was_told_to_die())
            .then(|| "the kernel ended the engine, because this machine or its control group had none left".to_owned())
    }

    /// Waits until the child is reaped, at most `bound`. Of a server there is nothing to reap.
    pub async fn reaped(&self, bound: Duration) -> bool {
        let Far::Child { child, .. } = &self.far else { return true };
        let mut exit = child.exit();
        matches!(tokio::time::timeout(bound, exit.wait_for(Option::is_some)).await, Ok(Ok(_)))
    }
}

async fn write_orders(mut socket: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = queue.recv().await {
        if socket.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn read_frames(slot: Arc<EngineSlot>, epoch: u64, mut socket: Source, pulse: Arc<Mutex<Pulse>>) {
    let cause = read_until_end(&slot, epoch, &mut socket, &pulse).await;
    slot.declare_death(epoch, cause, Instant::now());
}

/// Reads frames until the link is of no more use; the answer says why.
async fn read_until_end(slot: &Arc<EngineSlot>, epoch: u64, socket: &mut Source, pulse: &Mutex<Pulse>) -> Cause {
    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES);
    loop {
        buffer.reserve(READ_BYTES);
        match socket.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return Cause::LinkClosed,
            Ok(_) => {}
        }
        let mut used = 0;
        loop {
            match frame::take::<FromEngine>(buffer.get(used..).unwrap_or_default()) {
                Ok(Some((frame, len))) => {
                    used += len;
                    if let Err(cause) = on_frame(slot, epoch, frame, pulse) {
                        return cause;
                    }
                }
                Ok(None) => break,
                Err(error) => return Cause::Garbage(error.to_string()),
            }
        }
        buffer.drain(..used);
    }
}

fn on_frame(slot: &EngineSlot, epoch: u64, frame: FromEngine, pulse: &Mutex<Pulse>) -> Result<(), Cause> {
    let now = Instant::now();
    {
        let mut pulse = pulse.lock();
        pulse.heard(now);
        match &frame {
            FromEngine::Hello { .. } => pulse.hello(now),
            FromEngine::LoadProgress { .. } => pulse.load_progress(now),
            FromEngine::Loaded(_) => pulse.loaded(),
            FromEngine::StepBegin { tokens, .. } => pulse.step_began(*tokens, now),
            FromEngine::Step { .. } => pulse.step_ended(now),
            FromEngine::LoadFailed(_)
            | FromEngine::OutOfMemory { .. }
            | FromEngine::Heartbeat(_)
            | FromEngine::Left(_) => {}
        }
    }
    match frame {
        FromEngine::Hello { version, .. } if version != PROTOCOL_VERSION => Err(Cause::NotLoadable(format!(
            "engine speaks protocol {version}, this gateway {PROTOCOL_VERSION}: install both from one build"
        ))),
        FromEngine::LoadFailed(failure) => {
            slot.load_failed(epoch, &failure);
            Err(match failure.kind {
                LoadFailureKind::Missing | LoadFailureKind::Corrupt => Cause::NotLoadable(failure.message),
                LoadFailureKind::OutOfMemory => Cause::OutOfMemory(failure.message),
                LoadFailureKind::Other => Cause::LoadFailed(failure.message),
            })
        }
        FromEngine::OutOfMemory { message, embeddings } => {
            slot.told_of_no_memory(epoch, embeddings);
            Err(Cause::OutOfMemory(message))
        }
        frame => slot.on_frame(epoch, frame, now),
    }
}

async fn watch_pulse(slot: Arc<EngineSlot>, epoch: u64, pulse: Arc<Mutex<Pulse>>, pid: u32) {
    let mut processor = ProcessorTime { pid, ticks: 0, at: Instant::now() };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if slot.view().epoch != epoch {
            return;
        }
        let now = Instant::now();
        let busy = slot.has_jobs();
        let hang = pulse.lock().hang(now, busy);
        if let Some(what) = hang {
            // On a processor a slow step looks like a stuck one, but for the time it uses. A GPU's wait spins: no excuse.
            let slow = slot.is_on_cpu() && pulse.lock().is_computing(now) && processor.is_used(now);
            if !slow {
                slot.declare_death(epoch, Cause::Hang(what), now);
                return;
            }
        }
    }
}

/// Processor time of a child, as the kernel counts it.
struct ProcessorTime {
    pid: u32,
    ticks: u64,
    at: Instant,
}

/// A look at the processor time proves something only over this span; a tick is 10 ms.
const LOOK: Duration = Duration::from_millis(500);
/// Ticks within [`LOOK`] that are work and not a heartbeat.
const WORK_TICKS: u64 = 3;

impl ProcessorTime {
    /// Whether the child has worked since the last look, or the last look is too fresh to tell.
    fn is_used(&mut self, now: Instant) -> bool {
        if now.duration_since(self.at) < LOOK {
            return true;
        }
        let ticks = processor_ticks(self.pid).unwrap_or(0);
        // A look long ago says nothing about now: begin anew.
        let stale = now.duration_since(self.at) > LOOK * 2;
        let worked = ticks >= self.ticks + WORK_TICKS;
        (self.ticks, self.at) = (ticks, now);
        stale || worked
    }
}

/// User and system time of a process in clock ticks. A read of procfs does not block.
fn processor_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

async fn watch_exit(slot: Arc<EngineSlot>, epoch: u64, mut exit: tokio::sync::watch::Receiver<Option<String>>) {
    let status = match exit.wait_for(Option::is_some).await {
        Ok(status) => status.clone().unwrap_or_default(),
        Err(_) => "reaper thread gone".to_owned(),
    };
    if !slot.declare_death(epoch, Cause::Exited(status.clone()), Instant::now()) {
        slot.refine_cause(epoch, &status);
    }
}

/// Reads a child's output for ever, so that it never blocks on a full pipe; passes lines on at debug level, and tells
/// what matters after a death.
async fn pass_log(gpu: String, mut pipe: Source, tell: Option<watch::Sender<LastWords>>) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(read) = pipe.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        let text = String::from_utf8_lossy(buffer.get(..read).unwrap_or_default());
        let line = |line: &str| line.get(..line.floor_char_boundary(LOG_LINE_BYTES)).unwrap_or_default().to_owned();
        if let (Some(tell), Some(told)) = (&tell, text.lines().find(|line| tells_of_no_memory(line))) {
            tell.send_modify(|words| words.no_memory = Some((line(told), Instant::now())));
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            for text in text.lines() {
                tracing::debug!(gpu, "{}", line(text));
            }
        }
    }
    if let Some(tell) = tell {
        tell.send_modify(|words| words.ended = Some(Instant::now()));
    }
}
