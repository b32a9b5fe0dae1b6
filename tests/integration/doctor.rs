//! `spillway doctor` and what `spillway check` says of model files.

use crate::support::{
    gateway::binary,
    setup::{Folder, model_path},
};
use serde_json::Value;
use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

const KEY: &str = "sk-doctor-canary-0123456789";

fn run(arguments: &[&str], config: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).arg("--config").arg(config).env("HOLYSHEEP_API_KEY", KEY);
    command.output().expect("the gateway binary starts")
}

fn finding<'r>(report: &'r Value, what: &str) -> &'r Value {
    let findings = report["findings"].as_array().expect("a list");
    findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("{what}: {report:#}"))
}

#[test]
fn a_good_machine_is_told_so_in_text_and_json_and_no_key_is_shown() {
    let folder = Folder::new().unwrap();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n[[local]]\nmodel = \"{}\"\n",
        model_path().display()
    );
    let config = folder.write("spillway.toml", text.as_bytes());
    let output = run(&["doctor", "--json"], &config);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!((output.status.code(), &report["ok"]), (Some(0), &true.into()), "{report:#}");
    assert!(finding(&report, "engine")["found"].to_string().contains("protocol"), "{report:#}");
    assert!(finding(&report, "keys of holysheep")["found"].to_string().contains("1 (from"), "{report:#}");
    let model = finding(&report, "model of local")["found"].to_string();
    assert!(model.contains("llama, Q4_1") && model.contains("on CPU"), "{model}");
    let human = run(&["doctor"], &config);
    let told = String::from_utf8_lossy(&human.stdout);
    assert!(told.contains("All that is needed is here."), "{told}");
    for output in [&output, &human] {
        let all = [output.stdout.clone(), output.stderr.clone()].concat();
        assert!(!String::from_utf8_lossy(&all).contains(KEY), "a key is nobody's business");
    }
}

#[test]
fn every_problem_is_named_with_what_to_do_and_the_exit_code_says_unhealthy() {
    let folder = Folder::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let cut = folder.write("cut.gguf", &std::fs::read(model_path()).unwrap()[..1 << 20]);
    let text = format!(
        "[server]\nlisten = \"{}\"\nadmin_listen = \"127.0.0.1:0\"\n[[local]]\nmodel = \"{}\"\nengine_path = \"/bin/true\"\n\
         [[local]]\nname = \"second\"\nmodel = \"hf:owner/repo/absent.gguf\"\nengine_path = \"/bin/true\"\n",
        taken.local_addr().unwrap(),
        cut.display()
    );
    let config = folder.write("spillway.toml", text.as_bytes());
    let output = run(&["doctor", "--json"], &config);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!((output.status.code(), &report["ok"]), (Some(3), &false.into()), "{report:#}");
    for (what, found, remedy) in [
        ("port of the API", "is taken", "[server] listen"),
        ("engine", "/bin/true", "one build"),
        ("model of local", "damaged", "correct `model`"),
        ("model of second", "is not here", "spillway models pull hf:owner/repo/absent.gguf"),
    ] {
        let told = finding(&report, what);
        assert_eq!(told["verdict"], "problem", "{told}");
        assert!(told["found"].to_string().contains(found) && told["remedy"].to_string().contains(remedy), "{told}");
    }
    assert_eq!(run(&["doctor"], Path::new("/nonexistent.toml")).status.code(), Some(1));
}

#[test]
fn check_points_at_the_place_that_names_a_damaged_model_and_warns_of_a_missing_one() {
    let folder = Folder::new().unwrap();
    let cut = folder.write("cut.gguf", &std::fs::read(model_path()).unwrap()[..1 << 20]);
    let text = format!("[[local]]\nmodel = \"{}\"\n", cut.display());
    let config = folder.write("spillway.toml", text.as_bytes());
    let output = run(&["check"], &config);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("spillway.toml:2:9") && complaint.contains("damaged"), "{complaint}");
    let config = folder.write("spillway.toml", b"[[local]]\nmodel = \"hf:owner/repo/absent.gguf\"\n");
    let output = run(&["check"], &config);
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(
        told.contains("spillway.toml:2:9") && told.contains("spillway models pull hf:owner/repo/absent.gguf"),
        "{told}"
    );
}
