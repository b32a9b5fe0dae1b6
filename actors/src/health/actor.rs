//! HealthActor: looks at the hardware at every interval and publishes one snapshot. The snapshot outlives it.

use super::nvml::{NvmlProbe, Reading};
use crate::{
    chaos::{self, Fault},
    config::HealthConfig,
    observe,
    task::{self, Owned},
};
use arc_swap::ArcSwap;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::{sync::Arc, time::SystemTime};
use tokio::time::Instant;

pub enum HealthMsg {
    /// From the timer: look at the hardware, unless a look is under way.
    Look,
    /// From the look: what it saw.
    Seen(Reading),
    /// From anyone: the receiver MUST reply.
    GetSnapshot(RpcReplyPort<Arc<HealthSnapshot>>),
    /// From the chaos endpoint: end as told.
    Chaos(Fault),
}

/// The hardware at one moment.
#[derive(Debug, Clone)]
pub struct HealthSnapshot {
    /// `None` until the first look.
    pub gpus: Option<Reading>,
    /// Bytes of system memory: (used, total).
    pub system_memory: Option<(u64, u64)>,
    pub at: Instant,
    pub wall: SystemTime,
}

/// The published snapshot. Older than three intervals, it counts as unknown.
#[derive(Debug, Clone)]
pub struct Vitals(Arc<ArcSwap<HealthSnapshot>>);

impl Default for Vitals {
    fn default() -> Self {
        let unknown = HealthSnapshot { gpus: None, system_memory: None, at: Instant::now(), wall: SystemTime::now() };
        Self(Arc::new(ArcSwap::from_pointee(unknown)))
    }
}

impl Vitals {
    pub fn read(&self) -> Arc<HealthSnapshot> {
        self.0.load_full()
    }
}

#[derive(Clone)]
pub struct HealthActor {
    pub config: HealthConfig,
    pub probe: NvmlProbe,
    pub vitals: Vitals,
}

pub struct HealthState {
    looking: Option<Owned>,
    _timer: Owned,
}

impl Actor for HealthActor {
    type Msg = HealthMsg;
    type State = HealthState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<HealthMsg>, (): ()) -> Result<HealthState, ActorProcessingErr> {
        let mut ticks = tokio::time::interval(self.config.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let timer = task::owned(async move {
            loop {
                ticks.tick().await;
                if myself.cast(HealthMsg::Look).is_err() {
                    return;
                }
            }
        });
        Ok(HealthState { looking: None, _timer: timer })
    }

    async fn handle(
        &self,
        myself: ActorRef<HealthMsg>,
        message: HealthMsg,
        state: &mut HealthState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HealthMsg::Look if state.looking.is_some() => {}
            HealthMsg::Look => {
                let (probe, timeout) = (self.probe.clone(), self.config.timeout);
                state.looking = Some(task::owned(async move {
                    let reading = probe.read(timeout).await;
                    let _ = myself.cast(HealthMsg::Seen(reading));
                }));
            }
            HealthMsg::Seen(reading) => {
                state.looking = None;
                self.publish(reading);
            }
            HealthMsg::GetSnapshot(reply_to) => drop(reply_to.send(self.vitals.read())),
            HealthMsg::Chaos(fault) => chaos::obey(fault)?,
        }
        Ok(())
    }
}

impl HealthActor {
    fn publish(&self, reading: Reading) {
        if let Reading::Gpus(gpus) = &reading {
            for gpu in gpus {
                observe::gpu_reading(&observe::GpuReading {
                    gpu: &gpu.uuid,
                    memory_used: gpu.memory_used_bytes,
                    memory_total: gpu.memory_total_bytes,
                    utilization: gpu.utilization_ratio,
                    power_watts: gpu.power_watts,
                    temperature_celsius: gpu.temperature_celsius.map(f64::from),
                });
            }
        }
        self.vitals.0.store(Arc::new(HealthSnapshot {
            gpus: Some(reading),
            system_memory: system_memory(),
            at: Instant::now(),
            wall: SystemTime::now(),
        }));
    }
}

/// (used, total) from the kernel; a read of procfs does not block.
fn system_memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let (total, available) = (kib("MemTotal:")?, kib("MemAvailable:")?);
    Some((total.saturating_sub(available) * 1024, total * 1024))
}
