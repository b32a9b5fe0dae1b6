//! What a service manager hears (`Type=notify`): that something can serve, that the configuration is being read, that the end
//! has begun, and, with a watchdog, that the supervision tree is alive. Without NOTIFY_SOCKET it says nothing. Decides
//! nothing but when to speak.

use parking_lot::Mutex;
use sd_notify::NotifyState;
use spillway_actors::task::{self, Owned};
use std::{env, sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior};

/// Between two looks at something that is not so yet.
const LOOK: Duration = Duration::from_millis(50);
/// After this long a gateway is said to have started, whatever it can serve: with a model missing it still has a console that
/// says so, and to be killed for it would help nobody. Shorter than the 90 s that systemd waits unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Started,
    Stopping,
}

/// The service manager's ear.
#[derive(Debug)]
pub struct Systemd {
    listens: bool,
    /// Held while something is said, so that what is heard is in order.
    stage: Mutex<Stage>,
}

impl Systemd {
    /// Whoever the environment names.
    pub fn from_env() -> Arc<Self> {
        Arc::new(Self { listens: env::var_os("NOTIFY_SOCKET").is_some(), stage: Mutex::new(Stage::Starting) })
    }

    /// Says once that the gateway has started: when `serves` says so, or when waiting for it is over.
    pub fn await_start(self: &Arc<Self>, serves: impl Fn(Instant) -> bool + Send + 'static) -> Option<Owned> {
        let this = self.listens.then(|| Arc::clone(self))?;
        Some(task::owned(async move {
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline && !serves(Instant::now()) {
                tokio::time::sleep(LOOK).await;
            }
            let status = if serves(Instant::now()) { "serving" } else { "nothing can serve yet: see /ready" };
            this.started(status);
        }))
    }

    /// Beats as often as the service manager asks, as long as `is_alive` holds; it is given how long it may take.
    pub fn watch<F>(self: &Arc<Self>, is_alive: impl Fn(Duration) -> F + Send + Sync + 'static) -> Option<Owned>
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let every = sd_notify::watchdog_enabled().filter(|limit| self.listens && !limit.is_zero())? / 2;
        let this = Arc::clone(self);
        let tell = move || this.tell(&[NotifyState::Watchdog]);
        let this = Arc::clone(self);
        // A tree that is being stopped answers nobody; how long that may take is bounded elsewhere.
        let is_over = move || *this.stage.lock() == Stage::Stopping;
        Some(task::owned(beat(every, is_alive, is_over, tell)))
    }

    fn started(&self, status: &str) {
        let mut stage = self.stage.lock();
        if *stage == Stage::Starting {
            *stage = Stage::Started;
            self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
        }
    }

    /// A reading of the configuration begins.
    pub fn reloading(&self) {
        let stage = self.stage.lock();
        if let (Stage::Started, Ok(now)) = (*stage, NotifyState::monotonic_usec_now()) {
            self.tell(&[NotifyState::Reloading, now]);
        }
    }

    /// It is over, whatever became of it: a gateway with its last good configuration is ready, too.
    pub fn reloaded(&self, ok: bool) {
        let stage = self.stage.lock();
        if *stage == Stage::Started {
            let status = if ok { "serving" } else { "serving; the changed configuration is faulty" };
            self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
        }
    }

    pub fn stopping(&self) {
        let mut stage = self.stage.lock();
        if *stage != Stage::Stopping {
            *stage = Stage::Stopping;
            self.tell(&[NotifyState::Stopping, NotifyState::Status("draining: no new requests are admitted")]);
        }
    }

    fn tell(&self, news: &[NotifyState<'_>]) {
        if let (true, Err(error)) = (self.listens, sd_notify::notify(news)) {
            tracing::warn!(%error, "the service manager does not hear");
        }
    }
}

/// Whoever does not answer is asked again at once, so that a beat is late by no more than the answer was.
async fn beat<F: Future<Output = bool> + Send>(
    every: Duration,
    is_alive: impl Fn(Duration) -> F,
    is_over: impl Fn() -> bool,
    tell: impl Fn(),
) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        while !is_over() && !is_alive(every / 2).await {
            tokio::time::sleep(LOOK).await;
        }
        tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

    #[derive(Default)]
    struct World {
        is_stuck: AtomicBool,
        is_over: AtomicBool,
        beats: AtomicU32,
    }

    #[tokio::test(start_paused = true)]
    async fn it_beats_at_half_of_the_limit_and_not_while_the_tree_is_stuck_but_while_it_is_taken_down() {
        let world = Arc::new(World::default());
        let (asked, over, told) = (Arc::clone(&world), Arc::clone(&world), Arc::clone(&world));
        let is_alive = move |limit| {
            let world = Arc::clone(&asked);
            async move {
                let stuck = world.is_stuck.load(SeqCst);
                if stuck {
                    tokio::time::sleep(limit).await;
                }
                !stuck
            }
        };
        let tell = move || {
            told.beats.fetch_add(1, SeqCst);
        };
        let _beating = task::owned(beat(Duration::from_secs(1), is_alive, move || over.is_over.load(SeqCst), tell));
        let beats = async |seconds: u64| {
            world.beats.store(0, SeqCst);
            tokio::time::sleep(Duration::from_millis(seconds * 1000 + 10)).await;
            world.beats.load(SeqCst)
        };
        assert!((10..=11).contains(&beats(10).await));
        world.is_stuck.store(true, SeqCst);
        assert_eq!(beats(10).await, 0);
        world.is_stuck.store(false, SeqCst);
        assert!((9..=11).contains(&beats(10).await), "it goes on once the tree answers");
        world.is_stuck.store(true, SeqCst);
        world.is_over.store(true, SeqCst);
        assert!((9..=11).contains(&beats(10).await), "an orderly end is nothing to be killed for");
    }

    #[test]
    fn nothing_is_ready_before_the_start_or_after_the_end() {
        let systemd = Systemd { listens: false, stage: Mutex::new(Stage::Starting) };
        systemd.reloaded(true);
        assert_eq!(*systemd.stage.lock(), Stage::Starting);
        systemd.stopping();
        systemd.started("late");
        assert_eq!(*systemd.stage.lock(), Stage::Stopping);
    }
}
