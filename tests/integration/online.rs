//! `spillway check --online` against the simulated provider: each model's state, and whether it honours a prefix.

use crate::support::{
    cloud::{Cloud, KEY},
    gateway::binary,
    setup::{Folder, KEY_VAR},
};
use serde_json::Value;
use spillway::sim::SimOptions;
use std::{fmt::Write as _, path::Path};
use tokio::process::Command;

/// A configuration of these models (name, upstream, prefill_style) at one simulated provider, and another without a key.
fn configuration(cloud: &Cloud, models: &[(&str, &str, &str)]) -> String {
    let rule = |tier: &str| format!("[router.rules.{tier}]\nprefer = [\"{}\"]\nfallback = []\n", models[0].0);
    let mut text = format!(
        "local = []\n[ledger]\nurl = \"memory:\"\nbaseline_model = \"\"\n{}\n[[cloud]]\nname = \"sim\"\nbase_url = \"{}\"\n\
         api_keys_env = [\"{KEY_VAR}\"]\n",
        ["trivial", "moderate", "complex", "premium"].map(rule).concat(),
        cloud.base_url()
    );
    let price = "input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 1.0\n";
    for (name, upstream, style) in models {
        let _ = write!(
            text,
            "[[cloud.models]]\nname = \"{name}\"\nupstream = \"{upstream}\"\nprefill_style = \"{style}\"\n{price}"
        );
    }
    text + "[[cloud]]\nname = \"keyless\"\nbase_url = \"http://127.0.0.1:9/v1\"\napi_keys_env = [\"SPILLWAY_TEST_NO_KEY\"]\n\
            [[cloud.models]]\nname = \"unasked\"\n"
        + price
}

/// Exit code, stdout, stderr.
async fn checked(config: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary());
    command.args(["check", "--online", "--config"]).arg(config).args(more).env(KEY_VAR, KEY);
    let output = command.output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_honours_a_prefix_is_recommended_for_continuations_and_no_other_is() {
    let cloud = Cloud::start(SimOptions::default()).await;
    let folder = Folder::new().unwrap();
    let models = [
        ("honours", "prefix-ok", "none"),
        ("ignores", "prefix-ignored", "none"),
        ("rejects", "prefix-rejected", "none"),
    ];
    let config = folder.write("spillway.toml", configuration(&cloud, &models).as_bytes());
    let (code, stdout, stderr) = checked(&config, &["--json"]).await;
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("JSON: {stdout}\n{stderr}"));
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)), "{report:#}");
    let found: Vec<[&str; 3]> = report["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| ["model", "prefill_found", "prefill_recommended"].map(|key| model[key].as_str().unwrap()))
        .collect();
    assert_eq!(
        found,
        [["honours", "honoured", "assistant"], ["ignores", "begun_anew", "none"], ["rejects", "rejected", "none"]]
    );
    for model in report["models"].as_array().unwrap() {
        let facts = ["answers", "listed", "usage"].map(|key| model[key].as_bool());
        assert_eq!(facts, [Some(true); 3], "{model}");
        assert!(model["first_token_ms"].as_f64().is_some(), "{model}");
    }
    assert_eq!(report["not_asked"], serde_json::json!(["keyless"]));
    assert!(stderr.contains("costs at most $0.0"), "{stderr}");
    assert!(!format!("{stdout}{stderr}").contains(KEY), "keys are never shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_work_as_configured_is_unhealthy() {
    let cloud = Cloud::start(SimOptions::default()).await;
    let folder = Folder::new().unwrap();
    let models = [
        ("fine", "ok", "none"),
        ("torn", "prefix-ignored", "assistant"),
        ("down", "error-503", "none"),
        ("counts", "no-usage", "none"),
    ];
    let config = folder.write("spillway.toml", configuration(&cloud, &models).as_bytes());
    let (code, table, _) = checked(&config, &[]).await;
    assert_eq!(code, Some(3), "{table}");
    assert!(table.starts_with("model "), "{table}");
    for said in [
        "fault: sim/torn: prefill_style is \"assistant\", which it does not honour",
        "fault: sim/down: the provider failed (503)",
        "note: sim/counts: it tells no usage",
        "note: keyless has no key and was not asked",
    ] {
        assert!(table.contains(said), "{said} in\n{table}");
    }
    assert!(!table.contains("sim0") && !table.contains(KEY), "nothing that was said, no key: {table}");
}
