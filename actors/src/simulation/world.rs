//! One seed from the start to the end: a gateway of real actors, clients, engines and providers, a schedule of everything that can
//! go wrong, then calm, in which all of it must recover; and the sums at the end.

use super::{
    chance,
    client::{Crowd, Ended, LIMITS, Wish},
    dial,
    dice::Dice,
    disk::FaultyDisk,
    engine, provider,
    stage::{PROMPT_TOKENS, Stage},
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
    future::pending,
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const HOSTS: [&str; 2] = ["east.sim", "west.sim"];
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

/// How long requests may go on once the gateway is told to end, and how long their last words may take.
const DRAIN: Duration = Duration::from_secs(4);
const LAST_WORDS: Duration = Duration::from_secs(7);
/// No life is longer, unless it has got stuck.
const LIFE: Duration = Duration::from_secs(3600);
/// How long everything may take to recover once nothing breaks any more.
const RECOVERY: Duration = Duration::from_secs(720);

/// What a seed's run has shown.
pub(super) struct Outcome {
    pub(super) log: String,
    pub(super) wrongs: Vec<String>,
}

/// Runs the seed in a thread of its own: its chance must not be anybody else's.
pub(super) fn run(seed: u64) -> Outcome {
    std::thread::spawn(move || World::new(seed).play()).join().unwrap()
}

/// What outlives a process of the gateway.
struct World {
    stage: Stage,
    dice: Dice,
    folder: Folder,
    config: Arc<Config>,
    store: Arc<dyn Store>,
    /// Of all lives.
    admitted: u64,
    lives: usize,
    /// Virtual time of earlier lives.
    passed: Duration,
}

impl World {
    fn new(seed: u64) -> Self {
        chance::seed(seed);
        super::come_here();
        let mut dice = Dice::new(seed);
        let stage = Stage::new(dice.fork());
        super::watch_panics(&stage);
        dial::use_network(Some(provider::network(&stage)));
        let folder = Folder::new();
        let config = Arc::new(configuration(&mut dice, &folder.0));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        Self { stage, dice, folder, config, store, admitted: 0, lives: 0, passed: Duration::ZERO }
    }

    fn play(mut self) -> Outcome {
        if self.dice.percent(30) {
            let killed_after = self.dice.ms(3_000..20_000);
            self.live(Some(killed_after));
        }
        self.live(None);
        dial::use_network(None);
        Outcome { log: self.stage.log(), wrongs: self.stage.wrongs() }
    }

    /// One process of the gateway, to its end in good order or until it is killed.
    fn live(&mut self, killed_after: Option<Duration>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            self.stage.begin_life(self.passed);
            chance::begin_wall(self.passed);
            let mut life = Box::pin(timeout(LIFE, act(self)));
            let Some(after) = killed_after else {
                let ended = life.await;
                self.stage.demand(ended.is_ok(), || "the simulation does not come to its end".to_owned());
                return self.nothing_is_left().await;
            };
            tokio::select! {
                biased;
                _ = &mut life => {}
                () = sleep(after) => {}
            }
            // Killed: nothing of it is dropped in good order.
            std::mem::forget(life);
            self.stage.say(format_args!("the gateway is killed"));
            self.passed = self.stage.now();
        });
        chance::end_wall();
        if killed_after.is_some() {
            std::mem::forget(runtime);
        }
    }

    /// Whoever is left would be left for ever.
    async fn nothing_is_left(&self) {
        sleep(Duration::from_secs(120)).await;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        self.stage.demand(tasks == 0, || format!("{tasks} tasks are left"));
        let engines = self.stage.engines.load(Ordering::Relaxed);
        self.stage.demand(engines == 0, || format!("{engines} engines are left"));
    }

    /// A copy of what the last process has left behind, whose lock nobody holds.
    fn journal(&mut self) -> PathBuf {
        let folder = |life: usize| self.folder.0.join(format!("journal-{life}"));
        let (old, new) = (folder(self.lives), folder(self.lives + 1));
        std::fs::create_dir_all(&new).unwrap();
        for entry in std::fs::read_dir(old).into_iter().flatten() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), new.join(entry.file_name())).unwrap();
        }
        self.lives += 1;
        new
    }
}

async fn act(world: &mut World) {
    let journal = world.journal();
    let (stage, dice) = (&world.stage, &mut world.dice);
    let (store, config) = (Arc::clone(&world.store), Arc::clone(&world.config));
    let disk = Box::new(FaultyDisk(stage.clone()));
    let ledger = Ledger::simulated(&config.ledger, &journal, disk, Arc::clone(&store)).await.unwrap();
    *stage.ledger.lock() = Some(ledger.clone());
    let outside = Outside { ledger, spawner: engine::spawner(stage), probe: NvmlProbe::absent() };
    let runtime = Runtime::start_in(outside, Arc::clone(&config), Ok(PathBuf::from("/simulated"))).await;
    let runtime = Arc::new(runtime.unwrap_or_else(|error| panic!("{error}")));
    let limiter = Arc::new(EmbeddedLimiter::default());
    let crowd = Crowd { stage: stage.clone(), runtime: Arc::clone(&runtime), limiter, ends: Arc::default() };
    let kills = Kills::default();

    // Some come all at once.
    let last_call = if dice.percent(20) { dice.ms(200..2_000) } else { dice.ms(5_000..30_000) };
    let clients = come(&crowd, dice, last_call);
    let trouble = task::owned(trouble(stage.clone(), Arc::clone(&runtime), dice.fork(), kills.clone(), last_call));
    let drains_after = dice.percent(20).then(|| dice.ms(500..15_000));
    let goes_on = all_served(stage, &runtime, &kills, clients, drains_after).await;
    drop(trouble);
    stage.say(format_args!("calm"));
    stage.calm_down();
    if goes_on {
        recover(stage, &runtime).await;
        // An idle engine that hangs is found by its next canary.
        sleep(Duration::from_secs(20)).await;
        recover(stage, &runtime).await;
        ask_again(&crowd, config.ledger.budget.day.is_none()).await;
    }
    sleep(Duration::from_secs(60)).await;
    stage.say(format_args!("{:?}", runtime.services.jobs.totals()));
    at_rest(stage, &runtime, &crowd).await;
    runtime.stop().await;
    stage.say(format_args!("stopped"));
    world.admitted += runtime.services.jobs.totals().admitted;
    settled(world, &runtime, &crowd).await;
    *world.stage.ledger.lock() = None;
}

/// Clients, each at a time of its own.
fn come(crowd: &Crowd, dice: &mut Dice, last_call: Duration) -> Vec<JoinHandle<Ended>> {
    let mut clients = Vec::new();
    for _ in 0..dice.number(10..45) {
        let (mut own, crowd, at) = (dice.fork(), crowd.clone(), dice.number(0..last_call.as_millis() as u64));
        clients.push(task::detached(async move {
            sleep(Duration::from_millis(at)).await;
            let wish = Wish::any(format!("client {}", crowd.stage.number()), &mut own, &MODELS);
            crowd.ask(wish).await
        }));
    }
    clients
}

/// Waits for the clients. `false`: the gateway has to end before that, because it is told to, or because root has died.
async fn all_served(
    stage: &Stage,
    runtime: &Runtime,
    kills: &Kills,
    clients: Vec<JoinHandle<Ended>>,
    drains_after: Option<Duration>,
) -> bool {
    let all = async {
        for client in clients {
            let _ = client.await;
        }
    };
    let told = async {
        match drains_after {
            Some(after) => sleep(after).await,
            None => pending().await,
        }
    };
    let jobs = &runtime.services.jobs;
    tokio::pin!(all);
    tokio::select! {
        biased;
        () = &mut all => return true,
        () = told => {
            stage.say(format_args!("draining"));
            jobs.close();
            jobs.drained(DRAIN).await;
        }
        () = runtime.root_ended() => {
            stage.say(format_args!("root has died"));
            stage.demand(kills.may_end_root(), || "root has died of too few deaths".to_owned());
        }
    }
    jobs.fail_all();
    let drained = jobs.drained(LAST_WORDS).await;
    stage.demand(drained, || format!("{} requests do not end", jobs.running()));
    // Those that come now, and those that read slowly.
    let ended = timeout(Duration::from_secs(1200), all).await;
    stage.demand(ended.is_ok(), || "clients wait for ever".to_owned());
    false
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
            92..94 => {
                let mut next = (*runtime.live.load()).clone();
                for cloud in &mut next.clouds {
                    let key = format!("sk-{}-{}", cloud.name, dice.number(0..3));
                    Arc::make_mut(cloud).keys = vec![key.as_str().into(); usize::try_from(dice.number(1..3)).unwrap()];
                }
                let kept = runtime.adopt(next);
                stage.say(format_args!("another configuration, but for {kept:?}"));
            }
            94..96 => {
                let by = dice.one_of(&[-3_600_000, -20_000, -500, 500, 20_000, 3_600_000, 86_400_000]);
                stage.say(format_args!("the clock jumps by {by} ms"));
                chance::jump(by);
            }
            _ => {
                let most = usize::try_from(dice.number(2..40)).unwrap();
                stage.say(format_args!("at most {most} at once"));
                runtime.services.jobs.set_limit(most, false);
            }
        }
    }
}

/// Everything works again: the tree is whole, the targets serve, the ledger writes.
async fn recover(stage: &Stage, runtime: &Runtime) {
    runtime.services.jobs.set_limit(64, false);
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

/// Who asks now is answered: everywhere, if there is money for it.
async fn ask_again(crowd: &Crowd, with_money: bool) {
    let mut last = vec![Wish::simple("last local", ModelChoice::Local, true)];
    if with_money {
        last.push(Wish::simple("last auto", ModelChoice::Auto, false));
        last.extend(
            MODELS.map(|model| Wish::simple(&format!("last {model}"), ModelChoice::Named(model.into()), false)),
        );
    }
    for wish in last {
        let name = wish.name.clone();
        let ended = crowd.clone().ask(wish).await;
        crowd.stage.demand(ended == Ended::Done, || format!("{name} ends as {ended:?} although all is well"));
    }
}

/// Nothing that was lent is still out.
async fn at_rest(stage: &Stage, runtime: &Runtime, crowd: &Crowd) {
    let services = &runtime.services;
    let totals = services.jobs.totals();
    let ended: u64 = totals.ended.values().sum();
    stage.demand(totals.running == 0 && totals.admitted == ended, || format!("requests are left: {totals:?}"));
    for slot in services.fleet.slots.iter() {
        // A canary may be at work just now.
        for _ in 0..50 {
            if slot.has_jobs() {
                sleep(Duration::from_millis(100)).await;
            }
        }
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
async fn settled(world: &World, runtime: &Runtime, crowd: &Crowd) {
    let World { stage, store, config, .. } = world;
    let rows = store.attempts(0, 100_000).await.unwrap();
    let mut posted: BTreeMap<String, Posted> = BTreeMap::new();
    for (number, row) in &rows {
        let (reserved, cost) = (row.reserved.get(), row.cost.get());
        stage.say(format_args!("row {number}: {} at {} {} {reserved} {cost}", row.request, row.target, row.outcome));
        let line = posted.entry(row.request.to_string()).or_default();
        line.cost += cost;
        line.set_aside += usize::from(reserved > 0);
        line.unheard |= matches!(row.outcome.as_ref(), "interrupted" | "abandoned" | "expired");
    }
    let mut billed: BTreeMap<String, u64> = BTreeMap::new();
    for bill in stage.bills.lock().iter() {
        let mut models = config.clouds.iter().flat_map(|cloud| &cloud.models);
        let price = models.find(|known| known.upstream == bill.model).map(|model| model.price).unwrap_or_default();
        *billed.entry(bill.request.clone()).or_default() += price.cost(PROMPT_TOKENS, 0, bill.generated).get();
    }
    let of = |request: &String| posted.get(request).copied().unwrap_or_default();
    for (request, cost) in &billed {
        let paid = of(request).cost;
        stage.demand(paid >= *cost, || format!("{request} is billed {cost} and {paid} are posted"));
    }
    let calls = stage.calls.lock().clone();
    for (request, calls) in &calls {
        let set_aside = of(request).set_aside;
        stage.demand(set_aside >= *calls, || format!("{request} made {calls} calls, set aside for {set_aside}"));
    }
    for (request, Posted { cost, unheard, .. }) in &posted {
        // Who left while the connection was being made is charged as if it had been: rather too much than too little.
        let owes = calls.contains_key(request) || *unheard;
        stage.demand(owes || *cost == 0, || format!("{request} called nobody and is charged {cost}"));
    }
    let sum: NanoUsd = rows.iter().map(|(_, row)| row.cost).sum();
    let told = runtime.services.ledger.snapshot().cost_nanousd;
    stage.demand(sum == told, || format!("the ledger tells of {} and has rows of {}", told.get(), sum.get()));
    // One row for each request, but for those that the disk had no room for.
    let (rows, admitted) = (store.requests(100_000).await.unwrap().len() as u64, world.admitted);
    stage.demand(world.lives > 1 || rows <= admitted, || format!("{rows} rows of {admitted} requests"));
    let ends = crowd.ends.lock();
    let count = |wanted: Ended| ends.iter().filter(|(_, ended)| *ended == wanted).count();
    let (done, failed) = (count(Ended::Done), count(Ended::Failed));
    stage.say(format_args!(
        "{done} done, {failed} failed, {} left, {} refused",
        count(Ended::Left),
        count(Ended::Refused)
    ));
}

/// What the ledger has of one request.
#[derive(Debug, Clone, Copy, Default)]
struct Posted {
    cost: u64,
    /// Attempts that money was set aside for.
    set_aside: usize,
    /// An attempt was left before anybody knew what had become of it.
    unheard: bool,
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
