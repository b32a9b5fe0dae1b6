//! Against a libnvidia-ml.so that plays a scenario, loaded as the real one is.

use super::*;
use std::{fs, process::Command};

const UUID: &str = "GPU-00000000-0000-0000-0000-000000000001";

/// A fake library with its scenario file; both go with it.
struct Fake {
    folder: PathBuf,
}

impl Fake {
    fn playing(name: &str, scenario: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("spillway-nvml-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let fake = Self { folder };
        fake.play(scenario);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/nvml/fake_nvml.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(fake.library())
            .arg(format!("-DSCENARIO=\"{}\"", fake.folder.join("scenario").display()))
            .arg(source)
            .status()
            .unwrap();
        assert!(built.success());
        fake
    }

    fn library(&self) -> PathBuf {
        self.folder.join("libnvidia-ml.so")
    }

    /// Replaces the scenario at once, as a reader sees it.
    fn play(&self, scenario: &str) {
        let fresh = self.folder.join("fresh");
        fs::write(&fresh, scenario).unwrap();
        fs::rename(fresh, self.folder.join("scenario")).unwrap();
    }

    fn probe(&self) -> NvmlProbe {
        NvmlProbe::start(Some(self.library())).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn gpu(index: u32, fields: &str) -> String {
    format!("gpu {index} GPU-00000000-0000-0000-0000-00000000000{} {fields}\n", index + 1)
}

async fn look(probe: &NvmlProbe) -> Reading {
    probe.read(Duration::from_secs(10)).await
}

async fn gpus(probe: &NvmlProbe) -> Vec<GpuReading> {
    match look(probe).await {
        Reading::Gpus(gpus) => gpus,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_card_is_read_with_all_that_the_driver_tells() {
    let fields = "temp=61 slowdown=95 throttle=64 used=100 total=400 util=50 power=250000 energy=7000 ecc=2";
    let fake = Fake::playing("all", &gpu(0, fields));
    let expected = GpuReading {
        name: "Fake GPU".into(),
        memory_used_bytes: Some(100),
        memory_total_bytes: Some(400),
        utilization_ratio: Some(0.5),
        temperature_celsius: Some(61),
        slowdown_celsius: Some(95),
        slowdown: Some(Slowdown::Thermal),
        power_watts: Some(250.0),
        energy_millijoules: Some(7000),
        ecc_uncorrected: Some(2),
        ..GpuReading::of(UUID, 0)
    };
    assert_eq!(gpus(&fake.probe()).await, [expected]);
}

#[tokio::test]
async fn one_lost_card_leaves_the_others_readable_and_is_remembered_when_it_is_no_longer_listed() {
    let fake = Fake::playing("lost", &(gpu(0, "temp=50") + &gpu(1, "temp=51")));
    let probe = fake.probe();
    assert!(gpus(&probe).await.iter().all(|gpu| gpu.fault.is_none()));
    fake.play(&(gpu(0, "temp=50") + &gpu(1, "status=15")));
    let faults = |gpus: Vec<GpuReading>| gpus.into_iter().map(|gpu| (gpu.uuid, gpu.fault)).collect::<Vec<_>>();
    let lost = faults(gpus(&probe).await);
    assert_eq!(lost[0], (UUID.to_owned(), None));
    assert_eq!(lost[1].1, Some(GpuFault::Lost));
    fake.play(&gpu(0, "temp=50"));
    assert_eq!(faults(gpus(&probe).await), lost, "a card that vanished is lost, too");
    fake.play(&(gpu(0, "temp=50") + &gpu(1, "status=16")));
    assert_eq!(gpus(&probe).await[1].fault, Some(GpuFault::ResetRequired));
    fake.play(&(gpu(0, "temp=50") + &gpu(1, "temp=40")));
    assert!(gpus(&probe).await.iter().all(|gpu| gpu.fault.is_none()), "it is back");
}

#[tokio::test]
async fn events_are_told_while_nobody_asks_each_with_its_card() {
    let two = gpu(0, "temp=50") + &gpu(1, "temp=51");
    let fake = Fake::playing("events", &format!("{two}event 1 0 8 31\n"));
    let probe = fake.probe();
    gpus(&probe).await;
    assert_eq!(probe.events().first(), None, "what was before is not news");
    fake.play(&format!("{two}event 1 0 8 31\nevent 2 0 8 13\nevent 3 1 2 0\n"));
    let mut heard = Vec::new();
    for _ in 0..2 {
        tokio::time::timeout(Duration::from_secs(10), probe.events().arrived()).await.unwrap();
        let event = probe.events().first().unwrap();
        probe.events().done(&event);
        heard.push((event.uuid, event.kind));
    }
    let second = UUID.replace("001", "002");
    assert_eq!(heard, [(UUID.to_owned(), GpuEventKind::Xid(13)), (second, GpuEventKind::DoubleBitEcc)]);
}

#[tokio::test]
async fn a_version_mismatch_is_told_in_words_and_ends_with_its_cause() {
    let fake = Fake::playing("mismatch", &format!("init 18\n{}", gpu(0, "temp=50")));
    let probe = fake.probe();
    match look(&probe).await {
        Reading::Error(why) => assert!(why.contains("different versions"), "{why}"),
        other => panic!("{other:?}"),
    }
    fake.play(&gpu(0, "temp=50"));
    assert_eq!(gpus(&probe).await.len(), 1);
}

#[tokio::test]
async fn a_hung_driver_is_stuck_until_it_answers() {
    let fake = Fake::playing("hang", &format!("hang 300\n{}", gpu(0, "temp=50")));
    let probe = fake.probe();
    assert_eq!(probe.read(Duration::from_millis(20)).await, Reading::Stuck);
    fake.play(&gpu(0, "temp=50"));
    let recovered = async {
        while !matches!(probe.read(Duration::from_secs(5)).await, Reading::Gpus(_)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), recovered).await.unwrap();
}

#[tokio::test]
async fn no_driver_is_no_fault_but_a_library_that_was_named_must_be_there() {
    let named = NvmlProbe::start(Some("/nonexistent/libnvidia-ml.so".into())).unwrap();
    assert_eq!(look(&named).await, Reading::Error("[health] nvml_library cannot be loaded".into()));
    let fake = Fake::playing("unloaded", "init 9\n");
    assert!(matches!(look(&fake.probe()).await, Reading::NoGpu(_)));
}
