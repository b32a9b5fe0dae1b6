//! F26: the gateway is killed (SIGKILL) under load, again and again, always on the same ledger. What a client was told is in
//! the books, nothing is in them twice, and nothing stays open.

use super::two_providers;
use crate::support::{
    Ask, Client, Folder, Outcome, Record, Setup,
    accounts::{Attempt, Page},
    cloud::{Arrived, Cloud},
    gateway::{addresses, binary, serve},
    poll::until,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use spillway::sim::SimOptions;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

const CLIENTS: usize = 6;
/// As many as `SPILLWAY_TEST_KILLS` says, else this many.
const KILLS: usize = 8;
/// Nano-dollars of one token.
const PRICE: u64 = 420;

/// A gateway's process, without the watching that other tests need.
struct Bare {
    child: Child,
    api: String,
    admin: String,
}

impl Bare {
    async fn start(config: &Path, env: &[(String, String)]) -> Self {
        let mut child =
            serve(config, env).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the gateway binary starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let greeting = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let (api, admin) = addresses(&greeting.await.expect("a thread").expect("a first line"));
        Self { child, api, admin }
    }

    fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }
}

#[derive(Default)]
struct Seen {
    records: Vec<Record>,
    arrived: Vec<Arrived>,
    kills: usize,
}

/// Asks until told to stop; what was cut by the kill is recorded too.
async fn load(client: Client, api: String, seed: u64, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Vec<Record> {
    let mut turns = StdRng::seed_from_u64(seed);
    let mut records = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let ask = if turns.random() { Ask::hard().stream() } else { Ask::hard() };
        let record = client.ask(&api, ask).await;
        let cut = matches!(record.outcome, Outcome::Broken(_));
        records.push(record);
        done.fetch_add(1, Ordering::Relaxed);
        if cut {
            break;
        }
    }
    records
}

async fn one_life(config: &Path, env: &[(String, String)], cloud: &Cloud, seen: &mut Seen, chaos: &mut StdRng) {
    let gateway = Bare::start(config, env).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        clients.spawn(load(Client::new(), gateway.api.clone(), chaos.random(), stop, done));
    }
    let some = chaos.random_range(CLIENTS..CLIENTS * 6);
    until("the load runs", Duration::from_secs(30), || async { (done.load(Ordering::Relaxed) >= some).then_some(()) })
        .await;
    tokio::time::sleep(Duration::from_micros(chaos.random_range(0..20_000))).await;
    gateway.kill();
    stop.store(true, Ordering::Relaxed);
    seen.records.extend(clients.join_all().await.into_iter().flatten());
    seen.kills += 1;
    seen.arrived.extend(cloud.arrived().await);
    cloud.forget().await;
}

async fn attempts(client: &Client, admin: &str) -> Vec<Attempt> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let url = format!("{admin}/admin/usage/attempts?from={from}&limit=1000");
        let page = client.get_json(&url).await.expect("the ledger's rows can be read");
        let page: Page = serde_json::from_value(page).expect("rows have their shape");
        if page.attempts.is_empty() {
            return all;
        }
        from = page.next;
        all.extend(page.attempts);
    }
}

fn kills() -> usize {
    std::env::var("SPILLWAY_TEST_KILLS").ok().and_then(|number| number.parse().ok()).unwrap_or(KILLS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f26_killed_under_load_nothing_is_settled_twice_and_nothing_acknowledged_is_lost() {
    let folder = Folder::new().unwrap();
    let cloud = Cloud::start(SimOptions {
        ttft: Duration::from_millis(3),
        tokens_per_second: Some(4000.0),
        tokens: 24,
        ..SimOptions::default()
    })
    .await;
    let setup = Setup { backup: None, ..two_providers() }.ledger_in(folder.path());
    let config = folder.write("spillway.toml", setup.text(Some(&cloud), None).as_bytes());
    let (mut seen, mut chaos) = (Seen::default(), StdRng::seed_from_u64(26));
    for _ in 0..kills() {
        one_life(&config, &setup.env(), &cloud, &mut seen, &mut chaos).await;
    }
    let last = Bare::start(&config, &setup.env()).await;
    let client = Client::new();
    let rows = attempts(&client, &last.admin).await;
    let usage = client.get_json(&format!("{}/admin/usage?by=day", last.admin)).await.expect("usage answers");
    judge(&seen, &rows, &usage);
    from_the_command_line(&config, &setup.env(), &rows);
    last.kill();
}

/// The three accounts, held against each other.
fn judge(seen: &Seen, rows: &[Attempt], usage: &Value) {
    let mut by_id: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
    rows.iter().for_each(|row| by_id.entry(&row.request).or_default().push(row));
    let twice: Vec<_> = by_id.values().filter(|rows| rows.len() > 1).collect();
    assert!(twice.is_empty(), "settled twice: {twice:#?}");

    let acknowledged: Vec<&Record> = seen.records.iter().filter(|record| record.is_complete()).collect();
    for record in &acknowledged {
        let id = record.id.as_deref().expect("an answer has an id");
        let row = by_id.get(id).unwrap_or_else(|| panic!("acknowledged and lost: {record:#?}"))[0];
        let tokens = row.usage.prompt_tokens + row.usage.completion_tokens;
        assert_eq!((row.outcome.as_str(), row.cost), ("ok", tokens * PRICE), "{row:?}");
    }
    let called: BTreeSet<&str> = seen.arrived.iter().map(|call| call.request_id.as_str()).collect();
    let unknown: Vec<_> = called.iter().filter(|id| !by_id.contains_key(*id)).collect();
    assert!(unknown.is_empty(), "calls that no reservation preceded: {unknown:?}");
    let open = rows.iter().filter(|row| row.outcome == "reserved").count();
    assert_eq!((open, &usage["open_reservations"], &usage["reserved_nanousd"]), (0, &0.into(), &0.into()));
    let interrupted = rows.iter().filter(|row| row.outcome == "interrupted").count();
    let understated = rows.iter().filter(|row| row.outcome == "interrupted" && row.cost != row.reserved).count();
    assert_eq!(understated, 0, "what nobody closed is charged in full");
    let sum: u64 = rows.iter().map(|row| row.cost).sum();
    assert_eq!(usage["cost_nanousd"], sum, "the running sums are the rows'");
    assert_eq!(usage["usage"]["total"]["cost_nanousd"], sum, "and the days'");
    println!(
        "{} kills: {} requests, {} acknowledged, {} provider calls, {} rows of which {interrupted} interrupted; settled \
         twice 0, acknowledged and lost 0, open 0",
        seen.kills,
        seen.records.len(),
        acknowledged.len(),
        seen.arrived.len(),
        rows.len()
    );
}

/// `spillway usage` reads the same beside the running gateway.
fn from_the_command_line(config: &Path, env: &[(String, String)], rows: &[Attempt]) {
    let run = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("usage").arg("--config").arg(config).args(args).envs(env.iter().map(|(name, value)| (name, value)));
        let output = command.output().expect("the binary starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let json: Value = serde_json::from_str(&run(&["--by", "target", "--json"])).expect("JSON");
    assert_eq!(json["total"]["attempts"], rows.len());
    let csv = run(&["--by", "attempt", "--csv"]);
    assert_eq!(csv.lines().count(), rows.len() + 1, "a line for each attempt and a head");
    assert!(run(&["--by", "day"]).contains("cost"));
}
