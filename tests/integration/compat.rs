//! Clients that people use, as they come from their makers: OpenAI's and Anthropic's libraries for Python and Node, LangChain,
//! and curl, each against the local model and against the simulated cloud. The scripts are in `tests/compat`, their
//! libraries where `tests/compat/install.sh` puts them; a missing one is a failure, not a reason to skip.

use crate::support::{Gateway, Setup, setup::MODEL};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Where the libraries are.
fn libraries() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()).map(PathBuf::from).or_else(home);
    cache.expect("a cache folder").join("spillway/compat")
}

fn command(script: &str) -> Command {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat");
    let libraries = libraries();
    let mut command = match Path::new(script).extension().and_then(|extension| extension.to_str()) {
        Some("py") => Command::new(libraries.join("python/bin/python")),
        Some("mjs") => Command::new("node"),
        _ => Command::new("bash"),
    };
    if script.ends_with(".mjs") {
        // Node looks for libraries beside the script.
        let beside = libraries.join("node");
        for file in ["checks.mjs", script] {
            std::fs::copy(scripts.join(file), beside.join(file)).expect("`tests/compat/install.sh` has run");
        }
        command.arg(beside.join(script));
    } else {
        command.arg(scripts.join(script));
    }
    command
}

async fn run(gateway: &Gateway, script: &'static str, model: &'static str) {
    let mut command = command(script);
    if model == MODEL {
        command.env("SPILLWAY_SMALL", "1");
    }
    command.env("SPILLWAY_URL", &gateway.api).env("SPILLWAY_MODEL", model).env("PYTHONDONTWRITEBYTECODE", "1");
    let running = tokio::task::spawn_blocking(move || command.output());
    let Output { status, stdout, stderr } = running
        .await
        .expect("a thread")
        .unwrap_or_else(|error| panic!("{script} cannot be run ({error}): `make test` installs it"));
    let (said, complained) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{script} with {model}:\n{said}\n{complained}\n{}", gateway.log_tail());
    assert!(said.contains(" passed"), "{script} with {model} checked something: {said}\n{complained}");
}

/// The local model and the simulated cloud, each by its name.
async fn against_both(script: &'static str) {
    let gateway = Setup::default().warm().await;
    for model in [MODEL, "ok"] {
        run(&gateway, script, model).await;
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openais_python_client_works() {
    against_both("openai_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openais_node_client_works() {
    against_both("openai_sdk.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anthropics_python_client_works() {
    against_both("anthropic_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anthropics_node_client_works() {
    against_both("anthropic_sdk.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn langchain_works() {
    against_both("langchain_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_works() {
    against_both("curl.sh").await;
}
