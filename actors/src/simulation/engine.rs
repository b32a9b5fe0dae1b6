//! An engine: speaks the frames of a real one, writes numbered words, and dies in every way that a process can.

use super::{
    dice::Dice,
    stage::{POISON, Stage, asked_words, word},
};
use crate::{
    gpu::{
        frame::{
            EngineChaos, FromEngine, Heartbeat, JobEvent, JobFailure, JobFailureKind, JobId, JobOutput, JobSpec, Left,
            LoadFailure, LoadFailureKind, LoadSpec, LoadedInfo, PROTOCOL_VERSION, Prompt, StopReason, ToEngine, encode,
            take,
        },
        process::{Ends, Spawner},
    },
    task,
    tools::ChatTraits,
};
use rustix::process::Signal;
use std::{
    collections::BTreeMap,
    future::pending,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

/// No process has such an id.
const FIRST_PID: u32 = 1 << 30;
const SOCKET_BYTES: usize = 64 << 10;
const PROMPT_TOKENS: u32 = 9;
const BEAT: Duration = Duration::from_millis(1000);

pub(super) fn spawner(stage: &Stage) -> Spawner {
    let stage = stage.clone();
    Spawner::simulated(Arc::new(move |_| spawn(&stage)))
}

fn spawn(stage: &Stage) -> io::Result<Ends> {
    let (number, mut dice) = (stage.number(), stage.dice());
    if !stage.is_calm() && dice.percent(2) {
        stage.say(format_args!("engine {number} cannot be started"));
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stage.say(format_args!("engine {number} starts"));
    stage.engines.fetch_add(1, Ordering::Relaxed);
    let (ours, theirs) = tokio::io::duplex(SOCKET_BYTES);
    let (ended, exit) = watch::channel(None);
    let (signal, signals) = mpsc::channel(64);
    task::detached(live(stage.clone(), number, dice, theirs, signals, ended));
    let signals = Box::new(move |sent| signal.try_send(sent).map_err(|_| io::ErrorKind::NotFound.into()));
    Ok(Ends::simulated(FIRST_PID + u32::try_from(number).unwrap(), exit, signals, ours))
}

/// One process from its start to its reaping.
async fn live(
    stage: Stage,
    number: u64,
    mut dice: Dice,
    socket: DuplexStream,
    mut signals: mpsc::Receiver<Signal>,
    ended: watch::Sender<Option<String>>,
) {
    let (reading, writing) = tokio::io::split(socket);
    let mut engine = Engine::new(stage.clone(), number, dice.fork(), reading, writing);
    let mut stopped = false;
    let status = loop {
        let run = async { if stopped { pending().await } else { engine.run().await } };
        tokio::select! {
            biased;
            signal = signals.recv() => match signal {
                Some(Signal::STOP) => stopped = true,
                Some(Signal::CONT) => stopped = false,
                Some(Signal::ABORT) => break "signal: 6 (SIGABRT) (core dumped)".to_owned(),
                // Nobody holds it any more: so it is killed.
                Some(_) | None => break "signal: 9 (SIGKILL)".to_owned(),
            },
            status = run => break status,
        }
    };
    stage.say(format_args!("engine {number} ends: {status}"));
    // Either may be noticed first: the socket's end or the process'.
    let reaped_late = dice.percent(50);
    if reaped_late {
        drop(engine);
        sleep(dice.ms(0..40)).await;
        ended.send_replace(Some(status));
    } else {
        ended.send_replace(Some(status));
        sleep(dice.ms(0..5)).await;
        drop(engine);
    }
    stage.engines.fetch_sub(1, Ordering::Relaxed);
}

/// How it will end by itself, if it is not told to before.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Exit,
    Abort,
    Garbage,
    HalfFrame,
    /// The socket goes first, the process later.
    Mute,
    Freeze,
    HangDecode,
    OutOfMemory,
    Gap,
}

#[derive(Debug, Clone, Copy)]
enum LoadFate {
    Works,
    Stalls,
    Fails(LoadFailureKind),
    Dies,
}

struct Running {
    id: JobId,
    words: u64,
    at: u64,
    max: u64,
    /// Text of the replay that its receiver does not have.
    rest: String,
    seq: u32,
    accepted: bool,
    /// The request of several answers that it belongs to.
    group: Option<u64>,
    canary: bool,
    poisonous: bool,
}

struct Engine {
    stage: Stage,
    number: u64,
    dice: Dice,
    reading: ReadHalf<DuplexStream>,
    writing: WriteHalf<DuplexStream>,
    received: Vec<u8>,
    epoch: u64,
    parallel: usize,
    loading: Option<(Instant, LoadFate, LoadSpec)>,
    loaded: bool,
    jobs: BTreeMap<JobId, Running>,
    steps: u64,
    /// Steps until its fate.
    fate: Option<(u64, Fate)>,
    hangs: bool,
    next_beat: Instant,
    step_ends: Option<Instant>,
}

/// Its exit status.
type Ended = String;

impl Engine {
    fn new(
        stage: Stage,
        number: u64,
        mut dice: Dice,
        reading: ReadHalf<DuplexStream>,
        writing: WriteHalf<DuplexStream>,
    ) -> Self {
        use Fate::{Abort, Exit, Freeze, Gap, Garbage, HalfFrame, HangDecode, Mute, OutOfMemory};
        let fate = (!stage.is_calm() && dice.percent(70)).then(|| {
            let fates = [Exit, Abort, Abort, Garbage, HalfFrame, Mute, Freeze, HangDecode, OutOfMemory, Gap];
            (dice.number(1..250), dice.one_of(&fates))
        });
        Self {
            stage,
            number,
            dice,
            reading,
            writing,
            received: Vec::new(),
            epoch: 0,
            parallel: 1,
            loading: None,
            loaded: false,
            jobs: BTreeMap::new(),
            steps: 0,
            fate,
            hangs: false,
            next_beat: Instant::now() + BEAT,
            step_ends: None,
        }
    }

    /// Until it ends. What it does next is in its fields: dropped and called again, it goes on.
    async fn run(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.turn().await {
                return ended;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        while let Ok(Some((order, used))) = take::<ToEngine>(&self.received) {
            self.received.drain(..used);
            self.obey(order).await?;
        }
        if self.step_ends.is_none() && self.loaded && !self.hangs && !self.jobs.is_empty() {
            self.begin_step().await?;
        }
        let at = |at: Option<Instant>| async move {
            match at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        let loads_at = self.loading.as_ref().map(|(until, ..)| *until);
        tokio::select! {
            biased;
            read = self.reading.read_buf(&mut self.received) => match read {
                // The gateway has gone.
                Ok(0) | Err(_) => return Err("exit status: 0".to_owned()),
                Ok(_) => {}
            },
            () = at(loads_at) => self.end_load().await?,
            () = at(self.step_ends) => self.end_step().await?,
            () = sleep_until(self.next_beat) => self.beat().await?,
        }
        Ok(())
    }

    async fn say(&mut self, frame: FromEngine) -> Result<(), Ended> {
        let mut bytes = Vec::new();
        encode(&frame, &mut bytes).unwrap();
        self.write(&bytes).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        self.writing.write_all(bytes).await.map_err(|_| "signal: 13 (SIGPIPE)".to_owned())
    }

    async fn beat(&mut self) -> Result<(), Ended> {
        self.next_beat += BEAT;
        let running = u32::try_from(self.jobs.len()).unwrap();
        let beat = Heartbeat { steps: self.steps, running, waiting: 0, kv_used: 0, kv_kept: 0, kv_total: 0 };
        self.say(FromEngine::Heartbeat(beat)).await
    }

    async fn obey(&mut self, order: ToEngine) -> Result<(), Ended> {
        match order {
            ToEngine::Hello { epoch, .. } => {
                self.epoch = epoch;
                let pid = FIRST_PID;
                self.say(FromEngine::Hello { version: PROTOCOL_VERSION, epoch, pid }).await
            }
            ToEngine::Load(spec) => {
                self.begin_load(spec);
                Ok(())
            }
            ToEngine::Submit(spec) => {
                let prompt = text_of(&spec.prompt);
                self.take_job(&spec, &prompt, None);
                Ok(())
            }
            ToEngine::Cancel { job, .. } => {
                let jobs = u32::from(self.jobs.remove(&job).is_some());
                self.say(FromEngine::Left(Left { jobs, tokens: 0, most: 0 })).await
            }
            ToEngine::Count { job, .. } => {
                let event = JobEvent::Finished {
                    reason: StopReason::Stop,
                    prompt_tokens: PROMPT_TOKENS,
                    completion_tokens: 0,
                    cached_tokens: 0,
                };
                self.tell(job, event).await
            }
            ToEngine::Embed(spec) => self.refuse(spec.job).await,
            ToEngine::SubmitAll(batch) => {
                for member in &batch.members {
                    let prompt = text_of(&batch.prompts[usize::try_from(member.prompt).unwrap()]);
                    self.take_job(&batch.spec_of(member), &prompt, Some(batch.group));
                }
                Ok(())
            }
            ToEngine::CancelAll { group, .. } => {
                let before = self.jobs.len();
                self.jobs.retain(|_, job| job.group != Some(group));
                let jobs = u32::try_from(before - self.jobs.len()).unwrap();
                self.say(FromEngine::Left(Left { jobs, tokens: 0, most: 0 })).await
            }
            ToEngine::Stop => Err("exit status: 0".to_owned()),
            ToEngine::Chaos(chaos) => match chaos {
                EngineChaos::Exit => self.meet(Fate::Exit).await,
                EngineChaos::Garbage => self.meet(Fate::Garbage).await,
                EngineChaos::HalfFrame => self.meet(Fate::HalfFrame).await,
                EngineChaos::HangDecode => self.meet(Fate::HangDecode).await,
                EngineChaos::OutOfMemory => self.meet(Fate::OutOfMemory).await,
            },
        }
    }

    async fn tell(&mut self, job: JobId, event: JobEvent) -> Result<(), Ended> {
        let (step, epoch) = (self.steps, self.epoch);
        self.say(FromEngine::Step { step, epoch, outputs: vec![JobOutput { job, seq: 0, event }] }).await
    }

    async fn refuse(&mut self, job: JobId) -> Result<(), Ended> {
        let kind = JobFailureKind::Invalid;
        self.tell(job, JobEvent::Failed(JobFailure { kind, message: "one text at a time".into(), param: None })).await
    }

    fn begin_load(&mut self, spec: LoadSpec) {
        let calm = self.stage.is_calm();
        let fates = [
            (84, LoadFate::Works),
            (2, LoadFate::Stalls),
            (4, LoadFate::Fails(LoadFailureKind::OutOfMemory)),
            (3, LoadFate::Fails(LoadFailureKind::Other)),
            (2, LoadFate::Fails(LoadFailureKind::Corrupt)),
            (5, LoadFate::Dies),
        ];
        let fate = if calm { LoadFate::Works } else { self.dice.weighed(&fates) };
        let takes = if !calm && self.dice.percent(10) { 2000..12_000 } else { 50..900 };
        let until = Instant::now() + self.dice.ms(takes);
        self.stage.say(format_args!("engine {} loads for epoch {}: {fate:?}", self.number, self.epoch));
        self.loading = Some((until, fate, spec));
    }

    async fn end_load(&mut self) -> Result<(), Ended> {
        let Some((_, fate, spec)) = self.loading.take() else { return Ok(()) };
        match fate {
            LoadFate::Stalls => return Ok(()),
            LoadFate::Dies => return Err("signal: 11 (SIGSEGV)".to_owned()),
            LoadFate::Fails(kind) => {
                let message = "the simulated model does not load".to_owned();
                self.say(FromEngine::LoadFailed(LoadFailure { kind, message, gpu_layers: 0 })).await?;
                return Err("exit status: 1".to_owned());
            }
            LoadFate::Works => {}
        }
        self.loaded = true;
        self.parallel = spec.parallel as usize;
        self.say(FromEngine::LoadProgress { ratio: 1.0 }).await?;
        let info = LoadedInfo {
            name: "simulated".into(),
            device: "SIMULATED".into(),
            on_gpu: true,
            context_tokens: spec.context_tokens,
            max_request_tokens: spec.context_tokens,
            parallel: spec.parallel,
            has_chat_template: true,
            chat: ChatTraits::default(),
            layers: 2,
            gpu_layers: 2,
            load_ms: 1,
            generates: true,
            embeddings: None,
            infills: false,
        };
        self.say(FromEngine::Loaded(info)).await
    }

    fn take_job(&mut self, spec: &JobSpec, prompt: &str, group: Option<u64>) {
        let replayed: String = spec.replay.iter().map(|token| word(u64::try_from(*token).unwrap())).collect();
        let sent = usize::try_from(spec.sent_bytes).unwrap();
        let whole = spec.replay.iter().enumerate().all(|(at, token)| u64::try_from(*token) == Ok(at as u64));
        self.stage.demand(whole && replayed.is_char_boundary(sent), || {
            format!("engine {}: job {} replays {:?} after {sent} bytes", self.number, spec.job, spec.replay)
        });
        self.stage.say(format_args!(
            "engine {} takes job {}, {} words replayed, {sent} bytes sent",
            self.number,
            spec.job,
            spec.replay.len()
        ));
        let job = Running {
            id: spec.job,
            words: if spec.canary { 1 } else { asked_words(prompt) },
            at: spec.replay.len() as u64,
            max: u64::from(spec.max_tokens),
            rest: replayed.get(sent..).unwrap_or_default().to_owned(),
            seq: 0,
            accepted: false,
            group,
            canary: spec.canary,
            poisonous: prompt.contains(POISON),
        };
        self.jobs.insert(spec.job, job);
    }

    /// Those that the next step works on.
    fn in_turn(&self) -> Vec<JobId> {
        let others = self.jobs.values().filter(|job| !job.canary).take(self.parallel);
        self.jobs.values().filter(|job| job.canary).chain(others).map(|job| job.id).collect()
    }

    async fn begin_step(&mut self) -> Result<(), Ended> {
        let turn = self.in_turn();
        if turn.iter().any(|job| self.jobs.get(job).is_some_and(|job| job.poisonous)) {
            self.stage.say(format_args!("engine {} dies of poison", self.number));
            return Err("signal: 6 (SIGABRT) (core dumped)".to_owned());
        }
        let tokens = u32::try_from(turn.len()).unwrap();
        self.say(FromEngine::StepBegin { step: self.steps, tokens }).await?;
        self.step_ends = Some(Instant::now() + self.dice.ms(4..40));
        Ok(())
    }

    async fn end_step(&mut self) -> Result<(), Ended> {
        self.step_ends = None;
        self.steps += 1;
        match self.fate {
            Some((at, fate)) if at <= self.steps && !self.stage.is_calm() => {
                self.fate = None;
                self.meet(fate).await?;
                if self.hangs {
                    return Ok(());
                }
            }
            _ => {}
        }
        let mut outputs = Vec::new();
        for id in self.in_turn() {
            if let Some(job) = self.jobs.get_mut(&id)
                && job.step(&mut outputs)
            {
                self.jobs.remove(&id);
            }
        }
        let (step, epoch) = (self.steps, self.epoch);
        self.say(FromEngine::Step { step, epoch, outputs }).await
    }

    async fn meet(&mut self, fate: Fate) -> Result<(), Ended> {
        self.stage.say(format_args!("engine {} meets its fate: {fate:?}", self.number));
        match fate {
            Fate::Exit => return Err("exit status: 1".to_owned()),
            Fate::Abort => return Err("signal: 6 (SIGABRT) (core dumped)".to_owned()),
            Fate::Garbage => {
                self.write(&[0x20, 0, 0, 0]).await?;
                self.write(&[0xff; 64]).await?;
            }
            Fate::HalfFrame => {
                let mut bytes = Vec::new();
                let outputs = Vec::new();
                encode(&FromEngine::Step { step: self.steps, epoch: self.epoch, outputs }, &mut bytes).unwrap();
                self.write(&bytes[..bytes.len() / 2]).await?;
                return Err("exit status: 1".to_owned());
            }
            Fate::Mute => {
                let _ = self.writing.shutdown().await;
                pending::<()>().await;
            }
            Fate::Freeze => pending().await,
            Fate::HangDecode => self.hangs = true,
            Fate::OutOfMemory => {
                self.say(FromEngine::OutOfMemory { message: "no memory".into(), embeddings: false }).await?;
                return Err("exit status: 1".to_owned());
            }
            Fate::Gap => {
                if let Some(job) = self.jobs.values_mut().next() {
                    job.seq += 1;
                }
            }
        }
        Ok(())
    }
}

fn text_of(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Chat { messages_json, .. } => messages_json.clone(),
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(_) | Prompt::Between { .. } => String::new(),
    }
}

impl Running {
    fn output(&mut self, event: JobEvent) -> JobOutput {
        self.seq += 1;
        JobOutput { job: self.id, seq: self.seq - 1, event }
    }

    /// One word more; whether it was the last.
    fn step(&mut self, outputs: &mut Vec<JobOutput>) -> bool {
        if !std::mem::replace(&mut self.accepted, true) {
            let accepted = self.output(JobEvent::Accepted { prompt_tokens: PROMPT_TOKENS, cached_tokens: 0 });
            outputs.push(accepted);
        }
        let mut text = std::mem::take(&mut self.rest);
        let mut tokens = Vec::new();
        if self.at < self.words.min(self.max) {
            text.push_str(&word(self.at));
            tokens.push(i32::try_from(self.at).unwrap());
            self.at += 1;
        }
        if !text.is_empty() {
            let piece = self.output(JobEvent::Piece { text, tokens, logprobs: Vec::new() });
            outputs.push(piece);
        }
        if self.at < self.words.min(self.max) {
            return false;
        }
        let reason = if self.at >= self.words { StopReason::Stop } else { StopReason::Length };
        let completion_tokens = u32::try_from(self.at).unwrap();
        let finished = self.output(JobEvent::Finished {
            reason,
            prompt_tokens: PROMPT_TOKENS,
            completion_tokens,
            cached_tokens: 0,
        });
        outputs.push(finished);
        true
    }
}
