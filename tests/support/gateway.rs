//! One running gateway: the release binary as a child of the test, its addresses, its log, its admin endpoints, and the
//! two ways it ends: `shutdown`, which asserts the orderly end, and `Drop`, which asserts that no engine survives it.

use super::{
    client::Client,
    cloud::Cloud,
    history::History,
    poll::{eventually, until, until_blocking},
    process::{self, Process},
    setup::{Folder, Setup},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};
use tokio::time::Instant;

/// To the first line on stdout, on a busy machine.
const START: Duration = Duration::from_secs(20);
/// To the first passed canary, on a busy machine.
const WARM: Duration = Duration::from_secs(30);
/// From SIGTERM to the exit, beyond the drain timeout.
const EXIT: Duration = Duration::from_secs(15);
/// From the gateway's end to its engine's.
const ORPHAN: Duration = Duration::from_secs(5);
/// Name of the configuration's file.
const CONFIG: &str = "spillway.toml";
/// Lines of log shown when a test fails.
const LOG_LINES: usize = 60;

/// The gateway binary under test: the one a folder above this executable (where cargo puts both), else what cargo names.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("the test knows its own path");
    let beside = own.ancestors().nth(2).expect("executables live in folders").join("spillway");
    let path = if beside.is_file() { Some(beside) } else { option_env!("CARGO_BIN_EXE_spillway").map(PathBuf::from) };
    path.filter(|path| path.is_file()).expect("the gateway is built: run `make build`")
}

/// `spillway serve` on a configuration file, not yet started.
pub fn serve(config: &Path, env: &[(String, String)]) -> Command {
    let mut command = Command::new(binary());
    command.arg("serve").arg("--config").arg(config).stdin(Stdio::null());
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command
}

pub struct Gateway {
    child: Mutex<Child>,
    ended: Mutex<Option<ExitStatus>>,
    pub pid: u32,
    /// `http://host:port`, without `/v1`.
    pub api: String,
    pub admin: String,
    pub client: Client,
    pub folder: Folder,
    /// From the process's start to the first 200 of `/health`.
    pub started_in: Duration,
    drain_timeout: Duration,
    log: Arc<Mutex<Vec<String>>>,
    cloud: Option<Cloud>,
    backup: Option<Cloud>,
    engines: Mutex<BTreeSet<Process>>,
}

/// A death that was ordered.
#[derive(Debug, Clone, Deserialize)]
pub struct Kill {
    pub actor: String,
    pub how: String,
    pub unix_ns: u64,
}

/// `/admin/status`, as far as tests read it.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    pub gpus: Vec<Gpu>,
    pub queue: Option<u64>,
    pub leases: u64,
    pub breakers: Vec<Breaker>,
    pub requests: Totals,
    pub draining: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Gpu {
    pub name: String,
    pub state: String,
    pub cause: Option<String>,
    pub last_death: Option<Value>,
    pub epoch: u64,
    pub serving: bool,
    pub engine_pid: Option<u32>,
    pub leases: u64,
    pub parallel: u64,
    pub work: Work,
}

/// What the engine has to do by its last heartbeat, and what clients that left have cost.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Work {
    pub running: Option<u64>,
    pub waiting: Option<u64>,
    pub kv_used: Option<u64>,
    pub kv_kept: Option<u64>,
    pub left: u64,
    pub tokens_after_leaving: u64,
    pub most_after_leaving: u64,
}

/// One (provider, model).
#[derive(Debug, Clone, Deserialize)]
pub struct Breaker {
    pub target: String,
    pub model: String,
    pub state: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Totals {
    pub admitted: u64,
    pub refused: u64,
    pub running: u64,
    pub ended: BTreeMap<String, u64>,
}

/// One line of `/admin/actors`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ActorLine {
    pub name: String,
    pub parent: Option<String>,
    pub state: String,
    pub restarts: u64,
    pub uptime_s: f64,
    pub last_exit_cause: Option<String>,
}

impl Status {
    pub fn gpu(&self) -> &Gpu {
        self.gpus.first().expect("one local target")
    }

    /// State of the breaker of a cloud model.
    pub fn breaker(&self, model: &str) -> &str {
        let breaker = self.breakers.iter().find(|breaker| breaker.model == model);
        breaker.map_or_else(|| panic!("no breaker of {model}: {self:?}"), |breaker| &breaker.state)
    }

    /// Every admitted request is running or has ended, once.
    pub fn assert_conserved(&self) {
        let ended: u64 = self.requests.ended.values().sum();
        assert_eq!(self.requests.admitted, ended + self.requests.running, "requests are conserved: {self:?}");
    }
}

impl Gateway {
    pub async fn start(setup: &Setup, cloud: Option<Cloud>, backup: Option<Cloud>) -> Self {
        Self::start_for(setup, cloud, backup, Client::new()).await
    }

    /// Asked with `client`.
    pub async fn start_for(setup: &Setup, cloud: Option<Cloud>, backup: Option<Cloud>, client: Client) -> Self {
        let folder = Folder::new().expect("a temporary folder");
        let config = folder.write(CONFIG, setup.text(cloud.as_ref(), backup.as_ref()).as_bytes());
        let began = Instant::now();
        let mut command = serve(&config, &setup.env());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the gateway binary starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (first_line, line) = mpsc::sync_channel(1);
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        collect(stdout, Arc::clone(&log), Some(first_line));
        collect(stderr, Arc::clone(&log), None);
        let greeting = tokio::task::spawn_blocking(move || line.recv_timeout(START)).await.expect("a thread");
        let Ok(greeting) = greeting else {
            let _ = child.kill();
            panic!("the gateway said nothing on stdout:\n{}", tail(&log));
        };
        let (api, admin) = addresses(&greeting);
        let mut gateway = Self {
            pid: child.id(),
            child: Mutex::new(child),
            ended: Mutex::default(),
            api,
            admin,
            client,
            folder,
            started_in: Duration::ZERO,
            drain_timeout: setup.drain_timeout,
            log,
            cloud,
            backup,
            engines: Mutex::default(),
        };
        let health = format!("{}/health", gateway.api);
        until("the API answers /health", START, || async { gateway.client.get_json(&health).await }).await;
        gateway.started_in = began.elapsed();
        gateway
    }

    pub fn cloud(&self) -> &Cloud {
        self.cloud.as_ref().expect("this test has a cloud provider")
    }

    pub fn backup(&self) -> &Cloud {
        self.backup.as_ref().expect("this test has a second provider")
    }

    /// The file the gateway was started with, as it is now.
    pub fn config_text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(CONFIG)).expect("its configuration")
    }

    pub fn rewrite_config(&self, text: &str) {
        self.folder.write(CONFIG, text.as_bytes());
    }

    /// Every line of both its pipes.
    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panicked").join("\n")
    }

    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    pub fn log_lines(&self) -> Vec<String> {
        self.log.lock().expect("no reader panicked").clone()
    }

    /// Waits for a line of the log that holds `text`: what a client or the status tells is there a little earlier.
    pub async fn until_logged(&self, text: &str) {
        let told = eventually(Duration::from_secs(10), || async { self.logged(text).then_some(()) }).await;
        assert!(told.is_some(), "never logged: {text}\n{}", self.log_tail());
    }

    /// Whether a line of the log holds `text`.
    pub fn logged(&self, text: &str) -> bool {
        self.log.lock().expect("no reader panicked").iter().any(|line| line.contains(text))
    }

    /// How often engines died of what, as the log tells it; numbers in a cause count as one cause.
    pub fn death_causes(&self) -> BTreeMap<String, usize> {
        let log = self.log.lock().expect("no reader panicked");
        let mut causes = BTreeMap::new();
        for line in log.iter().filter(|line| line.contains("gpu state") && line.contains("state=\"down\"")) {
            let cause = line.split("cause=\"").nth(1).unwrap_or_default().trim_end_matches('"');
            let cause: String =
                cause.split(' ').map(|w| if w.parse::<u64>().is_ok() { "N" } else { w }).collect::<Vec<_>>().join(" ");
            *causes.entry(cause).or_default() += 1;
        }
        causes
    }

    /// Ids of the requests that RouterActor sent to `target`, in order of its decisions; needs the debug log.
    pub fn decided(&self, target: &str) -> Vec<String> {
        let log = self.log.lock().expect("no reader panicked");
        let target = format!("target=\"{target}\"");
        let decisions = log.iter().filter(|line| line.contains("route decided") && line.contains(&target));
        let id = |line: &String| line.split("request=").nth(1)?.split_whitespace().next().map(str::to_owned);
        decisions.filter_map(id).collect()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.api)
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("{}{path}", self.admin)
    }

    /// `None` once the admin listener is gone.
    pub async fn try_status(&self) -> Option<Status> {
        let value = self.client.get_json(&self.admin_url("/admin/status")).await?;
        let status: Status = serde_json::from_value(value).expect("the status has its shape");
        let pids = status.gpus.iter().filter_map(|gpu| gpu.engine_pid);
        self.engines.lock().expect("no holder panicked").extend(pids.filter_map(Process::of));
        Some(status)
    }

    pub async fn status(&self) -> Status {
        match self.try_status().await {
            Some(status) => status,
            None => panic!("/admin/status does not answer:\n{}", self.log_tail()),
        }
    }

    /// The value of a series, written as `/metrics` writes it.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let asked = self.client.raw().get(self.admin_url("/metrics")).send().await.ok()?;
        let text = asked.text().await.ok()?;
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub async fn gpu(&self) -> Gpu {
        self.status().await.gpu().clone()
    }

    pub async fn actors(&self) -> Vec<ActorLine> {
        let mut value = self.client.get_json(&self.admin_url("/admin/actors")).await.expect("/admin/actors answers");
        serde_json::from_value(value["actors"].take()).expect("the tree has its shape")
    }

    pub async fn actor(&self, name: &str) -> ActorLine {
        let actors = self.actors().await;
        actors.into_iter().find(|actor| actor.name == name).unwrap_or_else(|| panic!("no actor is called {name}"))
    }

    /// Waits until the local target takes requests. Gives its line of the status.
    pub async fn until_serving(&self) -> Gpu {
        let look = || async { Some(self.gpu().await).filter(|gpu| gpu.serving) };
        match eventually(WARM, look).await {
            Some(gpu) => gpu,
            None => panic!("the local target does not serve: {:?}\n{}", self.gpu().await, self.log_tail()),
        }
    }

    /// Waits until `fact` holds of the status.
    pub async fn until_status(&self, what: &str, limit: Duration, fact: impl Fn(&Status) -> bool) -> Status {
        let look = || async { Some(self.status().await).filter(|status| fact(status)) };
        match eventually(limit, look).await {
            Some(status) => status,
            None => panic!("not within {limit:?}: {what}: {:?}\n{}", self.status().await, self.log_tail()),
        }
    }

    /// Orders a death; refused orders (nobody lives there just now) are `None`.
    pub async fn try_kill(&self, actor: &str, how: &str) -> Option<Kill> {
        let order = json!({"actor": actor, "how": how});
        let asked = self.client.raw().post(self.admin_url("/admin/chaos/kill")).json(&order).send().await.ok()?;
        let status = asked.status();
        if status.as_u16() == 409 {
            return None;
        }
        let body: Value = asked.json().await.ok()?;
        assert!(status.is_success(), "chaos takes the order {order}: {body}");
        Some(serde_json::from_value(body).expect("a kill has its shape"))
    }

    pub async fn kill(&self, actor: &str, how: &str) -> Kill {
        until("somebody lives there to be killed", WARM, || self.try_kill(actor, how)).await
    }

    /// Waits until `actor` was restarted since it had `restarts`, and runs.
    pub async fn until_restarted(&self, actor: &str, restarts: u64) -> ActorLine {
        until(&format!("{actor} was restarted"), Duration::from_secs(10), || async {
            Some(self.actor(actor).await).filter(|line| line.restarts > restarts && line.state == "running")
        })
        .await
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("the gateway can be signalled");
    }

    /// The exit status, if the gateway has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut ended = self.ended.lock().expect("no holder panicked");
        if ended.is_none() {
            *ended = self.child.lock().expect("no holder panicked").try_wait().expect("a child can be waited for");
        }
        *ended
    }

    pub async fn until_ended(&self) -> ExitStatus {
        let limit = self.drain_timeout + EXIT;
        match eventually(limit, || async { self.ended() }).await {
            Some(status) => status,
            None => panic!("the gateway did not end within {limit:?}:\n{}", self.log_tail()),
        }
    }

    /// Children that are engines, dead or alive.
    pub fn children(&self) -> BTreeSet<Process> {
        process::children(self.pid)
    }

    /// What must hold whenever the work is done and the local target serves (again): no lease, no queue, no zombie, every
    /// request accounted for, and no file left open.
    pub async fn assert_quiet(&self, baseline: &[String]) {
        let limit = Duration::from_secs(5);
        let quiet = |status: &Status| status.leases == 0 && status.queue == Some(0) && status.requests.running == 0;
        let status = self.until_status("all is quiet", limit, quiet).await;
        status.assert_conserved();
        assert_eq!(self.ended(), None, "the gateway lives");
        let no_zombie = eventually(limit, || async { process::zombies_of(self.pid).is_empty().then_some(()) }).await;
        assert!(no_zombie.is_some(), "zombies: {:?}", process::zombies_of(self.pid));
        let open = || async { Some(self.open_files()).filter(|open| open.len() <= baseline.len()) };
        if eventually(limit, open).await.is_none() {
            panic!("open files leak:\nbefore {baseline:#?}\nafter {:#?}", self.open_files());
        }
    }

    /// Open files, but for TCP connections.
    pub fn open_files(&self) -> Vec<String> {
        process::open_files(self.pid)
    }

    pub fn resident_bytes(&self) -> u64 {
        process::resident_bytes(self.pid).unwrap_or(0)
    }

    /// The end of most tests: the history keeps the rules and agrees with the gateway's own account, and the gateway
    /// goes in good order.
    pub async fn finish(self, history: &History) {
        history.assert_rules();
        self.assert_account(history).await;
        self.shutdown().await;
    }

    /// The gateway admitted what clients sent, but for what it refused with a status of its own.
    pub async fn assert_account(&self, history: &History) {
        let limit = Duration::from_secs(5);
        let status = self.until_status("no request runs", limit, |status| status.requests.running == 0).await;
        status.assert_conserved();
        let seen = history.len() as u64;
        let known = status.requests.admitted + status.requests.refused;
        assert!(known <= seen, "the gateway knows of {known} requests, clients of {seen}");
    }

    /// SIGTERM, exit code 0, requests conserved before it.
    pub async fn shutdown(self) {
        let limit = Duration::from_secs(10);
        let status = self.until_status("no request runs", limit, |status| status.requests.running == 0).await;
        status.assert_conserved();
        self.signal(rustix::process::Signal::TERM);
        let exit = self.until_ended().await;
        assert_eq!(exit.code(), Some(0), "SIGTERM is an orderly end:\n{}", self.log_tail());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let mut engines = std::mem::take(&mut *self.engines.lock().unwrap_or_else(|poison| poison.into_inner()));
        engines.extend(process::children(self.pid));
        if self.ended.lock().is_ok_and(|ended| ended.is_none()) {
            let child = self.child.get_mut().unwrap_or_else(|poison| poison.into_inner());
            let _ = child.kill();
            let _ = child.wait();
        }
        let gone = until_blocking(ORPHAN, || engines.iter().all(|engine| !engine.is_alive()));
        if std::thread::panicking() {
            eprintln!("the gateway's last words:\n{}", self.log_tail());
            return;
        }
        assert!(gone, "no engine survives its gateway: {engines:?}");
    }
}

/// Reads lines until the pipe ends, so that the gateway never blocks on it.
fn collect(pipe: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>, first: Option<mpsc::SyncSender<String>>) {
    std::thread::spawn(move || {
        let mut first = first;
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Some(first) = first.take() {
                let _ = first.send(line.clone());
            }
            if let Ok(mut log) = log.lock() {
                log.push(line);
            }
        }
    });
}

fn tail(log: &Mutex<Vec<String>>) -> String {
    let log = log.lock().unwrap_or_else(|poison| poison.into_inner());
    log.iter().skip(log.len().saturating_sub(LOG_LINES)).fold(String::new(), |text, line| text + "  " + line + "\n")
}

/// API and admin address from "spillway serves http://…/v1 · admin and metrics on http://…".
pub fn addresses(greeting: &str) -> (String, String) {
    let mut urls = greeting.split_whitespace().filter(|word| word.starts_with("http"));
    match (urls.next(), urls.next()) {
        (Some(api), Some(admin)) => (api.trim_end_matches("/v1").to_owned(), admin.to_owned()),
        _ => panic!("the first line tells both addresses: {greeting}"),
    }
}
