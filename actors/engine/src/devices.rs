//! Which of the devices that llama.cpp lists a model goes to. Pure; listing them is `llama`'s business.
//!
//! The gateway has already narrowed what this process can see (`gpu/device.rs` there): a device that is named by UUID must
//! be the only one left of its kind. Where that did not work the model is not loaded, rather than put on a wrong card.

/// A GPU as llama.cpp lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its place in llama.cpp's list, where processors count too.
    pub index: usize,
    pub name: String,
    /// Whose code drives it: "CUDA", "ROCm", "Vulkan", "Metal", …
    pub backend: String,
}

/// Where the layers go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// All GPUs, or the one at this place of llama.cpp's list.
    Gpu {
        name: String,
        only: Option<usize>,
    },
    /// Tests: the CPU, counted as if it were a GPU.
    Simulated {
        bytes: u64,
    },
}

impl Device {
    pub const fn is_gpu(&self) -> bool {
        matches!(self, Self::Gpu { .. })
    }

    /// Whether the layers put on it are those of a GPU, real or not.
    pub const fn counts_as_gpu(&self) -> bool {
        !matches!(self, Self::Cpu)
    }

    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".to_owned(),
            Self::Gpu { name, .. } => name.clone(),
            Self::Simulated { bytes } => format!("cpu, SIMULATED as a GPU of {bytes} bytes"),
        }
    }
}

/// `wanted` as in `LoadSpec::device`; `layers` = 0 asks for the processor as well.
///
/// # Errors
/// The device is not there, or cannot be told from others.
pub fn choose(wanted: Option<&str>, layers: Option<u32>, gpus: &[Gpu]) -> Result<Device, String> {
    let one = |gpu: &Gpu| Device::Gpu { name: gpu.name.clone(), only: Some(gpu.index) };
    match (wanted, layers) {
        (Some("cpu"), _) | (None, Some(0)) => Ok(Device::Cpu),
        (None, _) => Ok(gpus.first().map_or(Device::Cpu, |gpu| Device::Gpu { name: gpu.name.clone(), only: None })),
        (Some(wanted), _) => match wanted.parse::<usize>() {
            Ok(index) => by_index(index, gpus).map(one),
            Err(_) => by_uuid(wanted, gpus).map(one),
        },
    }
}

/// One card may be listed by several backends: it counts once, for the first of them.
fn by_index(index: usize, gpus: &[Gpu]) -> Result<&Gpu, String> {
    let first = gpus.first().map(|gpu| gpu.backend.as_str());
    let alike: Vec<&Gpu> = gpus.iter().filter(|gpu| Some(gpu.backend.as_str()) == first).collect();
    match alike.as_slice() {
        // The gateway has hidden the others, so this one is the one meant.
        [only] => Ok(only),
        many => many.get(index).copied().ok_or_else(|| format!("there is no GPU {index}: {}", listed(gpus))),
    }
}

fn by_uuid<'a>(uuid: &str, gpus: &'a [Gpu]) -> Result<&'a Gpu, String> {
    let mut hidden = gpus.iter().filter(|gpu| matches!(gpu.backend.as_str(), "CUDA" | "ROCm"));
    match (hidden.next(), hidden.next()) {
        (Some(gpu), None) => Ok(gpu),
        (None, _) => Err(format!("no CUDA or ROCm device answers to {uuid}: {}", listed(gpus))),
        (Some(_), Some(_)) => Err(format!("{uuid} cannot be told from the other GPUs: {}", listed(gpus))),
    }
}

fn listed(gpus: &[Gpu]) -> String {
    let names: Vec<String> = gpus.iter().map(|gpu| format!("{} ({})", gpu.name, gpu.backend)).collect();
    if names.is_empty() { "no GPU is there".to_owned() } else { format!("there are {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: usize, backend: &str) -> Gpu {
        Gpu { index, name: format!("card {index}"), backend: backend.to_owned() }
    }

    fn place(device: Result<Device, String>) -> Option<usize> {
        match device.unwrap() {
            Device::Gpu { only, .. } => only,
            Device::Cpu | Device::Simulated { .. } => None,
        }
    }

    const UUID: &str = "GPU-12345678-1234-1234-1234-123456789abc";

    #[test]
    fn auto_takes_what_is_there_and_the_processor_only_when_nothing_is_or_no_layer_goes_elsewhere() {
        let gpus = [gpu(1, "CUDA"), gpu(2, "CUDA")];
        assert_eq!(choose(None, None, &gpus), Ok(Device::Gpu { name: "card 1".into(), only: None }));
        for none in [choose(None, None, &[]), choose(None, Some(0), &gpus), choose(Some("cpu"), None, &gpus)] {
            assert_eq!(none, Ok(Device::Cpu));
        }
    }

    #[test]
    fn an_index_is_the_only_visible_gpu_or_the_one_at_that_place() {
        assert_eq!(place(choose(Some("3"), None, &[gpu(1, "CUDA"), gpu(2, "Vulkan")])), Some(1), "the rest is hidden");
        let both = [gpu(0, "Metal"), gpu(1, "Metal")];
        assert_eq!(place(choose(Some("1"), None, &both)), Some(1));
        assert!(choose(Some("2"), None, &both).unwrap_err().contains("card 1 (Metal)"));
        assert!(choose(Some("0"), None, &[]).unwrap_err().contains("no GPU is there"));
    }

    #[test]
    fn a_uuid_is_never_given_to_a_card_that_may_be_another() {
        assert_eq!(place(choose(Some(UUID), None, &[gpu(4, "CUDA"), gpu(5, "Vulkan")])), Some(4));
        assert!(choose(Some(UUID), None, &[gpu(1, "CUDA"), gpu(2, "CUDA")]).unwrap_err().contains("cannot be told"));
        assert!(choose(Some(UUID), None, &[gpu(1, "Vulkan")]).unwrap_err().contains("no CUDA or ROCm"));
    }
}
