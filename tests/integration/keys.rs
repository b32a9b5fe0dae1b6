//! API keys on the running gateway: made and revoked by the command line and the admin API, held to what they may, and never
//! seen again.

use crate::support::{Ask, History, Outcome, Record, Setup, checks::error_object, gateway, poll::until, setup::Folder};
use rand::RngExt;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(5);

/// A gateway that needs keys, whose store is in `folder`.
fn guarded(folder: &Folder) -> Setup {
    Setup {
        extra: format!("[keys]\nfile = \"{}\"\n", folder.path().join("keys.json").display()),
        vars: vec![("SPILLWAY__SERVER__REQUIRE_KEYS".into(), "true".into())],
        ..Setup::default()
    }
}

/// `spillway keys …` on the store in `folder`, asking the gateway at `admin` unless that is empty.
fn command(folder: &Path, admin: &str, args: &[&str]) -> Command {
    let mut command = Command::new(gateway::binary());
    command.arg("keys").args(args).stdin(Stdio::null());
    command.env("SPILLWAY__KEYS__FILE", folder.join("keys.json"));
    let admin = if admin.is_empty() { "127.0.0.1:0" } else { admin.trim_start_matches("http://") };
    command.env("SPILLWAY__SERVER__ADMIN_LISTEN", admin);
    command
}

fn run(folder: &Path, admin: &str, args: &[&str]) -> Output {
    command(folder, admin, args).output().expect("the command runs")
}

/// The JSON of a command that succeeded.
fn json_of(folder: &Path, admin: &str, args: &[&str]) -> Value {
    let output = run(folder, admin, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("--json prints JSON")
}

/// Id and secret of a new key.
fn create(folder: &Path, admin: &str, args: &[&str]) -> (String, String) {
    let key = json_of(folder, admin, &[&["create", "--json", "--name", "test"], args].concat());
    let text = |field: &str| key[field].as_str().expect("a key has it").to_owned();
    (text("id"), text("secret"))
}

fn code(record: &crate::support::Record) -> (u16, String) {
    match &record.outcome {
        Outcome::Error { status, code, .. } => (*status, code.as_str().unwrap_or_default().to_owned()),
        other => panic!("an error was expected: {other:?}"),
    }
}

fn told(record: &crate::support::Record) -> String {
    match &record.outcome {
        Outcome::Error { message, .. } => message.clone(),
        other => panic!("an error was expected: {other:?}"),
    }
}

fn header(record: &crate::support::Record, name: &str) -> u64 {
    let value = record.headers.get(name).unwrap_or_else(|| panic!("{name}: {record:#?}"));
    value.to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_made_while_the_gateway_runs_holds_at_once_and_so_does_its_end() {
    let folder = Folder::new().unwrap();
    let gateway = guarded(&folder).warm().await;
    let ask = |ask: Ask| gateway.client.ask(&gateway.api, ask);
    assert_eq!(code(&ask(Ask::count()).await), (401, "invalid_api_key".into()));
    let (id, secret) = create(folder.path(), &gateway.admin, &["--group", "ci"]);
    for asked in [Ask::count(), Ask::count().stream(), Ask::hard(), Ask::hard().stream()] {
        ask(asked.key(&secret)).await.assert_complete();
    }
    let other = Ask { headers: vec![("x-api-key", secret.clone())], ..Ask::count() };
    ask(other).await.assert_complete();
    let listed = json_of(folder.path(), &gateway.admin, &["ls", "--json"]);
    assert_eq!((&listed["data"][0]["id"], &listed["data"][0]["state"]), (&json!(id), &json!("active")));
    assert!(!listed.to_string().contains(&secret));
    for _ in 0..2 {
        let revoked = json_of(folder.path(), &gateway.admin, &["revoke", "--json", &id]);
        assert_eq!(revoked["data"][0]["state"], "revoked");
        assert_eq!(code(&ask(Ask::count().key(&secret)).await), (401, "invalid_api_key".into()));
    }
    let unknown = run(folder.path(), &gateway.admin, &["revoke", "key_none"]);
    assert_eq!(unknown.status.code(), Some(1));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_to_the_store_behind_its_back_the_gateway_takes_in_and_a_restart_knows() {
    let folder = Folder::new().unwrap();
    let (_, before) = create(folder.path(), "", &["--offline"]);
    let gateway = guarded(&folder).start().await;
    let models = gateway.url("/v1/models");
    let status = |secret: String| {
        let asked = gateway.client.raw().get(&models).header("x-api-key", secret);
        async move { asked.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(status(before.clone()).await, 200);
    let (id, meanwhile) = create(folder.path(), "", &[]);
    until("the gateway notices the key", SOON, || async { (status(meanwhile.clone()).await == 200).then_some(()) })
        .await;
    assert!(run(folder.path(), "", &["revoke", &id]).status.success());
    until("it notices the end", SOON, || async { (status(meanwhile.clone()).await == 401).then_some(()) }).await;
    gateway.shutdown().await;
    let again = guarded(&folder).start().await;
    let models = again.url("/v1/models");
    for (secret, expected) in [(before, 200), (meanwhile, 401)] {
        let asked = again.client.raw().get(&models).bearer_auth(secret).send().await.unwrap();
        assert_eq!(asked.status().as_u16(), expected);
    }
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_only_key_never_reaches_the_provider_and_a_key_sees_only_its_models() {
    let folder = Folder::new().unwrap();
    let gateway = guarded(&folder).warm().await;
    let (_, private) = create(folder.path(), &gateway.admin, &["--local-only"]);
    let (_, cloud) = create(folder.path(), &gateway.admin, &["--model", "ok"]);
    let history = History::default();
    let asks = [Ask::hard(), Ask::hard().stream(), Ask::count().with("max_latency_ms", 1), Ask::chat("hello").stream()];
    for ask in asks {
        let record = gateway.client.ask(&gateway.api, ask.key(&private)).await;
        assert_eq!(record.assert_complete().target(), "local");
        history.add(record);
    }
    for model in ["ok", "other"] {
        let record = gateway.client.ask(&gateway.api, Ask::hard().model(model).key(&private)).await;
        assert_eq!(code(&record), (403, "forbidden".into()));
    }
    assert!(gateway.cloud().arrived().await.is_empty());
    // The provider is there: the other key reaches it, and nothing else.
    for (ask, target) in [(Ask::hard(), "sim"), (Ask::count(), "sim"), (Ask::count().model("ok"), "sim")] {
        let record = gateway.client.ask(&gateway.api, ask.key(&cloud)).await;
        assert_eq!(record.assert_complete().target(), target);
    }
    for model in ["local", "other", crate::support::setup::MODEL] {
        let record = gateway.client.ask(&gateway.api, Ask::hard().model(model).key(&cloud)).await;
        assert_eq!(code(&record), (403, "forbidden".into()), "{model}");
    }
    let listed: Value = gateway
        .client
        .raw()
        .get(gateway.url("/v1/models"))
        .bearer_auth(&cloud)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let ids: Vec<&str> = listed["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["auto", "ok"]);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_told_kept_and_settled_at_what_was_used() {
    let folder = Folder::new().unwrap();
    let gateway = guarded(&folder).warm().await;
    let limits = ["--tokens-per-minute", "3000", "--requests-per-minute", "5"];
    let (_, secret) = create(folder.path(), &gateway.admin, &limits);
    // Two thirds of a minute's worth are set aside each time: the next one passes because little of it was used.
    for ask in [Ask::hard().max_tokens(2000), Ask::hard().max_tokens(2000).stream(), Ask::count().stream()] {
        let record = gateway.client.ask(&gateway.api, ask.key(&secret)).await;
        record.assert_complete();
        assert_eq!(header(&record, "x-ratelimit-limit-tokens"), 3000);
        let used = record.usage.as_ref().unwrap()["total_tokens"].as_u64().unwrap();
        assert!((1..200).contains(&used), "{record:#?}");
    }
    let keys = gateway.client.get_json(&gateway.admin_url("/admin/keys")).await.unwrap();
    let left = keys["data"][0]["tokens_remaining"].as_u64().unwrap();
    assert!((2400..=3000).contains(&left), "{keys}");
    assert_eq!(keys["data"][0]["running"], 0);
    let too_much = gateway.client.ask(&gateway.api, Ask::count().max_tokens(3001).key(&secret)).await;
    assert_eq!(code(&too_much).0, 400);
    let mut last = None;
    for _ in 0..3 {
        last = Some(gateway.client.ask(&gateway.api, Ask::count().max_tokens(1).key(&secret)).await);
    }
    let last = last.unwrap();
    if last.status == Some(429) {
        assert_eq!(code(&last).1, "rate_limit_exceeded");
        assert!((1..=12).contains(&header(&last, "retry-after")));
        assert_eq!(header(&last, "x-ratelimit-remaining-requests"), 0);
    } else {
        // A slow machine: a new request came in meanwhile, one each 12 s.
        last.assert_complete();
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_is_held_to_the_last_byte_and_free_when_its_client_has_gone() {
    let folder = Folder::new().unwrap();
    let gateway = guarded(&folder).warm().await;
    let (_, secret) = create(folder.path(), &gateway.admin, &["--concurrency", "1"]);
    let (client, api) = (gateway.client.clone(), gateway.api.clone());
    let long = Ask::count().model("local").max_tokens(1500).stream().key(&secret);
    let (pieces, mut heard) = tokio::sync::mpsc::channel(64);
    let streaming = spillway_actors::task::detached(async move { client.ask_telling(&api, long, Some(pieces)).await });
    heard.recv().await.expect("it streams");
    let second = gateway.client.ask(&gateway.api, Ask::count().max_tokens(1).key(&secret)).await;
    assert_eq!(code(&second), (429, "rate_limit_exceeded".into()));
    assert_eq!(header(&second, "retry-after"), 1);
    drop(heard);
    streaming.await.unwrap();
    until("the place is free", SOON, || async {
        let record = gateway.client.ask(&gateway.api, Ask::count().max_tokens(1).key(&secret)).await;
        record.is_complete().then_some(())
    })
    .await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_api_makes_lists_and_revokes_and_says_what_is_wrong() {
    let folder = Folder::new().unwrap();
    let gateway = guarded(&folder).start().await;
    let url = gateway.admin_url("/admin/keys");
    let send = |method: Method, url: String, body: String| {
        let client = gateway.client.clone();
        async move {
            let (status, headers, bytes) = client.send(method, &url, body).await;
            let json: Value = serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("JSON: {bytes:?}"));
            if status >= 400 {
                error_object(&json).unwrap();
            }
            (status, headers, json)
        }
    };
    let wish = json!({
        "name": "web", "group": "shop", "models": ["local", "ok"], "requests_per_minute": 60, "tokens_per_minute": 10_000,
        "concurrency": 4, "budget_usd": {"day": "0.10", "month": "3"}, "expires_in_s": 3600, "priority": "high",
    });
    let (status, headers, made) = send(Method::POST, url.clone(), wish.to_string()).await;
    assert_eq!((status, headers["cache-control"].to_str().unwrap()), (201, "no-store"));
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("sk-spillway-") && secret.starts_with(made["prefix"].as_str().unwrap()));
    assert_eq!(made["budget_usd"], json!({"day": "0.1", "month": "3", "total": null}));
    assert_eq!(
        (&made["priority"], &made["state"], &made["concurrency"]),
        (&json!("high"), &json!("active"), &json!(4))
    );
    let (_, _, listed) = send(Method::GET, format!("{url}?limit=1"), String::new()).await;
    assert_eq!((&listed["data"][0]["id"], &listed["next"]), (&made["id"], &json!(1)));
    assert!(listed["data"][0].get("secret").is_none() && listed["data"][0].get("digest").is_none());
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("{}", 400),
        (r#"{"name":"x","colour":"red"}"#, 400),
        (r#"{"name":"x","budget_usd":{"day":1.5}}"#, 400),
        (r#"{"name":"x","budget_usd":{"day":"1e3"}}"#, 400),
        (r#"{"name":"x","models":["nobody"]}"#, 400),
        (r#"{"name":"x","requests_per_minute":-1}"#, 400),
        (r#"{"name":"x","priority":"urgent"}"#, 400),
        (&format!("{{\"name\":\"{}\"}}", "x".repeat(70_000)), 413),
    ] {
        assert_eq!(send(Method::POST, url.clone(), body.to_owned()).await.0, status, "{body:.80}");
    }
    assert_eq!(send(Method::GET, format!("{url}?limit=many"), String::new()).await.0, 400);
    let one = format!("{url}/{}", made["id"].as_str().unwrap());
    let (_, _, first) = send(Method::DELETE, one.clone(), String::new()).await;
    let (status, _, second) = send(Method::DELETE, one, String::new()).await;
    assert_eq!((status, &second["state"], &second["revoked_at"]), (200, &json!("revoked"), &first["revoked_at"]));
    let (status, _, unknown) = send(Method::DELETE, format!("{url}/key_none"), String::new()).await;
    assert_eq!((status, &unknown["error"]["code"]), (404, &json!("key_not_found")));
    assert_eq!(send(Method::PUT, url, String::new()).await.0, 405);
    let status = gateway.client.get_json(&gateway.admin_url("/admin/status")).await.unwrap();
    assert_eq!(status["api_keys"], json!({"required": true, "active": 0, "expired": 0, "revoked": 1}));
    gateway.shutdown().await;
}

/// The canary: a secret that works, one that does not, one that was revoked. Whatever the gateway writes down or answers
/// afterwards, none of it holds any of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_key_appears_nowhere_but_where_it_was_made() {
    let folder = Folder::new().unwrap();
    let gateway = Setup { log: "trace".into(), ..guarded(&folder) }.warm().await;
    let (_, good) = create(folder.path(), &gateway.admin, &["--requests-per-minute", "4"]);
    let (id, gone) = create(folder.path(), &gateway.admin, &[]);
    assert!(run(folder.path(), &gateway.admin, &["revoke", &id]).status.success());
    let wrong = "sk-spillway-CanaryKeyCanaryKeyCanaryKeyCanaryKeyCanary";
    let canaries = [good.as_str(), gone.as_str(), wrong];
    let mut seen = String::new();
    for secret in canaries {
        for ask in [Ask::count(), Ask::hard().stream(), Ask::hard().model("nobody"), Ask::count().max_tokens(0)] {
            for ask in [ask.clone().key(secret), Ask { headers: vec![("x-api-key", secret.to_owned())], ..ask }] {
                let record = gateway.client.ask(&gateway.api, ask).await;
                seen.push_str(&format!("{:?} {:?} {:?}\n", record.outcome, record.headers, record.body));
            }
        }
    }
    for path in ["/metrics", "/admin/status", "/admin/keys", "/admin/usage", "/admin/usage/attempts", "/admin/actors"] {
        let answer = gateway.client.raw().get(gateway.admin_url(path)).send().await.unwrap();
        seen.push_str(&answer.text().await.unwrap());
    }
    assert!(seen.contains("spillway_key_requests_total{key_group=\"default\",outcome=\"let_in\"}"), "{seen}");
    assert!(seen.contains("outcome=\"requests_limited\"") && seen.contains("key_group=\"none\",outcome=\"refused\""));
    for file in std::fs::read_dir(folder.path()).unwrap() {
        seen.push_str(&std::fs::read_to_string(file.unwrap().path()).unwrap());
    }
    for secret in canaries {
        // What is shown of a key is its beginning; the rest is 37 characters.
        let hidden = &secret[18..];
        assert!(!seen.contains(hidden), "an answer or a file holds {secret}");
        assert!(!gateway.logged(hidden), "the log holds {secret}");
        let arrived = gateway.cloud().arrived().await;
        assert!(!format!("{arrived:?}").contains(hidden), "the provider was told {secret}");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_loopback_it_serves_with_keys_or_not_at_all() {
    let folder = Folder::new().unwrap();
    let file = folder.write("open.toml", b"[server]\nlisten = \"0.0.0.0:0\"\nadmin_listen = \"127.0.0.1:0\"\n");
    let output = Command::new(gateway::binary()).arg("serve").arg("--config").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("require_keys = true") && said.contains("spillway keys create"), "{said}");
    let (_, secret) = create(folder.path(), "", &[]);
    let gateway = Setup { listen: "0.0.0.0:0".into(), ..guarded(&folder) }.warm().await;
    assert_eq!(code(&gateway.client.ask(&gateway.api, Ask::count()).await).0, 401);
    gateway.client.ask(&gateway.api, Ask::count().key(&secret)).await.assert_complete();
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_needs_keys_and_cannot_read_them_does_not_start() {
    let folder = Folder::new().unwrap();
    create(folder.path(), "", &[]);
    let setup = guarded(&folder);
    let config = folder.write("needs.toml", setup.clone().without_cloud().text(None, None).as_bytes());
    let starts = || {
        let output = gateway::serve(&config, &setup.env()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let pepper = folder.path().join("keys.json.pepper");
    let kept = std::fs::read(&pepper).unwrap();
    std::fs::remove_file(&pepper).unwrap();
    let (code, said) = starts();
    assert!(code == Some(1) && said.contains("their pepper") && said.contains("keys.json.pepper"), "{said}");
    std::fs::write(&pepper, "x".repeat(64)).unwrap();
    let (code, said) = starts();
    assert!(code == Some(1) && said.contains("another pepper"), "{said}");
    std::fs::write(&pepper, kept).unwrap();
    std::fs::write(folder.path().join("keys.json"), "{\"version\": 1, \"keys\": [").unwrap();
    let (code, said) = starts();
    assert!(code == Some(1) && said.contains("damaged"), "{said}");
}

/// Writers that are killed at any moment: what they had said to have done is done, and the store is never anything but
/// whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_shown_is_kept_whenever_its_writer_is_killed() {
    const WRITERS: usize = 60;
    let folder = Folder::new().unwrap();
    let (mut shown, mut killed) = (Vec::new(), 0);
    for number in 0..WRITERS {
        let name = format!("writer {number}");
        let mut writer = command(folder.path(), "", &["create", "--offline", "--json", "--name", &name])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Not to wait for anything: to be at another point of its work each time.
        let patience = Duration::from_micros(rand::rng().random_range(0..30_000));
        tokio::time::sleep(patience).await;
        killed += usize::from(writer.try_wait().unwrap().is_none());
        let _ = writer.kill();
        let output = writer.wait_with_output().unwrap();
        if let Ok(key) = serde_json::from_slice::<Value>(&output.stdout) {
            shown.push(key["id"].as_str().unwrap().to_owned());
        }
        let listed = json_of(folder.path(), "", &["ls", "--json", "--offline"]);
        let ids: Vec<&str> = listed["data"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
        assert!(shown.iter().all(|id| ids.contains(&id.as_str())), "{shown:?} of {ids:?}");
    }
    assert!(killed > 0, "nobody was killed");
    let (id, _) = create(folder.path(), "", &["--offline"]);
    assert!(run(folder.path(), "", &["revoke", "--offline", &id]).status.success());
}

/// Money that is spent stays spent: a client is told so, and not to try again, while what costs nothing goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_budget_ends_paid_requests_and_no_others() {
    let folder = Folder::new().unwrap();
    let gateway = guarded(&folder).warm().await;
    // One answer of the simulated model `ok` at $0.42 a million tokens costs some millionths.
    let (_, poor) = create(folder.path(), &gateway.admin, &["--budget-day", "0.00002"]);
    let (_, rich) = create(folder.path(), &gateway.admin, &["--budget-day", "1", "--budget-month", "2"]);
    let ask = |secret: &str, ask: Ask| {
        let (client, api, ask) = (gateway.client.clone(), gateway.api.clone(), ask.key(secret));
        async move { client.ask(&api, ask).await }
    };
    let mut answered = 0;
    let refused = loop {
        let record = ask(&poor, Ask::hard().model("ok").max_tokens(24)).await;
        if !record.is_complete() {
            break record;
        }
        answered += 1;
        assert!(answered < 20, "the budget never ends");
    };
    assert!(answered > 0, "{refused:#?}");
    assert_eq!(code(&refused), (429, "insufficient_quota".into()));
    let message = told(&refused);
    assert!(message.contains("this API key's daily budget") && message.contains("T00:00:00"), "{message}");
    assert!(!refused.headers.contains_key("retry-after"));
    assert_eq!(refused.headers["x-should-retry"], "false");
    assert_eq!(ask(&poor, Ask::hard()).await.assert_complete().target(), "local", "what costs nothing goes on");
    ask(&rich, Ask::hard().model("ok")).await.assert_complete();
    gateway.shutdown().await;
}

/// With one sequence greedy answers are repeatable, so a word of somebody else's prompt that seeped in would show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_one_group_share_a_beginning_and_nothing_of_each_others_text_and_a_stranger_shares_nothing() {
    // Longer than a batch, of which only whole ones are reused where an answer must be repeatable.
    let system = "You keep a lighthouse. You answer in one short sentence and never lie to sailors. ".repeat(20);
    let words = ["zanzibar", "quicksilver", "marmalade", "obelisk"];
    let ask = |secret: &str, word: &str| {
        let question = format!("My secret word is {word}. What is my secret word?");
        let messages = json!([{"role": "system", "content": system}, {"role": "user", "content": question}]);
        Ask::chat("").with("messages", messages).max_tokens(24).key(secret)
    };
    let mut runs = Vec::new();
    for round in 0..2 {
        let folder = Folder::new().unwrap();
        let gateway = guarded(&folder).without_cloud().parallel(1).start().await;
        let keys: Vec<String> = words
            .iter()
            .map(|_| create(folder.path(), &gateway.admin, &["--local-only", "--group", "keepers"]).1)
            .collect();
        let stranger = create(folder.path(), &gateway.admin, &["--local-only"]).1;
        gateway.until_serving().await;
        let cached_of = |record: &Record| {
            record.usage.as_ref().unwrap()["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
        };
        // Forwards and backwards: everybody has had another one before.
        let mut order: Vec<usize> = (0..words.len()).collect();
        if round == 1 {
            order.reverse();
        }
        let mut texts = vec![String::new(); words.len()];
        let mut cached = 0;
        for at in order {
            let record = gateway.client.ask(&gateway.api, ask(&keys[at], words[at])).await;
            record.assert_complete();
            cached += cached_of(&record);
            let others = words.iter().filter(|other| **other != words[at]);
            assert!(others.clone().all(|other| !record.text.contains(other)), "{} heard {record:#?}", words[at]);
            texts[at].clone_from(&record.text);
        }
        assert!(cached > 0, "the common beginning was read once");
        let record = gateway.client.ask(&gateway.api, ask(&stranger, words[0])).await;
        record.assert_complete();
        assert_eq!(
            (cached_of(&record), &record.text),
            (0, &texts[0]),
            "who guesses a prompt does not learn that it was right"
        );
        runs.push(texts);
        gateway.shutdown().await;
    }
    assert_eq!(runs[0], runs[1], "an answer does not depend on whose conversation came before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_requests_wait_a_higher_key_goes_first() {
    let folder = Folder::new().unwrap();
    // Tokens by the clock, however busy the machine.
    let gateway = guarded(&folder).model("sim:tokens_per_second=50,tokens=4000,load_ms=50").parallel(1).warm().await;
    let key = |priority: &str| create(folder.path(), &gateway.admin, &["--priority", priority]).1;
    let (low, high) = (key("low"), key("high"));
    let mut asking = tokio::task::JoinSet::new();
    let mut ask = |name: &'static str, tokens: u32, secret: &str| {
        let (client, api) = (gateway.client.clone(), gateway.api.clone());
        let ask = Ask::count().model("local").max_tokens(tokens).key(secret);
        asking.spawn(async move {
            client.ask(&api, ask).await.assert_complete();
            name
        });
    };
    ask("first", 200, &high);
    gateway.until_status("the first is in work", SOON, |status| status.leases == 1).await;
    ask("low", 2, &low);
    gateway.until_status("the low one waits", SOON, |status| status.queue == Some(1)).await;
    ask("high", 8, &high);
    gateway.until_status("the high one, too", SOON, |status| status.queue == Some(2)).await;
    let mut ended = Vec::new();
    while let Some(name) = asking.join_next().await {
        ended.push(name.unwrap());
    }
    assert_eq!(ended, ["first", "high", "low"], "{}", gateway.log_tail());
    gateway.shutdown().await;
}
