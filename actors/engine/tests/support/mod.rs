//! A gateway's end of the socketpair, and a real engine child at the other.
//!
//! Every wait has a deadline. Dropping the harness kills and reaps the child; its log is read to the end and may not
//! contain any prompt.

use spillway_actors::gpu::frame::{
    self, FromEngine, Heartbeat, JobEvent, JobId, JobOutput, JobSpec, KvType, Left, LoadSpec, LoadedInfo,
    PROTOCOL_VERSION, Prompt, Rope, Sampling, StopReason, ToEngine, TokenLogprob,
};
use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub(crate) mod gguf;

pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
pub(crate) const EPOCH: u64 = 7;
/// Part of every prompt; must never appear in a log.
pub(crate) const SECRET: &str = "lighthouse";

pub(crate) fn model_path() -> PathBuf {
    if let Some(path) = std::env::var_os("SPILLWAY_TEST_MODEL") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache"));
    cache.join("spillway/models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

pub(crate) fn load_spec(parallel: u32, context_tokens: u32) -> LoadSpec {
    LoadSpec {
        model_path: model_path().to_str().unwrap().into(),
        gpu_layers: None,
        device: Some("cpu".into()),
        context_tokens,
        parallel,
        max_request_tokens: None,
        frugal: false,
        threads: None,
        use_mmap: true,
        use_mlock: false,
        embedding_tokens: Some(1024),
        require_gpu: false,
        batch_tokens: None,
        ubatch_tokens: 512,
        kv_type_k: KvType::F16,
        kv_type_v: KvType::F16,
        rope: Rope::default(),
        overrides: Vec::new(),
        simulated_memory: None,
    }
}

pub(crate) fn greedy(job: JobId, question: &str, max_tokens: u32) -> JobSpec {
    let messages = serde_json::json!([{ "role": "user", "content": format!("{question} ({SECRET})") }]);
    JobSpec {
        job,
        prompt: Prompt::Chat { messages_json: messages.to_string(), tools_json: None },
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens,
        stop: vec![],
        replay: vec![],
        sent_bytes: 0,
        canary: false,
        logprobs: None,
        logit_bias: vec![],
        grammar: None,
        markers: false,
        cache_scope: 0,
    }
}

/// What was heard of one job.
#[derive(Debug, Default, Clone)]
pub(crate) struct Heard {
    pub(crate) text: String,
    pub(crate) tokens: Vec<i32>,
    pub(crate) accepted: bool,
    pub(crate) pieces: Vec<(String, Vec<i32>)>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) end: Option<JobEvent>,
    pub(crate) vectors: BTreeMap<u32, Vec<f32>>,
    outputs: u32,
}

impl Heard {
    pub(crate) fn hear(&mut self, output: JobOutput) {
        assert_eq!(output.seq, self.outputs, "an output is missing or doubled");
        assert!(self.end.is_none(), "spoke after its end");
        self.outputs += 1;
        match output.event {
            JobEvent::Accepted { prompt_tokens, .. } => {
                assert!(prompt_tokens > 0 && !std::mem::replace(&mut self.accepted, true));
            }
            JobEvent::Piece { text, tokens, logprobs } => {
                assert!(self.accepted, "a piece before the acceptance");
                self.text.push_str(&text);
                self.tokens.extend(&tokens);
                self.pieces.push((text, tokens));
                self.logprobs.extend(logprobs);
            }
            JobEvent::Vector { input, values } => {
                assert!(self.vectors.insert(input, values).is_none(), "a vector twice");
            }
            end => self.end = Some(end),
        }
    }

    pub(crate) fn reason(&self) -> StopReason {
        let Some(JobEvent::Finished { reason, .. }) = self.end else { panic!("did not finish: {:?}", self.end) };
        reason
    }
}

pub(crate) struct Engine {
    pub(crate) child: Child,
    pub(crate) stream: Option<UnixStream>,
    /// What it said of cancelled jobs.
    pub(crate) left: Vec<Left>,
    /// What it has said on stderr so far.
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

impl Engine {
    pub(crate) fn spawn(arguments: &[&str]) -> Self {
        Self::spawn_for(std::process::id(), arguments)
    }

    pub(crate) fn spawn_for(parent: u32, arguments: &[&str]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_spillway-engine"))
            .args(["--parent-pid", &parent.to_string()])
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let filled = Arc::clone(&log);
        let reading = std::thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                filled.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { child, stream: Some(ours), left: Vec::new(), log, reading: Some(reading) }
    }

    pub(crate) fn greeted(arguments: &[&str]) -> Self {
        let mut engine = Self::spawn(arguments);
        engine.say(&ToEngine::Hello { version: PROTOCOL_VERSION, epoch: EPOCH });
        let pid = engine.child.id();
        assert_eq!(engine.hear(), FromEngine::Hello { version: PROTOCOL_VERSION, epoch: EPOCH, pid });
        engine
    }

    pub(crate) fn loaded(parallel: u32, context_tokens: u32, arguments: &[&str]) -> (Self, LoadedInfo) {
        Self::loaded_with(load_spec(parallel, context_tokens), arguments)
    }

    /// With a bound on one request's tokens.
    pub(crate) fn loaded_for(parallel: u32, context_tokens: u32, longest: Option<u32>) -> (Self, LoadedInfo) {
        Self::loaded_with(LoadSpec { max_request_tokens: longest, ..load_spec(parallel, context_tokens) }, &[])
    }

    fn loaded_with(spec: LoadSpec, arguments: &[&str]) -> (Self, LoadedInfo) {
        let mut engine = Self::greeted(arguments);
        engine.say(&ToEngine::Load(spec));
        loop {
            match engine.hear() {
                FromEngine::LoadProgress { ratio } => assert!((0.0..=1.0).contains(&ratio)),
                FromEngine::Loaded(info) => return (engine, info),
                frame => panic!("instead of Loaded: {frame:?}"),
            }
        }
    }

    pub(crate) fn say(&mut self, frame: &ToEngine) {
        let mut bytes = Vec::new();
        frame::encode(frame, &mut bytes).unwrap();
        self.say_raw(&bytes);
    }

    pub(crate) fn say_raw(&mut self, bytes: &[u8]) {
        self.stream.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub(crate) fn submit(&mut self, spec: JobSpec) {
        self.say(&ToEngine::Submit(Box::new(spec)));
    }

    /// The next frame of any kind, or what the socket gave instead.
    pub(crate) fn hear_any(&mut self) -> Result<FromEngine, String> {
        let stream = self.stream.as_mut().unwrap();
        let payload = spillway_engine::link::read_payload(stream).map_err(|error| error.to_string())?;
        frame::decode(&payload).map_err(|error| error.to_string())
    }

    /// The next frame that is no heartbeat.
    pub(crate) fn hear(&mut self) -> FromEngine {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            match self.hear_any() {
                Ok(FromEngine::Heartbeat(_)) => {}
                Ok(frame) => return frame,
                Err(error) => panic!("the engine went silent: {error}"),
            }
        }
        panic!("only heartbeats");
    }

    /// The next heartbeat that `accept`s.
    pub(crate) fn heartbeat_where(&mut self, accept: impl Fn(&Heartbeat) -> bool) -> Heartbeat {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Ok(FromEngine::Heartbeat(beat)) = self.hear_any()
                && accept(&beat)
            {
                return beat;
            }
        }
        panic!("no such heartbeat");
    }

    /// Listens to the next step and files what it says.
    pub(crate) fn hear_step(&mut self, heard: &mut HashMap<JobId, Heard>) {
        match self.hear() {
            FromEngine::StepBegin { tokens, .. } => assert!(tokens > 0),
            FromEngine::Step { epoch, outputs, .. } => {
                assert_eq!(epoch, EPOCH);
                for output in outputs {
                    heard.entry(output.job).or_default().hear(output);
                }
            }
            FromEngine::Left(left) => self.left.push(left),
            frame => panic!("unexpected {frame:?}"),
        }
    }

    /// Submits all and listens until each has ended.
    pub(crate) fn run(&mut self, jobs: Vec<JobSpec>) -> HashMap<JobId, Heard> {
        let mut heard: HashMap<JobId, Heard> = jobs.iter().map(|spec| (spec.job, Heard::default())).collect();
        for spec in jobs {
            self.submit(spec);
        }
        while heard.values().any(|heard| heard.end.is_none()) {
            self.hear_step(&mut heard);
        }
        heard
    }

    pub(crate) fn run_one(&mut self, spec: JobSpec) -> Heard {
        let id = spec.job;
        self.run(vec![spec]).remove(&id).unwrap()
    }

    pub(crate) fn has_said(&self, words: &str) -> bool {
        self.log.lock().unwrap().contains(words)
    }

    /// Waits for the end of the process. `None` = killed by a signal.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        panic!("the engine does not end");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.reading.take().unwrap().join();
        let log = self.log.lock().unwrap();
        if std::thread::panicking() {
            eprintln!("--- engine log ---\n{log}");
        } else {
            assert!(!log.contains(SECRET), "a prompt reached the log");
        }
    }
}
