//! Frames over the socket on fd 0, and the two threads that never touch the model: one reads, one beats.
//!
//! The reader turns frames into [`Command`]s on a bounded channel. It is also who notices that the gateway has gone: it
//! asks the engine to end, and ends the process itself when the engine does not answer in time. Chaos that must work
//! while the engine computes is done here too.

use crate::process::{exit, kill_self, leave};
use spillway_actors::gpu::frame::{
    self, Batch, CHAOS_POISON, EmbedSpec, EngineChaos, FrameError, FromEngine, HEARTBEAT_MS, Heartbeat, JobId, JobSpec,
    LoadSpec, PREFIX_BYTES, Prompt, ToEngine,
};
use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::SyncSender,
    },
    time::Duration,
};

/// Commands that may wait for the engine thread: two per job of the largest model, and some control.
pub const COMMAND_BOUND: usize = 1024;

/// How long the engine thread may take to end after the gateway has gone.
const GRACE: Duration = Duration::from_secs(2);

/// What the engine thread is told.
#[derive(Debug)]
pub enum Command {
    Load(LoadSpec),
    Submit(Box<JobSpec>),
    SubmitAll(Box<Batch>),
    Embed(Box<EmbedSpec>),
    Count(JobId, Box<Prompt>),
    Cancel {
        job: JobId,
        left_ns: u64,
    },
    CancelAll {
        group: u64,
        left_ns: u64,
    },
    /// Chaos: block for ever.
    Hang,
    /// Chaos: find no memory in the next decode.
    OutOfMemory,
    /// [`Shared::closing`] is set; sent only to wake a thread that waits.
    Close,
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer has closed its end, perhaps inside a frame.
    #[error("the socket has ended")]
    End,
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads one payload, whole.
pub fn read_payload(reader: &mut impl Read) -> Result<Vec<u8>, ReadError> {
    let mut prefix = [0; PREFIX_BYTES];
    reader.read_exact(&mut prefix).map_err(|_| ReadError::End)?;
    let mut payload = vec![0; frame::payload_len(prefix)?];
    reader.read_exact(&mut payload).map_err(|_| ReadError::End)?;
    Ok(payload)
}

/// Version and epoch of a `Hello`, read so that a peer of another version is still understood as one: the version is the
/// first field whatever follows it. `None` for anything that is no `Hello`.
pub fn read_hello(payload: &[u8]) -> Option<(u32, u64)> {
    // postcard: the variant's index, then the fields.
    let ((0, version), _) = postcard::take_from_bytes::<(u32, u32)>(payload).ok()? else { return None };
    match frame::decode(payload) {
        Ok(ToEngine::Hello { version, epoch }) => Some((version, epoch)),
        _ => Some((version, 0)),
    }
}

/// What the threads share.
pub struct Shared {
    writer: Mutex<Outgoing>,
    gauges: Mutex<Heartbeat>,
    /// 0 = open, else exit code + 1.
    closing: AtomicU32,
    /// The engine thread has let go of the model: nothing is left that could hang.
    ended: AtomicBool,
}

struct Outgoing {
    stream: UnixStream,
    /// Whole frames that are not written yet.
    buffer: Vec<u8>,
}

impl Outgoing {
    fn add(&mut self, frame: &FromEngine) -> io::Result<&mut Self> {
        frame::encode(frame, &mut self.buffer).map_err(io::Error::other)?;
        Ok(self)
    }

    fn write(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.stream.write_all(&self.buffer);
        self.buffer.clear();
        written
    }
}

impl Shared {
    pub fn new(stream: UnixStream) -> Self {
        let gauges = Heartbeat { steps: 0, running: 0, waiting: 0, kv_used: 0, kv_kept: 0, kv_total: 0 };
        let writer = Outgoing { stream, buffer: Vec::new() };
        Self {
            writer: Mutex::new(writer),
            gauges: Mutex::new(gauges),
            closing: AtomicU32::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// Writes one whole frame, after those that are held. An error means that the gateway has gone.
    pub fn send(&self, frame: &FromEngine) -> io::Result<()> {
        self.writer().add(frame)?.write()
    }

    /// Keeps a frame until the next one is sent: one wake-up of the gateway for both. [`flush`](Self::flush) before
    /// anything that takes time.
    pub fn hold(&self, frame: &FromEngine) -> io::Result<()> {
        self.writer().add(frame).map(drop)
    }

    /// Writes what is held.
    pub fn flush(&self) -> io::Result<()> {
        self.writer().write()
    }

    fn writer(&self) -> MutexGuard<'_, Outgoing> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_raw(&self, bytes: &[u8]) {
        let _ = self.writer().stream.write_all(bytes);
    }

    /// The engine thread's last act. Lets the peer see the end even while another thread still holds the socket.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        let mut writer = self.writer();
        let _ = writer.write();
        let _ = writer.stream.shutdown(Shutdown::Both);
    }

    pub fn set_gauges(&self, gauges: Heartbeat) {
        *self.gauges.lock().unwrap_or_else(PoisonError::into_inner) = gauges;
    }

    /// The exit code with which the engine thread must end now, if it must.
    pub fn closing(&self) -> Option<u8> {
        self.closing.load(Ordering::Acquire).checked_sub(1).and_then(|code| u8::try_from(code).ok())
    }

    fn close(&self, code: u8) {
        let _ = self.closing.compare_exchange(0, u32::from(code) + 1, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// The heartbeat thread: beats whatever the engine thread does, until the gateway has gone.
pub fn beat(shared: &Shared) {
    loop {
        let gauges = *shared.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.closing().is_some() || shared.send(&FromEngine::Heartbeat(gauges)).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(HEARTBEAT_MS));
    }
}

/// The reader thread: runs until the socket ends, `Stop`, or garbage.
pub fn read_commands(mut reader: impl Read, commands: &SyncSender<Command>, shared: &Arc<Shared>, chaos: bool) {
    let code = loop {
        let command = match next_frame(&mut reader) {
            Ok(ToEngine::Load(spec)) => Command::Load(spec),
            Ok(ToEngine::Submit(spec)) if chaos && is_poison(&spec.prompt) => std::process::abort(),
            Ok(ToEngine::Submit(spec)) => Command::Submit(spec),
            Ok(ToEngine::SubmitAll(batch)) if chaos && batch.prompts.iter().any(is_poison) => std::process::abort(),
            Ok(ToEngine::SubmitAll(batch)) => Command::SubmitAll(batch),
            Ok(ToEngine::CancelAll { group, left_ns }) => Command::CancelAll { group, left_ns },
            Ok(ToEngine::Count { prompt, .. }) if chaos && is_poison(&prompt) => std::process::abort(),
            Ok(ToEngine::Count { job, prompt }) => Command::Count(job, prompt),
            Ok(ToEngine::Embed(spec)) if chaos && spec.inputs.iter().any(is_poison) => std::process::abort(),
            Ok(ToEngine::Embed(spec)) => Command::Embed(spec),
            Ok(ToEngine::Cancel { job, left_ns }) => Command::Cancel { job, left_ns },
            Ok(ToEngine::Chaos(EngineChaos::HangDecode)) if chaos => Command::Hang,
            Ok(ToEngine::Chaos(EngineChaos::OutOfMemory)) if chaos => Command::OutOfMemory,
            Ok(ToEngine::Chaos(chosen)) if chaos => {
                misbehave(chosen, shared);
                continue;
            }
            Ok(ToEngine::Chaos(_)) => continue,
            Ok(ToEngine::Stop) | Err(ReadError::End) => break 0,
            Ok(ToEngine::Hello { .. }) | Err(ReadError::Frame(_)) => break exit::PROTOCOL,
        };
        if commands.send(command).is_err() {
            return;
        }
    };
    shared.close(code);
    // Full means busy: the engine sees `closing` at its next turn.
    let _ = commands.try_send(Command::Close);
    std::thread::sleep(GRACE);
    if !shared.ended.load(Ordering::Acquire) {
        kill_self();
    }
}

fn next_frame(reader: &mut impl Read) -> Result<ToEngine, ReadError> {
    Ok(frame::decode(&read_payload(reader)?)?)
}

fn is_poison(prompt: &Prompt) -> bool {
    match prompt {
        Prompt::Chat { messages_json: text, .. } | Prompt::Text(text) => text.contains(CHAOS_POISON),
        Prompt::Between { prefix, suffix } => prefix.contains(CHAOS_POISON) || suffix.contains(CHAOS_POISON),
        Prompt::Tokens(_) => false,
    }
}

fn misbehave(chaos: EngineChaos, shared: &Shared) {
    match chaos {
        EngineChaos::Exit => leave(exit::LOAD_FAILED),
        EngineChaos::Garbage => shared.send_raw(&[0xff; 64]),
        EngineChaos::HalfFrame => {
            shared.send_raw(&[200, 0, 0, 0, 6, 1, 2]);
            leave(exit::LOAD_FAILED);
        }
        // The engine thread's own affair.
        EngineChaos::HangDecode | EngineChaos::OutOfMemory => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_of_another_version_is_understood_whatever_follows() {
        let ours = postcard::to_allocvec(&ToEngine::Hello { version: 1, epoch: 9 }).unwrap();
        assert_eq!(read_hello(&ours), Some((1, 9)));
        let longer = postcard::to_allocvec(&(0u32, 2u32, "more", 17u64)).unwrap();
        assert_eq!(read_hello(&longer), Some((2, 0)));
        assert_eq!(read_hello(&postcard::to_allocvec(&ToEngine::Stop).unwrap()), None);
        assert_eq!(read_hello(&[]), None);
    }

    #[test]
    fn payloads_are_read_whole_and_too_long_ones_refused_unread() {
        let mut wire = Vec::new();
        frame::encode(&ToEngine::Cancel { job: 3, left_ns: 0 }, &mut wire).unwrap();
        let cut = wire.len() - 1;
        assert!(matches!(next_frame(&mut wire.as_slice()), Ok(ToEngine::Cancel { job: 3, left_ns: 0 })));
        assert!(matches!(next_frame(&mut &wire[..cut]), Err(ReadError::End)));
        assert!(matches!(next_frame(&mut &[0xff_u8; 9][..]), Err(ReadError::Frame(FrameError::TooLarge(_)))));
    }
}
