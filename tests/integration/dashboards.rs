//! What is checked in for Prometheus and Grafana, read as files: dashboards and recording rules are what their source writes,
//! every panel says what it shows and in which unit, every alert has a runbook and fires in `promtool`'s tests, and the compose
//! file names what exists. What a live gateway makes of them is in `operate.rs`.

use crate::support::prometheus::{promtool, repository};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

pub const DASHBOARDS: [&str; 4] = ["overview", "gpu", "cost", "chaos"];

pub fn dashboard(name: &str) -> Value {
    let text = text(&format!("dashboards/{name}.json"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn text(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn string<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Panels that show something, not headings.
pub fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(dashboard, "/panels").iter().filter(|panel| panel["type"] != "row")
}

/// (name, text of the rule) of every alert.
pub fn alerts() -> BTreeMap<String, String> {
    let text = text("config/alerts.yml");
    let mut found = BTreeMap::new();
    for part in text.split("- alert: ").skip(1) {
        let (name, rule) = part.split_once('\n').expect("a rule has lines");
        found.insert(name.to_owned(), rule.to_owned());
    }
    found
}

#[test]
fn the_dashboards_and_the_recording_rules_are_what_their_source_writes() {
    let output = Command::new("python3").arg(repository("dashboards/generate.py")).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_dashboard_has_a_data_source_to_choose_and_links_to_the_others() {
    let mut uids = BTreeSet::new();
    for name in DASHBOARDS {
        let board = dashboard(name);
        assert!(uids.insert(string(&board, "uid").to_owned()), "{name}: its uid is its own");
        assert!(!string(&board, "description").is_empty(), "{name}");
        let first = board.pointer("/templating/list/0").unwrap();
        assert_eq!((string(first, "name"), string(first, "type")), ("datasource", "datasource"), "{name}");
        for variable in list(&board, "/templating/list") {
            assert!(
                !string(variable, "label").is_empty() && !string(variable, "description").is_empty(),
                "{name}: {variable}"
            );
        }
        let link = board.pointer("/links/0").unwrap();
        assert_eq!((string(link, "type"), &link["tags"][0]), ("dashboards", &board["tags"][0]), "{name}");
    }
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_asks_in_the_dashboards_own_interval() {
    for name in DASHBOARDS {
        let board = dashboard(name);
        let mut ids = BTreeSet::new();
        for panel in panels(&board) {
            let title = format!("{name}: {}", string(panel, "title"));
            assert!(ids.insert(panel["id"].as_u64()), "{title}: an id of its own");
            assert!(string(panel, "description").len() > 8, "{title}: a description");
            let unit = panel.pointer("/fieldConfig/defaults/unit").and_then(Value::as_str);
            assert!(unit.is_some_and(|unit| !unit.is_empty()), "{title}: a unit");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(!list(panel, "/targets").is_empty(), "{title}: something to ask");
            for target in list(panel, "/targets") {
                let expr = string(target, "expr");
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
                let hides = ["by (gpu", "by (le, gpu"].iter().any(|by| expr.contains(by));
                assert!(!hides, "{title}: a target of one instance hides behind its namesake of another: {expr}");
                let own = expr.contains("job=~\"$job\"") || expr.starts_with("ALERTS");
                assert!(own, "{title}: only the chosen gateways: {expr}");
                for window in expr.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
                    let instant = target["instant"] == true || panel["type"] == "bargauge";
                    let known = window == "$__rate_interval" || (window == "$__range" && instant);
                    assert!(known, "{title}: the window [{window}] in {expr}");
                }
            }
        }
    }
}

#[test]
fn nothing_that_is_asked_for_is_a_metric_nobody_has() {
    let rules = text("config/rules.yml");
    let recorded: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    let known: BTreeSet<&str> = spillway_actors::observe::CATALOGUE.iter().map(|metric| metric.name).collect();
    let mut asked = rules.clone() + &text("config/alerts.yml");
    asked.extend(DASHBOARDS.map(|name| dashboard(name).to_string()));
    let words = asked.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let mut used = BTreeSet::new();
    for word in words.filter(|word| word.starts_with("spillway_") || word.starts_with("spillway:")) {
        let word = word.trim_end_matches(':');
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
        let group = ["spillway_slo", "spillway_ratios"].contains(&word) || asked.contains(&format!("- name: {word}"));
        assert!(group || recorded.contains(word) || known.contains(family), "{word} is neither measured nor recorded");
        used.insert(family);
    }
    let unseen: Vec<&&str> = known.iter().filter(|name| !used.contains(**name)).collect();
    assert_eq!(unseen, [&"spillway_gpu_memory_steps_total"], "measured, and on no dashboard");
}

#[test]
fn the_rules_are_valid_and_do_what_their_tests_say() {
    for file in ["config/rules.yml", "config/alerts.yml"] {
        promtool(&["check", "rules", &repository(file).display().to_string()], "");
    }
    promtool(&["check", "config", &repository("config/prometheus.yml").display().to_string()], "");
    promtool(
        &["check", "config", "--syntax-only", &repository("config/compose/prometheus.yml").display().to_string()],
        "",
    );
    promtool(&["test", "rules", &repository("tests/prometheus/rules_test.yml").display().to_string()], "");
}

#[test]
fn every_alert_says_how_urgent_it_is_and_has_a_section_in_the_runbook_and_a_test_in_which_it_fires() {
    let (runbook, tests) = (text("docs/runbook.md"), text("tests/prometheus/rules_test.yml"));
    let alerts = alerts();
    assert!(alerts.len() > 30, "{alerts:?}");
    for (name, rule) in &alerts {
        assert!(["page", "ticket", "info"].iter().any(|s| rule.contains(&format!("{{severity: {s}}}"))), "{name}");
        assert!(rule.contains("summary: \"") && rule.contains("description: \""), "{name}");
        assert!(rule.contains(&format!("runbook: docs/runbook.md#{}\n", name.to_lowercase())), "{name}");
        assert!(runbook.contains(&format!("\n## {name}\n")), "{name} is in the runbook");
        let fires = tests.contains(&format!("  - name: {name}\n"))
            || tests.contains(&format!("- alertname: {name}\n        eval_time"));
        assert!(fires, "{name} fires in a test");
    }
    for section in runbook.lines().filter_map(|line| line.strip_prefix("## ")) {
        assert!(alerts.contains_key(section), "the runbook's {section} is an alert");
    }
}

/// Docker is not needed for this: the file is read, not run.
#[test]
fn the_compose_file_is_yaml_and_mounts_what_is_there() {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()).map(Into::into).or_else(home);
    // The client libraries of the compatibility tests come with a reader of YAML.
    let python = cache.unwrap().join("spillway/compat/python/bin/python");
    let output = Command::new(python)
        .args([
            "-c",
            "import sys, json, yaml\nprint(json.dumps([yaml.safe_load(open(name)) for name in sys.argv[1:]]))",
        ])
        .args(["docker-compose.yml", "config/compose/grafana-datasource.yml", "config/compose/grafana-dashboards.yml"])
        .current_dir(repository(""))
        .output()
        .expect("`tests/compat/install.sh` has run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files: Value = serde_json::from_slice(&output.stdout).unwrap();
    let services = files[0]["services"].as_object().unwrap();
    assert_eq!(services.keys().collect::<Vec<_>>(), ["spillway", "prometheus", "grafana", "jaeger"]);
    let named: BTreeSet<&str> = ["volumes", "secrets"]
        .iter()
        .filter_map(|kind| files[0][*kind].as_object())
        .flatten()
        .map(|(k, _)| k.as_str())
        .collect();
    for (name, service) in services {
        for volume in list(service, "/volumes").iter().filter_map(Value::as_str) {
            let (from, _) = volume.split_once(':').unwrap_or_else(|| panic!("{name}: {volume}"));
            let there = if from.starts_with('.') { repository(from).exists() } else { named.contains(from) };
            assert!(there, "{name} mounts {from}");
        }
        for secret in list(service, "/secrets").iter().filter_map(Value::as_str) {
            assert!(named.contains(secret), "{name} reads the secret {secret}");
        }
    }
    let dockerfile = files[0].pointer("/services/spillway/build/dockerfile").and_then(Value::as_str).unwrap();
    assert!(repository(dockerfile).is_file(), "{dockerfile}");
    // What Grafana is given is where the compose file puts it.
    let folder = files[2].pointer("/providers/0/options/path").and_then(Value::as_str).unwrap();
    let mounts = list(&services["grafana"], "/volumes");
    assert!(mounts.iter().any(|mount| mount.as_str() == Some(&format!("./dashboards:{folder}:ro"))), "{mounts:?}");
    assert_eq!(files[1].pointer("/datasources/0/type").and_then(Value::as_str), Some("prometheus"));
}
