//! A libnvidia-ml.so that plays a scenario file: compiled for the test, loaded by the gateway as the real one is.

use super::{Setup, setup::Folder};
use std::{fs, path::PathBuf, process::Command};

/// Names the scenario file to the fake library.
const SCENARIO_VAR: &str = "SPILLWAY_TEST_NVML_SCENARIO";
/// UUID of the one card.
pub const GPU: &str = "GPU-00000000-0000-0000-0000-000000000001";

pub struct FakeNvml {
    folder: Folder,
}

impl FakeNvml {
    pub fn playing(scenario: &str) -> Self {
        let folder = Folder::new().expect("a temporary folder");
        let fake = Self { folder };
        fake.play(scenario);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvml/fake_nvml.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(fake.library())
            .arg(format!("-DSCENARIO_VAR=\"{SCENARIO_VAR}\""))
            .arg(source)
            .status()
            .expect("a C compiler, which the engine's build needs as well");
        assert!(built.success(), "the fake library compiles");
        fake
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so")
    }

    fn scenario(&self) -> PathBuf {
        self.folder.path().join("scenario")
    }

    /// Replaces the scenario at once, as a reader sees it.
    pub fn play(&self, scenario: &str) {
        let fresh = self.folder.write("fresh", scenario.as_bytes());
        fs::rename(fresh, self.scenario()).expect("a rename inside one folder");
    }

    /// A gateway whose local target counts as running on the fake card.
    pub fn setup(&self) -> Setup {
        let library = self.library();
        let keys =
            format!("[health]\ninterval_ms = 100\ntimeout_ms = 1000\nnvml_library = \"{}\"\n", library.display());
        Setup {
            local_extra: format!("health_gpu = \"{GPU}\""),
            vars: vec![(SCENARIO_VAR.to_owned(), self.scenario().display().to_string())],
            ..Setup::default().extra(&keys)
        }
    }
}

/// The card with these fields, in good health but for what they say.
pub fn card(fields: &str) -> String {
    format!("gpu 0 {GPU} temp=50 used=1000 total=24000 util=7 power=90000 energy=5000 {fields}\n")
}
