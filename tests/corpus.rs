//! Every seed of the fuzz targets through the same body that the fuzzer runs, so that what was once found stays fixed.
//! `make fuzz` looks for new ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test that fails should say so"
)]

#[path = "../fuzz/src/bodies.rs"]
mod bodies;

use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_seed_of_every_fuzz_target_keeps_its_promises() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, body) in bodies::TARGETS {
        let files: Vec<_> = fs::read_dir(seeds.join(name)).expect("a folder of seeds").flatten().collect();
        assert!(!files.is_empty(), "{name} has seeds");
        for file in files {
            // The name of the test that fails should say which seed it was.
            let bytes = fs::read(file.path()).expect("a seed");
            let kept = std::panic::catch_unwind(|| body(&bytes));
            assert!(kept.is_ok(), "{}", file.path().display());
        }
    }
}

#[test]
fn every_fuzz_target_has_a_body_and_seeds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz.join(folder)).expect("a folder").flatten();
        entries.map(|entry| entry.path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    let bodies: BTreeSet<String> = bodies::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!((names("targets"), names("seeds")), (bodies.clone(), bodies));
}
