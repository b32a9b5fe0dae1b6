//! F30: a key and a prompt that nobody could say by chance go through every fault, and then everything that was written
//! down anywhere is searched for them. Logs are at their most talkative.

use crate::support::{
    Ask, Collector, Gateway, Outcome, Record, Setup,
    rude::{self, Rude},
    setup::Folder,
};
use reqwest::Method;
use spillway::sim::SimOptions;
use std::{fs, path::Path, time::Duration};

/// Every call of the simulated provider needs a key that begins like its own.
const KEY: &str = crate::support::cloud::KEY;
const PROMPT: &str = "canary 7f3a9c sings quartz at dawn; please analyze";
/// Parts that would tell as much as the whole.
const TELLING: [&str; 4] = [KEY, "7f3a9c", "sings quartz", "canary-secret-schema"];

const FAULTS: [&str; 22] = [
    "ok",
    "no-usage",
    "split-utf8",
    "error-500",
    "error-503",
    "429",
    "429-1",
    "401",
    "402",
    "403",
    "cut-4",
    "stall-4",
    "truncate",
    "malformed",
    "no-done",
    "sse-error",
    "hang",
    "reset",
    "html",
    "empty",
    "error-body",
    "context-length",
];

/// What clients were told when something went wrong; whole answers may say what they like.
#[derive(Default)]
struct Told(Vec<String>);

impl Told {
    fn note(&mut self, what: &str, record: &Record) {
        if let Outcome::Error { message, .. } = &record.outcome {
            self.0.push(format!("{what}: {message}"));
        }
        let headers: Vec<String> = record.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        self.0.push(format!("{what}: {}", headers.join("\n")));
        self.0.extend(record.routing.as_ref().map(|routing| format!("{what}: {routing}")));
    }
}

fn search(place: &str, bytes: &[u8]) {
    for telling in TELLING {
        let at = memchr::memmem::find(bytes, telling.as_bytes());
        if let Some(at) = at {
            let around = &bytes[at.saturating_sub(200)..(at + 200).min(bytes.len())];
            panic!("{place} holds {telling:?}: …{}…", String::from_utf8_lossy(around));
        }
    }
}

fn search_folder(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            search_folder(&path);
        } else {
            search(&path.display().to_string(), &fs::read(&path).unwrap_or_default());
        }
    }
}

/// Everything an operator, a scraper or a child process could read.
async fn search_everything(gateway: &Gateway, told: &Told, ledger: &Path) {
    for page in [
        "/metrics",
        "/admin/status",
        "/admin/actors",
        "/admin/health/gpu",
        "/admin/usage",
        "/admin/usage/attempts",
        "/admin/events",
        "/admin/keys",
    ] {
        let asked = gateway.client.raw().get(gateway.admin_url(page)).timeout(Duration::from_secs(5)).send().await;
        let Ok(answer) = asked else { continue };
        // A stream of events has no end: its beginning is what there is.
        let body = tokio::time::timeout(Duration::from_secs(2), answer.text()).await;
        search(page, body.ok().and_then(Result::ok).unwrap_or_default().as_bytes());
    }
    for told in &told.0 {
        search("what a client was told", told.as_bytes());
    }
    for child in gateway.children() {
        for file in ["environ", "cmdline"] {
            let text = fs::read(format!("/proc/{}/{file}", child.pid)).unwrap_or_default();
            search(&format!("the engine's {file}"), &text);
            let var = crate::support::setup::KEY_VAR.as_bytes();
            assert!(memchr::memmem::find(&text, var).is_none(), "the engine knows where keys are");
        }
    }
    let command_line = fs::read(format!("/proc/{}/cmdline", gateway.pid)).unwrap_or_default();
    search("the gateway's command line", &command_line);
    search_folder(gateway.folder.path());
    for written in ["ledger.db", "ledger.db.journal"] {
        assert!(ledger.join(written).exists(), "{written} is there to be searched");
    }
    search_folder(ledger);
    search("the log", gateway.log().as_bytes());
}

fn ledger_in(folder: &Folder) -> Vec<(String, String)> {
    let url = format!("sqlite:{}", folder.path().join("ledger.db").display());
    vec![("SPILLWAY__LEDGER__URL".to_owned(), url)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_no_fault_of_a_provider_writes_key_or_prompt_anywhere() {
    // Words that quote what was sent, key and all, as careless providers do.
    let quoting = Rude::start(|request| {
        let body = serde_json::json!({"error": {"message": format!("cannot read: {request}"), "param": request}});
        rude::reply("400 Bad Request", "content-type: application/json\r\n", &body.to_string())
    })
    .await;
    let folder = Folder::new().unwrap();
    let impatient = SimOptions { tokens: 12, ..SimOptions::default() };
    let mut vars = ledger_in(&folder);
    vars.push(("SPILLWAY_LOG_FORMAT".to_owned(), "json".to_owned()));
    let collector = Collector::start().await;
    let setup = Setup { log: "trace".to_owned(), vars, ..Setup::default() };
    let setup = setup.without_local().cloud(impatient.clone()).backup(impatient).keys(2);
    let gateway =
        setup.provider(super::IMPATIENT).extra(&(quoting.provider("quoting") + &collector.config())).start().await;
    let mut told = Told::default();
    for fault in FAULTS {
        gateway.cloud().fault("*", fault).await;
        gateway.backup().fault("*", if fault == "ok" { "ok" } else { "error-500" }).await;
        for asked in [Ask::chat(PROMPT), Ask::chat(PROMPT).stream(), Ask::completion(PROMPT)] {
            told.note(fault, &gateway.client.ask(&gateway.api, asked).await);
        }
    }
    let quoted = gateway.client.ask(&gateway.api, Ask::chat(PROMPT).model("quoting-model")).await;
    assert_eq!(quoted.status, Some(400), "{quoted:#?}");
    assert!(quoting.heard()[0].contains(KEY) && quoting.heard()[0].contains(PROMPT), "it had something to quote");
    told.note("quoting", &quoted);
    collector.of(quoted.id.as_deref().unwrap()).await;
    assert!(collector.spans().len() > FAULTS.len(), "there are traces to be searched");
    collector.bodies().iter().for_each(|body| search("a trace", body));
    search_everything(&gateway, &told, folder.path()).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_no_fault_of_an_engine_writes_key_or_prompt_anywhere() {
    let folder = Folder::new().unwrap();
    // The engine link and the actors say everything they can; the timers of tokio would drown it.
    let log = "debug,spillway=trace,spillway_actors=trace".to_owned();
    let setup = Setup { log, vars: ledger_in(&folder), ..Setup::default() };
    let restarts = "[supervision.gpu]\nbackoff_min_ms = 50\nbackoff_max_ms = 100\nmax_deaths = 100\n";
    let gateway = setup.cloud(SimOptions { tokens: 12, ..SimOptions::default() }).extra(restarts).warm().await;
    let mut told = Told::default();
    let local = || Ask::chat(PROMPT).model("local").max_tokens(150);
    for how in ["sigkill", "sigabrt", "garbage", "half-frame"] {
        gateway.until_serving().await;
        let (client, api) = (gateway.client.clone(), gateway.api.clone());
        let asked = [local().stream(), local()];
        let mut asking = tokio::task::JoinSet::new();
        for ask in asked {
            let (client, api) = (client.clone(), api.clone());
            asking.spawn(async move { client.ask(&api, ask).await });
        }
        gateway.until_status("both are at it", Duration::from_secs(10), |status| status.leases == 2).await;
        gateway.kill("gpu/local", how).await;
        for record in asking.join_all().await {
            told.note(how, &record);
        }
    }
    for actor in ["router", "classifier", "ledger", "health", "gpu/local"] {
        gateway.kill(actor, "panic").await;
        told.note(actor, &gateway.client.ask(&gateway.api, Ask::chat(PROMPT)).await);
    }
    gateway.until_serving().await;
    // What the engine itself would have to refuse.
    let schema = serde_json::json!({"type": "json_schema", "json_schema": {"name": "s", "strict": true,
        "schema": {"type": "canary-secret-schema", "pattern": "^(canary-secret-schema"}}});
    told.note("schema", &gateway.client.ask(&gateway.api, local().with("response_format", schema)).await);
    told.note("long", &gateway.client.ask(&gateway.api, Ask::chat(&PROMPT.repeat(600)).model("local")).await);
    search_everything(&gateway, &told, folder.path()).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_no_refusal_of_a_request_repeats_its_prompt() {
    let folder = Folder::new().unwrap();
    let setup = Setup { log: "trace".to_owned(), vars: ledger_in(&folder), ..Setup::default() };
    let gateway = setup.without_local().start().await;
    let mut told = Told::default();
    let message = serde_json::json!([{"role": "user", "content": PROMPT}]);
    for body in [
        format!(r#"{{"messages": {message}, "temperature": "{PROMPT}"}}"#),
        format!(r#"{{"messages": {message}, "max_tokens": "{PROMPT}"}}"#),
        format!(r#"{{"messages": {message}, "stop": {{"{PROMPT}": 1}}}}"#),
        format!(r#"{{"messages": {message}, "tools": "{PROMPT}"}}"#),
        format!(r#"{{"messages": {message}, "response_format": "{PROMPT}"}}"#),
        format!(r#"{{"messages": [{{"role": "user", "content": "{PROMPT} \ud800"}}]}}"#),
        format!(r#"{{"messages": [{{"role": "user", "content": "{PROMPT} \u0000"}}]}}"#),
        format!(r#"{{"messages": {message}, "{PROMPT}": 1, "{PROMPT}": 2}}"#),
        format!(r#"{{"messages": {message}}} {PROMPT}"#),
        format!(r#"{{"messages": {message}, {PROMPT}"#),
        format!(r#"{{"messages": "{PROMPT}"}}"#),
        format!(r#"{{"messages": [{{"role": "{PROMPT}", "content": "hi"}}]}}"#),
        format!(r#"{{"messages": [{{"role": "user", "content": {{"{PROMPT}": "{PROMPT}"}}}}]}}"#),
        PROMPT.to_owned(),
    ] {
        for path in ["/v1/chat/completions", "/v1/completions", "/v1/route"] {
            let (status, _, answer) = gateway.client.send(Method::POST, &gateway.url(path), body.clone()).await;
            assert!((400..500).contains(&status), "{path} {body}: {status}");
            told.0.push(String::from_utf8_lossy(&answer).into_owned());
        }
    }
    let explained =
        gateway.client.send(Method::POST, &gateway.url("/v1/route"), Ask::chat(PROMPT).body.to_string()).await;
    assert_eq!(explained.0, 200);
    told.0.push(String::from_utf8_lossy(&explained.2).into_owned());
    search_everything(&gateway, &told, folder.path()).await;
    gateway.shutdown().await;
}
