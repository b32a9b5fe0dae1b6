//! Gives the orders of a schedule in time, and watches how what was broken comes back.

use super::{
    admin::{Admin, AdminError, Status},
    history::Trouble,
    reading::unix_ns,
    schedule::{Due, Order, is_of_engine},
};
use parking_lot::Mutex;
use spillway_actors::runtime::KillWay;
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Between two looks at an actor that should come back, and at an engine.
const LOOK_AT_ACTOR: Duration = Duration::from_millis(20);
const LOOK_AT_ENGINE: Duration = Duration::from_millis(50);
/// Who is not back by then is left to the last look of the run.
const COME_BACK: Duration = Duration::from_secs(60);
/// As `[supervision.actors] window_ms` by default.
const SAME_WINDOW: Duration = Duration::from_secs(10);
const END_LOOK: Duration = Duration::from_millis(100);

/// What became of the orders.
#[derive(Debug, Default)]
pub struct Wake {
    pub troubles: Vec<Trouble>,
    /// By whom and how.
    pub orders: BTreeMap<String, usize>,
    /// Nobody lived there just then.
    pub missed: usize,
    /// Order of death → its successor runs.
    pub actors: Vec<Duration>,
    /// The same of actors that had died within [`SAME_WINDOW`] before: the restart policy makes those wait.
    pub again: Vec<Duration>,
    /// The same of GPU actors, whose engines go on.
    pub gpu_actors: Vec<Duration>,
    /// Order of an engine's death → the target serves again, of deaths that show at once and of hangs.
    pub engines: Vec<Duration>,
    pub hangs: Vec<Duration>,
    /// Each restart of an actor, for whoever wants to know which was slow.
    pub restarts: Vec<(String, Duration)>,
    died: BTreeMap<String, Instant>,
    /// The admin listener did not do as told.
    pub complaints: Vec<String>,
}

/// Gives every order at its time, counted from now, until it is to stop; returns when everybody is back or was waited for.
pub async fn conduct(admin: &Admin, schedule: &[Due], stop: &CancellationToken) -> Wake {
    let (began, wake) = (Instant::now(), Arc::new(Mutex::new(Wake::default())));
    let mut watching = JoinSet::new();
    for due in schedule {
        let at = began + Duration::from_millis(due.at_ms);
        if stop.run_until_cancelled(sleep_until(at)).await.is_none() {
            break;
        }
        let (admin, order, wake) = (admin.clone(), due.order.clone(), Arc::clone(&wake));
        watching.spawn(async move {
            if let Err(error) = give(&admin, &order, &wake).await {
                wake.lock().complaints.push(format!("{order:?}: {error}"));
            }
        });
    }
    while watching.join_next().await.is_some() {}
    std::mem::take(&mut *wake.lock())
}

async fn give(admin: &Admin, order: &Order, wake: &Mutex<Wake>) -> Result<(), AdminError> {
    match order {
        Order::Fault(wish) => {
            let from_ns = unix_ns();
            admin.fault(wish).await?;
            let lasts_ns = wish.for_ms.unwrap_or(0) * 1_000_000;
            let mut wake = wake.lock();
            wake.troubles.push(Trouble { from_ns, until_ns: from_ns + lasts_ns });
            *wake.orders.entry(format!("{} {}", wish.target, wish.kind.name())).or_default() += 1;
            Ok(())
        }
        Order::Kill { actor, how } if is_of_engine(how.0) => kill_engine(admin, actor, how.0, wake).await,
        Order::Kill { actor, how } => kill_actor(admin, actor, how.0, wake).await,
    }
}

/// Orders a death; `None`: nobody lives there just now.
async fn kill(admin: &Admin, actor: &str, how: KillWay, wake: &Mutex<Wake>) -> Result<Option<Instant>, AdminError> {
    let (ordered, sent_ns) = (Instant::now(), unix_ns());
    let done = admin.kill(actor, &how.to_string()).await?;
    let mut wake = wake.lock();
    let Some(done) = done else {
        wake.missed += 1;
        return Ok(None);
    };
    // The gateway's clock may not be ours.
    wake.troubles.push(Trouble::at(done.clamp(sent_ns, unix_ns().max(sent_ns))));
    *wake.orders.entry(format!("{actor} {how}")).or_default() += 1;
    Ok(Some(ordered))
}

async fn kill_engine(admin: &Admin, actor: &str, how: KillWay, wake: &Mutex<Wake>) -> Result<(), AdminError> {
    let name = actor.trim_start_matches("gpu/");
    let epoch_of = |status: Status| status.gpus.into_iter().find(|gpu| gpu.name == name);
    let before = epoch_of(admin.status().await?).map_or(0, |gpu| gpu.epoch);
    let Some(ordered) = kill(admin, actor, how, wake).await? else { return Ok(()) };
    let back = || async {
        let gpu = epoch_of(admin.status().await.ok()?)?;
        (gpu.epoch > before && gpu.serving).then_some(())
    };
    if eventually(COME_BACK, LOOK_AT_ENGINE, back).await.is_some() {
        let took = ordered.elapsed();
        let mut wake = wake.lock();
        let is_hang = matches!(how, KillWay::Sigstop | KillWay::HangDecode);
        if is_hang { wake.hangs.push(took) } else { wake.engines.push(took) }
    }
    Ok(())
}

async fn kill_actor(admin: &Admin, actor: &str, how: KillWay, wake: &Mutex<Wake>) -> Result<(), AdminError> {
    let line = || async { admin.actors().await.map(|lines| lines.into_iter().find(|line| line.name == actor)) };
    let before = line().await?.map_or(0, |line| line.restarts);
    let Some(ordered) = kill(admin, actor, how, wake).await? else { return Ok(()) };
    let before_that = wake.lock().died.insert(actor.to_owned(), ordered);
    let again = before_that.is_some_and(|died| ordered.duration_since(died) < SAME_WINDOW);
    let back = || async {
        let line = line().await.ok()??;
        // It says itself for how long it has been running.
        let since = ordered.elapsed().saturating_sub(Duration::try_from_secs_f64(line.uptime_s).ok()?);
        (line.restarts > before && line.state == "running").then_some(since)
    };
    if let Some(took) = eventually(COME_BACK, LOOK_AT_ACTOR, back).await {
        let mut wake = wake.lock();
        wake.restarts.push((format!("{actor} {how}"), took));
        let list = match (actor.starts_with("gpu/"), again) {
            (true, _) => &mut wake.gpu_actors,
            (false, true) => &mut wake.again,
            (false, false) => &mut wake.actors,
        };
        list.push(took);
    }
    Ok(())
}

/// The first `Some` that a look gives, if one comes in time.
async fn eventually<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    pause: Duration,
    mut look: impl FnMut() -> F,
) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(pause).await;
    }
}

/// Waits until every local target serves and nothing is under way; the last status seen, and whether that was so.
///
/// # Errors
/// The admin listener does not answer at all any more.
pub async fn until_at_rest(admin: &Admin, limit: Duration) -> Result<(Status, bool), AdminError> {
    let at_rest = |status: &Status| {
        let idle = status.leases == 0 && status.queue == Some(0) && status.requests.running == 0;
        idle && status.gpus.iter().all(|gpu| gpu.serving)
    };
    let rests = || async { admin.status().await.ok().filter(|status| at_rest(status)) };
    match eventually(limit, END_LOOK, rests).await {
        Some(status) => Ok((status, true)),
        None => Ok((admin.status().await?, false)),
    }
}
