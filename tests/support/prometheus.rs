//! A Prometheus server of a test's own, in a temporary folder, on a free port: Debian's `prometheus`, as `scripts/deps.sh
//! test` installs it. And `promtool`, which comes with it. Not here is a failure, not a reason to skip.

use super::{
    Client,
    poll::{eventually, until},
    setup::Folder,
};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const START: Duration = Duration::from_secs(20);
/// Between two scrapes, and between two evaluations: a test has little time.
pub const PACE: &str = "500ms";

pub struct Prometheus {
    child: Child,
    url: String,
    client: Client,
    folder: Folder,
}

/// One series of an answer, with its samples.
#[derive(Debug, Clone, Deserialize)]
pub struct Series {
    pub metric: BTreeMap<String, String>,
    /// Of an instant query.
    pub value: Option<(f64, String)>,
    /// Of a range query.
    #[serde(default)]
    pub values: Vec<(f64, String)>,
}

/// One rule, as Prometheus has it.
#[derive(Debug, Clone, Deserialize)]
pub struct Rule {
    pub name: String,
    pub health: String,
    #[serde(default, rename = "lastError")]
    pub last_error: String,
    #[serde(rename = "type")]
    pub kind: String,
}

fn expect_installed<T>(name: &str, started: std::io::Result<T>) -> T {
    started.unwrap_or_else(|error| panic!("{name} cannot be run ({error}): `scripts/deps.sh test` installs it"))
}

/// Runs `promtool` and gives what it said; it must succeed.
pub fn promtool(args: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = expect_installed("promtool", command.spawn());
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads its input");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

impl Prometheus {
    /// Scrapes this admin listener (`http://host:port`) and evaluates these rule files, given as name and text.
    pub async fn watching(admin: &str, rules: &[(&str, String)]) -> Self {
        let folder = Folder::new().expect("a temporary folder");
        let names: Vec<String> =
            rules.iter().map(|(name, text)| format!("\"{}\"", folder.write(name, text.as_bytes()).display())).collect();
        let config = format!(
            "global: {{scrape_interval: {PACE}, evaluation_interval: {PACE}}}\nrule_files: [{}]\n\
             scrape_configs:\n  - job_name: spillway\n    static_configs: [{{targets: [\"{}\"]}}]\n",
            names.join(", "),
            admin.trim_start_matches("http://")
        );
        let config = folder.write("prometheus.yml", config.as_bytes());
        let log = folder.path().join("log");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--log.level=info"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn();
        let child = expect_installed("prometheus", child);
        let mut server = Self { child, url: String::new(), client: Client::new(), folder };
        server.url = until("Prometheus listens", START, || async { address(&log) }).await;
        let ready = format!("{}/-/ready", server.url);
        until("Prometheus is ready", START, || async {
            server.client.raw().get(&ready).send().await.ok().filter(|answer| answer.status().is_success())
        })
        .await;
        server
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let url = reqwest::Url::parse_with_params(&format!("{}{path}", self.url), query).expect("a URL");
        let answer = self.client.raw().get(url).send().await.expect("Prometheus answers");
        answer.json().await.expect("it answers JSON")
    }

    /// What an expression is now, or why it is none.
    pub async fn query(&self, expr: &str) -> Result<Vec<Series>, String> {
        result(self.get("/api/v1/query", &[("query", expr)]).await)
    }

    /// What it was from one Unix time to another.
    pub async fn range(&self, expr: &str, from: f64, to: f64, step: f64) -> Result<Vec<Series>, String> {
        let (from, to, step) = (from.to_string(), to.to_string(), step.to_string());
        let query = [("query", expr), ("start", &from), ("end", &to), ("step", &step)];
        result(self.get("/api/v1/query_range", &query).await)
    }

    /// Every rule that is loaded.
    pub async fn rules(&self) -> Vec<Rule> {
        let answer = self.get("/api/v1/rules", &[]).await;
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        rules.map(|rule| serde_json::from_value(rule).expect("a rule has its shape")).collect()
    }

    /// Whether this alert fires before `limit` has passed.
    pub async fn fires(&self, alert: &str, limit: Duration) -> bool {
        let expr = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
        let look = || async { self.query(&expr).await.ok().filter(|series| !series.is_empty()) };
        eventually(limit, look).await.is_some()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("Prometheus' last words:\n{}", log.lines().rev().take(10).collect::<Vec<_>>().join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where it says that it listens.
fn address(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    let line = text.lines().find(|line| line.contains("msg=\"Listening on\""))?;
    let address = line.split("address=").nth(1)?.split_whitespace().next()?;
    Some(format!("http://{address}"))
}

fn result(answer: Value) -> Result<Vec<Series>, String> {
    if answer["status"] != "success" {
        return Err(answer["error"].to_string());
    }
    let data = &answer["data"];
    if data["resultType"] == "scalar" {
        return Err("an expression of a panel or rule gives series".to_owned());
    }
    serde_json::from_value(data["result"].clone()).map_err(|error| error.to_string())
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
