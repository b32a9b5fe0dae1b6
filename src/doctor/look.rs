//! The looks: GPU and driver, ports, keys, disk, models.

use super::{Finding, Verdict, engine};
use crate::models::{self, bytes};
use spillway_actors::{
    config::{CloudConfig, Config, LocalConfig, Warning},
    gguf::inspect,
    gpu::memory::{Shape, estimate},
    health::nvml::{GpuReading, NvmlProbe, Reading},
};
use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

/// Less than this on a disk that something is written to is a matter of hours.
const LOW_DISK_BYTES: u64 = 256 << 20;
/// For a server to take a connection.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn configuration(warnings: &[Warning]) -> Finding {
    let finding = Finding::ok("configuration", "good");
    if warnings.is_empty() {
        return finding;
    }
    let told = warnings.iter().map(ToString::to_string);
    Finding::note("configuration", "good, with warnings", "see the warnings above").with(told)
}

pub(super) async fn all(config: &Config) -> Vec<Finding> {
    let (gpu, gpus) = gpus(config).await;
    let mut findings = vec![gpu];
    findings.extend(engine::look(config).await);
    findings.extend(config.locals.iter().map(|local| model(config, local, &gpus)));
    let server = &config.server;
    findings.push(port("port of the API", "listen", server.listen));
    findings.push(port("port of the admin", "admin_listen", server.admin_listen));
    findings.extend(config.clouds.iter().map(|cloud| keys(cloud)));
    findings.push(disk("disk of models", &config.cache_dir));
    findings.extend(config.ledger.journal_dir.as_deref().map(|folder| disk("disk of the ledger", folder)));
    if config.locals.is_empty() && !config.clouds.iter().any(|cloud| cloud.is_usable()) {
        let remedy = "configure a [[local]] target, or set the key of a [[cloud]] provider";
        findings.push(Finding::problem("targets", "nothing can answer a request", remedy));
    }
    findings
}

async fn gpus(config: &Config) -> (Finding, Vec<GpuReading>) {
    let reading = match NvmlProbe::start(config.health.nvml_library.clone()) {
        Ok(probe) => probe.read(config.health.timeout).await,
        Err(error) => Reading::Error(error.to_string()),
    };
    let needs_gpu = config.locals.iter().any(|local| local.gpu.as_deref().is_some_and(|gpu| gpu != "cpu"));
    gpu_finding(reading, needs_gpu)
}

fn gpu_finding(reading: Reading, needs_gpu: bool) -> (Finding, Vec<GpuReading>) {
    match reading {
        Reading::NoGpu(why) if needs_gpu => {
            let remedy = "install the driver, or set gpu = \"auto\" or \"cpu\" in [[local]]";
            (Finding::problem("GPU", why, remedy), Vec::new())
        }
        Reading::NoGpu(why) => {
            let remedy = "local targets compute on the CPU, which is slow; install a GPU's driver if there is one";
            (Finding::note("GPU", why, remedy), Vec::new())
        }
        Reading::Error(why) => (Finding::problem("GPU", why, "repair the driver (nvidia-smi shows more)"), Vec::new()),
        Reading::Stuck => {
            let remedy = "the driver hangs: see the kernel's log, reset the card or reboot";
            (Finding::problem("GPU", "the driver does not answer in time", remedy), Vec::new())
        }
        Reading::Gpus(gpus) => {
            let faulty = gpus.iter().any(|gpu| gpu.fault.is_some());
            let list = gpus.iter().map(describe);
            let finding = if faulty {
                Finding::problem("GPU", "a card is faulty", "reset it (nvidia-smi --gpu-reset) or reboot").with(list)
            } else {
                Finding::ok("GPU", format!("{} found", gpus.len())).with(list)
            };
            (finding, gpus)
        }
    }
}

fn describe(gpu: &GpuReading) -> String {
    let memory = gpu.memory_used_bytes.zip(gpu.memory_total_bytes);
    let memory =
        memory.map(|(used, total)| format!(", {} of {} in use", bytes(used), bytes(total))).unwrap_or_default();
    let heat = gpu.temperature_celsius.map(|celsius| format!(", {celsius} °C")).unwrap_or_default();
    let fault = gpu.fault.map(|fault| format!(", FAULT: {fault:?}")).unwrap_or_default();
    format!("{} {} ({}){memory}{heat}{fault}", gpu.index, gpu.name, gpu.uuid)
}

/// Whether nobody listens there yet.
fn port(what: &str, key: &str, address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(what, format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let remedy =
                format!("end what listens there (perhaps a running gateway), or set [server] {key} to another port");
            Finding::problem(what, format!("{address} is taken"), remedy)
        }
        Err(error) => {
            let remedy = format!("correct [server] {key}");
            Finding::problem(what, format!("{address} cannot be listened on: {error}"), remedy)
        }
    }
}

fn keys(cloud: &CloudConfig) -> Finding {
    let what = format!("keys of {}", cloud.name);
    let sources = cloud.key_sources.join(", ");
    match cloud.keys.len() {
        0 => {
            let remedy = format!("set {sources} to use {}; without it every request is served elsewhere", cloud.name);
            Finding::note(what, format!("none in {sources}: it takes no traffic"), remedy)
        }
        _ if sources.is_empty() => Finding::ok(what, "it takes none"),
        count => Finding::ok(what, format!("{count} (from {sources})")),
    }
}

/// Room where something is written. A folder that is not there yet is made in the nearest one that is.
fn disk(what: &str, folder: &Path) -> Finding {
    let shown = folder.display();
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    const REMEDY: &str = "make the folder and give it to this user";
    let Some((free, nearest)) = absolute.ancestors().find_map(|folder| Some((models::free_bytes(folder)?, folder)))
    else {
        return Finding::problem(what, format!("{shown} cannot be looked at"), REMEDY);
    };
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    if rustix::fs::access(nearest, access).is_err() {
        return Finding::problem(what, format!("{shown} cannot be written by this user"), REMEDY);
    }
    let found = format!("{} free in {shown}", bytes(free));
    if free < LOW_DISK_BYTES {
        return Finding::problem(what, found, "make room");
    }
    Finding::ok(what, found)
}

/// Whether a server takes connections; what it serves is asked by the gateway.
fn answers(base_url: &str) -> Result<(), String> {
    let url = reqwest::Url::parse(base_url).map_err(|error| error.to_string())?;
    let addresses = url.socket_addrs(|| None).map_err(|error| error.to_string())?;
    let mut why = "no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// File, checksum, what it says, and whether it fits.
fn model(config: &Config, local: &LocalConfig, gpus: &[GpuReading]) -> Finding {
    let what = format!("model of {}", local.name);
    if let Some(server) = &local.server {
        return match answers(&server.base_url) {
            Ok(()) => Finding::ok(what, format!("something listens at {}", server.base_url)),
            Err(why) => {
                Finding::problem(what, format!("{}: {why}", server.base_url), "start the server, or correct `base_url`")
            }
        };
    }
    if let Some(simulation) = local.simulation {
        let found = format!("SIMULATED engine: {simulation}, numbered words and no answers");
        return Finding::note(what, found, "name a model in [[local]] when the tests are over");
    }
    let path = local.model_path.display();
    if let Some(fault) = models::fault_of(config, local) {
        let here = local.model_path.is_file();
        let remedy = match &local.pull {
            Some(name) if here => format!("`spillway models rm {name}` and `spillway models pull {name}` get it anew"),
            Some(name) => format!("`spillway models pull {name}` gets it"),
            None => "correct `model` in [[local]]".to_owned(),
        };
        return Finding::problem(what, format!("{path} {fault}"), remedy);
    }
    let model = match inspect(&local.model_path) {
        Ok(model) => model,
        Err(error) => return Finding::problem(what, format!("{path} {error}"), "get the file anew"),
    };
    let on_cpu = local.gpu.as_deref() == Some("cpu") || gpus.is_empty();
    let layers = if on_cpu { 0 } else { local.gpu_layers.unwrap_or(u32::MAX) };
    let shape = Shape {
        context_tokens: local.context_tokens,
        parallel: local.parallel,
        max_request_tokens: local.max_request_tokens,
        frugal: false,
        batch_tokens: local.options.batch_tokens,
        ubatch_tokens: local.options.ubatch_tokens,
        embedding_tokens: local.embedding_tokens,
        kv_type_k: local.options.kv_type_k,
        kv_type_v: local.options.kv_type_v,
        gpu_layers: layers,
    };
    let details: Vec<String> = [models::summary_lines(&model), models::memory_lines(&model, &shape, on_cpu)].concat();
    let finding = Finding::ok(what.clone(), path.to_string());
    let estimate = estimate(&model, &shape);
    let finding = match room(local, gpus, on_cpu) {
        Some((place, room)) if estimate.on_device() > room => {
            let found =
                format!("{path}: about {} are needed, {place} has {}", bytes(estimate.on_device()), bytes(room));
            let remedy = if on_cpu {
                "lower context_tokens, or choose a smaller model"
            } else {
                "lower gpu_layers or context_tokens, set kv_type_k and kv_type_v to q8_0, or choose a smaller model; \
                 otherwise fewer layers than asked for go onto the GPU"
            };
            Finding { verdict: Verdict::Note, ..Finding::problem(what, found, remedy) }
        }
        _ => finding,
    };
    finding.with(details.into_iter().map(|line| line.trim_start().to_owned()))
}

/// What is free where the target will compute.
fn room(local: &LocalConfig, gpus: &[GpuReading], on_cpu: bool) -> Option<(String, u64)> {
    if on_cpu {
        return Some(("this machine".to_owned(), available_memory()?));
    }
    let named = |gpu: &&GpuReading| {
        local.gpu.as_ref().is_none_or(|wanted| *wanted == gpu.uuid || *wanted == gpu.index.to_string())
    };
    let gpu = gpus.iter().find(named)?;
    Some((format!("GPU {}", gpu.index), gpu.memory_total_bytes?.saturating_sub(gpu.memory_used_bytes?)))
}

/// Memory that programs can still have, in bytes.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_is_a_problem_only_for_who_asked_for_a_gpu() {
        let verdict = |needs| gpu_finding(Reading::NoGpu("no driver".into()), needs).0.verdict;
        assert_eq!((verdict(true), verdict(false)), (Verdict::Problem, Verdict::Note));
        assert_eq!(gpu_finding(Reading::Stuck, false).0.verdict, Verdict::Problem);
    }

    #[test]
    fn a_taken_port_is_told_with_the_key_to_change() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let finding = port("port of the API", "listen", taken.local_addr().unwrap());
        assert_eq!(finding.verdict, Verdict::Problem);
        assert!(finding.remedy.unwrap().contains("[server] listen"));
    }
}
