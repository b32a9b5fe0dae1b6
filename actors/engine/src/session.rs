//! One engine's life on its socket: handshake, load, jobs, end.
//!
//! Runs on the thread that will own the model. Knows the order of frames; how to load and decode is the [`Backend`]'s.

use crate::{
    backend::Backend,
    engine::{Engine, Shortage},
    late::Late,
    link::{self, COMMAND_BOUND, Command, Shared},
    process::{exit, say},
};
use spillway_actors::gpu::frame::{FromEngine, JobId, Left, LoadFailure, LoadSpec, LoadedInfo, PROTOCOL_VERSION};
use std::{
    io::{self, BufReader},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Called with the ratio loaded so far; `false` asks to give up.
pub type Progress = Box<dyn FnMut(f32) -> bool>;

/// Serves the gateway on `stream` until an end that has an exit code.
pub fn serve<B: Backend>(
    stream: UnixStream,
    chaos: bool,
    load: impl FnOnce(&LoadSpec, Progress) -> Result<(B, LoadedInfo), LoadFailure>,
) -> u8 {
    let Ok(read_half) = stream.try_clone() else { return exit::PROTOCOL };
    let shared = Arc::new(Shared::new(stream));
    let mut reader = BufReader::new(read_half);
    let epoch = match shake_hands(&mut reader, &shared) {
        Ok(epoch) => epoch,
        Err(code) => return code,
    };
    let (sender, commands) = sync_channel(COMMAND_BOUND);
    let (beating, reading) = (Arc::clone(&shared), Arc::clone(&shared));
    let threads = [
        std::thread::Builder::new().name("heartbeat".into()).spawn(move || link::beat(&beating)),
        std::thread::Builder::new()
            .name("reader".into())
            .spawn(move || link::read_commands(reader, &sender, &reading, chaos)),
    ];
    if threads.iter().any(io::Result::is_err) {
        say("cannot start a thread");
        return exit::LOAD_FAILED;
    }
    let code = load_and_run(&shared, &commands, epoch, |mut spec, progress| {
        // A simulation is for tests, and tests say so.
        spec.simulated_memory = spec.simulated_memory.filter(|_| chaos);
        load(&spec, progress)
    });
    shared.end();
    code
}

/// Returns the epoch, or the exit code for a peer that is not of our version.
fn shake_hands(reader: &mut impl io::Read, shared: &Shared) -> Result<u64, u8> {
    let payload = match link::read_payload(reader) {
        Ok(payload) => payload,
        Err(link::ReadError::End) => return Err(0),
        Err(link::ReadError::Frame(_)) => return Err(exit::PROTOCOL),
    };
    let (version, epoch) = link::read_hello(&payload).ok_or(exit::PROTOCOL)?;
    let hello = FromEngine::Hello { version: PROTOCOL_VERSION, epoch, pid: std::process::id() };
    shared.send(&hello).map_err(|_| 0)?;
    if version == PROTOCOL_VERSION {
        return Ok(epoch);
    }
    say(&format!("the gateway speaks protocol {version}, this engine {PROTOCOL_VERSION}"));
    Err(exit::WRONG_VERSION)
}

fn load_and_run<B: Backend>(
    shared: &Arc<Shared>,
    commands: &Receiver<Command>,
    epoch: u64,
    load: impl FnOnce(LoadSpec, Progress) -> Result<(B, LoadedInfo), LoadFailure>,
) -> u8 {
    let spec = match commands.recv() {
        Ok(Command::Load(spec)) => spec,
        _ => return shared.closing().unwrap_or(exit::PROTOCOL),
    };
    match load(spec, progress(Arc::clone(shared))) {
        Ok((backend, info)) => {
            let mut engine = Engine::new(backend, epoch);
            shared.set_gauges(engine.heartbeat());
            match shared.send(&FromEngine::Loaded(info)) {
                Ok(()) => run(&mut engine, commands, shared),
                Err(_) => 0,
            }
        }
        Err(failure) => {
            if let Some(code) = shared.closing() {
                return code;
            }
            say(&format!("load failed: {}", failure.message));
            let _ = shared.send(&FromEngine::LoadFailed(failure));
            exit::LOAD_FAILED
        }
    }
}

/// Reports every hundredth, and gives up when the gateway has gone.
fn progress(shared: Arc<Shared>) -> Progress {
    let mut last = f32::NEG_INFINITY;
    Box::new(move |ratio| {
        if ratio - last >= 0.01 {
            last = ratio;
            if shared.send(&FromEngine::LoadProgress { ratio }).is_err() {
                return false;
            }
        }
        shared.closing().is_none()
    })
}

/// What chaos has ordered for the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ordered {
    Hang,
    OutOfMemory,
}

/// Turns until the end. Sleeps on the channel when there is nothing to decode.
fn run<B: Backend>(engine: &mut Engine<B>, commands: &Receiver<Command>, shared: &Shared) -> u8 {
    let (mut ordered, mut late) = (None, Late::default());
    loop {
        let first = if engine.is_idle() {
            if shared.flush().is_err() {
                return 0;
            }
            match commands.recv() {
                Ok(command) => Some(command),
                Err(_) => return shared.closing().unwrap_or(0),
            }
        } else {
            None
        };
        for command in first.into_iter().chain(commands.try_iter()) {
            // A long prompt takes time to be read.
            if shared.flush().is_err() {
                return 0;
            }
            match obey(engine, command, &late) {
                Obeyed::Done => {}
                Obeyed::Ordered(order) => ordered = Some(order),
                Obeyed::Left(left) => {
                    if shared.send(&FromEngine::Left(left)).is_err() {
                        return 0;
                    }
                }
            }
        }
        if let Some(code) = shared.closing() {
            return code;
        }
        match turn(engine, shared, ordered, &mut late) {
            Ok(None) => {}
            Ok(Some(Shortage { message, embeddings })) => {
                say(&message);
                let _ = shared.send(&FromEngine::OutOfMemory { message, embeddings });
                return exit::OUT_OF_MEMORY;
            }
            // The gateway has gone; the reader sees it too and needs no word from here.
            Err(_) => return 0,
        }
    }
}

/// One step. With an order (chaos) it is announced and then never ends, as when a kernel hangs, or finds no memory.
/// Returns why memory ran out, if it did.
fn turn<B: Backend>(
    engine: &mut Engine<B>,
    shared: &Shared,
    ordered: Option<Ordered>,
    late: &mut Late,
) -> io::Result<Option<Shortage>> {
    if let Some(said) = engine.flush() {
        shared.send(&said)?;
    }
    if let Some(shortage) = engine.out_of_memory() {
        return Ok(Some(shortage.clone()));
    }
    if let Some((announcement, plan)) = engine.begin() {
        shared.set_gauges(engine.heartbeat());
        shared.send(&announcement)?;
        if let Some(ended) = obeyed(ordered) {
            return Ok(Some(ended));
        }
        let began = now();
        let frame = engine.run(&plan);
        if let Some(shortage) = engine.out_of_memory() {
            return Ok(Some(shortage.clone()));
        }
        engine.took(&plan, began.elapsed());
        late.stepped(&plan, unix_ns());
        // Goes out with the next step's announcement: one wake-up a token.
        shared.hold(&frame)?;
    } else {
        shared.flush()?;
    }
    if let Some((announcement, runs)) = engine.begin_embedding() {
        shared.send(&announcement)?;
        if let Some(ended) = obeyed(ordered) {
            return Ok(Some(ended));
        }
        let frame = engine.run_embedding(&runs);
        if let Some(shortage) = engine.out_of_memory() {
            return Ok(Some(shortage.clone()));
        }
        shared.send(&frame)?;
    }
    // What was refused while nothing was computed: the next turn may be long in coming. And what was called off no longer
    // counts, whether or not something was computed.
    if let Some(said) = engine.flush() {
        shared.send(&said)?;
    }
    shared.set_gauges(engine.heartbeat());
    Ok(None)
}

/// What chaos makes of an announced step: it never ends, or memory runs out, of which the message is returned.
fn obeyed(ordered: Option<Ordered>) -> Option<Shortage> {
    match ordered? {
        Ordered::Hang => loop {
            std::thread::park();
        },
        Ordered::OutOfMemory => {
            Some(Shortage { message: "SIMULATED by chaos, in a decode".to_owned(), embeddings: false })
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "measures real decodes; this process has no tokio")]
fn now() -> Instant {
    Instant::now()
}

/// The clock that the gateway reads too.
fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// What is due after a command.
enum Obeyed {
    Done,
    /// What chaos orders for the next step.
    Ordered(Ordered),
    Left(Left),
}

fn obey<B: Backend>(engine: &mut Engine<B>, command: Command, late: &Late) -> Obeyed {
    match command {
        Command::Submit(spec) => engine.submit(&spec),
        Command::SubmitAll(batch) => engine.submit_all(*batch),
        Command::Embed(spec) => engine.embed(*spec),
        Command::Count(job, prompt) => engine.count(job, &prompt),
        Command::Cancel { job, left_ns } => {
            let known: Vec<JobId> = engine.is_known(job).then_some(job).into_iter().collect();
            let left = late.left(&known, left_ns);
            engine.cancel(job);
            return Obeyed::Left(left);
        }
        Command::CancelAll { group, left_ns } => {
            let left = late.left(&engine.jobs_of(group), left_ns);
            engine.cancel_all(group);
            return Obeyed::Left(left);
        }
        Command::Hang => return Obeyed::Ordered(Ordered::Hang),
        Command::OutOfMemory => return Obeyed::Ordered(Ordered::OutOfMemory),
        Command::Load(_) => say("a second load was asked for and ignored"),
        Command::Close => {}
    }
    Obeyed::Done
}

#[cfg(test)]
mod tests;
