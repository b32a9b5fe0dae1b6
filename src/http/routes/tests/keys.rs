//! API keys at the edge: who gets in, what a key may, and how its limits are told.

use super::*;
use futures_util::stream;
use spillway_actors::{
    domain::Priority,
    keys::{BudgetWish, KeyWish, Secret, unix_now},
};
use std::convert::Infallible;

/// Services that need a key, and a key for each of these wishes.
async fn guarded<const N: usize>(wishes: [KeyWish; N]) -> (Services, [Secret; N]) {
    guard(services(8), wishes).await
}

async fn guard<const N: usize>(mut services: Services, wishes: [KeyWish; N]) -> (Services, [Secret; N]) {
    let mut config = (*services.config).clone();
    config.server.require_keys = true;
    services.config = Arc::new(config);
    let mut secrets = Vec::new();
    for (number, wish) in wishes.into_iter().enumerate() {
        let wish = KeyWish { name: format!("key {number}"), ..wish };
        secrets.push(services.keys.create(wish, unix_now()).await.unwrap().0);
    }
    (services, secrets.try_into().unwrap())
}

fn request(method: Method, path: &str, body: impl Into<Body>, header: (&str, &str)) -> HttpRequest<Body> {
    HttpRequest::builder().method(method).uri(path).header(header.0, header.1).body(body.into()).unwrap()
}

fn bearer(secret: &Secret) -> String {
    format!("Bearer {}", secret.expose())
}

async fn chat(services: &Services, secret: &Secret, body: &str) -> Got {
    got(services, request(Method::POST, "/v1/chat/completions", body.to_owned(), ("authorization", &bearer(secret))))
        .await
}

async fn listed(services: &Services, secret: &Secret) -> Vec<String> {
    let got = got(services, request(Method::GET, "/v1/models", "", ("x-api-key", secret.expose()))).await;
    got.json["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

fn header(got: &Got, name: &str) -> String {
    got.headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned()
}

const UNAUTHORIZED: &str = "401 invalid_request_error invalid_api_key null";
const LIMITED: &str = "429 rate_limit_exceeded rate_limit_exceeded null";

#[tokio::test]
async fn who_has_no_key_is_told_no_names_and_a_key_those_of_its_own_models() {
    let cloud = services_with(8, |config| {
        let provider = Provider::new(Arc::clone(&config.clouds[0])).unwrap();
        Fleet { providers: [provider].into(), ..Fleet::default() }
    });
    let only = KeyWish { models: Some(vec!["gpt-4.1".to_owned()]), ..KeyWish::default() };
    let (services, [secret]) = guard(cloud, [only]).await;
    let ready = send(&services, Method::GET, "/ready", "").await;
    assert_eq!(ready.json.get("targets"), None);
    assert!(!ready.json.to_string().contains("deepseek"), "{}", ready.json);
    let body = json!({"model": "gpt-4.1", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let route = request(Method::POST, "/v1/route", body, ("authorization", &bearer(&secret)));
    let route = got(&services, route).await;
    assert_eq!(route.status, 200, "{}", route.json);
    let named: Vec<_> = route.json["gates"].as_array().unwrap().iter().map(|step| &step["model"]).collect();
    assert_eq!(named, ["gpt-4.1"], "{}", route.json);
}

#[tokio::test]
async fn without_a_key_nothing_but_health_is_answered() {
    let (services, [secret]) = guarded([KeyWish::default()]).await;
    for (method, path) in [
        (Method::POST, "/v1/chat/completions"),
        (Method::POST, "/completions"),
        (Method::POST, "/v1/route"),
        (Method::GET, "/v1/models"),
        (Method::GET, "/models/gpt-4.1"),
        (Method::GET, "/nothing"),
        (Method::DELETE, "/v1/chat/completions"),
        (Method::GET, "/health/"),
    ] {
        let got = send(&services, method, path, HI).await;
        assert_eq!(
            (got.error().as_str(), header(&got, "www-authenticate").as_str()),
            (UNAUTHORIZED, "Bearer realm=\"spillway\"")
        );
    }
    assert_eq!(send(&services, Method::GET, "/health", "").await.status, 200);
    assert_eq!(send(&services, Method::GET, "/ready", "").await.json["status"], "not_ready");
    let near = secret.expose().replace("sk-", "sk_");
    for (name, value) in [
        ("authorization", format!("Bearer {near}")),
        ("authorization", format!("Basic {}", secret.expose())),
        ("authorization", secret.expose().to_owned()),
        ("authorization", "Bearer ".to_owned()),
        ("x-api-key", format!("{}x", secret.expose())),
        ("x-api-key", "x".repeat(5000)),
    ] {
        let got = got(&services, request(Method::GET, "/v1/models", "", (name, &value))).await;
        assert_eq!(got.error(), UNAUTHORIZED, "{name}");
        assert!(!got.json.to_string().contains(near.strip_prefix("sk_").unwrap()), "{}", got.json);
    }
    assert_eq!(services.jobs.totals().admitted, 0);
}

#[tokio::test]
async fn there_is_no_route_that_forgot_to_ask_for_a_key() {
    let (services, _) = guarded([KeyWish::default()]).await;
    let paths: Vec<String> = routes().into_iter().map(|(path, _)| path.replace("{*id}", "gpt-4.1")).collect();
    assert!(access::OPEN.iter().all(|open| paths.iter().any(|path| path == open)));
    for path in paths {
        let is_open = access::OPEN.contains(&path.as_str());
        for method in [Method::GET, Method::POST] {
            let got = send(&services, method.clone(), &path, HI).await;
            assert_eq!(got.status != 401, is_open, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn anthropics_clients_are_refused_in_their_own_words() {
    let (services, [secret]) = guarded([KeyWish::default()]).await;
    let body = r#"{"model": "auto", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}"#;
    let got_none = send(&services, Method::POST, "/v1/messages", body).await;
    assert_eq!((got_none.status, &got_none.json["error"]["type"]), (401, &json!("authentication_error")));
    let counted =
        got(&services, request(Method::POST, "/v1/messages/count_tokens", body, ("x-api-key", secret.expose()))).await;
    assert_eq!(counted.status, 200, "{}", counted.json);
}

#[tokio::test]
async fn a_key_gets_in_by_either_header_and_whatever_the_case_of_bearer() {
    let (services, [secret]) = guarded([KeyWish::default()]).await;
    let plain = secret.expose();
    for (name, value) in [
        ("authorization", format!("Bearer {plain}")),
        ("authorization", format!("bearer  {plain} ")),
        ("x-api-key", plain.to_owned()),
    ] {
        assert_eq!(got(&services, request(Method::GET, "/v1/models", "", (name, &value))).await.status, 200, "{name}");
    }
    let mut both = request(Method::GET, "/v1/models", "", ("authorization", "Basic eA=="));
    both.headers_mut().insert("x-api-key", plain.parse().unwrap());
    assert_eq!(got(&services, both).await.status, 200, "a proxy's own credentials are not ours");
}

#[tokio::test]
async fn keys_that_were_revoked_or_have_expired_are_told_apart_from_no_keys() {
    let (services, [revoked]) = guarded([KeyWish::default()]).await;
    let long_ago = KeyWish { name: "old".into(), expires_in_s: Some(60), ..KeyWish::default() };
    let (expired, _) = services.keys.create(long_ago, unix_now() - 61).await.unwrap();
    let id = services.keys.all()[0].record.id.clone();
    services.keys.revoke(&id, unix_now()).await.unwrap();
    for (secret, said) in [(revoked, "revoked"), (expired, "expired")] {
        let got = chat(&services, &secret, HI).await;
        assert_eq!(got.error(), UNAUTHORIZED);
        assert!(got.json["error"]["message"].as_str().unwrap().contains(said));
    }
}

#[tokio::test]
async fn without_require_keys_any_string_is_a_key_and_a_real_one_is_held_to_its_limits() {
    let services = services(4);
    let wish = KeyWish { name: "a".into(), models: Some(vec!["gpt-4.1".into()]), ..KeyWish::default() };
    let (secret, _) = services.keys.create(wish, unix_now()).await.unwrap();
    assert_eq!(listed(&services, &Secret::presented("anything").unwrap()).await.len(), 8);
    assert_eq!(listed(&services, &secret).await, ["auto", "gpt-4.1"]);
    let id = services.keys.all()[0].record.id.clone();
    services.keys.revoke(&id, unix_now()).await.unwrap();
    assert_eq!(chat(&services, &secret, HI).await.error(), UNAUTHORIZED, "an ended key gives no more than it did");
    let foreign = Secret::presented("sk-spillway-0000000000000000000000000000000000000000000").unwrap();
    assert_eq!(chat(&services, &foreign, HI).await.error(), UNAUTHORIZED, "nor does one that was deleted");
}

#[tokio::test(start_paused = true)]
async fn a_key_sees_and_uses_only_its_models() {
    let only = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let (services, [cloud, local, private]) = guarded([
        KeyWish { models: only(&["gpt-4.1"]), ..KeyWish::default() },
        KeyWish { models: only(&["local"]), ..KeyWish::default() },
        KeyWish { local_only: true, ..KeyWish::default() },
    ])
    .await;
    assert_eq!(listed(&services, &cloud).await, ["auto", "gpt-4.1"]);
    assert_eq!(listed(&services, &local).await, ["auto", "local", "smollm2-135m", "fast"]);
    assert_eq!(listed(&services, &private).await, ["auto", "local", "smollm2-135m", "fast"]);
    let named = |model: &str| HI.replace("{\"m", &format!("{{\"model\": \"{model}\", \"m"));
    let forbidden = "403 invalid_request_error forbidden model";
    for (secret, model, expected) in [
        (&cloud, "gpt-4.1", "504 server_error timeout null"),
        (&cloud, "auto", "504 server_error timeout null"),
        (&cloud, "claude-sonnet-4.5", forbidden),
        (&cloud, "local", forbidden),
        (&cloud, "fast", forbidden),
        (&local, "fast", "504 server_error timeout null"),
        (&local, "gpt-4.1", forbidden),
        (&private, "smollm2-135m", "503 server_error local_only_unavailable null"),
        (&private, "gpt-4.1", forbidden),
        (&private, "gpt-9", "404 invalid_request_error model_not_found model"),
    ] {
        assert_eq!(chat(&services, secret, &named(model)).await.error(), expected, "{model}");
    }
    let found =
        got(&services, request(Method::GET, "/v1/models/gpt-4.1", "", ("authorization", &bearer(&local)))).await;
    assert_eq!(found.error(), "404 invalid_request_error model_not_found model");
}

#[tokio::test]
async fn a_decision_is_explained_with_the_keys_policy() {
    let (services, [private]) = guarded([KeyWish { local_only: true, ..KeyWish::default() }]).await;
    let got = got(&services, request(Method::POST, "/v1/route", HI, ("authorization", &bearer(&private)))).await;
    assert_eq!((got.status, &got.json["refusal"]["kind"]), (200, &json!("local_only_unavailable")));
}

#[tokio::test(start_paused = true)]
async fn requests_per_minute_are_counted_told_and_come_back() {
    let (services, [secret]) = guarded([KeyWish { requests_per_minute: Some(2), ..KeyWish::default() }]).await;
    let told = |got: &Got| {
        ["limit", "remaining", "reset"].map(|part| header(got, &format!("x-ratelimit-{part}-requests"))).join(" ")
    };
    // A bad request counts; a list of models does not.
    let bad = chat(&services, &secret, "{").await;
    assert_eq!((bad.status, told(&bad).as_str()), (400, "2 1 30s"));
    listed(&services, &secret).await;
    let second = chat(&services, &secret, HI).await;
    assert_eq!((second.status, told(&second).as_str()), (504, "2 0 59s"), "a second passed until the deadline");
    let third = chat(&services, &secret, HI).await;
    assert_eq!((third.error().as_str(), header(&third, "retry-after").as_str()), (LIMITED, "29"));
    assert_eq!((told(&third).as_str(), header(&third, "x-ratelimit-limit-tokens").as_str()), ("2 0 59s", "-"));
    tokio::time::advance(Duration::from_secs(29)).await;
    assert_eq!(chat(&services, &secret, HI).await.status, 504);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_set_aside_before_and_given_back_when_nothing_was_used() {
    let (services, [secret]) =
        guarded([KeyWish { tokens_per_minute: Some(100), requests_per_minute: Some(10), ..KeyWish::default() }]).await;
    let asks = |max_tokens: u32| HI.replace("{\"m", &format!("{{\"max_tokens\": {max_tokens}, \"m"));
    let first = asks(80);
    let running = chat(&services, &secret, &first);
    let meanwhile = async {
        while services.jobs.running() == 0 {
            tokio::task::yield_now().await;
        }
        let got = chat(&services, &secret, &asks(50)).await;
        assert_eq!((got.error().as_str(), header(&got, "retry-after").as_str()), (LIMITED, "1"));
        assert_eq!(header(&got, "x-ratelimit-remaining-requests"), "9", "it was not served, so it does not count");
    };
    let (ended, ()) = tokio::join!(running, meanwhile);
    assert_eq!(ended.status, 504);
    let never = chat(&services, &secret, &asks(99)).await;
    assert_eq!(never.error(), "400 invalid_request_error null max_tokens");
    assert_eq!(header(&never, "x-ratelimit-remaining-tokens"), "100");
    // Who names no max_tokens waits for a full minute's worth at most.
    assert_eq!(chat(&services, &secret, HI).await.status, 504);
}

#[tokio::test(start_paused = true)]
async fn requests_at_once_are_few_and_a_house_that_is_full_costs_nothing() {
    let (services, [secret, other]) = guarded([
        KeyWish { concurrency: Some(1), requests_per_minute: Some(5), ..KeyWish::default() },
        KeyWish { requests_per_minute: Some(5), ..KeyWish::default() },
    ])
    .await;
    let running = chat(&services, &secret, HI);
    let meanwhile = async {
        while services.jobs.running() == 0 {
            tokio::task::yield_now().await;
        }
        let got = chat(&services, &secret, HI).await;
        assert_eq!((got.error().as_str(), header(&got, "retry-after").as_str()), (LIMITED, "1"));
        assert_eq!(listed(&services, &secret).await.len(), 8, "a list is no work");
    };
    tokio::join!(running, meanwhile);
    assert_eq!(chat(&services, &secret, HI).await.status, 504, "its place is free again");
    services.jobs.close();
    let closed = chat(&services, &other, HI).await;
    assert_eq!((closed.status, header(&closed, "x-ratelimit-remaining-requests").as_str()), (503, "5"));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_get_in_is_told_before_the_body_is_there() {
    let (services, _) = guarded([KeyWish { budget_usd: BudgetWish::default(), ..KeyWish::default() }]).await;
    let endless = || Body::from_stream(stream::pending::<Result<bytes::Bytes, Infallible>>());
    for (name, value, patience) in [("x-other", "1", 1), ("expect", "100-continue", 0)] {
        let began = Instant::now();
        let got = got(&services, request(Method::POST, "/v1/chat/completions", endless(), (name, value))).await;
        assert_eq!((got.error().as_str(), began.elapsed()), (UNAUTHORIZED, Duration::from_secs(patience)));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_place_a_request_is_refused_by_its_head_and_low_keys_are_refused_first() {
    let wish = |priority| KeyWish { priority, ..KeyWish::default() };
    let (services, [low, normal]) = guarded([wish(Priority::Low), wish(Priority::Normal)]).await;
    let fill = |count: usize| {
        let request = || parse::chat(RequestId::random(), HI.as_bytes(), &HeaderMap::new(), &services.config).unwrap();
        let admit = || services.jobs.admit(request(), Arc::clone(&services.config), Instant::now()).unwrap();
        (0..count).map(|_| admit()).collect::<Vec<_>>()
    };
    let some = fill(6);
    // Two of the eight places are kept for keys above.
    assert_eq!(chat(&services, &low, HI).await.error(), LIMITED);
    assert_eq!(chat(&services, &normal, "{").await.error(), "400 invalid_request_error null null", "it was let in");
    let all = fill(2);
    let silent = Body::from_stream(stream::pending::<Result<bytes::Bytes, Infallible>>());
    let began = Instant::now();
    let asked = request(Method::POST, "/v1/messages", silent, ("x-api-key", normal.expose()));
    let got = got(&services, asked).await;
    assert_eq!((got.status, header(&got, "retry-after").as_str()), (429, "1"), "{}", got.json);
    assert_eq!(got.json["error"]["type"], "rate_limit_error", "in that API's form");
    assert!(began.elapsed() <= Duration::from_secs(1), "nobody waits for the body");
    assert_eq!(services.jobs.totals().refused, 2);
    drop((some, all));
    assert_eq!(chat(&services, &low, "{").await.status, 400);
}
