//! The order of frames on a real socket, with a model that only counts.

use super::*;
use crate::backend::counting::{Counting, spec};
use spillway_actors::gpu::frame::{
    self, Batch, Echo, EmbedSpec, FromEngine, JobEvent, KvType, LoadFailureKind, Member, Prompt, Rope, StopReason,
    ToEngine,
};
use std::{io::Write, thread::JoinHandle, time::Duration};

struct Peer {
    stream: UnixStream,
    engine: JoinHandle<u8>,
}

fn load_spec() -> LoadSpec {
    LoadSpec {
        model_path: "counting".into(),
        gpu_layers: None,
        device: None,
        context_tokens: 100,
        parallel: 2,
        max_request_tokens: None,
        frugal: false,
        threads: None,
        use_mmap: true,
        use_mlock: false,
        embedding_tokens: None,
        batch_tokens: None,
        ubatch_tokens: 512,
        kv_type_k: KvType::F16,
        kv_type_v: KvType::F16,
        rope: Rope::default(),
        overrides: Vec::new(),
        require_gpu: false,
        simulated_memory: Some(1),
    }
}

fn info() -> LoadedInfo {
    LoadedInfo {
        name: "counting".into(),
        device: "cpu".into(),
        on_gpu: false,
        context_tokens: 100,
        max_request_tokens: 60,
        parallel: 2,
        has_chat_template: false,
        chat: spillway_actors::tools::ChatTraits::default(),
        layers: 1,
        gpu_layers: 0,
        load_ms: 1,
        generates: true,
        embeddings: None,
        infills: false,
    }
}

impl Peer {
    fn start(load_succeeds: bool) -> Self {
        let model = load_succeeds.then(|| Counting::new(2, 100));
        Self::start_with(model)
    }

    /// `None`: the load fails.
    fn start_with(model: Option<Counting>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let engine = std::thread::spawn(move || {
            serve(theirs, false, |spec, mut progress| {
                assert_eq!(spec.simulated_memory, None, "a simulation without --chaos");
                assert!(progress(0.5));
                let failure = || LoadFailure { kind: LoadFailureKind::Corrupt, message: "no".into(), gpu_layers: 0 };
                model.map(|model| (model, info())).ok_or_else(failure)
            })
        });
        Self { stream: ours, engine }
    }

    fn say(&mut self, frame: &ToEngine) {
        let mut bytes = Vec::new();
        frame::encode(frame, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next frame that is no heartbeat.
    fn hear(&mut self) -> FromEngine {
        loop {
            let payload = link::read_payload(&mut self.stream).unwrap();
            match frame::decode(&payload).unwrap() {
                FromEngine::Heartbeat(_) => {}
                frame => return frame,
            }
        }
    }

    fn loaded() -> Self {
        Self::loaded_with(Counting::new(2, 100))
    }

    fn loaded_with(model: Counting) -> Self {
        let mut peer = Self::start_with(Some(model));
        peer.say(&ToEngine::Hello { version: PROTOCOL_VERSION, epoch: 5 });
        assert!(matches!(peer.hear(), FromEngine::Hello { version: PROTOCOL_VERSION, epoch: 5, .. }));
        peer.say(&ToEngine::Load(load_spec()));
        assert_eq!(peer.hear(), FromEngine::LoadProgress { ratio: 0.5 });
        assert_eq!(peer.hear(), FromEngine::Loaded(info()));
        peer
    }
}

#[test]
fn a_job_is_answered_between_announced_steps() {
    let mut peer = Peer::loaded();
    peer.say(&ToEngine::Submit(Box::new(spec(7, "abc", 2))));
    let mut events = Vec::new();
    while !matches!(events.last(), Some(JobEvent::Finished { .. })) {
        let FromEngine::StepBegin { step, .. } = peer.hear() else { panic!("a step was not announced") };
        let FromEngine::Step { step: ended, epoch: 5, outputs } = peer.hear() else { panic!("a step did not end") };
        assert_eq!(step, ended);
        events.extend(outputs.into_iter().map(|output| output.event));
    }
    let end =
        JobEvent::Finished { reason: StopReason::Length, prompt_tokens: 3, completion_tokens: 2, cached_tokens: 0 };
    assert_eq!(events.last(), Some(&end));
}

#[test]
fn an_engine_without_memory_for_a_decode_says_so_fails_no_job_and_ends() {
    let mut model = Counting::new(2, 100);
    model.faults = vec![crate::backend::DecodeFault::OutOfMemory("no more".into())];
    let mut peer = Peer::loaded_with(model);
    peer.say(&ToEngine::Submit(Box::new(spec(7, "abc", 2))));
    assert!(matches!(peer.hear(), FromEngine::StepBegin { .. }));
    assert_eq!(peer.hear(), FromEngine::OutOfMemory { message: "no more".into(), embeddings: false });
    assert_eq!(peer.engine.join().unwrap(), exit::OUT_OF_MEMORY);
}

#[test]
fn what_is_refused_is_told_although_nothing_is_computed() {
    let mut peer = Peer::loaded();
    let long = Prompt::Tokens(vec![1; 90]);
    peer.say(&ToEngine::Embed(Box::new(EmbedSpec { job: 7, inputs: vec![long.clone()] })));
    let member = Member { job: 8, prompt: 0, seed: None, replay: vec![], sent_bytes: 0, echo: Echo::Nothing };
    let batch = Batch { group: 1, like: spec(0, "", 2), prompts: vec![long], members: vec![member] };
    for order in [None, Some(ToEngine::SubmitAll(Box::new(batch)))] {
        order.iter().for_each(|order| peer.say(order));
        let FromEngine::Step { outputs, .. } = peer.hear() else { panic!("no answer") };
        let failed = outputs.iter().all(|output| matches!(output.event, JobEvent::Failed(_)));
        assert!(failed && outputs.len() == 1, "{outputs:?}");
    }
}

#[test]
fn an_idle_engine_ends_with_code_0_on_stop() {
    let mut peer = Peer::loaded();
    peer.say(&ToEngine::Stop);
    assert_eq!(peer.engine.join().unwrap(), 0);
}

#[test]
fn a_failed_load_is_reported_and_ends_with_code_1() {
    let mut peer = Peer::start(false);
    peer.say(&ToEngine::Hello { version: PROTOCOL_VERSION, epoch: 5 });
    peer.hear();
    peer.say(&ToEngine::Load(load_spec()));
    peer.hear();
    assert!(matches!(peer.hear(), FromEngine::LoadFailed(LoadFailure { kind: LoadFailureKind::Corrupt, .. })));
    assert_eq!(peer.engine.join().unwrap(), exit::LOAD_FAILED);
}

#[test]
fn another_version_is_told_ours_and_refused() {
    let mut peer = Peer::start(true);
    peer.say(&ToEngine::Hello { version: PROTOCOL_VERSION + 1, epoch: 5 });
    assert!(matches!(peer.hear(), FromEngine::Hello { version: PROTOCOL_VERSION, .. }));
    assert_eq!(peer.engine.join().unwrap(), exit::WRONG_VERSION);
}

#[test]
fn a_job_before_the_load_breaks_the_protocol() {
    let mut peer = Peer::start(true);
    peer.say(&ToEngine::Hello { version: PROTOCOL_VERSION, epoch: 5 });
    peer.hear();
    peer.say(&ToEngine::Submit(Box::new(spec(7, "abc", 2))));
    assert_eq!(peer.engine.join().unwrap(), exit::PROTOCOL);
}
