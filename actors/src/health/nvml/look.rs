//! One opened driver: readings of every card and the events of each. One card's failure is that card's, never all of them.

use super::{EventQueue, GpuEvent, GpuEventKind, GpuFault, GpuReading, Known, Reading, Slowdown, failure};
use nvml_wrapper::{
    Device, EventSet, Nvml,
    bitmasks::{device::ThrottleReasons, event::EventTypes},
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold},
    enums::event::XidError,
    error::NvmlError,
};

/// Events taken from one card at a time.
const EVENTS_AT_ONCE: usize = 16;
/// How long one question for an event may wait inside the driver. Zero would be undocumented.
const EVENT_WAIT_MS: u32 = 1;

/// Events of one card; a set of its own says which card it was even when the card no longer answers.
struct Ear<'nvml> {
    uuid: String,
    /// `None`: this card or driver tells no events.
    set: Option<EventSet<'nvml>>,
}

pub(super) struct Session<'nvml> {
    nvml: &'nvml Nvml,
    ears: Vec<Ear<'nvml>>,
}

impl<'nvml> Session<'nvml> {
    pub(super) const fn new(nvml: &'nvml Nvml) -> Self {
        Self { nvml, ears: Vec::new() }
    }

    /// Reads every card; new ones are listened to from now on.
    pub(super) fn look(&mut self, known: &mut Known, heard: &EventQueue) -> Reading {
        self.collect(heard);
        let seen = match self.read_all(known) {
            Ok(seen) => seen,
            Err(error) => return Reading::Error(failure(&error)),
        };
        for gpu in &seen {
            match known.iter_mut().find(|old| old.uuid == gpu.uuid) {
                Some(old) => old.clone_from(gpu),
                None => known.push(gpu.clone()),
            }
        }
        let gone = known.iter().filter(|old| !seen.iter().any(|gpu| gpu.uuid == old.uuid));
        let gone: Vec<GpuReading> = gone.map(|old| faulty(old, GpuFault::Lost)).collect();
        let gpus: Vec<GpuReading> = seen.into_iter().chain(gone).collect();
        if gpus.is_empty() {
            return Reading::NoGpu("the NVIDIA driver lists no GPU".to_owned());
        }
        Reading::Gpus(gpus)
    }

    fn read_all(&mut self, known: &Known) -> Result<Vec<GpuReading>, NvmlError> {
        let mut seen = Vec::new();
        for index in 0..self.nvml.device_count()? {
            let read = self.nvml.device_by_index(index).and_then(|device| {
                let gpu = read_one(index, &device)?;
                self.listen(&gpu.uuid, &device);
                Ok(gpu)
            });
            match (read, known.iter().find(|old| old.index == index)) {
                (Ok(gpu), _) => seen.push(gpu),
                (Err(NvmlError::GpuLost), Some(old)) => seen.push(faulty(old, GpuFault::Lost)),
                (Err(NvmlError::ResetRequired), Some(old)) => seen.push(faulty(old, GpuFault::ResetRequired)),
                (Err(NvmlError::GpuLost), None) => seen.push(faulty(&unnamed(index), GpuFault::Lost)),
                (Err(NvmlError::ResetRequired), None) => seen.push(faulty(&unnamed(index), GpuFault::ResetRequired)),
                (Err(error), _) => return Err(error),
            }
        }
        Ok(seen)
    }

    fn listen(&mut self, uuid: &str, device: &Device<'nvml>) {
        if self.ears.iter().any(|ear| ear.uuid == uuid) {
            return;
        }
        let kinds = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
        let wanted = device.supported_event_types().unwrap_or(kinds) & kinds;
        let set = self.nvml.create_event_set().ok();
        let set = set.and_then(|set| device.register_events(wanted, set).ok());
        self.ears.push(Ear { uuid: uuid.to_owned(), set });
    }

    /// Passes on what has happened since the last time.
    pub(super) fn collect(&self, heard: &EventQueue) {
        for ear in &self.ears {
            for _ in 0..EVENTS_AT_ONCE {
                let Some(Ok(event)) = ear.set.as_ref().map(|set| set.wait(EVENT_WAIT_MS)) else { break };
                let kind = match event.event_data {
                    Some(XidError::Value(xid)) => GpuEventKind::Xid(xid),
                    // 999 is how the driver says that it does not know the number itself.
                    Some(XidError::Unknown) => GpuEventKind::Xid(999),
                    None if event.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) => GpuEventKind::DoubleBitEcc,
                    None => continue,
                };
                heard.push(GpuEvent { uuid: ear.uuid.clone(), kind });
            }
        }
    }
}

fn unnamed(index: u32) -> GpuReading {
    GpuReading::of("unknown", index)
}

fn faulty(gpu: &GpuReading, fault: GpuFault) -> GpuReading {
    GpuReading { name: gpu.name.clone(), fault: Some(fault), ..GpuReading::of(&gpu.uuid, gpu.index) }
}

fn read_one(index: u32, device: &Device<'_>) -> Result<GpuReading, NvmlError> {
    let (name, uuid) = (device.name()?, device.uuid()?);
    let memory = told(device.memory_info())?;
    let ecc = device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
    Ok(GpuReading {
        name,
        memory_used_bytes: memory.as_ref().map(|memory| memory.used),
        memory_total_bytes: memory.as_ref().map(|memory| memory.total),
        utilization_ratio: told(device.utilization_rates())?.map(|rates| f64::from(rates.gpu) / 100.0),
        temperature_celsius: told(device.temperature(TemperatureSensor::Gpu))?,
        slowdown_celsius: told(device.temperature_threshold(TemperatureThreshold::Slowdown))?.filter(|at| *at > 0),
        slowdown: told(device.current_throttle_reasons())?.and_then(slowdown),
        power_watts: told(device.power_usage())?.map(|milliwatts| f64::from(milliwatts) / 1000.0),
        energy_millijoules: told(device.total_energy_consumption())?,
        ecc_uncorrected: told(ecc)?,
        ..GpuReading::of(&uuid, index)
    })
}

/// A lost card fails the whole reading; what a card cannot tell is merely absent.
fn told<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => Err(error),
        answer => Ok(answer.ok()),
    }
}

fn slowdown(reasons: ThrottleReasons) -> Option<Slowdown> {
    if reasons.intersects(ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN) {
        return Some(Slowdown::Thermal);
    }
    let power = ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN | ThrottleReasons::HW_SLOWDOWN;
    reasons.intersects(power).then_some(Slowdown::Power)
}
