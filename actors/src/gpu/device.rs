//! Which GPUs an engine child may see, said in the variables that CUDA, ROCm and Vulkan read. Pure.
//!
//! A number means another card in each of their lists, and llama.cpp's own list depends on its build. So a child that is
//! to use one card sees no other: then there is nothing to confuse, and nothing of the child (a context, a leak) can be
//! on a card that is not its own. `devices.rs` of the engine checks that it worked.

use std::iter;

const CUDA: &str = "CUDA_VISIBLE_DEVICES";
const CUDA_ORDER: &str = "CUDA_DEVICE_ORDER";
const ROCM: &str = "ROCR_VISIBLE_DEVICES";
const HIP: &str = "HIP_VISIBLE_DEVICES";
const VULKAN: &str = "GGML_VK_VISIBLE_DEVICES";

/// Variables of a child that runs on `gpu` (as in `LocalConfig::gpu`). `inherited` is the gateway's own environment: a
/// list there is the operator's choice for the whole gateway, and an index counts inside it.
pub fn environment(gpu: Option<&str>, inherited: &dyn Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    // Else CUDA puts the fastest card first, and NVML, whose numbers the operator reads, does not.
    let order = (CUDA_ORDER, inherited(CUDA_ORDER).unwrap_or_else(|| "PCI_BUS_ID".to_owned()));
    let chosen = match gpu {
        None => Vec::new(),
        // No context on any card: a CPU target must live when a driver dies.
        Some("cpu") => [CUDA, ROCM, HIP, VULKAN].map(|name| (name, none(name))).to_vec(),
        Some(gpu) => match gpu.parse::<usize>() {
            Ok(index) => by_index(index, inherited),
            Err(_) => by_uuid(gpu),
        },
    };
    iter::once(order).chain(chosen).collect()
}

/// How each says "no device". A number that is not there ends a process that uses Vulkan, and hides everything from CUDA.
fn none(name: &str) -> String {
    if name == VULKAN { String::new() } else { "-1".to_owned() }
}

fn by_index(index: usize, inherited: &dyn Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    let nth = |name: &'static str| {
        let device = match inherited(name) {
            Some(list) => list.split(',').nth(index).map_or_else(|| none(name), |device| device.trim().to_owned()),
            None => index.to_string(),
        };
        (name, device)
    };
    // HIP counts what ROCr has left over.
    vec![nth(CUDA), nth(ROCM), (HIP, "0".to_owned()), nth(VULKAN)]
}

/// NVIDIA's UUIDs are long, AMD's are 16 hexadecimal digits. Vulkan takes numbers only, so it gets no say.
fn by_uuid(uuid: &str) -> Vec<(&'static str, String)> {
    let digits = uuid.strip_prefix("GPU-").unwrap_or(uuid);
    let is_amd = digits.len() == 16;
    let (mine, other) = if is_amd { (ROCM, CUDA) } else { (CUDA, ROCM) };
    let hip = if is_amd { "0".to_owned() } else { none(HIP) };
    vec![(mine, uuid.to_owned()), (other, none(other)), (HIP, hip), (VULKAN, none(VULKAN))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn variables(gpu: Option<&str>, inherited: &[(&str, &str)]) -> HashMap<&'static str, String> {
        let inherited: HashMap<&str, &str> = inherited.iter().copied().collect();
        environment(gpu, &|name| inherited.get(name).map(|value| (*value).to_owned())).into_iter().collect()
    }

    const NVIDIA: &str = "GPU-12345678-1234-1234-1234-123456789abc";

    #[test]
    fn auto_leaves_the_choice_to_the_engine_in_the_order_of_the_slots() {
        assert_eq!(variables(None, &[]), HashMap::from([(CUDA_ORDER, "PCI_BUS_ID".to_owned())]));
        assert_eq!(variables(None, &[(CUDA_ORDER, "FASTEST_FIRST")])[CUDA_ORDER], "FASTEST_FIRST");
    }

    #[test]
    fn a_uuid_makes_one_card_visible_and_no_other_of_any_kind() {
        let seen = variables(Some(NVIDIA), &[(CUDA, "0,1")]);
        assert_eq!((seen[CUDA].as_str(), seen[ROCM].as_str(), seen[VULKAN].as_str()), (NVIDIA, "-1", ""));
        let seen = variables(Some("GPU-0123456789abcdef"), &[]);
        assert_eq!((seen[ROCM].as_str(), seen[CUDA].as_str(), seen[HIP].as_str()), ("GPU-0123456789abcdef", "-1", "0"));
    }

    #[test]
    fn an_index_counts_inside_what_the_gateway_itself_may_use() {
        let seen = variables(Some("1"), &[]);
        assert_eq!((seen[CUDA].as_str(), seen[ROCM].as_str(), seen[VULKAN].as_str()), ("1", "1", "1"));
        let given = format!("3, {NVIDIA}");
        assert_eq!(variables(Some("1"), &[(CUDA, &given)])[CUDA], NVIDIA);
        assert_eq!(variables(Some("2"), &[(CUDA, &given)])[CUDA], "-1", "it was not given a third one");
    }

    #[test]
    fn a_target_on_the_processor_sees_no_card() {
        let seen = variables(Some("cpu"), &[]);
        assert!([CUDA, ROCM, HIP].iter().all(|name| seen[name] == "-1") && seen[VULKAN].is_empty());
    }
}
