//! `spillway chaos run`: one run from the first look at the instance to the exit code.

use super::{
    AdminArgs, USAGE,
    admin::{Admin, AdminError, Status},
    conduct::{conduct, until_at_rest},
    load::Load,
    metrics::Exposition,
    report::{Report, Run},
    scenario::Scenario,
    schedule::{Cast, Due, schedule},
};
use crate::cli::{self, UNHEALTHY, note, say, show};
use secrecy::{ExposeSecret, SecretString};
use std::{path::Path, process::ExitCode, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Those that come with the program.
const SHIPPED: [(&str, &str); 4] = [
    ("gpu-flap", include_str!("../../config/chaos/gpu-flap.toml")),
    ("provider-blackout", include_str!("../../config/chaos/provider-blackout.toml")),
    ("everything", include_str!("../../config/chaos/everything.toml")),
    ("soak", include_str!("../../config/chaos/soak.toml")),
];
/// A longer file is no scenario.
const FILE_BYTES: u64 = 256 << 10;
/// Engines may still be loading when the run begins.
const WARM: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// A file, or gpu-flap, provider-blackout, everything or soak.
    scenario: String,
    /// Of load and schedule: the same seed breaks the same things at the same times.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The instance's API.
    #[arg(long, env = "SPILLWAY_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    #[arg(long, env = "SPILLWAY_API_KEY", hide_env_values = true)]
    key: Option<SecretString>,
    /// Instead of the scenario's own length.
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    seconds: Option<u64>,
    /// Print when what would be broken, and break nothing.
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    at: AdminArgs,
}

/// Why there was no run.
pub(crate) enum NoRun {
    Usage(String),
    Unhealthy(String),
    /// By its person, twice.
    Interrupted,
}

impl RunArgs {
    pub(super) const fn wants_json(&self) -> bool {
        self.at.json
    }
}

impl From<AdminError> for NoRun {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Token(why) => Self::Usage(why),
            error => Self::Unhealthy(error.to_string()),
        }
    }
}

pub(super) async fn run(args: &RunArgs) -> ExitCode {
    match try_run(args).await {
        Ok(code) => code,
        Err(NoRun::Usage(why)) => {
            cli::failed_as(args.at.json, &why);
            ExitCode::from(USAGE)
        }
        Err(NoRun::Unhealthy(why)) => {
            cli::failed_as(args.at.json, &why);
            ExitCode::from(UNHEALTHY)
        }
        Err(NoRun::Interrupted) => cli::failed_as(args.at.json, &"ended without a report"),
    }
}

async fn try_run(args: &RunArgs) -> Result<ExitCode, NoRun> {
    let mut scenario = scenario(&args.scenario).map_err(NoRun::Usage)?;
    if let Some(seconds) = args.seconds {
        scenario.seconds.0 = seconds;
    }
    let admin = args.at.admin()?;
    let cast = cast(&admin).await?;
    let due = schedule(&scenario, args.seed, &cast).map_err(NoRun::Usage)?;
    if due.is_empty() {
        let why = "the run is too short for this scenario: nothing would be broken; give it more --seconds";
        return Err(NoRun::Usage(why.to_owned()));
    }
    if args.plan {
        say(&serde_json::to_string_pretty(&due).unwrap_or_default());
        return Ok(ExitCode::SUCCESS);
    }
    let report = perform(args, &scenario, &admin, &due).await?;
    if args.at.json {
        say(&serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        show(report.table().trim_end());
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The scenario of this name, or in this file.
pub(crate) fn scenario(named: &str) -> Result<Scenario, String> {
    let shipped = SHIPPED.iter().find(|(name, _)| *name == named);
    let text = match shipped {
        Some((_, text)) => (*text).to_owned(),
        None => read(Path::new(named))?,
    };
    text.parse().map_err(|error| format!("{named}: {error}"))
}

fn read(path: &Path) -> Result<String, String> {
    let told = |why: String| {
        let names = SHIPPED.map(|(name, _)| name).join(", ");
        format!("{} {why}; it must be a file, or one of {names}", path.display())
    };
    match std::fs::metadata(path) {
        Ok(file) if file.len() > FILE_BYTES => Err(told("is too large for a scenario".to_owned())),
        Ok(_) => std::fs::read_to_string(path).map_err(|error| told(format!("cannot be read: {error}"))),
        Err(error) => Err(told(format!("cannot be read: {error}"))),
    }
}

/// Who is there, once all of it serves; an instance that cannot be harmed is told at once.
pub(crate) async fn cast(admin: &Admin) -> Result<Cast, NoRun> {
    let first = admin.status().await?;
    if !first.chaos {
        return Err(AdminError::Off { url: admin.url().to_owned() }.into());
    }
    // Nothing of an earlier run.
    admin.clear().await?;
    let (status, _) = until_at_rest(admin, WARM).await?;
    if let Some(gpu) = status.gpus.iter().find(|gpu| !gpu.serving) {
        let cause = gpu.cause.as_deref().unwrap_or("no cause");
        return Err(NoRun::Unhealthy(format!("{} does not serve: {} ({cause})", gpu.name, gpu.state)));
    }
    let actors = admin.actors().await?.into_iter().map(|line| line.name).filter(|name| name != "root").collect();
    Ok(Cast { actors, engines: engines(&status), providers: providers(&status) })
}

fn engines(status: &Status) -> Vec<String> {
    let ours = status.gpus.iter().filter(|gpu| gpu.engine != "http");
    ours.map(|gpu| format!("gpu/{}", gpu.name)).collect()
}

fn providers(status: &Status) -> Vec<String> {
    let mut names: Vec<String> = status.breakers.iter().map(|breaker| breaker.target.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

async fn perform(args: &RunArgs, scenario: &Scenario, admin: &Admin, due: &[Due]) -> Result<Report, NoRun> {
    let mut load = Load::new(&args.url, &scenario.load, keys(args, scenario)?, args.seed).map_err(NoRun::Unhealthy)?;
    note(&"asking for unharmed answers first");
    load.look_at_the_unharmed().await.map_err(NoRun::Unhealthy)?;
    let (planned, mut seconds) = (scenario.seconds.0, scenario.seconds.0);
    note(&format!("{}: {} orders in {seconds} s, seed {}", args.scenario, due.len(), args.seed));
    let before = Exposition::read(&admin.metrics().await?);
    let (began, stop) = (Instant::now(), CancellationToken::new());
    let work = async { tokio::join!(load.drive(planned, &stop), conduct(admin, due, &stop)) };
    tokio::pin!(work);
    let (harvest, mut wake) = loop {
        tokio::select! {
            done = &mut work => break done,
            Ok(()) = tokio::signal::ctrl_c() => {
                if stop.is_cancelled() {
                    admin.clear().await?;
                    return Err(NoRun::Interrupted);
                }
                note(&"ending: what is open is waited for, then reported; Ctrl-C once more ends at once");
                seconds = seconds.min(began.elapsed().as_secs());
                stop.cancel();
            }
        }
    };
    let limit = Duration::from_secs(scenario.expect.recovers_within_s.0);
    // From here on an instance that does not answer is what the run has brought about.
    if let Err(error) = admin.clear().await {
        wake.complaints.push(error.to_string());
    }
    let (status, at_rest) = until_at_rest(admin, limit).await?;
    let after = Exposition::read(&admin.metrics().await?);
    Ok(Report::of(Run {
        scenario: &args.scenario,
        seed: args.seed,
        seconds,
        expect: scenario.expect,
        harvest,
        wake,
        before: &before,
        after: &after,
        status: &status,
        at_rest,
    }))
}

fn keys(args: &RunArgs, scenario: &Scenario) -> Result<Vec<String>, NoRun> {
    let named = scenario.load.keys_env.iter().map(|name| {
        std::env::var(name).map_err(|_| NoRun::Usage(format!("keys_env names {name}, which is not in the environment")))
    });
    let keys: Vec<String> = named.collect::<Result<_, _>>()?;
    let own = args.key.as_ref().map(|key| key.expose_secret().to_owned());
    Ok(if keys.is_empty() { own.into_iter().collect() } else { keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_that_comes_along_is_a_good_one() {
        for (name, _) in SHIPPED {
            let scenario = scenario(name).unwrap();
            assert!(scenario.kills.len() + scenario.faults.len() > 0, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_told_with_those_that_are() {
        let told = scenario("gpu-flip").unwrap_err();
        assert!(told.contains("gpu-flip cannot be read") && told.contains("gpu-flap"), "{told}");
    }
}
