//! The console and the admin API behind it: what its page may be given and may do, and the page itself in a real browser
//! (`tests/console`, whose libraries `tests/console/install.sh` puts into the cache; a missing one is a failure).

use crate::support::{Ask, Gateway, Setup, poll::until, setup::Folder};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(10);
const TOKEN: &str = "the-admin-token-of-a-test";
/// Consoles that may watch at once.
const WATCHERS: usize = 32;

/// Where `install.sh` puts what drives the browser.
fn driver() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()).map(PathBuf::from).or_else(home);
    cache.expect("a cache folder").join("spillway/console/node")
}

/// Runs one of the scripts against the gateway.
async fn in_a_browser(gateway: &Gateway, script: &'static str) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console");
    // Node looks for libraries beside the script.
    let beside = driver();
    for file in ["browser.mjs", "names.mjs", script] {
        std::fs::copy(scripts.join(file), beside.join(file)).expect("`tests/console/install.sh` has run");
    }
    let mut command = Command::new("node");
    command.arg(beside.join(script)).env("SPILLWAY_ADMIN", &gateway.admin).env("SPILLWAY_API", &gateway.api);
    command.env("SPILLWAY_TOKEN", TOKEN);
    let running = tokio::task::spawn_blocking(move || command.output());
    let Output { status, stdout, stderr } =
        running.await.expect("a thread").expect("node runs: `make test` installs it");
    let (said, complained) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{script}:\n{said}\n{complained}\n{}", gateway.log_tail());
    assert!(said.contains("passed"), "{script} checked something: {said}\n{complained}");
}

/// With a store of keys of its own.
fn with_keys(setup: Setup, folder: &Folder) -> Setup {
    setup.extra(&format!("[keys]\nfile = \"{}\"\n", folder.path().join("keys.json").display()))
}

/// A gateway without a local model whose admin listener wants a token.
async fn guarded() -> (Gateway, Folder) {
    let folder = Folder::new().unwrap();
    let file = folder.write("token", TOKEN.as_bytes());
    let server = format!("admin_token_file = \"{}\"\n", file.display());
    let setup = with_keys(Setup::default().without_local(), &folder);
    (setup.server(&server).start().await, folder)
}

/// As `Gateway::shutdown`, which does not know the token.
async fn ended(gateway: Gateway) {
    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(gateway.until_ended().await.code(), Some(0), "{}", gateway.log_tail());
}

async fn send(asked: RequestBuilder) -> Response {
    asked.timeout(SOON).send().await.expect("an answer")
}

fn play(gateway: &Gateway) -> RequestBuilder {
    let body = json!({"model": "ok", "messages": [{"role": "user", "content": "Say hello"}], "stream": true,
        "stream_options": {"include_usage": true}});
    let post = gateway.client.raw().post(gateway.admin_url("/admin/playground"));
    post.header("content-type", "application/json").body(body.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_works_in_a_browser() {
    let folder = Folder::new().unwrap();
    let ledger = "url = \"memory:\"\nbaseline_model = \"other\"\n";
    let gateway = with_keys(Setup::default(), &folder).ledger(ledger).parallel(2).warm().await;
    in_a_browser(&gateway, "console.mjs").await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_breaks_a_simulated_engine_too() {
    let gateway = Setup::default().model("sim:tokens_per_second=40").warm().await;
    in_a_browser(&gateway, "simulated.mjs").await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_asks_for_the_token_once_and_says_when_nobody_answers() {
    let (gateway, _folder) = guarded().await;
    in_a_browser(&gateway, "token.mjs").await;
    ended(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_loads_without_a_token_and_what_it_shows_does_not() {
    let (gateway, _folder) = guarded().await;
    let get = |path: &str| gateway.client.raw().get(gateway.admin_url(path));
    let page = send(get("/console")).await;
    assert_eq!(page.status(), StatusCode::OK);
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{policy}");
    let text = page.text().await.unwrap();
    assert!(!text.contains(TOKEN) && text.contains("/console/main.js"));
    assert_eq!(send(get("/console/main.js")).await.headers()["content-type"], "text/javascript; charset=utf-8");
    assert_eq!(send(get("/console").header("host", "evil.example")).await.status(), StatusCode::FORBIDDEN);
    for path in ["/admin/events", "/admin/requests", "/admin/status", "/admin/keys", "/console/nothing", "/console/"] {
        assert_eq!(send(get(path)).await.status(), StatusCode::UNAUTHORIZED, "{path}");
        let carried = send(get(path).bearer_auth(TOKEN)).await.status();
        assert_eq!(carried, if path.starts_with("/admin") { StatusCode::OK } else { StatusCode::NOT_FOUND }, "{path}");
    }
    assert_eq!(send(play(&gateway)).await.status(), StatusCode::UNAUTHORIZED);
    let played = send(play(&gateway).bearer_auth(TOKEN)).await;
    assert_eq!((played.status(), &played.headers()["x-spillway-target"]), (StatusCode::OK, &"sim".parse().unwrap()));
    assert!(played.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    ended(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_of_another_site_can_use_the_playground() {
    let gateway = Setup::default().without_local().start().await;
    let own = gateway.admin.clone();
    for (name, value, status) in [
        ("origin", own.as_str(), StatusCode::OK),
        ("sec-fetch-site", "same-origin", StatusCode::OK),
        ("origin", "http://evil.example", StatusCode::FORBIDDEN),
        ("origin", "null", StatusCode::FORBIDDEN),
        ("sec-fetch-site", "cross-site", StatusCode::FORBIDDEN),
        ("host", "evil.example", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(send(play(&gateway).header(name, value)).await.status(), status, "{name}: {value}");
    }
    let watch = gateway.client.raw().get(gateway.admin_url("/admin/events")).header("sec-fetch-site", "cross-site");
    assert_eq!(send(watch).await.status(), StatusCode::FORBIDDEN, "nor take the seats of those who watch");
    let plain = gateway.client.raw().post(gateway.admin_url("/admin/playground"));
    let plain = send(plain.header("content-type", "text/plain").body("{}")).await;
    assert_eq!(plain.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let asked = gateway.client.raw().request(Method::OPTIONS, gateway.admin_url("/admin/playground"));
    assert!(!send(asked).await.headers().contains_key("access-control-allow-origin"), "nobody is let in");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_playground_is_held_to_what_the_api_asks_for() {
    let folder = Folder::new().unwrap();
    let required = vec![("SPILLWAY__SERVER__REQUIRE_KEYS".into(), "true".into())];
    let setup = Setup { vars: required, ..Setup::default().without_local() };
    let gateway = with_keys(setup, &folder).start().await;
    let refused = send(play(&gateway)).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "the admin listener is no way around keys");
    let wish = json!({"name": "play", "requests_per_minute": 1, "budget_usd": {"day": "1"}}).to_string();
    let (status, _, made) = gateway.client.send(Method::POST, &gateway.admin_url("/admin/keys"), wish).await;
    assert_eq!(status, 201);
    let secret = serde_json::from_slice::<Value>(&made).unwrap()["secret"].as_str().unwrap().to_owned();
    let first = send(play(&gateway).header("x-api-key", &secret)).await;
    assert_eq!(first.status(), StatusCode::OK);
    first.text().await.unwrap();
    let second = send(play(&gateway).header("x-api-key", &secret)).await;
    assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS, "its limits hold here, too");
    let listed = gateway.client.get_json(&gateway.admin_url("/admin/keys")).await.unwrap();
    let spent = listed["data"][0]["spent_usd"]["day"].as_str().unwrap();
    assert!(spent.parse::<f64>().unwrap() > 0.0, "what it spent is told: {spent}");
    let newest = gateway.client.get_json(&gateway.admin_url("/admin/requests?limit=1")).await.unwrap();
    assert_eq!(newest["requests"][0]["key_name"], "play");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_listed_with_their_reasons_and_without_their_words() {
    let gateway = Setup::default().without_local().start().await;
    let prompt = "Analyze the zebra-crossing of the word platypus";
    gateway.client.ask(&gateway.api, Ask::chat(prompt).stream()).await.assert_complete();
    let listed = until("the request is listed", SOON, async || {
        let listed = gateway.client.get_json(&gateway.admin_url("/admin/requests")).await?;
        listed["requests"].as_array().filter(|requests| !requests.is_empty()).map(|_| listed.clone())
    })
    .await;
    let request = &listed["requests"][0];
    assert_eq!((&request["outcome"], &request["stream"]), (&json!("ok"), &json!(true)));
    assert!(request["routing"]["reasoning"].as_str().unwrap().starts_with("complex"), "{request}");
    assert!(request["first_token_ms"].as_f64().unwrap() <= request["took_ms"].as_f64().unwrap());
    assert!(!listed.to_string().contains("platypus"));
    assert_eq!((&request["asked"], &request["why"]), (&json!("auto"), &Value::Null));
    // Who gets no target is told why, and so is who looks.
    gateway.cloud().fault("*", "error-500").await;
    let refused = until("the breaker is open", SOON, async || {
        let record = gateway.client.ask(&gateway.api, Ask::hard().model("ok")).await;
        (record.status == Some(503)).then_some(record)
    })
    .await;
    let listed = gateway.client.get_json(&gateway.admin_url("/admin/requests?limit=1")).await.unwrap();
    let request = &listed["requests"][0];
    assert_eq!((&request["request"], &request["asked"]), (&json!(refused.id), &json!("ok")));
    let crate::support::Outcome::Error { message, .. } = &refused.outcome else { panic!("{refused:?}") };
    assert_eq!(request["why"].as_str(), Some(message.as_str()), "{request}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_bounded_and_hold_up_no_shutdown() {
    let gateway = Setup::default().without_local().start().await;
    let watch = || gateway.client.raw().get(gateway.admin_url("/admin/events"));
    let mut watching = Vec::new();
    for _ in 0..WATCHERS {
        let mut response = watch().send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut heard = String::new();
        while !heard.contains("event: picture\n") {
            heard.push_str(&String::from_utf8_lossy(&response.chunk().await.unwrap().expect("more")));
        }
        assert!(heard.starts_with("event: history\n"), "{heard}");
        watching.push(response);
    }
    assert_eq!(send(watch()).await.status(), StatusCode::TOO_MANY_REQUESTS);
    watching.pop();
    until("a place is free again", SOON, async || (send(watch()).await.status() == StatusCode::OK).then_some(())).await;
    // Asserts that it ends in good order, in time.
    gateway.shutdown().await;
    for mut response in watching {
        while let Ok(Some(_)) = response.chunk().await {}
    }
}
