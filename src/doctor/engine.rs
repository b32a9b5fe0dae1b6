//! Whether the engine binary is there and of this build: it is started, greeted, and ended.

use super::Finding;
use crate::serve::find_engine;
use spillway_actors::{
    config::{Config, LocalConfig},
    gpu::frame::{FromEngine, PREFIX_BYTES, PROTOCOL_VERSION, ToEngine, decode, encode, payload_len},
};
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// An engine greets within milliseconds; a cold disk may take longer to give it out.
const PATIENCE: Duration = Duration::from_secs(15);

/// One finding for each engine binary that local targets use.
pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let own = |local: &std::sync::Arc<LocalConfig>| local.engine_path.clone().map_or_else(find_engine, Ok);
    let programs: BTreeSet<Result<PathBuf, String>> = config.locals.iter().map(own).collect();
    let mut findings = Vec::new();
    for program in programs {
        findings.push(match program {
            Err(why) => Finding::problem("engine", why, "build it with `make build`, or set engine_path in [[local]]"),
            Ok(path) => greeted(path).await,
        });
    }
    findings
}

async fn greeted(path: PathBuf) -> Finding {
    const REMEDY: &str = "install gateway and engine from one build";
    let shown = path.display().to_string();
    // The engine dies with the thread that started it: the thread waits for it.
    match tokio::task::spawn_blocking(move || greet(&path)).await {
        Ok(Ok(version)) if version == PROTOCOL_VERSION => Finding::ok("engine", format!("{shown}, protocol {version}")),
        Ok(Ok(version)) => {
            let found = format!("{shown} speaks protocol {version}, this gateway {PROTOCOL_VERSION}");
            Finding::problem("engine", found, REMEDY)
        }
        Ok(Err(why)) => Finding::problem("engine", format!("{shown}: {why}"), REMEDY),
        Err(error) => Finding::problem("engine", format!("{shown}: {error}"), REMEDY),
    }
}

/// A child that goes with its value.
struct Greeted(Child);

impl Drop for Greeted {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The protocol version that the engine answers with.
fn greet(program: &Path) -> Result<u32, String> {
    let (mut ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
    ours.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let child = Command::new(program)
        .args(["--parent-pid", &std::process::id().to_string()])
        .env_clear()
        .envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let _child = Greeted(child);
    let mut order = Vec::new();
    encode(&ToEngine::Hello { version: PROTOCOL_VERSION, epoch: 0 }, &mut order).map_err(|error| error.to_string())?;
    ours.write_all(&order).map_err(|error| format!("it takes no orders: {error}"))?;
    version(&mut ours).ok_or_else(|| "it does not greet as an engine of this gateway does".to_owned())
}

fn version(stream: &mut UnixStream) -> Option<u32> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).ok()?;
    let mut payload = vec![0; payload_len(prefix).ok()?];
    stream.read_exact(&mut payload).ok()?;
    match decode(&payload).ok()? {
        FromEngine::Hello { version, .. } => Some(version),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_no_engine_is_told_from_one() {
        assert!(greet(Path::new("/nonexistent/engine")).unwrap_err().contains("cannot be started"));
        assert!(greet(Path::new("/bin/true")).is_err());
    }
}
