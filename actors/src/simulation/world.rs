//! One seed from the start to the end: a gateway of real actors, clients, engines and providers, a schedule of everything that can
//! go wrong, then calm, in which all of it must recover; and the sums at the end.

use super::{
    chance,
    client::{Crowd, Ended, LIMITS, Wish},
    dial,
    dice::Dice,
    disk::FaultyDisk,
    engine, provider,
    stage::Stage,
};
use crate::{
    config::{self, Config, Sources},
    domain::{KeyId, ModelChoice, NanoUsd},
    health::NvmlProbe,
    keys::{EmbeddedLimiter, Limiter},
    ledger::{Ledger, store::MemoryStore, store::Store},
    runtime::{KillWay, Outside, Runtime, names},
    supervise::tree::ActorState,
    task,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

pub(super) const HOSTS: [&str; 2] = ["east.sim", "west.sim"];
const MODELS: [&str; 4] = ["small", "large", "tiny", "huge"];
const ACTORS: [&str; 11] = [
    names::ROUTER,
    names::ROUTER,
    names::CLASSIFIER,
    names::LEDGER,
    names::HEALTH,
    "gpu/a",
    "gpu/b",
    "cloud/east/0",
    "cloud/west/1",
    names::GPU_SUPERVISOR,
    names::CLOUD_SUPERVISOR,
];

/// How long everything may take to recover once nothing breaks any more.
const RECOVERY: Duration = Duration::from_secs(180);

/// What a seed's run has shown.
pub(super) struct Outcome {
    pub(super) log: String,
    pub(super) wrongs: Vec<String>,
}

/// Runs the seed in a thread of its own: its chance must not be anybody else's.
pub(super) fn run(seed: u64) -> Outcome {
    let running = std::thread::spawn(move || {
        chance::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let outcome = runtime.block_on(play(seed));
        chance::end_wall();
        outcome
    });
    running.join().unwrap()
}

async fn play(seed: u64) -> Outcome {
    chance::begin_wall();
    super::come_here();
    let mut dice = Dice::new(seed);
    let stage = Stage::new(dice.fork());
    super::watch_panics(&stage);
    dial::use_network(Some(provider::network(&stage)));
    let folder = Folder::new();
    // Whatever hangs, hangs in virtual time and is seen.
    if timeout(Duration::from_secs(3600), act(&stage, &mut dice, &folder.0)).await.is_err() {
        stage.wrong("the simulation does not come to its end");
    }
    // What was dropped has gone; whoever is left would be left for ever.
    sleep(Duration::from_secs(120)).await;
    dial::use_network(None);
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    stage.demand(tasks == 0, || format!("{tasks} tasks are left"));
    Outcome { log: stage.log(), wrongs: stage.wrongs() }
}

async fn act(stage: &Stage, dice: &mut Dice, folder: &Path) {
    let config = Arc::new(configuration(dice, folder));
    let _ = stage.config.set(Arc::clone(&config));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let disk = FaultyDisk(stage.clone());
    let ledger = Ledger::simulated(&config.ledger, &folder.join("journal"), Box::new(disk), Arc::clone(&store)).await;
    let ledger = ledger.unwrap();
    drop(stage.ledger.set(ledger.clone()));
    let outside = Outside { ledger, spawner: engine::spawner(stage), probe: NvmlProbe::absent() };
    let runtime = Runtime::start_in(outside, Arc::clone(&config), Ok(PathBuf::from("/simulated"))).await;
    let runtime = Arc::new(runtime.unwrap_or_else(|error| panic!("{error}")));
    let limiter = Arc::new(EmbeddedLimiter::default());
    let crowd = Crowd { stage: stage.clone(), runtime: Arc::clone(&runtime), limiter, ends: Arc::default() };
    let kills = Kills::default();

    let last_call = dice.ms(5_000..30_000);
    let mut clients = Vec::new();
    let count = dice.number(10..45);
    for number in 0..count {
        let (mut own, crowd, at) = (dice.fork(), crowd.clone(), dice.number(0..last_call.as_millis() as u64));
        clients.push(task::detached(async move {
            sleep(Duration::from_millis(at)).await;
            let wish = Wish::any(format!("client {number}"), &mut own, &MODELS);
            crowd.ask(wish).await
        }));
    }
    let trouble = task::owned(trouble(stage.clone(), Arc::clone(&runtime), dice.fork(), kills.clone(), last_call));
    let root_died = {
        let all = async {
            for client in clients {
                let _ = client.await;
            }
        };
        tokio::pin!(all);
        tokio::select! {
            biased;
            () = &mut all => false,
            () = runtime.root_ended() => {
                stage.say(format_args!("root has died"));
                stage.demand(kills.may_end_root(), || "root has died of too few deaths".to_owned());
                runtime.services.jobs.fail_all();
                let ended = timeout(Duration::from_secs(30), all).await;
                stage.demand(ended.is_ok(), || "clients of a dead root wait".to_owned());
                true
            }
        }
    };
    drop(trouble);
    stage.say(format_args!("calm"));
    stage.calm_down();
    if !root_died {
        recover(stage, &runtime).await;
        ask_again(stage, &crowd).await;
    }
    sleep(Duration::from_secs(60)).await;
    let totals = runtime.services.jobs.totals();
    stage.say(format_args!("{totals:?}"));
    at_rest(stage, &runtime, &crowd).await;
    runtime.stop().await;
    stage.say(format_args!("stopped"));
    settled(stage, &runtime, &store, &crowd).await;
    sleep(Duration::from_secs(10)).await;
    let engines = stage.engines.load(Ordering::Relaxed);
    stage.demand(engines == 0, || format!("{engines} engines are left"));
}

/// When each actor was told to die.
#[derive(Clone, Default)]
struct Kills(Arc<Mutex<BTreeMap<&'static str, Vec<Instant>>>>);

impl Kills {
    fn note(&self, actor: &'static str) {
        self.0.lock().entry(actor).or_default().push(Instant::now());
    }

    /// Whether one of them has died more often than its supervisor puts up with.
    fn may_end_root(&self) -> bool {
        let kills = self.0.lock();
        kills.values().any(|times| times.windows(6).any(|six| six[5].duration_since(six[0]) <= Duration::from_secs(10)))
    }
}

/// Lets things go wrong until the last client has come, and a while longer.
async fn trouble(stage: Stage, runtime: Arc<Runtime>, mut dice: Dice, kills: Kills, last_call: Duration) {
    let until = Instant::now() + last_call + Duration::from_secs(10);
    // Some runs are rough, most are not, and some are storms of deaths that even root may not survive.
    let between = dice.weighed(&[(50, 4_000), (35, 1_200), (12, 500), (3, 60)]);
    while Instant::now() < until {
        sleep(dice.ms(1..between)).await;
        match dice.number(0..100) {
            0..45 => {
                let (actor, ways) =
                    (dice.one_of(&ACTORS), [KillWay::Kill, KillWay::Panic, KillWay::Error, KillWay::Stop]);
                let way = dice.one_of(&ways);
                if runtime.kill(actor, way).is_ok() {
                    stage.say(format_args!("{actor} dies: {way}"));
                    kills.note(actor);
                }
            }
            45..60 => {
                let ways = [
                    KillWay::Sigkill,
                    KillWay::Sigabrt,
                    KillWay::Sigstop,
                    KillWay::Exit,
                    KillWay::Garbage,
                    KillWay::HalfFrame,
                    KillWay::HangDecode,
                    KillWay::OutOfMemory,
                ];
                let (actor, way) = (dice.one_of(&["gpu/a", "gpu/b"]), dice.one_of(&ways));
                if runtime.kill(actor, way).is_ok() {
                    stage.say(format_args!("the engine of {actor} suffers {way}"));
                }
            }
            60..80 => {
                let (host, storm) = (dice.one_of(&HOSTS), dice.one_of(&[0, 10, 30, 60, 100]));
                stage.say(format_args!("{host} has {storm} faults in a hundred calls"));
                stage.storms.lock().insert(host.to_owned(), storm);
            }
            80..88 => {
                let full = !stage.disk_is_full.load(Ordering::Relaxed) && dice.percent(60);
                stage.say(format_args!("the disk is full: {full}"));
                stage.disk_is_full.store(full, Ordering::Relaxed);
            }
            88..92 => {
                let fails = !stage.disk_does_not_sync.load(Ordering::Relaxed);
                stage.say(format_args!("the disk does not sync: {fails}"));
                stage.disk_does_not_sync.store(fails, Ordering::Relaxed);
            }
            92..95 => {
                let by = dice.one_of(&[-3_600_000, -20_000, -500, 500, 20_000, 3_600_000, 86_400_000]);
                stage.say(format_args!("the clock jumps by {by} ms"));
                chance::jump(by);
            }
            _ => {
                let most = usize::try_from(dice.number(2..40)).unwrap();
                stage.say(format_args!("at most {most} at once"));
                runtime.services.jobs.set_limit(most);
            }
        }
    }
}

/// Everything works again: the tree is whole, the targets serve, the ledger writes.
async fn recover(stage: &Stage, runtime: &Runtime) {
    runtime.services.jobs.set_limit(64);
    let until = Instant::now() + RECOVERY;
    loop {
        let ill = illness(runtime);
        if ill.is_empty() {
            return stage.say(format_args!("well again"));
        }
        if Instant::now() > until {
            return stage.wrong(format_args!("does not recover: {ill:?}"));
        }
        sleep(Duration::from_millis(250)).await;
    }
}

fn illness(runtime: &Runtime) -> Vec<String> {
    let dead = runtime.tree.snapshot().into_iter().filter(|actor| actor.state != ActorState::Running);
    let mut ill: Vec<String> = dead.map(|actor| format!("{} is {:?}", actor.name, actor.state)).collect();
    for slot in runtime.services.fleet.slots.iter() {
        let view = slot.view();
        if !view.serving {
            ill.push(format!("{} is {:?}", slot.name(), view.state));
        }
    }
    if !runtime.services.ledger.snapshot().up {
        ill.push("the ledger is down".to_owned());
    }
    let now = Instant::now();
    for provider in runtime.services.fleet.providers.iter() {
        for (model, known) in provider.models() {
            if !provider.view(model, now).usable {
                ill.push(format!("{} is not usable", known.name));
            }
        }
    }
    ill
}

/// Who asks now is answered, everywhere.
async fn ask_again(stage: &Stage, crowd: &Crowd) {
    let mut last =
        vec![Wish::simple("last local", ModelChoice::Local, true), Wish::simple("last auto", ModelChoice::Auto, false)];
    last.extend(MODELS.map(|model| Wish::simple(&format!("last {model}"), ModelChoice::Named(model.into()), false)));
    for wish in last {
        let name = wish.name.clone();
        let ended = crowd.clone().ask(wish).await;
        stage.demand(ended == Ended::Done, || format!("{name} ends as {ended:?} although all is well"));
    }
}

/// Nothing that was lent is still out.
async fn at_rest(stage: &Stage, runtime: &Runtime, crowd: &Crowd) {
    let services = &runtime.services;
    let totals = services.jobs.totals();
    let ended: u64 = totals.ended.values().sum();
    stage.demand(totals.running == 0 && totals.admitted == ended, || format!("requests are left: {totals:?}"));
    for slot in services.fleet.slots.iter() {
        let (leases, busy) = (slot.view().leases, slot.has_jobs());
        stage.demand(leases == 0 && !busy, || format!("{} has {leases} leases, jobs: {busy}", slot.name()));
    }
    for provider in services.fleet.providers.iter() {
        stage.demand(provider.is_at_rest(), || format!("places of {} are taken", provider.config().name));
    }
    let snapshot = services.ledger.snapshot();
    let reserved = (snapshot.open_reservations, snapshot.reserved_nanousd);
    stage.demand(reserved == (0, NanoUsd::ZERO), || format!("money is set aside for nobody: {reserved:?}"));
    let mut budgets = snapshot.budget.values();
    stage.demand(budgets.all(|line| line.reserved_nanousd == NanoUsd::ZERO), || {
        "a budget is set aside for nobody".into()
    });
    let queued = runtime.queued().await;
    stage.demand(queued.is_none_or(|queued| queued == 0), || format!("{queued:?} wait"));
    for key in 0..3 {
        let standing = crowd.limiter.standing(&KeyId::from(format!("key_{key}").as_str()), LIMITS, Instant::now());
        let full = standing.requests.is_none_or(|meter| meter.remaining == u64::from(meter.limit))
            && standing.tokens.is_none_or(|meter| meter.remaining == u64::from(meter.limit));
        stage.demand(full && standing.running == 0, || format!("limits of key {key} are not given back: {standing:?}"));
    }
}

/// What providers have billed is in the ledger, and nothing was bought that was not set aside before.
async fn settled(stage: &Stage, runtime: &Runtime, store: &Arc<dyn Store>, crowd: &Crowd) {
    let rows = store.attempts(0, 100_000).await.unwrap();
    let mut posted: BTreeMap<String, (NanoUsd, usize)> = BTreeMap::new();
    for (number, row) in &rows {
        stage.say(format_args!(
            "row {number}: {} at {} {} {} {}",
            row.request,
            row.target,
            row.outcome,
            row.reserved.get(),
            row.cost.get()
        ));
        let line = posted.entry(row.request.to_string()).or_default();
        line.0 = line.0 + row.cost;
        line.1 += usize::from(row.reserved > NanoUsd::ZERO);
    }
    let mut billed: BTreeMap<String, NanoUsd> = BTreeMap::new();
    for bill in stage.bills.lock().iter() {
        let sum = billed.entry(bill.request.clone()).or_default();
        *sum = *sum + bill.cost;
    }
    for (request, cost) in &billed {
        let (paid, _) = posted.get(request).copied().unwrap_or_default();
        stage.demand(paid >= *cost, || format!("{request} is billed {} and {} are posted", cost.get(), paid.get()));
    }
    for (request, calls) in stage.calls.lock().iter() {
        let (_, reserved) = posted.get(request).copied().unwrap_or_default();
        stage.demand(reserved >= *calls, || format!("{request} made {calls} calls and {reserved} were set aside for"));
    }
    for (request, (paid, _)) in &posted {
        let called = stage.calls.lock().contains_key(request);
        stage.demand(called || *paid == NanoUsd::ZERO, || {
            format!("{request} called nobody and is charged {}", paid.get())
        });
    }
    let sum: NanoUsd = rows.iter().map(|(_, row)| row.cost).sum();
    let told = runtime.services.ledger.snapshot().cost_nanousd;
    stage.demand(sum == told, || format!("the ledger tells of {} and has rows of {}", told.get(), sum.get()));
    // One row for each request that was admitted.
    let rows = store.requests(100_000).await.unwrap().len() as u64;
    let admitted = runtime.services.jobs.totals().admitted;
    stage.demand(rows <= admitted, || format!("{rows} rows of {admitted} requests"));
    let ends = crowd.ends.lock();
    let count = |wanted: Ended| ends.iter().filter(|(_, ended)| *ended == wanted).count();
    stage.say(format_args!(
        "{} done, {} failed, {} left, {} refused",
        count(Ended::Done),
        count(Ended::Failed),
        count(Ended::Left),
        count(Ended::Refused)
    ));
}

/// The journal's folder, which goes with the run.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("spillway-simulation-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn configuration(dice: &mut Dice, folder: &Path) -> Config {
    let text = include_str!("world.toml");
    let overrides = [
        ("local.0.parallel", toml::Value::from(dice.one_of(&[1, 2, 4]))),
        ("local.1.parallel", dice.one_of(&[1, 2, 4]).into()),
        ("cloud.0.max_concurrency", dice.one_of(&[1, 2, 8]).into()),
        ("server.max_inflight", dice.one_of(&[6, 16, 64]).into()),
        ("router.hedge.enabled", dice.percent(30).into()),
        ("router.cascade.enabled", dice.percent(30).into()),
        ("ledger.budget_usd_per_day", if dice.percent(30) { 0.05.into() } else { "unlimited".into() }),
        ("keys.file", folder.join("keys.json").display().to_string().into()),
    ];
    let sources = Sources {
        file: Some(("world.toml".into(), text.to_owned())),
        env: ["EAST_1", "EAST_2", "WEST_1"].map(|name| (name.to_owned(), format!("sk-{name}"))).to_vec(),
        overrides: overrides.into_iter().map(|(path, value)| (path.to_owned(), value)).collect(),
        ..Sources::default()
    };
    let loaded = config::load(&sources, &|_| Err(io::ErrorKind::NotFound.into()));
    loaded.unwrap_or_else(|faults| panic!("{faults:?}")).0
}
