//! What an operator installs: the unit and what the gateway tells systemd, the tarball, the images' files, completions, manual pages,
//! and what `check` says to a program.

use crate::support::{
    Setup,
    gateway::binary,
    prometheus::repository,
    setup::{Folder, MODEL},
};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).env_remove("SPILLWAY_CONFIG").output().expect("the gateway binary starts")
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn completions_are_what_each_shell_takes_and_manual_pages_are_there_for_every_command() {
    let folder = Folder::new().unwrap();
    let bash = folder.write("bash", good(&run(&["completions", "bash"])).as_bytes());
    let parsed = Command::new("bash").arg("-n").arg(&bash).output().unwrap();
    assert!(parsed.status.success(), "{parsed:?}");
    let completed = Command::new("bash")
        .args(["-c", "source \"$1\"; COMP_WORDS=(spillway mod); COMP_CWORD=1; _spillway spillway mod spillway; echo ${COMPREPLY[*]}"])
        .arg("-")
        .arg(&bash)
        .output()
        .unwrap();
    assert_eq!(good(&completed).trim(), "models");
    assert!(good(&run(&["completions", "zsh"])).starts_with("#compdef spillway"));
    assert!(good(&run(&["completions", "fish"])).contains("complete -c spillway"));
    assert_eq!(run(&["completions", "tcsh"]).status.code(), Some(2));

    assert!(good(&run(&["man"])).contains(".TH spillway 1"));
    let pages = folder.path().join("man1");
    good(&run(&["man", "--dir", &pages.display().to_string()]));
    for page in ["spillway.1", "spillway-serve.1", "spillway-keys-create.1", "spillway-top.1"] {
        let text = fs::read_to_string(pages.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}:\n{text}");
    }
}

#[test]
fn check_tells_a_program_every_fault_as_an_object_with_its_place() {
    let folder = Folder::new().unwrap();
    let config = folder.write("bad.toml", b"[server]\nlisten = 7\nmax_inflight = 0\nwrong = 1\n");
    let config = config.display().to_string();
    for command in ["check", "doctor"] {
        let output = run(&[command, "--json", "--config", &config]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!((output.status.code(), &told["ok"]), (Some(1), &false.into()), "{told:#}");
        let faults = told["faults"].as_array().unwrap();
        let places: Vec<_> = faults.iter().map(|fault| (fault["line"].as_u64(), fault["column"].as_u64())).collect();
        assert_eq!(places, [(Some(2), Some(10)), (Some(3), Some(16)), (Some(4), Some(1))], "{told:#}");
        for fault in faults {
            assert_eq!(fault["file"], config.as_str());
            assert!(!fault["message"].as_str().unwrap().contains('\n'), "{fault}");
        }
    }
    let absent = run(&["check", "--json", "--config", "/nonexistent.toml"]);
    let told: Value = serde_json::from_slice(&absent.stdout).unwrap();
    assert!(told["faults"][0]["message"].as_str().unwrap().contains("/nonexistent.toml"), "{told:#}");
    let good = run(&["check", "--json"]);
    let told: Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((&told["ok"], &told["faults"]), (&true.into(), &serde_json::json!([])), "{told:#}");
}

/// The schema takes what the gateway takes; what the gateway refuses by type, name or bound, it refuses.
#[test]
fn the_schema_of_the_configuration_takes_good_files_and_refuses_bad_ones() {
    let schema: Value = serde_json::from_str(&good(&run(&["config", "schema"]))).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let read = |text: &str| -> Value { toml::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}")) };
    let faults =
        |text: &str| -> Vec<String> { schema.iter_errors(&read(text)).map(|fault| fault.to_string()).collect() };
    for file in ["config/spillway.toml", "config/compose/spillway.toml", "packaging/systemd/spillway.toml"] {
        let text = fs::read_to_string(repository(file)).unwrap();
        assert_eq!(faults(&text), Vec::<String>::new(), "{file}");
    }
    assert_eq!(faults(&Setup::default().without_cloud().text(None, None)), Vec::<String>::new());
    for bad in [
        "[server]\nlisten = 7",
        "[server]\nmax_inflight = 0",
        "[server]\nwrong = 1",
        "wrong = 1",
        "[[local]]\ngpu_layers = \"all\"",
        "[[local]]\nengine = \"steam\"",
        "[[cloud]]\nname = \"c\"\n[[cloud.models]]\nname = \"m\"\ninput_usd_per_mtok = \"cheap\"",
        "[models.own]\nsources = \"hf:o/r/f.gguf\"",
    ] {
        assert!(!faults(bad).is_empty(), "{bad}");
    }
}

/// Stands in for systemd.
struct Ear {
    socket: UnixDatagram,
}

impl Ear {
    fn open(folder: &Folder) -> (Self, Vec<(String, String)>) {
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        (Self { socket }, vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())])
    }

    /// The next message; `None`: nothing within `limit`.
    fn hear(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..count].to_vec()).unwrap())
    }

    /// The next message that is no beat.
    fn news(&self) -> String {
        loop {
            let heard = self.hear(Duration::from_secs(60)).expect("the gateway says something");
            if heard != "WATCHDOG=1\n" {
                return heard;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_hears_of_the_start_each_reload_and_the_end() {
    let folder = Folder::new().unwrap();
    let (ear, vars) = Ear::open(&folder);
    let gateway = Setup { vars, ..Setup::default().without_cloud() }.start().await;
    assert_eq!(ear.news(), "READY=1\nSTATUS=serving\n");
    assert!(gateway.gpu().await.serving, "it is said when something can serve, not before");
    let good = gateway.config_text();
    for (text, status) in [("[server", "serving; the changed configuration is faulty"), (good.as_str(), "serving")] {
        gateway.rewrite_config(text);
        gateway.signal(Signal::HUP);
        let reloading = ear.news();
        let stamp = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
        assert!(stamp.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
        assert_eq!(ear.news(), format!("READY=1\nSTATUS={status}\n"));
    }
    gateway.signal(Signal::TERM);
    let stopping = ear.news();
    assert!(stopping.starts_with("STOPPING=1\nSTATUS=draining"), "{stopping}");
    assert_eq!(gateway.until_ended().await.code(), Some(0), "{}", gateway.log_tail());
    assert_eq!(ear.hear(Duration::from_millis(1)), None, "nothing is said after the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watchdog_is_fed_while_the_process_lives_and_starves_when_it_stands_still() {
    let folder = Folder::new().unwrap();
    let (ear, mut vars) = Ear::open(&folder);
    let limit = Duration::from_secs(2);
    vars.push(("WATCHDOG_USEC".to_owned(), limit.as_micros().to_string()));
    let gateway = Setup { vars, ..Setup::default() }.without_local().start().await;
    let beats = |wanted: usize| {
        let mut heard = 0;
        while heard < wanted {
            // Half of the limit, and room for a busy machine.
            let news = ear.hear(Duration::from_secs(20)).expect("it beats");
            heard += usize::from(news == "WATCHDOG=1\n");
        }
    };
    beats(3);
    gateway.signal(Signal::STOP);
    // What was on its way.
    while ear.hear(Duration::from_millis(50)).is_some() {}
    assert_eq!(ear.hear(limit), None, "systemd would end it now");
    gateway.signal(Signal::CONT);
    beats(1);
    gateway.shutdown().await;
}

/// The unit's lines as (key, value).
fn directives(name: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(repository("packaging/systemd").join(name)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_finds_well_locked() {
    let folder = Folder::new().unwrap();
    let text = fs::read_to_string(repository("packaging/systemd/spillway.service")).unwrap();
    let own = text.replace("/usr/local/bin/spillway", &binary().display().to_string());
    let unit = folder.write("spillway.service", own.as_bytes());
    let drop_in = folder.path().join("spillway.service.d");
    let gpu = fs::read(repository("packaging/systemd/gpu.conf")).unwrap();
    // Of 100: what systemd itself calls OK is below 50.
    for (gpus, most) in [(false, "16"), (true, "19")] {
        if gpus {
            fs::create_dir(&drop_in).unwrap();
            fs::write(drop_in.join("gpu.conf"), &gpu).unwrap();
        }
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
        assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
        let looked = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={most}")])
            .arg(&unit)
            .output()
            .unwrap();
        assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stdout));
    }
    let of = |key: &str| directives("spillway.service").into_iter().find(|(k, _)| k == key).map(|(_, value)| value);
    for (key, value) in [("Type", "notify"), ("KillMode", "mixed"), ("OOMPolicy", "continue"), ("DynamicUser", "yes")] {
        assert_eq!(of(key).as_deref(), Some(value), "{key}");
    }
}

#[test]
fn the_configuration_of_the_unit_is_good_and_reads_the_credential() {
    let folder = Folder::new().unwrap();
    let unit = directives("spillway.service");
    let named = unit.iter().filter(|(key, _)| key == "Environment").map(|(_, value)| value.as_str());
    let (name, path) = named.filter_map(|value| value.split_once('=')).find(|(_, path)| path.contains("%d")).unwrap();
    let check = |key: &[u8]| {
        folder.write("holysheep", key);
        let output = Command::new(binary())
            .args(["check", "--json", "--config"])
            .arg(repository("packaging/systemd/spillway.toml"))
            .env(name, path.replace("%d", &folder.path().display().to_string()))
            .env_remove("HOLYSHEEP_API_KEY")
            .output()
            .unwrap();
        let told: Value = serde_json::from_str(&good(&output)).unwrap();
        told["warnings"].to_string()
    };
    assert!(!check(b"sk-from-a-credential\n").contains("serving every tier locally"));
    // What SetCredential gives where there is no file.
    let fallback =
        unit.iter().find(|(key, _)| key == "SetCredential").and_then(|(_, value)| value.split_once(':')).unwrap();
    assert!(check(fallback.1.as_bytes()).contains("serving every tier locally"));
}

fn dist(arguments: &[&str], to: &Path) -> Output {
    Command::new(repository("scripts/dist.sh"))
        .args(arguments)
        .env("DIST_FROM", binary().parent().unwrap())
        .env("DIST_TO", to)
        .env("DIST_GZIP", "1")
        // A commit between two runs is another time, rightly.
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .current_dir(to)
        .output()
        .unwrap()
}

#[test]
fn the_tarball_is_the_same_each_time_and_serves_from_where_it_is_unpacked() {
    let (one, other) = (Folder::new().unwrap(), Folder::new().unwrap());
    let tarball = good(&dist(&[], one.path())).trim().to_owned();
    let again = good(&dist(&[], other.path())).trim().to_owned();
    let sum = |path: &str| fs::read_to_string(format!("{path}.sha256")).unwrap();
    assert_eq!(sum(&tarball), sum(&again), "the same build gives the same tarball");
    let listed = good(&Command::new("tar").args(["-tzf", &tarball]).output().unwrap());
    for wanted in [
        "bin/spillway",
        "bin/spillway-engine",
        "config/spillway.toml",
        "config/alerts.yml",
        "config/chaos/everything.toml",
        "dashboards/overview.json",
        "systemd/spillway.service",
        "share/man/man1/spillway-serve.1",
        "share/completions/_spillway",
        "docs/runbook.md",
        "docs/upgrade.md",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "LICENSES-THIRD-PARTY.txt",
    ] {
        assert!(listed.lines().any(|line| line.ends_with(&format!("/{wanted}"))), "{wanted}:\n{listed}");
    }
    let checked = dist(&["check", &tarball], one.path());
    assert!(good(&checked).contains("serves /health from where it was unpacked"), "{checked:?}");
    fs::write(&tarball, b"something else").unwrap();
    let spoiled = dist(&["check", &tarball], one.path());
    assert!(!spoiled.status.success() && String::from_utf8_lossy(&spoiled.stderr).contains("the checksum differs"));
}

/// The commands of the guide, as they stand there, with a tarball of this build's name.
#[test]
fn the_checksum_of_the_upgrade_guide_is_one_that_can_be_checked() {
    let folder = Folder::new().unwrap();
    let name = "spillway-VERSION-ARCH";
    fs::create_dir(folder.path().join(name)).unwrap();
    let guide = fs::read_to_string(repository("docs/upgrade.md")).unwrap();
    let block =
        guide.split("```sh\n").find(|block| block.starts_with("sha256sum -c ")).expect("it begins with the checksum");
    let lines: Vec<&str> = block.lines().take(2).collect();
    let script = format!(
        "tar -czf {name}.tar.gz {name} && sha256sum {name}.tar.gz >{name}.tar.gz.sha256 && rm -r {name}\n{}",
        lines.join("\n")
    );
    good(&Command::new("bash").args(["-euc", &script]).current_dir(folder.path()).output().unwrap());
}

/// Docker is not needed for this: the files are read, not built.
#[test]
fn the_images_run_as_nobody_special_look_after_their_health_and_copy_what_is_there() {
    for name in ["Dockerfile", "Dockerfile.cuda"] {
        let text = fs::read_to_string(repository("packaging/docker").join(name)).unwrap();
        let last = text.rsplit_once("\nFROM ").unwrap().1;
        for wanted in
            ["USER 10001", "HEALTHCHECK", "/health", "STOPSIGNAL SIGTERM", "COPY --from=build /dist /opt/spillway"]
        {
            assert!(last.contains(wanted), "{name}: {wanted}");
        }
        assert!(!last.contains("rust") && !last.contains("-devel"), "{name}: the last stage has no compiler");
        assert!(text.contains(&format!("models pull {MODEL}")), "{name}");
        for script in text.split_whitespace().filter(|word| word.starts_with("scripts/")) {
            assert!(repository(script).is_file(), "{name}: {script}");
        }
    }
    let ignored = fs::read_to_string(repository(".dockerignore")).unwrap();
    assert!(ignored.lines().any(|line| line == "secrets"), "no secret goes into an image");
}
