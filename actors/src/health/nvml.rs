//! NVML on a thread of its own: a driver call can block for as long as it likes without holding up an actor. Where there
//! is no driver the thread answers "no GPU" and looks again at every question.

use nvml_wrapper::{Device, Nvml, enum_wrappers::device::TemperatureSensor, error::NvmlError};
use serde::Serialize;
use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};
use tokio::sync::oneshot;

/// One GPU as the driver describes it. What the driver does not tell is `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GpuReading {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    /// 0 to 1.
    pub utilization_ratio: Option<f64>,
    pub temperature_celsius: Option<u32>,
    pub power_watts: Option<f64>,
}

/// What one look at the driver gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// There is no driver on this host, or it lists no GPU.
    NoGpu(String),
    Gpus(Vec<GpuReading>),
    /// There is a driver and it fails.
    Error(String),
    /// The driver did not answer in time; the thread still waits for it.
    Stuck,
}

type Question = oneshot::Sender<Reading>;

/// Handle of the NVML thread; it lives outside HealthActor and survives it.
#[derive(Debug, Clone)]
pub struct NvmlProbe {
    questions: SyncSender<Question>,
}

impl NvmlProbe {
    pub fn start() -> io::Result<Self> {
        let (questions, inbox) = sync_channel(1);
        thread::Builder::new().name("nvml".to_owned()).spawn(move || serve(&inbox))?;
        Ok(Self { questions })
    }

    /// Asks the driver, at most for `timeout`.
    pub async fn read(&self, timeout: Duration) -> Reading {
        let (reply_to, reply) = oneshot::channel();
        if self.questions.try_send(reply_to).is_err() {
            return Reading::Stuck;
        }
        match tokio::time::timeout(timeout, reply).await {
            Ok(Ok(reading)) => reading,
            Ok(Err(_)) => Reading::Error("the NVML thread has ended".to_owned()),
            Err(_) => Reading::Stuck,
        }
    }
}

fn serve(inbox: &Receiver<Question>) {
    let mut nvml = None;
    while let Ok(reply_to) = inbox.recv() {
        let reading = look(&mut nvml);
        if matches!(reading, Reading::Error(_)) {
            nvml = None;
        }
        let _ = reply_to.send(reading);
    }
}

fn look(nvml: &mut Option<Nvml>) -> Reading {
    if nvml.is_none() {
        match Nvml::init() {
            Ok(fresh) => *nvml = Some(fresh),
            Err(NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded) => {
                return Reading::NoGpu("no NVIDIA driver on this host".to_owned());
            }
            Err(error) => return Reading::Error(error.to_string()),
        }
    }
    let Some(nvml) = nvml.as_ref() else { return Reading::Stuck };
    match read_all(nvml) {
        Ok(gpus) if gpus.is_empty() => Reading::NoGpu("the NVIDIA driver lists no GPU".to_owned()),
        Ok(gpus) => Reading::Gpus(gpus),
        Err(error) => Reading::Error(error.to_string()),
    }
}

fn read_all(nvml: &Nvml) -> Result<Vec<GpuReading>, NvmlError> {
    (0..nvml.device_count()?).map(|index| read_one(index, &nvml.device_by_index(index)?)).collect()
}

fn read_one(index: u32, device: &Device<'_>) -> Result<GpuReading, NvmlError> {
    let memory = device.memory_info().ok();
    Ok(GpuReading {
        index,
        name: device.name()?,
        uuid: device.uuid()?,
        memory_used_bytes: memory.as_ref().map(|memory| memory.used),
        memory_total_bytes: memory.as_ref().map(|memory| memory.total),
        utilization_ratio: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
        temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
        power_watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
    })
}
