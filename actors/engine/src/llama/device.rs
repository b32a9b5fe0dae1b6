//! The devices of this host as llama.cpp lists them, with the plug-ins that make it know them.

use crate::{
    devices::{self, Device, Gpu},
    process::say,
};
use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices};
use spillway_actors::gpu::frame::{LoadFailure, LoadSpec};

/// Loads the backends that lie beside this program, else those where cargo built them; one whose driver is not on this
/// host is left out. Must come before anything else of llama.cpp. A static build has its backends in it.
pub fn load_plugins() {
    #[cfg(feature = "plugins")]
    {
        use llama_cpp_2::llama_backend::{load_backends, load_backends_from_path};
        let program = std::env::current_exe().ok();
        let beside = program.and_then(|program| Some(program.parent()?.join("lib").join("backends")));
        match beside.filter(|folder| folder.is_dir() && folder.to_str().is_some()) {
            Some(folder) => load_backends_from_path(&folder),
            None => load_backends(),
        }
    }
}

/// What `--list-devices` says: one line for each device.
pub fn list() -> Vec<String> {
    load_plugins();
    let line = |device: &LlamaBackendDevice| format!("{}: {} ({})", device.name, device.description, device.backend);
    list_llama_ggml_backend_devices().iter().map(line).collect()
}

/// `"cpu"`, the GPU that is named, or whatever the build and the machine have.
pub(super) fn choose(spec: &LoadSpec) -> Result<Device, LoadFailure> {
    if let Some(bytes) = spec.simulated_memory {
        return Ok(Device::Simulated { bytes });
    }
    let gpus: Vec<Gpu> = list_llama_ggml_backend_devices().iter().filter_map(as_gpu).collect();
    let device = devices::choose(spec.device.as_deref(), spec.gpu_layers, &gpus).map_err(super::load::other)?;
    let is_asked_for_cpu = spec.device.is_some() || spec.gpu_layers == Some(0);
    if device == Device::Cpu && spec.require_gpu && !is_asked_for_cpu {
        let what = "no GPU is found where there was one before; it does not fall back to the CPU";
        return Err(super::load::other(what.to_owned()));
    }
    let meant_for_gpus = cfg!(any(feature = "cuda", feature = "vulkan", feature = "rocm"));
    if meant_for_gpus && device == Device::Cpu && spec.device.is_none() {
        say("this engine was built for GPUs and none answers here (is its driver loaded?): computing on the processor");
    }
    Ok(device)
}

fn as_gpu(device: &LlamaBackendDevice) -> Option<Gpu> {
    let name = if device.description.is_empty() { &device.name } else { &device.description };
    matches!(device.device_type, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu).then(|| Gpu {
        index: device.index,
        name: name.clone(),
        backend: device.backend.clone(),
    })
}
