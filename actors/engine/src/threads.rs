//! How many threads decode: one per physical core that this process may use.
//!
//! Hyper-threads do not help: the work is bound by memory and arithmetic units, which they share. The number stays for the
//! life of the context: llama-cpp-2 has no safe way to change it, and a change in mid-stream could change the rounding
//! and so the text. What other processes on the same cores cost is bounded by how long idle threads spin (see
//! `process::bound_spinning`).

use std::{collections::BTreeSet, path::Path};

/// Physical cores, at most `available`. Without topology files `available` is the answer.
pub fn physical_cores() -> u32 {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let distinct = distinct_cores(&sibling_lists(Path::new("/sys/devices/system/cpu")));
    let cores = if distinct == 0 { available } else { distinct.min(available) };
    u32::try_from(cores).unwrap_or(1).max(1)
}

/// Each logical CPU names all CPUs of its core, itself included: as many different lists, as many cores.
fn distinct_cores(lists: &[String]) -> usize {
    lists.iter().map(|list| list.trim()).filter(|list| !list.is_empty()).collect::<BTreeSet<_>>().len()
}

fn sibling_lists(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let lists = entries.flatten().map(|entry| entry.path().join("topology/thread_siblings_list"));
    lists.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyper_threads_of_one_core_count_once() {
        let lists = ["0,4\n", "1,5", "0,4", "1,5", ""].map(str::to_owned);
        assert_eq!(distinct_cores(&lists), 2);
    }

    #[test]
    fn this_machine_has_at_least_one_core() {
        assert!(physical_cores() >= 1);
    }
}
