//! `spillway chaos`: breaks things in a running instance on purpose, over HTTP only, and judges what that did to its clients.
//! The instance must allow it with `[chaos] enabled`.
//!
//! ```text
//! scenario (file) ── schedule (pure, seeded) ── conduct ──▶ admin listener
//!            └────── load (seeded) ──▶ API ── reading ── checks, history (pure) ── report (pure)
//! ```

pub mod admin;
pub mod checks;
pub mod conduct;
pub mod draw;
pub mod history;
pub mod load;
pub mod metrics;
pub mod reading;
pub mod report;
pub mod run;
pub mod scenario;
pub mod schedule;

use crate::cli::{self, TokenArgs, UNHEALTHY, say, show};
use admin::{Admin, AdminError};
use clap::{Args, Subcommand};
use spillway_actors::{
    chaos::faults::{FaultKind, FaultWish},
    runtime::KillWay,
};
use std::process::ExitCode;

const USAGE: u8 = 2;

const RUN_HELP: &str = "\
SCENARIO is a file, or one of those that come with spillway: gpu-flap, provider-blackout, everything, soak
(config/chaos/*.toml explain themselves).

Rules that always hold: every request ends in one way that its client is told, and never with a 500; no token is missing or
comes twice; no cut answer is shown as complete; hardly a request fails that met nothing broken; the gateway's process goes
on; afterwards everything serves again and nothing is left over.
Ctrl-C ends the run early, with its report; once more, at once.
Exit code 0: all of them were kept. 1: one was broken. 2: usage. 3: no such instance, it lets nobody in, or chaos is off there.

Without --url and --admin it is the instance on 8080 and 8081 that is harmed. In the source tree `make chaos` (SCENARIO=everything
SEED=7) starts one for it on 18080 and 18081, with two simulated providers, and ends it again (scripts/chaos.sh).

Examples:
  SPILLWAY__CHAOS__ENABLED=true spillway serve --demo &
  spillway chaos run gpu-flap --seed 7 --seconds 60
  spillway chaos run everything --url http://127.0.0.1:18080 --admin http://127.0.0.1:18081 --token-file secrets/admin_token";

const KILL_HELP: &str = "\
Examples:
  spillway chaos kill gpu/local sigkill
  spillway chaos kill router panic";

const FAULT_HELP: &str = "\
Examples:
  spillway chaos fault holysheep 429 --retry-after-s 5
  spillway chaos fault deepseek-v3.2 latency --ms 500";

const FAULTS_HELP: &str = "\
Example:
  spillway chaos faults --json";

const CLEAR_HELP: &str = "\
Example:
  spillway chaos clear";

#[derive(Debug, Args)]
pub struct ChaosArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Load an instance, break it by a scenario, and report whether it kept its rules.
    #[command(after_help = RUN_HELP)]
    Run(run::RunArgs),
    /// End an actor or an engine.
    #[command(after_help = KILL_HELP)]
    Kill(KillArgs),
    /// Let calls of a provider, a cloud model or a local server go wrong.
    #[command(after_help = FAULT_HELP)]
    Fault(FaultArgs),
    /// List the faults in force.
    #[command(after_help = FAULTS_HELP)]
    Faults(AdminArgs),
    /// End all faults.
    #[command(after_help = CLEAR_HELP)]
    Clear(AdminArgs),
}

impl What {
    fn wants_json(&self) -> bool {
        match self {
            Self::Run(args) => args.wants_json(),
            Self::Kill(args) => args.at.json,
            Self::Fault(args) => args.at.json,
            Self::Faults(at) | Self::Clear(at) => at.json,
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// The instance's admin listener.
    #[arg(long, env = "SPILLWAY_ADMIN_URL", default_value = "http://127.0.0.1:8081")]
    admin: String,
    #[command(flatten)]
    token: TokenArgs,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl AdminArgs {
    pub(crate) fn admin(&self) -> Result<Admin, AdminError> {
        Admin::new(&self.admin, self.token.token().map_err(AdminError::Token)?)
    }
}

#[derive(Debug, Args)]
struct KillArgs {
    /// As /admin/actors lists them: router, ledger, gpu/local, cloud/NAME/0, …
    actor: String,
    /// kill, panic, error, stop; for the engine of gpu/NAME: sigkill, sigabrt, sigstop, exit, garbage, half-frame,
    /// hang-decode, out-of-memory.
    how: KillWay,
    #[command(flatten)]
    at: AdminArgs,
}

#[derive(Debug, Args)]
struct FaultArgs {
    /// A provider, a cloud model, or a local target with engine = "http".
    target: String,
    /// latency, error, 429, cut or stall.
    #[arg(value_parser = kind)]
    kind: FaultKind,
    /// latency: how much later calls are made.
    #[arg(long)]
    ms: Option<u64>,
    /// error: the status [default: 500].
    #[arg(long)]
    status: Option<u16>,
    /// 429: when to come again.
    #[arg(long)]
    retry_after_s: Option<u64>,
    /// cut, stall: pieces of the answer before it [default: 0].
    #[arg(long)]
    after_tokens: Option<u32>,
    /// Calls that it hits at most.
    #[arg(long)]
    times: Option<u64>,
    /// How long it lasts.
    #[arg(long)]
    for_ms: Option<u64>,
    /// Of the calls, above 0 to 1.
    #[arg(long)]
    share: Option<f64>,
    /// Which calls these are.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    at: AdminArgs,
}

fn kind(text: &str) -> Result<FaultKind, String> {
    let known = [FaultKind::Latency, FaultKind::Error, FaultKind::RateLimit, FaultKind::Cut, FaultKind::Stall];
    let kind = known.into_iter().find(|kind| kind.name() == text);
    kind.ok_or_else(|| format!("known: {}", known.map(FaultKind::name).join(", ")))
}

pub async fn run(args: ChaosArgs) -> ExitCode {
    let json = args.what.wants_json();
    let done = match args.what {
        What::Run(args) => return run::run(&args).await,
        What::Kill(args) => kill(&args).await,
        What::Fault(args) => fault(&args).await,
        What::Faults(args) => faults(&args).await,
        What::Clear(args) => clear(&args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refused(json, &error),
    }
}

/// 1: it refuses this order. 2: there is no such token file. 3: it takes no orders, or none from here.
fn refused(json: bool, error: &AdminError) -> ExitCode {
    let failure = cli::failed_as(json, error);
    match error {
        AdminError::Refused { .. } => failure,
        AdminError::Token(_) => ExitCode::from(USAGE),
        AdminError::Unreachable { .. } | AdminError::Unauthorized { .. } | AdminError::Off { .. } => {
            ExitCode::from(UNHEALTHY)
        }
    }
}

async fn kill(args: &KillArgs) -> Result<(), AdminError> {
    let admin = args.at.admin()?;
    let Some(at) = admin.kill(&args.actor, &args.how.to_string()).await? else {
        let why = format!("{} is not alive right now", args.actor);
        return Err(AdminError::Refused { url: admin.url().to_owned(), status: 409, why });
    };
    if args.at.json {
        say(&serde_json::json!({"ok": true, "actor": args.actor, "how": args.how.to_string(), "unix_ns": at}));
    } else {
        say(&format!("{}: {}", args.actor, args.how));
    }
    Ok(())
}

async fn fault(args: &FaultArgs) -> Result<(), AdminError> {
    let wish = FaultWish {
        target: args.target.clone(),
        kind: args.kind,
        ms: args.ms,
        status: args.status,
        retry_after_s: args.retry_after_s,
        after_tokens: args.after_tokens,
        times: args.times,
        for_ms: args.for_ms,
        share: args.share,
        seed: args.seed,
    };
    let done = args.at.admin()?.fault(&wish).await?;
    if args.at.json {
        say(&done);
    } else {
        say(&format!("{}: {}", wish.target, wish.kind.name()));
    }
    Ok(())
}

async fn faults(args: &AdminArgs) -> Result<(), AdminError> {
    let list = args.admin()?.faults().await?;
    if args.json {
        say(&list);
        return Ok(());
    }
    let data = list["data"].as_array().map_or(&[][..], Vec::as_slice);
    let cell = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let mut rows = vec![["target", "kind", "hit", "left ms"].map(str::to_owned).to_vec()];
    rows.extend(data.iter().map(|fault| ["target", "kind", "hit", "left_ms"].map(|key| cell(&fault[key])).to_vec()));
    show(&crate::bench::stats::columns(&rows));
    Ok(())
}

async fn clear(args: &AdminArgs) -> Result<(), AdminError> {
    let done = args.admin()?.clear().await?;
    if args.json {
        say(&done);
    } else {
        say(&format!("{} faults ended", done["cleared"]));
    }
    Ok(())
}
