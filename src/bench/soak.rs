//! `spillway bench soak`: mixed traffic with a little chaos for as long as you like, and what that did to the gateway's memory,
//! open files, tasks and threads. Load, orders and rules are those of `spillway chaos`; this adds the rest of the API, and
//! looks at the process all the time.

mod mix;
mod report;
mod vitals;

use super::{BenchError, progress};
use crate::chaos::{
    AdminArgs,
    admin::{Admin, AdminError},
    conduct::{conduct, until_at_rest},
    load::Load,
    metrics::Exposition,
    report::{Report as Kept, Run},
    run::{NoRun, cast, scenario},
    scenario::Scenario,
    schedule::{Cast, Due, schedule},
};
use mix::Mix;
use parking_lot::Mutex;
use report::{Limits, Report, Soaked};
use secrecy::{ExposeSecret, SecretString};
use spillway_actors::task;
use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use vitals::Vitals;

/// Looks that are kept: enough for a slope, few enough to compare every two of them.
const LOOKS: u64 = 1200;
/// Between two lines for the person who waits.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Without a scenario's chaos the instance gets so long to come to rest.
const AT_REST: Duration = Duration::from_secs(60);
/// Between two looks at an instance that settles.
const SETTLING: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct SoakArgs {
    /// The instance's API.
    #[arg(long, env = "SPILLWAY_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    #[arg(long, env = "SPILLWAY_API_KEY", hide_env_values = true)]
    key: Option<SecretString>,
    /// A file, or one of the names that `spillway chaos run` knows.
    #[arg(long, default_value = "soak")]
    scenario: String,
    /// Break nothing: for an instance without [chaos].
    #[arg(long)]
    calm: bool,
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    seconds: u64,
    /// Requests a second, whether or not those before were answered: three in five are chats as the scenario says, the others
    /// are everything else.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds before anything may be called growth: caches and rows fill [default: half of the run, half an hour at most].
    #[arg(long)]
    warm_up_seconds: Option<u64>,
    /// How fast memory may grow behind the warm-up.
    #[arg(long, default_value_t = 1.0)]
    max_mib_per_hour: f64,
    /// Open files and tasks that may be left over when everything has come to rest.
    #[arg(long, default_value_t = 4)]
    max_left_over: u32,
    /// How long they may take to go: connections to providers are kept for 90 s.
    #[arg(long, default_value_t = 100)]
    settle_seconds: u64,
    /// The gateway's process on this machine: its memory is then told without what it shares, too, and kept connections are no
    /// left-overs.
    #[arg(long)]
    pid: Option<u32>,
    /// Embeddings of this model [default: as the gateway decides].
    #[arg(long)]
    embedding_model: Option<String>,
    #[command(flatten)]
    at: AdminArgs,
}

impl SoakArgs {
    fn warm_up_s(&self) -> f64 {
        self.warm_up_seconds.unwrap_or((self.seconds / 2).min(1800)) as f64
    }

    fn key(&self) -> Option<String> {
        self.key.as_ref().map(|key| key.expose_secret().to_owned())
    }
}

impl From<NoRun> for BenchError {
    fn from(why: NoRun) -> Self {
        match why {
            NoRun::Usage(why) | NoRun::Unhealthy(why) => Self::Usage(why),
            NoRun::Interrupted => Self::Usage("it was interrupted".to_owned()),
        }
    }
}

impl From<AdminError> for BenchError {
    fn from(error: AdminError) -> Self {
        NoRun::from(error).into()
    }
}

/// # Errors
/// Nothing answers there, or nothing can be broken there.
pub async fn run(args: &SoakArgs) -> Result<ExitCode, BenchError> {
    let mut scenario = scenario(&args.scenario).map_err(BenchError::Usage)?;
    scenario.seconds.0 = args.seconds;
    scenario.load.requests_per_second.0 = (args.rate * 0.6).min(500.0);
    let admin = args.at.admin()?;
    let due = orders(args, &scenario, &admin).await?;
    let report = soak(args, &scenario, &admin, &due).await?;
    let text =
        if args.at.json { serde_json::to_string_pretty(&report).map_err(io::Error::other)? } else { report.table() };
    writeln!(io::stdout(), "{}", text.trim_end())?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What will be broken. A run that is too short for that is a calm one.
async fn orders(args: &SoakArgs, scenario: &Scenario, admin: &Admin) -> Result<Vec<Due>, BenchError> {
    if args.calm {
        until_at_rest(admin, AT_REST).await?;
        return Ok(Vec::new());
    }
    let cast: Cast = cast(admin).await?;
    schedule(scenario, args.seed, &cast).map_err(BenchError::Usage)
}

async fn soak(args: &SoakArgs, scenario: &Scenario, admin: &Admin, due: &[Due]) -> Result<Report, BenchError> {
    let keys = args.key().into_iter().collect();
    let mut load = Load::new(&args.url, &scenario.load, keys, args.seed).map_err(BenchError::Usage)?;
    let mix = Mix::new(&args.url, args.key(), args.seed, args.embedding_model.clone()).map_err(BenchError::Usage)?;
    load.look_at_the_unharmed().await.map_err(BenchError::Usage)?;
    until_at_rest(admin, AT_REST).await?;
    let before = Exposition::read(&admin.metrics().await?);
    let rested = Vitals::of(&before, args.pid, 0.0);
    progress(&format!(
        "soak: {} s at {} requests/s, {} orders, seed {}",
        args.seconds,
        args.rate,
        due.len(),
        args.seed
    ));
    let looks = Arc::new(Mutex::new(vec![rested]));
    let watching = task::owned(watch(admin.clone(), args.pid, every(args.seconds), Arc::clone(&looks)));
    let others = mix.drive(args.rate * 0.4, args.seconds);
    let never = CancellationToken::new();
    let (harvest, mut wake, mixed) =
        tokio::join!(load.drive(args.seconds, &never), conduct(admin, due, &never), others);
    drop((watching, mix));
    let looks = std::mem::take(&mut *looks.lock());
    if !args.calm
        && let Err(error) = admin.clear().await
    {
        wake.complaints.push(error.to_string());
    }
    let limit = Duration::from_secs(scenario.expect.recovers_within_s.0);
    let (status, at_rest) = until_at_rest(admin, limit).await?;
    let settled = settle(args, admin, &rested).await?;
    let after = Exposition::read(&admin.metrics().await?);
    let kept = Kept::of(Run {
        scenario: if args.calm { "calm" } else { &args.scenario },
        seed: args.seed,
        seconds: args.seconds,
        expect: scenario.expect,
        harvest,
        wake,
        before: &before,
        after: &after,
        status: &status,
        at_rest,
    });
    let limits = Limits { mib_per_hour: args.max_mib_per_hour, left_over: f64::from(args.max_left_over) };
    Ok(Report::of(Soaked { kept, mixed, looks, rested, settled, warm_up_s: args.warm_up_s(), limits }))
}

/// Between two looks.
fn every(seconds: u64) -> Duration {
    Duration::from_millis((seconds * 1000 / LOOKS).max(250))
}

/// Looks until it is dropped. A look that fails is left out: an instance that does not answer shows elsewhere.
async fn watch(admin: Admin, pid: Option<u32>, every: Duration, looks: Arc<Mutex<Vec<Vitals>>>) {
    let (began, mut told) = (Instant::now(), Instant::now());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let at_s = began.elapsed().as_secs_f64();
        let Ok(text) = admin.metrics().await else { continue };
        let look = Vitals::of(&Exposition::read(&text), pid, at_s);
        looks.lock().push(look);
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            progress(&format!(
                "{at_s:.0} s: {:.1} MiB, {} open files, {} tasks, {} threads",
                look.resident_mib, look.open_files, look.tasks, look.threads
            ));
        }
    }
}

/// The last look, once what was opened is closed again, or the time for that is over.
async fn settle(args: &SoakArgs, admin: &Admin, rested: &Vitals) -> Result<Vitals, BenchError> {
    let end = Instant::now() + Duration::from_secs(args.settle_seconds);
    loop {
        let look = Vitals::of(&Exposition::read(&admin.metrics().await?), args.pid, 0.0);
        let (files, tasks) = look.left_since(rested);
        let most = f64::from(args.max_left_over);
        if (files <= most && tasks <= most) || Instant::now() >= end {
            return Ok(look);
        }
        sleep(SETTLING).await;
    }
}
