//! Whole flights through real actors against a provider that only counts who connects: a local-only request never
//! reaches it, whether itself or its key says so and whatever dies meanwhile; any other does.

use crate::{
    config::{Config, DemoCloud, Sources, load},
    domain::{Caller, ChatRequest, Input, ModelChoice, Needs, RequestId},
    flight::{FlightEvent, launch},
    runtime::{KillWay, Runtime},
};
use proptest::{prelude::*, test_runner::Config as Cases};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::TcpListener, time::Instant};

/// What stands in for the engine: nobody at all, one that ends at once, one that talks nonsense, one that says nothing.
const ENGINES: [Option<&str>; 4] =
    [None, Some("exit 3"), Some("echo nonsense >&0; exec sleep 1"), Some("exec sleep 60")];
const ACTORS: [&str; 7] =
    ["router", "classifier", "ledger", "health", "gpu/local", "gpu-supervisor", "cloud-supervisor"];
const WAYS: [KillWay; 4] = [KillWay::Kill, KillWay::Panic, KillWay::Error, KillWay::Stop];

#[derive(Debug, Clone)]
enum Step {
    Ask { stream: bool, tools: bool, tokens: bool, model: u8, frugal: bool, hard: bool },
    Kill { actor: usize, way: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let ask = (any::<[bool; 5]>(), 0..5_u8).prop_map(|([stream, tools, tokens, frugal, hard], model)| Step::Ask {
        stream,
        tools,
        tokens,
        model,
        frugal,
        hard,
    });
    let kill = (0..ACTORS.len(), 0..WAYS.len()).prop_map(|(actor, way)| Step::Kill { actor, way });
    prop_oneof![3 => ask, 1 => kill]
}

/// Who says that requests stay here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stays {
    No,
    Request,
    Key,
    Both,
}

fn request(step: &Step, stays: Stays) -> Option<ChatRequest> {
    let Step::Ask { stream, tools, tokens, model, frugal, hard } = *step else { return None };
    let text = if hard { "prove this theorem" } else { "hello" };
    let by_key = matches!(stays, Stays::Key | Stays::Both);
    let caller = by_key.then(|| Arc::new(Caller { local_only: true, ..Caller::unlimited("key") }));
    Some(ChatRequest {
        id: RequestId::random(),
        input: if tokens { Input::Tokens(vec![1, 2]) } else { Input::Text(text.to_owned()) },
        model: match model {
            0 => ModelChoice::Local,
            1 => ModelChoice::Named("deepseek-v3.2".into()),
            _ => ModelChoice::Auto,
        },
        needs: Needs { tools, ..Needs::default() },
        budget_sensitive: frugal,
        stream,
        local_only: matches!(stays, Stays::Request | Stays::Both),
        trace: None,
        client_id: None,
        caller,
        ..ChatRequest::plain(text)
    })
}

/// A gateway with one local target and a provider that hangs up on everybody, and how many requests came there.
struct Case {
    runtime: Runtime,
    connected: Arc<AtomicUsize>,
    _counting: crate::task::Owned,
    folder: PathBuf,
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

async fn started(engine: Option<&str>) -> Case {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let connected = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connected);
    let counting = crate::task::owned(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            // What the gateway asks on its own account is a GET or HEAD; requests are posted.
            let _reading = crate::task::detached(async move {
                let mut method = [0; 4];
                if connection.read_exact(&mut method).await.is_ok() && method == *b"POST" {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let folder = std::env::temp_dir().join(format!("spillway-local-only-{}", RequestId::random()));
    fs::create_dir_all(&folder).unwrap();
    let (model, script) = (folder.join("model.gguf"), folder.join("engine"));
    fs::write(&model, "no model").unwrap();
    fs::write(&script, format!("#!/bin/sh\n{}\n", engine.unwrap_or_default())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let file = format!("[[local]]\nname = \"local\"\nmodel = \"{}\"\n", model.display());
    let sources = Sources {
        file: Some((PathBuf::from("my.toml"), file)),
        demo: Some(DemoCloud { base_url }),
        ..Sources::default()
    };
    let (config, _) = load(&sources, &|_| Err(io::ErrorKind::NotFound.into())).unwrap();
    let engine = if engine.is_some() { Ok(script) } else { Err("no engine in this test".to_owned()) };
    let runtime = Runtime::start(Arc::new(config), engine).await.unwrap();
    Case { runtime, connected, _counting: counting, folder }
}

/// Does the steps; every flight ends in an answer or an error. Gives the number of connections the provider saw.
async fn connections(engine: Option<&str>, steps: &[Step], stays: Stays) -> usize {
    // One that may leave must have the time to, however busy the machine.
    let patience = if stays == Stays::No { Duration::from_secs(20) } else { Duration::from_millis(250) };
    let case = started(engine).await;
    let services = &case.runtime.services;
    let mut config = Config::clone(&services.config);
    config.server.request_timeout = patience;
    let config = Arc::new(config);
    let mut flights = Vec::new();
    for step in steps {
        match step {
            Step::Kill { actor, way } => drop(case.runtime.kill(ACTORS[*actor], WAYS[*way])),
            Step::Ask { .. } => {
                let request = request(step, stays).unwrap();
                let guard = services.jobs.admit(request, Arc::clone(&config), Instant::now()).unwrap();
                flights.push(launch(services.clone(), guard));
            }
        }
        tokio::task::yield_now().await;
    }
    for mut events in flights {
        let mut ended = false;
        while let Some(event) = events.recv().await {
            ended |= matches!(event, FlightEvent::Done(_) | FlightEvent::Failed(_));
        }
        assert!(ended, "a flight went without a last word");
    }
    case.runtime.stop().await;
    case.connected.load(Ordering::SeqCst)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let value = runtime.block_on(future);
    runtime.shutdown_background();
    value
}

proptest! {
    #![proptest_config(Cases { cases: 24, ..Cases::default() })]

    #[test]
    fn no_local_only_request_ever_reaches_a_cloud_socket(
        engine in 0..ENGINES.len(), steps in proptest::collection::vec(step(), 1..10),
        stays in prop_oneof![Just(Stays::Request), Just(Stays::Key), Just(Stays::Both)],
    ) {
        prop_assert_eq!(run(connections(ENGINES[engine], &steps, stays)), 0);
    }
}

#[test]
fn the_same_requests_without_local_only_do_reach_it() {
    let plain = Step::Ask { stream: false, tools: false, tokens: false, model: 2, frugal: false, hard: false };
    for engine in ENGINES {
        assert!(run(connections(engine, std::slice::from_ref(&plain), Stays::No)) > 0, "{engine:?}");
    }
}
