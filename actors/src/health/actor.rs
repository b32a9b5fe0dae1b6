//! HealthActor: looks at the hardware at every interval, hears what the driver reports, has providers probed, tells the
//! slots what it means for them and publishes one snapshot. Everything it knows outlives it: the last picture in
//! [`Vitals`], strain and verdicts in the slots, unheard events in the probe's queue, scores in [`Scores`].

use super::{
    HealthSnapshot, LocalHealth, ProbeResult, ProviderHealth, Scores, Vitals,
    assess::{self, Effect, Seated},
    nvml::{GpuEvent, GpuEventKind, NvmlProbe, Reading},
    probe,
    scores::{Score, ScoreKey},
    xid,
};
use crate::{
    chaos::{self, Fault},
    cloud::Provider,
    config::HealthConfig,
    gpu::{EngineSlot, slot::Condemned},
    observe,
    task::{self, Owned},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::{sync::Arc, time::SystemTime};
use tokio::time::Instant;

pub enum HealthMsg {
    /// From the timer: look at the hardware, unless a look is under way.
    Look,
    /// From the look: what it saw.
    Seen(Reading),
    /// From the listener: the driver reported something; the queue holds what.
    Heard,
    /// From a provider's prober. `None`: real traffic proves that the provider answers.
    Probed { provider: usize, result: Option<ProbeResult> },
    /// From anyone: the receiver MUST reply.
    GetSnapshot(RpcReplyPort<Arc<HealthSnapshot>>),
    /// From the chaos endpoint: end as told.
    Chaos(Fault),
}

#[derive(Clone)]
pub struct HealthActor {
    pub config: HealthConfig,
    pub probe: NvmlProbe,
    pub vitals: Vitals,
    pub scores: Scores,
    pub slots: Arc<[Arc<EngineSlot>]>,
    pub providers: Arc<[Arc<Provider>]>,
}

pub struct HealthState {
    looking: Option<Owned>,
    _tasks: Vec<Owned>,
}

impl Actor for HealthActor {
    type Msg = HealthMsg;
    type State = HealthState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<HealthMsg>, (): ()) -> Result<HealthState, ActorProcessingErr> {
        let mut tasks = vec![task::owned(tick(self.config.interval, myself.clone()))];
        tasks.push(task::owned(listen(self.probe.clone(), myself.clone())));
        if let Some(interval) = self.config.provider_probe {
            let usable = self.providers.iter().enumerate().filter(|(_, provider)| provider.config().is_usable());
            tasks.extend(usable.map(|(at, provider)| {
                probe::keep_probing(at, Arc::clone(provider), self.scores.clone(), interval, myself.clone())
            }));
        }
        Ok(HealthState { looking: None, _tasks: tasks })
    }

    async fn handle(
        &self,
        myself: ActorRef<HealthMsg>,
        message: HealthMsg,
        state: &mut HealthState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HealthMsg::Look if state.looking.is_some() => {}
            HealthMsg::Look => state.looking = Some(self.look(myself)),
            HealthMsg::Seen(reading) => {
                state.looking = None;
                self.seen(reading, Instant::now());
            }
            HealthMsg::Heard => self.hear(Instant::now()),
            HealthMsg::Probed { provider, result } => self.probed(provider, result, Instant::now()),
            HealthMsg::GetSnapshot(reply_to) => drop(reply_to.send(self.vitals.read())),
            HealthMsg::Chaos(fault) => chaos::obey(fault)?,
        }
        Ok(())
    }
}

async fn tick(interval: std::time::Duration, to: ActorRef<HealthMsg>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if to.cast(HealthMsg::Look).is_err() {
            return;
        }
    }
}

/// Tells the actor of waiting events, and again only when it has taken those.
async fn listen(probe: NvmlProbe, to: ActorRef<HealthMsg>) {
    loop {
        probe.events().arrived().await;
        if to.cast(HealthMsg::Heard).is_err() {
            return;
        }
        probe.events().emptied().await;
    }
}

impl HealthActor {
    fn look(&self, myself: ActorRef<HealthMsg>) -> Owned {
        let (probe, timeout) = (self.probe.clone(), self.config.timeout);
        task::owned(async move {
            let reading = probe.read(timeout).await;
            let _ = myself.cast(HealthMsg::Seen(reading));
        })
    }

    fn seen(&self, reading: Reading, now: Instant) {
        let before = self.vitals.read();
        show(&reading);
        let mut locals = Vec::with_capacity(self.slots.len());
        for (at, slot) in self.slots.iter().enumerate() {
            let known = before.locals.get(at).cloned().unwrap_or_default();
            let seated = self.seated(slot, &known, &reading);
            for effect in assess::after_look(&seated, &reading, &self.config.strain) {
                self.apply(slot, effect, now);
            }
            let score = self.scores.score(ScoreKey::Local(at), now);
            locals.push(local_health(seated, &reading, score));
        }
        let providers = (0..self.providers.len()).map(|at| self.provider_health(at, &before, now)).collect();
        self.vitals.publish(HealthSnapshot {
            gpus: Some(reading),
            system_memory: system_memory(),
            locals,
            providers,
            taken_at: now,
            wall: SystemTime::now(),
        });
    }

    /// A driver that does not list cards now changes nothing of who sits where.
    fn seated(&self, slot: &EngineSlot, known: &LocalHealth, reading: &Reading) -> Seated {
        let info = slot.view().info;
        let device = info.as_ref().map(|info| (info.device.as_str(), info.on_gpu));
        let seat = match reading {
            Reading::Gpus(gpus) => assess::seat(slot.config(), device, gpus),
            _ => None,
        };
        let settled = matches!(reading, Reading::Gpus(_)) && device.is_some();
        let gpu = if settled { seat } else { seat.or_else(|| known.gpu.clone()) };
        Seated { gpu, strain: slot.strain(), ecc: known.ecc_uncorrected, faulty: known.faulty }
    }

    fn provider_health(&self, at: usize, before: &HealthSnapshot, now: Instant) -> ProviderHealth {
        let models = self.providers.get(at).map_or(0, |provider| provider.model_count());
        let score = |model| self.scores.score(ScoreKey::Cloud { provider: at, model }, now);
        ProviderHealth {
            probe: before.providers.get(at).and_then(|provider| provider.probe.clone()),
            scores: (0..models).map(score).collect(),
        }
    }

    fn hear(&self, now: Instant) {
        while let Some(event) = self.probe.events().first() {
            self.act_upon(&event, now);
            self.probe.events().done(&event);
        }
    }

    fn act_upon(&self, event: &GpuEvent, now: Instant) {
        let xid = match event.kind {
            GpuEventKind::Xid(xid) => xid,
            GpuEventKind::DoubleBitEcc => 48,
        };
        observe::gpu_xid(&event.uuid, xid::label(xid), xid, xid::meaning(xid));
        let Some(effect) = assess::after_event(event.kind) else { return };
        let vitals = self.vitals.read();
        for (slot, _) in
            self.slots.iter().zip(&vitals.locals).filter(|(_, local)| local.gpu.as_ref() == Some(&event.uuid))
        {
            self.apply(slot, effect.clone(), now);
        }
    }

    fn apply(&self, slot: &EngineSlot, effect: Effect, now: Instant) {
        match effect {
            Effect::Strain(strain) => slot.set_strain(strain),
            Effect::Restart(cause) => {
                slot.declare_death(slot.view().epoch, cause, now);
            }
            Effect::Condemn { cause, drain } => {
                let drain_until = if drain { now + self.config.drain } else { now };
                slot.condemn(Condemned { cause, drain_until, retry_at: now + self.config.bad_gpu_retry }, now);
            }
            Effect::Pardon => slot.pardon(now),
        }
    }

    fn probed(&self, at: usize, result: Option<ProbeResult>, now: Instant) {
        let mut snapshot = (*self.vitals.read()).clone();
        if snapshot.providers.len() < self.providers.len() {
            snapshot.providers.resize_with(self.providers.len(), ProviderHealth::default);
        }
        if let Some(provider) = snapshot.providers.get_mut(at) {
            provider.probe = match result {
                // What a probe said before real traffic proved the contrary no longer counts.
                None => provider.probe.take().filter(|probe| probe.answer.is_ok()),
                result => result,
            };
            let models = provider.scores.len();
            provider.scores =
                (0..models).map(|model| self.scores.score(ScoreKey::Cloud { provider: at, model }, now)).collect();
        }
        // The moment of the last look stays: a probe says nothing of the hardware.
        self.vitals.publish(snapshot);
    }
}

/// What is to be remembered of a target until the next look.
fn local_health(seated: Seated, reading: &Reading, score: Score) -> LocalHealth {
    let told = match reading {
        Reading::Gpus(gpus) => gpus.iter().find(|gpu| Some(&gpu.uuid) == seated.gpu.as_ref()),
        _ => None,
    };
    LocalHealth {
        faulty: told.map_or(seated.faulty, |gpu| gpu.fault.is_some()),
        ecc_uncorrected: told.and_then(|gpu| gpu.ecc_uncorrected).or(seated.ecc),
        gpu: seated.gpu,
        score,
    }
}

fn show(reading: &Reading) {
    let Reading::Gpus(gpus) = reading else { return };
    for gpu in gpus {
        observe::gpu_seen(&gpu.uuid, &xid::LABELS);
        observe::gpu_reading(&observe::GpuReading {
            gpu: &gpu.uuid,
            memory_used: gpu.memory_used_bytes,
            memory_total: gpu.memory_total_bytes,
            utilization: gpu.utilization_ratio,
            power_watts: gpu.power_watts,
            temperature_celsius: gpu.temperature_celsius.map(f64::from),
            energy_joules: gpu.energy_millijoules.map(|millijoules| millijoules / 1000),
        });
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
