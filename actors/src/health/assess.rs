//! From what the driver says to what becomes of each local target. Pure: HealthActor applies the effects.

use super::{
    nvml::{GpuEventKind, GpuFault, GpuReading, Reading},
    strain,
    xid::{self, Remedy},
};
use crate::{
    config::{LocalConfig, StrainLimits},
    gpu::life::{Cause, Strain, StrainKind},
};

/// A local target as far as its card matters.
#[derive(Debug, Clone, PartialEq)]
pub struct Seated {
    /// UUID of its card; `None`: it has none, or none is known yet.
    pub gpu: Option<String>,
    pub strain: Option<StrainKind>,
    /// Uncorrected memory errors of its card when the driver last spoke of it.
    pub ecc: Option<u64>,
    /// Its card was lost or needed a reset then.
    pub faulty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Its card is strained, or no more.
    Strain(Option<Strain>),
    /// A fresh engine cures what happened.
    Restart(Cause),
    /// Its card is bad. `drain`: what runs may end first.
    Condemn { cause: Cause, drain: bool },
    /// Its bad card is well again.
    Pardon,
}

/// The card of a target: the one its operator names, else the one it runs on.
pub fn seat(config: &LocalConfig, device: Option<(&str, bool)>, gpus: &[GpuReading]) -> Option<String> {
    let named = |name: &str| {
        let found = gpus.iter().find(|gpu| gpu.uuid.eq_ignore_ascii_case(name) || gpu.index.to_string() == name);
        found.map(|gpu| gpu.uuid.clone())
    };
    if let Some(name) = &config.health_gpu {
        return named(name);
    }
    match (config.gpu.as_deref(), device) {
        (Some("cpu"), _) | (_, Some((_, false)) | None) => None,
        (Some(name), Some(_)) => named(name),
        (None, Some((device, true))) => {
            let mut alike = gpus.iter().filter(|gpu| gpus.len() == 1 || device.contains(gpu.name.as_str()));
            // Two cards of one name cannot be told apart by it.
            alike.next().filter(|_| alike.next().is_none()).map(|gpu| gpu.uuid.clone())
        }
    }
}

/// What a look at the driver means for one target.
pub fn after_look(seated: &Seated, reading: &Reading, limits: &StrainLimits) -> Vec<Effect> {
    let Some(uuid) = &seated.gpu else { return relieved(seated) };
    let silent = |detail: &str| {
        let strain = Strain { kind: StrainKind::Nvml, detail: detail.to_owned() };
        vec![Effect::Strain(Some(strain))]
    };
    match reading {
        Reading::Stuck => silent("the driver does not answer"),
        Reading::Error(why) | Reading::NoGpu(why) => silent(why),
        Reading::Gpus(gpus) => match gpus.iter().find(|gpu| gpu.uuid == *uuid) {
            Some(gpu) => after_reading(seated, gpu, limits),
            None => silent("the driver no longer lists its card"),
        },
    }
}

fn relieved(seated: &Seated) -> Vec<Effect> {
    seated.strain.map(|_| Effect::Strain(None)).into_iter().collect()
}

fn after_reading(seated: &Seated, gpu: &GpuReading, limits: &StrainLimits) -> Vec<Effect> {
    let condemn = |what: &str, drain| vec![Effect::Condemn { cause: Cause::BadGpu(what.to_owned()), drain }];
    match gpu.fault {
        Some(GpuFault::Lost) => return condemn("the GPU has fallen off the bus", false),
        Some(GpuFault::ResetRequired) => return condemn("the GPU must be reset", true),
        None => {}
    }
    if gpu.ecc_uncorrected.zip(seated.ecc).is_some_and(|(now, before)| now > before) {
        return condemn("uncorrected memory errors (ECC)", true);
    }
    let strain = strain::judge(gpu, seated.strain, limits);
    let mut effects = match strain {
        Some(strain) => vec![Effect::Strain(Some(strain))],
        None => relieved(seated),
    };
    if seated.faulty {
        effects.push(Effect::Pardon);
    }
    effects
}

/// What an event on its card means for a target.
pub fn after_event(kind: GpuEventKind) -> Option<Effect> {
    let xid = match kind {
        GpuEventKind::Xid(xid) => xid,
        GpuEventKind::DoubleBitEcc => 48,
    };
    let bad = || Cause::BadGpu(format!("Xid {xid}, {}", xid::meaning(xid)));
    match xid::remedy(xid) {
        Remedy::Restart => Some(Effect::Restart(Cause::Xid(xid))),
        Remedy::Drain => Some(Effect::Condemn { cause: bad(), drain: true }),
        Remedy::Abandon => Some(Effect::Condemn { cause: bad(), drain: false }),
        Remedy::Note => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seated() -> Seated {
        Seated { gpu: Some("GPU-a".into()), strain: None, ecc: Some(0), faulty: false }
    }

    fn look(seated: &Seated, reading: &Reading) -> Vec<Effect> {
        after_look(seated, reading, &StrainLimits::default())
    }

    fn well() -> GpuReading {
        GpuReading { temperature_celsius: Some(50), ecc_uncorrected: Some(0), ..GpuReading::of("GPU-a", 0) }
    }

    fn kinds(effects: &[Effect]) -> Vec<&'static str> {
        let name = |effect: &Effect| match effect {
            Effect::Strain(Some(strain)) => strain.kind.label(),
            Effect::Strain(None) => "relieved",
            Effect::Restart(_) => "restart",
            Effect::Condemn { drain: true, .. } => "drain",
            Effect::Condemn { drain: false, .. } => "abandon",
            Effect::Pardon => "pardon",
        };
        effects.iter().map(name).collect()
    }

    #[test]
    fn a_driver_that_is_silent_or_fails_degrades_who_runs_on_its_cards_and_nobody_else() {
        let on_cpu = Seated { gpu: None, ..seated() };
        for reading in [Reading::Stuck, Reading::Error("mismatch".into()), Reading::NoGpu("gone".into())] {
            assert_eq!(kinds(&look(&seated(), &reading)), ["nvml"]);
            assert_eq!(kinds(&look(&on_cpu, &reading)), [""; 0]);
        }
        let strained = Seated { strain: Some(StrainKind::Nvml), ..seated() };
        assert_eq!(kinds(&look(&strained, &Reading::Gpus(vec![well()]))), ["relieved"]);
    }

    #[test]
    fn a_lost_card_gets_no_time_one_that_needs_a_reset_may_drain_and_one_that_is_back_is_pardoned() {
        let with = |fault| Reading::Gpus(vec![GpuReading { fault, ..well() }]);
        assert_eq!(kinds(&look(&seated(), &with(Some(GpuFault::Lost)))), ["abandon"]);
        assert_eq!(kinds(&look(&seated(), &with(Some(GpuFault::ResetRequired)))), ["drain"]);
        let was = Seated { faulty: true, ..seated() };
        assert_eq!(kinds(&look(&was, &with(None))), ["pardon"]);
    }

    #[test]
    fn only_new_memory_errors_condemn() {
        let with = |ecc| Reading::Gpus(vec![GpuReading { ecc_uncorrected: ecc, ..well() }]);
        assert_eq!(kinds(&look(&seated(), &with(Some(1)))), ["drain"]);
        assert_eq!(kinds(&look(&Seated { ecc: Some(1), ..seated() }, &with(Some(1)))), [""; 0]);
        assert_eq!(kinds(&look(&Seated { ecc: None, ..seated() }, &with(Some(1)))), [""; 0], "they may be old");
    }

    #[test]
    fn xids_restart_drain_abandon_or_are_only_noted() {
        let kind = |event| after_event(event).map(|effect| kinds(&[effect])[0]);
        assert_eq!(kind(GpuEventKind::Xid(13)), Some("restart"));
        assert_eq!(kind(GpuEventKind::Xid(94)), Some("drain"));
        assert_eq!(kind(GpuEventKind::DoubleBitEcc), Some("drain"));
        assert_eq!(kind(GpuEventKind::Xid(79)), Some("abandon"));
        assert_eq!(kind(GpuEventKind::Xid(999)), None);
    }

    #[test]
    fn a_target_sits_on_the_card_it_names_or_the_only_one_it_can_be() {
        let gpu = |uuid, index, name: &str| GpuReading { name: name.into(), ..GpuReading::of(uuid, index) };
        let (one, two) = (gpu("GPU-a", 0, "RTX 4090"), gpu("GPU-b", 1, "RTX 3090"));
        let both = [one.clone(), two];
        let config = |gpu: Option<&str>, health: Option<&str>| {
            let mut config = LocalConfig::tiny(1);
            (config.gpu, config.health_gpu) = (gpu.map(str::to_owned), health.map(str::to_owned));
            config
        };
        let on = |name| Some((name, true));
        assert_eq!(seat(&config(None, None), on("NVIDIA RTX 3090"), &both).as_deref(), Some("GPU-b"));
        assert_eq!(seat(&config(None, None), on("CUDA0"), std::slice::from_ref(&one)).as_deref(), Some("GPU-a"));
        assert_eq!(seat(&config(None, None), on("CUDA0"), &both), None);
        assert_eq!(seat(&config(None, None), on("RTX 4090"), &[one.clone(), one.clone()]), None, "which of the two?");
        assert_eq!(seat(&config(Some("1"), None), on("CUDA1"), &both).as_deref(), Some("GPU-b"));
        assert_eq!(seat(&config(Some("cpu"), None), Some(("cpu", false)), std::slice::from_ref(&one)), None);
        assert_eq!(
            seat(&config(None, None), Some(("cpu", false)), std::slice::from_ref(&one)),
            None,
            "it fell back to the CPU"
        );
        assert_eq!(seat(&config(Some("cpu"), Some("gpu-A")), None, &both).as_deref(), Some("GPU-a"));
    }
}
