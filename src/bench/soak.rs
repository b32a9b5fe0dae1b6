//! `spillway bench soak`: mixed traffic with a little chaos for as long as you like, and what that did to the gateway's memory,
//! open files, tasks and threads. Load, orders and rules are those of `spillway chaos`; this adds the rest of the API, and
//! looks at the process all the time.

mod mix;
mod report;
mod vitals;

use super::{BenchError, positive, progress};
use crate::chaos::{
    AdminArgs,
    admin::{Admin, AdminError},
    conduct::{conduct, until_at_rest},
    load::Load,
    metrics::Exposition,
    report::{Report as Kept, Run},
    run::{NoRun, cast, scenario},
    scenario::{Expect, Scenario, UpTo},
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
use vitals::{POOLS_CLOSE_S, Vitals, Watched};

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
    #[arg(long, default_value_t = 20.0, value_parser = positive::<800>)]
    rate: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds before anything may be called growth: caches and rows fill [default: half of the run, half an hour at most].
    #[arg(long)]
    warm_up_seconds: Option<u64>,
    /// How fast memory may grow behind the warm-up.
    #[arg(long, default_value_t = 1.0, value_parser = positive::<1_000_000>)]
    max_mib_per_hour: f64,
    /// By how much memory at rest may have grown, whenever it did: what is kept for later (rows, answers, buffers) is bounded,
    /// and came to less than 10 MiB in an hour at 20 requests a second.
    #[arg(long, default_value_t = 32.0, value_parser = positive::<1_000_000>)]
    max_mib_at_rest: f64,
    /// Open files and tasks that may be left over when everything has come to rest.
    #[arg(long, default_value_t = 4)]
    max_left_over: u32,
    /// How long they may take to go: connections to providers are closed after 90 to 180 s. With less than that, as many new
    /// ones as there were requests at once are no left-overs, if --pid lets them be counted.
    #[arg(long, default_value_t = POOLS_CLOSE_S + 10)]
    settle_seconds: u64,
    /// The gateway's process on this machine: its memory is then told without what it shares, too, and its connections are
    /// counted.
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

    fn expect(&self, scenario: &Scenario) -> Expect {
        let mut expect = scenario.expect;
        if self.calm {
            // There is nothing that would explain an error.
            expect.untouched_success_percent = UpTo(100.0);
        }
        expect
    }

    fn limits(&self) -> Limits {
        Limits {
            mib_per_hour: self.max_mib_per_hour,
            mib_at_rest: self.max_mib_at_rest,
            left_over: f64::from(self.max_left_over),
        }
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
    scenario.load.requests_per_second.0 = args.rate * 0.6;
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
    let rested = Vitals::of(&before, args.pid, 0.0).map_err(BenchError::Usage)?;
    let (seconds, rate, orders, seed) = (args.seconds, args.rate, due.len(), args.seed);
    progress(&format!("soak: {seconds} s at {rate} requests/s, {orders} orders, seed {seed}"));
    let watched = Arc::new(Mutex::new(Watched { looks: vec![rested], ..Watched::default() }));
    let watching = task::owned(watch(admin.clone(), args.pid, every(args.seconds), Arc::clone(&watched)));
    let never = CancellationToken::new();
    let (harvest, mut wake, mut mixed) =
        tokio::join!(load.drive(seconds, &never), conduct(admin, due, &never), mix.drive(rate * 0.4, seconds));
    drop((watching, mix));
    let watched = std::mem::take(&mut *watched.lock());
    let expect = args.expect(scenario);
    mixed.judge(&wake.troubles, expect.untouched_success_percent.0);
    if !args.calm
        && let Err(error) = admin.clear().await
    {
        wake.complaints.push(error.to_string());
    }
    let limit = Duration::from_secs(scenario.expect.recovers_within_s.0);
    let (status, at_rest) = until_at_rest(admin, limit).await?;
    let settled = settle(args, admin, &rested, watched.kept(args.settle_seconds)).await;
    // From here on an instance that does not answer is what the run has brought about.
    let after = admin.metrics().await.unwrap_or_else(|error| {
        wake.complaints.push(error.to_string());
        String::new()
    });
    let after = Exposition::read(&after);
    let kept = Kept::of(Run {
        scenario: if args.calm { "calm" } else { &args.scenario },
        seed: args.seed,
        seconds: args.seconds,
        expect,
        harvest,
        wake,
        before: &before,
        after: &after,
        status: &status,
        at_rest,
    });
    let (settled_for_s, warm_up_s, limits) = (args.settle_seconds, args.warm_up_s(), args.limits());
    Ok(Report::of(Soaked { kept, mixed, watched, rested, settled, settled_for_s, warm_up_s, limits }))
}

/// Between two looks.
fn every(seconds: u64) -> Duration {
    Duration::from_millis((seconds * 1000 / LOOKS).max(250))
}

async fn look(admin: &Admin, pid: Option<u32>, at_s: f64) -> Result<Vitals, String> {
    let text = admin.metrics().await.map_err(|error| error.to_string())?;
    Vitals::of(&Exposition::read(&text), pid, at_s)
}

/// Looks until it is dropped.
async fn watch(admin: Admin, pid: Option<u32>, every: Duration, watched: Arc<Mutex<Watched>>) {
    let (began, mut told) = (Instant::now(), Instant::now());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let at_s = began.elapsed().as_secs_f64();
        let look = look(&admin, pid, at_s).await;
        watched.lock().add(look.clone());
        if let Ok(look) = look
            && told.elapsed() >= TOLD_EVERY
        {
            told = Instant::now();
            progress(&format!(
                "{at_s:.0} s: {:.1} MiB, {} open files, {} tasks, {} threads",
                look.resident_mib, look.open_files, look.tasks, look.threads
            ));
        }
    }
}

/// The last look, once what was opened is closed again, or the time for that is over.
async fn settle(args: &SoakArgs, admin: &Admin, rested: &Vitals, kept: f64) -> Result<Vitals, String> {
    let end = Instant::now() + Duration::from_secs(args.settle_seconds);
    let (most, mib) = (f64::from(args.max_left_over), rested.resident_mib + args.max_mib_at_rest);
    loop {
        let look = look(admin, args.pid, 0.0).await;
        let rests = look.as_ref().is_ok_and(|look| {
            let (files, tasks) = look.left_since(rested, kept);
            files <= most && tasks <= most && look.resident_mib <= mib
        });
        if rests || Instant::now() >= end {
            return look;
        }
        sleep(SETTLING).await;
    }
}
