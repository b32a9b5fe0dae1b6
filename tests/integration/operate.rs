//! Metrics, dashboards, rules and alerts against the real thing: a gateway with its engine, a simulated cloud and a simulated card,
//! under load and in trouble, scraped by a real Prometheus that is asked for every panel and every rule.
//!
//! With `SPILLWAY_DASHBOARD_DATA=FILE` the run takes longer and what the panels were answered is written there:
//! `scripts/draw-dashboards.sh` makes the pictures of the README of it.

use super::dashboards::{DASHBOARDS, alerts, dashboard, panels, text};
use crate::support::{
    Ask, Gateway, History, Load, Mix, Setup,
    nvml::{FakeNvml, card},
    poll::until,
    prometheus::{Prometheus, Series, promtool},
    setup::Folder,
};
use rand::RngExt;
use reqwest::Method;
use serde_json::{Value, json};
use spillway::sim::SimOptions;
use spillway_actors::observe::{CATALOGUE, Kind};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(20);
/// Every window of the rules becomes this, so that a short run fills it.
const WINDOW: &str = "30s";
/// Of the panels.
const INTERVAL: &str = "5s";

async fn exposition(gateway: &Gateway) -> String {
    let answer = gateway.client.raw().get(gateway.admin_url("/metrics")).send().await.expect("/metrics answers");
    answer.text().await.expect("it is text")
}

/// Names with labels, without values and without the buckets of histograms.
fn series(exposition: &str) -> BTreeSet<String> {
    let lines = exposition.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect()
}

fn word() -> String {
    (0..12).map(|_| char::from(rand::rng().random_range(b'a'..=b'z'))).collect()
}

/// The harder case: names that nobody configured are not refused but taken as `auto`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_names_of_models_paths_keys_and_sessions_add_no_series() {
    const CLIENTS: usize = 16;
    const REQUESTS: usize = 10_000;
    let setup = Setup { max_inflight: 256, log: "error".to_owned(), ..Setup::default().without_local() };
    let setup = setup.cloud(SimOptions { tokens: 1, ..SimOptions::default() });
    let vars = vec![("SPILLWAY__ROUTER__UNKNOWN_MODELS".to_owned(), "auto".to_owned())];
    let gateway = Arc::new(Setup { vars, ..setup }.start().await);
    let round = |gateway: Arc<Gateway>, count: usize| async move {
        for turn in 0..count {
            let name = word();
            let ask = |path: String, body: Value| {
                let asked = gateway.client.raw().post(gateway.url(&path)).bearer_auth(format!("sk-{name}")).json(&body);
                asked.header("x-spillway-session", &name).header("x-request-id", &name).send()
            };
            // Most of them are cheap.
            let is_chat = turn % 5 == 0;
            let path = if is_chat { "/v1/chat/completions".to_owned() } else { format!("/v1/{name}") };
            let body =
                json!({"model": name, "max_tokens": 1, "user": name, "messages": [{"role": "user", "content": name}]});
            let answer = ask(path, body).await.expect("an answer");
            assert_eq!(answer.status().as_u16(), if is_chat { 200 } else { 404 });
            answer.bytes().await.expect("its body");
        }
    };
    round(Arc::clone(&gateway), 20).await;
    let before = series(&exposition(&gateway).await);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(round(Arc::clone(&gateway), REQUESTS / CLIENTS));
    }
    while let Some(done) = clients.join_next().await {
        done.expect("a client never panics");
    }
    let after = series(&exposition(&gateway).await);
    let more: Vec<&String> = after.difference(&before).filter(|name| !may_begin_late(name)).collect();
    assert!(more.is_empty(), "{} → {} series: {more:?}", before.len(), after.len());
    let served = gateway.metric("spillway_ledger_up").await;
    assert_eq!(served, Some(1.0), "the gateway is well");
    Arc::into_inner(gateway).expect("no client is left").shutdown().await;
}

/// Bounded and not about names: the busier a gateway is, the likelier that one of a provider's attempts ends otherwise.
fn may_begin_late(series: &str) -> bool {
    series.starts_with("spillway_attempts_total") || series.starts_with("spillway_failovers_total")
}

/// The rules with windows and waits that a short run fills. Only for thresholds that do not depend on them.
fn hastened(text: &str) -> String {
    let mut hasty = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("for: ") {
            continue;
        }
        let mut parts = line.split('[');
        let mut line = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (window, rest) = part.split_once(']').unwrap_or((part, ""));
            let is_window = window.ends_with(['m', 'h', 'd']) && window.starts_with(|c: char| c.is_ascii_digit());
            let step = if window.contains(':') { ":1s" } else { "" };
            line += &if is_window { format!("[{WINDOW}{step}]{rest}") } else { format!("[{part}") };
        }
        hasty += &line.replace("offset 5m", &format!("offset {WINDOW}"));
        hasty.push('\n');
    }
    hasty
}

/// Alerts that this run does not bring about, and why; `promtool test rules` shows each of them firing.
const NOT_HERE: [(&str, &str); 13] = [
    ("SpillwaySuccessErodes", "needs a day to look back at"),
    ("SpillwayActorDown", "an actor that is not restarted is a bug of ours; supervisors are quicker than a scrape"),
    ("SpillwayRestartsOften", "the gateway would have to be started three times"),
    ("SpillwayFilesRunOut", "needs thousands of connections"),
    ("SpillwayFirstTokenSlow", "needs first tokens later than 5 s"),
    ("SpillwayQueueLong", "depends on how fast this machine is"),
    ("SpillwayOverheadHigh", "depends on how fast this machine is"),
    ("SpillwayFailoverSlow", "depends on how fast this machine is"),
    ("SpillwayRecoverySlow", "needs a load of more than 30 s"),
    ("SpillwayPoisonPrompt", "no prompt is known that crashes this engine"),
    ("SpillwayKvCacheFull", "depends on how fast this machine is"),
    ("SpillwayLedgerLags", "needs a database that is down for 10,000 records"),
    ("SpillwayCostRises", "needs an hour at more than a dollar"),
];
/// As above, shown by tests of their own: faults F26 (a disk without room) and memory.rs.
const ELSEWHERE: [&str; 4] =
    ["SpillwayLedgerDown", "SpillwayLedgerRowsDropped", "SpillwayMemoryGivenUp", "SpillwayRetryBudgetSpent"];

/// The gateway, what watches it, and the load on it.
struct Scene {
    gateway: Gateway,
    prometheus: Prometheus,
    fake: FakeNvml,
    history: History,
    load: Load,
    /// Portions of requests that flow between two troubles.
    calm: usize,
    fired: BTreeSet<&'static str>,
}

impl Scene {
    async fn begin(calm: usize, keys: &Folder) -> Self {
        let fake = FakeNvml::playing(&card(""));
        let setup = fake.setup();
        let extra = format!(
            "{}provider_probe_ms = 1000\ncanary_interval_ms = 1000\nbad_gpu_retry_ms = 1000\n\n[supervision.gpu]\n\
             backoff_min_ms = 50\nbackoff_max_ms = 200\n\n[router.hedge]\nenabled = true\nafter_ms = 50\nmax_usd_per_hour = 1\n\n\
             [router.cascade]\nenabled = true\n\n[keys]\nfile = \"{}/keys.json\"\n\n\
             [otel]\nendpoint = \"http://127.0.0.1:1\"\n",
            setup.extra,
            keys.path().display()
        );
        let sim = SimOptions {
            tokens: 24,
            ttft: Duration::from_millis(20),
            tokens_per_second: Some(200.0),
            ..SimOptions::default()
        };
        let setup = setup.extra(&extra).cloud(sim.clone()).backup(sim).keys(2);
        let setup = Setup {
            max_inflight: 12,
            ..setup.ledger("url = \"memory:\"\nbaseline_model = \"other\"\nbudget_usd_per_day = 0.05\n")
        };
        let gateway = setup.warm().await;
        let rules = ["rules", "alerts"].map(|name| (name, hastened(&text(&format!("config/{name}.yml")))));
        let prometheus = Prometheus::watching(&gateway.admin, &rules).await;
        let history = History::default();
        let load = Load::start(&gateway, &history, 3, Mix::All, 16);
        load.flow(12).await;
        Self { gateway, prometheus, fake, history, load, calm, fired: BTreeSet::new() }
    }

    async fn fires(&mut self, alert: &'static str) {
        if self.prometheus.fires(alert, SOON).await {
            self.fired.insert(alert);
        }
    }

    async fn breathe(&self) {
        // In portions: each has a deadline.
        for _ in 0..self.calm {
            self.load.flow(4).await;
        }
    }

    /// Requests with a key, with an unknown one's refusal, and a client that leaves.
    async fn keys(&mut self) {
        let wish = json!({"name": "web", "group": "shop", "budget_usd": {"day": "0.05"}}).to_string();
        let (_, _, made) = self.gateway.client.send(Method::POST, &self.gateway.admin_url("/admin/keys"), wish).await;
        let made: Value = serde_json::from_slice(&made).expect("a new key");
        let secret = made["secret"].as_str().expect("its secret, this once").to_owned();
        for _ in 0..6 {
            let record = self.gateway.client.ask(&self.gateway.api, Ask::count().max_tokens(8).key(&secret)).await;
            record.assert_complete();
        }
        let body = Ask::count().max_tokens(400).model("local").stream().body;
        let url = self.gateway.url("/v1/completions");
        let leaving = self.gateway.client.raw().post(url).json(&body).timeout(Duration::from_millis(600)).send();
        if let Ok(answer) = leaving.await {
            let _ = answer.bytes().await;
        }
    }

    async fn deaths(&mut self) {
        // How many die within a window depends on how long they take to come back.
        for _ in 0..10 {
            self.gateway.kill("gpu/local", "sigkill").await;
            self.gateway.until_serving().await;
            if self.prometheus.fires("SpillwayEngineDiesOften", Duration::from_millis(600)).await {
                self.fired.insert("SpillwayEngineDiesOften");
                break;
            }
        }
        self.fires("SpillwayChaosOrdered").await;
        self.breathe().await;
        for _ in 0..4 {
            let before = self.gateway.actor("router").await.restarts;
            self.gateway.kill("router", "panic").await;
            self.gateway.until_restarted("router", before).await;
        }
        self.fires("SpillwayActorDiesOften").await;
        self.gateway.kill("cloud/sim/0", "error").await;
        self.breathe().await;
    }

    /// Streams that break, a breaker that trips, and a key that is refused.
    async fn providers(&mut self) {
        let cloud = self.gateway.cloud();
        for model in ["ok", "other"] {
            cloud.fault(model, "cut-8").await;
        }
        // At once: one after the other would meet the tripped breaker.
        let mut streams = JoinSet::new();
        for turn in 0..8 {
            let ask = Ask::hard().max_tokens(24).model(["ok", "other"][turn % 2]).stream();
            let (client, api) = (self.gateway.client.clone(), self.gateway.api.clone());
            streams.spawn(async move { client.ask(&api, ask).await });
        }
        while streams.join_next().await.is_some() {}
        self.fires("SpillwayStreamsBreak").await;
        self.fires("SpillwayBreakerTripped").await;
        // Who insists on a model whose breaker is open gets an error at once. So many that the load beside them is too few.
        for turn in 0..2_000 {
            drop(self.gateway.client.ask(&self.gateway.api, Ask::hard().model("ok")).await);
            if turn % 50 == 49 && self.prometheus.fires("SpillwaySuccessBurnsFast", Duration::ZERO).await {
                break;
            }
        }
        for burning in ["SpillwaySuccessBurnsFast", "SpillwaySuccessBurns"] {
            self.fires(burning).await;
        }
        for model in ["ok", "other"] {
            self.gateway.cloud().fault(model, "ok").await;
        }
        self.gateway.cloud().fault_of_key(1, "401").await;
        until("a key is refused", SOON, || async {
            drop(self.gateway.client.ask(&self.gateway.api, Ask::hard().max_tokens(4).model("ok")).await);
            self.gateway
                .metric("spillway_provider_key_exhausted{target=\"sim\"}")
                .await
                .filter(|refused| *refused > 0.0)
        })
        .await;
        self.fires("SpillwayProviderKeyRefused").await;
        self.gateway.cloud().fault_of_key(1, "ok").await;
        self.breathe().await;
    }

    async fn card(&mut self) {
        self.fake.play(&card("temp=95 used=23900"));
        for alert in ["SpillwayGpuHot", "SpillwayGpuMemoryFull", "SpillwayLocalTargetDegraded"] {
            self.fires(alert).await;
        }
        self.breathe().await;
        self.fake.play(&(card("status=15") + "event 1 0 8 79\n"));
        for alert in ["SpillwayGpuXid", "SpillwayLocalTargetQuarantined", "SpillwayLocalTargetDown"] {
            self.fires(alert).await;
        }
        self.breathe().await;
        self.fake.play(&card(""));
        self.gateway.until_serving().await;
        self.breathe().await;
    }

    /// More at once than are let in.
    async fn crowd(&mut self) {
        let asking = |client: crate::support::Client, api: String| async move {
            drop(client.ask(&api, Ask::count().max_tokens(48).model("local")).await);
        };
        let mut crowd = JoinSet::new();
        for _ in 0..40 {
            crowd.spawn(asking(self.gateway.client.clone(), self.gateway.api.clone()));
        }
        // Before those who were let in are done: that may take longer than a window.
        self.fires("SpillwayRefusesRequests").await;
        while crowd.join_next().await.is_some() {}
        self.breathe().await;
    }

    /// The collector of traces was never there.
    async fn traces(&mut self) {
        self.fires("SpillwayTracesDropped").await;
    }

    /// A faulty file, then budgets that are nearly and wholly spent.
    async fn files(&mut self) {
        let good = self.gateway.config_text();
        self.gateway.rewrite_config("this is no configuration");
        self.gateway.client.send(Method::POST, &self.gateway.admin_url("/admin/reload"), "").await;
        self.fires("SpillwayConfigRefused").await;
        let cost = self.prometheus.query("sum(spillway_cost_nanousd_total) * 1e-9").await.expect("what was spent");
        let cost: f64 = cost[0].value.as_ref().expect("a value").1.parse().expect("a number");
        for (alert, budget) in [("SpillwayBudgetLow", cost * 1.06), ("SpillwayBudgetSpent", cost * 0.5)] {
            let line = format!("budget_usd_per_day = {budget:.9}");
            self.gateway.rewrite_config(&good.replace("budget_usd_per_day = 0.05", &line));
            self.gateway.client.send(Method::POST, &self.gateway.admin_url("/admin/reload"), "").await;
            self.fires(alert).await;
        }
        self.gateway.rewrite_config(&good);
        self.gateway.client.send(Method::POST, &self.gateway.admin_url("/admin/reload"), "").await;
        self.breathe().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_and_every_rule_has_data_of_a_gateway_in_trouble_and_alerts_fire() {
    let out = std::env::var_os("SPILLWAY_DASHBOARD_DATA").map(PathBuf::from);
    let keys = Folder::new().expect("a temporary folder");
    let began = now();
    let mut scene = Scene::begin(if out.is_some() { 40 } else { 1 }, &keys).await;
    scene.keys().await;
    scene.deaths().await;
    scene.providers().await;
    scene.card().await;
    scene.crowd().await;
    scene.traces().await;
    scene.files().await;
    let text = exposition(&scene.gateway).await;
    promtool(&["check", "metrics"], &text);
    assert_catalogued(&text);
    assert_rules(&scene.prometheus, began).await;
    let data = assert_panels(&scene.prometheus, began).await;
    if let Some(path) = out {
        std::fs::write(&path, data.to_string()).expect("SPILLWAY_DASHBOARD_DATA can be written");
    }
    scene.load.stop().await;
    drop(scene.history);
    scene.gateway.shutdown().await;
    if scene.prometheus.fires("SpillwayDown", SOON).await {
        scene.fired.insert("SpillwayDown");
    }
    let elsewhere = NOT_HERE.iter().map(|(name, _)| *name).chain(ELSEWHERE);
    let known: BTreeSet<String> = scene.fired.iter().copied().chain(elsewhere).map(str::to_owned).collect();
    assert_eq!(known, alerts().into_keys().collect(), "every alert fired, or is listed with the reason");
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Every family has its help, type and unit from the catalogue, and everything in the catalogue was seen.
fn assert_catalogued(exposition: &str) {
    let mut kinds = BTreeMap::new();
    for line in exposition.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a type line");
        assert!(exposition.contains(&format!("# HELP {name} ")), "{name} has a help text");
        kinds.insert(name, kind);
    }
    for metric in CATALOGUE {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let unseen = metric.name == "spillway_gpu_memory_steps_total"; // memory.rs runs out of memory
        assert!(unseen || kinds.get(metric.name) == Some(&kind), "{} is a {kind}: {kinds:?}", metric.name);
    }
    let known = |name: &str| name.starts_with("process_") || CATALOGUE.iter().any(|metric| metric.name == name);
    for name in kinds.keys() {
        assert!(known(name), "{name} is in the catalogue");
    }
}

async fn assert_rules(prometheus: &Prometheus, began: f64) {
    let rules = prometheus.rules().await;
    assert!(rules.len() > 60, "both files are loaded: {}", rules.len());
    for rule in &rules {
        assert_eq!(rule.health, "ok", "{}: {}", rule.name, rule.last_error);
        if rule.kind == "recording" {
            let series = prometheus.range(&rule.name, began, now(), 1.0).await.unwrap();
            assert!(has_numbers(&series), "{} has data", rule.name);
        }
    }
}

/// At least one sample that is a number.
fn has_numbers(series: &[Series]) -> bool {
    let samples = series.iter().flat_map(|series| series.values.iter().chain(&series.value));
    samples.into_iter().any(|(_, value)| value.parse::<f64>().is_ok_and(f64::is_finite))
}

/// What Grafana would ask, with everything chosen.
fn as_asked(expr: &str, began: f64) -> String {
    let range = format!("{}s", (now() - began).ceil());
    let mut text = expr.replace("$__rate_interval", INTERVAL).replace("$__range", &range);
    for variable in ["job", "instance", "target", "gpu", "model"] {
        text = text.replace(&format!("${variable}"), ".*");
    }
    text
}

/// Asks for every panel's every query, over the whole run. Gives the answers.
async fn assert_panels(prometheus: &Prometheus, began: f64) -> Value {
    let (mut answers, mut empty) = (json!({}), Vec::new());
    for name in DASHBOARDS {
        let board = dashboard(name);
        for panel in panels(&board) {
            let mut of_panel = Vec::new();
            for target in panel["targets"].as_array().expect("targets") {
                let expr = as_asked(target["expr"].as_str().expect("an expression"), began);
                let instant = target["instant"] == true;
                let asked = if instant {
                    prometheus.query(&expr).await
                } else {
                    prometheus.range(&expr, began, now(), 1.0).await
                };
                let series = asked.unwrap_or_else(|why| panic!("{name}: {}: {expr}: {why}", panel["title"]));
                if !has_numbers(&series) {
                    empty.push(format!("{name}: {}: {expr}", panel["title"]));
                }
                let series = series.iter().map(|one| {
                    json!({"metric": one.metric, "values": if instant { vec![one.value.clone().unwrap()] } else { one.values.clone() }})
                });
                of_panel.push(json!({"legend": target["legendFormat"], "series": series.collect::<Vec<_>>()}));
            }
            answers[name][panel["id"].to_string()] = json!(of_panel);
        }
        for annotation in board["annotations"]["list"].as_array().expect("a list") {
            let expr = as_asked(annotation["expr"].as_str().expect("an expression"), began);
            let series = prometheus.range(&expr, began, now(), 1.0).await.unwrap();
            assert!(has_numbers(&series), "{name}: marks of {}", annotation["name"]);
            let series = series.iter().map(|one| json!({"metric": one.metric, "values": one.values}));
            answers[name][format!("mark {}", annotation["name"].as_str().unwrap_or_default())] = json!({"legend": annotation["titleFormat"], "color": annotation["iconColor"], "series": series.collect::<Vec<_>>()});
        }
    }
    assert!(empty.is_empty(), "panels without data:\n{}", empty.join("\n"));
    answers
}
