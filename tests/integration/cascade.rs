//! The cascade: a poor local answer goes one tier up before its client has seen any of it, and the client is never worse
//! off for it. What is made poor here is cut by a tiny default limit, which is the same every time.

use crate::support::{Ask, Gateway, History, Record, Setup, accounts::Books};
use serde_json::json;

const ON: &str = "[router.cascade]\nenabled = true\n";

/// A local target whose answers without a limit of their own end after so many tokens.
fn cut_after(tokens: u32, extra: &str) -> Setup {
    let local_extra = format!("[local.defaults]\nmax_tokens = {tokens}\n");
    Setup { local_extra, ..Setup::default().extra(extra) }
}

/// An easy request without max_tokens.
fn open() -> Ask {
    let mut ask = Ask::chat("Tell me a story");
    ask.body.as_object_mut().unwrap().remove("max_tokens");
    ask
}

async fn ask(gateway: &Gateway, ask: Ask) -> Record {
    let record = gateway.client.ask(&gateway.api, ask).await;
    record.assert_complete();
    record
}

fn outcomes(record: &Record) -> Vec<(&str, &str)> {
    let attempts = record.routing.as_ref().unwrap()["attempts"].as_array().unwrap();
    attempts.iter().map(|one| (one["target"].as_str().unwrap(), one["outcome"].as_str().unwrap())).collect()
}

const ESCALATED: [(&str, &str); 2] = [("local", "poor"), ("sim", "ok")];

async fn counted(gateway: &Gateway, reason: &str, outcome: &str) -> bool {
    let url = gateway.admin_url("/metrics");
    let (_, _, text) = gateway.client.send(reqwest::Method::GET, &url, "").await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line =
        |line: &str| line.contains("spillway_cascades_total{") && line.contains(reason) && line.contains(outcome);
    text.lines().any(line)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_answer_cut_by_the_default_limit_is_answered_one_tier_up() {
    let gateway = cut_after(4, ON).warm().await;
    let (history, mut books) = (History::default(), Books::default());
    for asked in [open(), open().stream()] {
        let record = ask(&gateway, asked).await;
        assert_eq!(outcomes(&record), ESCALATED);
        let routing = record.routing.as_ref().unwrap();
        assert_eq!((record.target(), &routing["complexity"]), ("sim", &json!("moderate")));
        assert!(record.text.starts_with("sim0-"), "nothing of the poor answer is shown: {record:#?}");
        assert!(routing["attempts"][0]["completion_tokens"].as_u64().unwrap() > 0);
        history.add(record.clone());
        books.client(record);
    }
    books.read_ledger(&gateway).await;
    books.read_provider(gateway.cloud().arrived().await);
    assert_eq!(books.outcomes("local"), ["poor", "poor"]);
    let found = books.compare();
    assert_eq!((found.difference, found.token_difference, found.counted), (0, 0, 2), "{found:#?}");
    assert!(counted(&gateway, "truncated", "escalated").await);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nothing_better_the_client_gets_the_local_answer_whole() {
    let gateway = cut_after(4, ON).warm().await;
    let history = History::default();
    let undisturbed = ask(&gateway, open().local_only()).await;
    assert_eq!(outcomes(&undisturbed), [("local", "ok")], "local-only requests are never escalated");
    gateway.cloud().fault("*", "error-503").await;
    for asked in [open(), open().stream()] {
        let record = ask(&gateway, asked).await;
        assert_eq!((record.target(), &record.text), ("local", &undisturbed.text));
        assert_eq!(record.finish_reason.as_deref(), Some("length"));
        assert_eq!(outcomes(&record)[0], ("local", "poor"));
        assert!(outcomes(&record).len() > 1, "the cloud was asked: {record:#?}");
        assert_eq!(record.usage.as_ref().unwrap()["completion_tokens"], 4);
        history.add(record);
    }
    assert!(counted(&gateway, "truncated", "kept").await);
    history.add(undisturbed);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_outgrew_its_hold_back_is_never_escalated() {
    let gateway = cut_after(12, "[router.cascade]\nenabled = true\nhold_back_tokens = 6\n").warm().await;
    let streamed = ask(&gateway, open().stream()).await;
    assert_eq!(outcomes(&streamed), [("local", "ok")]);
    assert_eq!(streamed.finish_reason.as_deref(), Some("length"));
    let whole = ask(&gateway, open()).await;
    assert_eq!(outcomes(&whole), ESCALATED, "an answer in one piece is held back to its end");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sets_a_limit_names_a_model_or_saves_money_gets_the_local_answer() {
    let gateway = cut_after(4, ON).warm().await;
    let asks = [open().max_tokens(4), open().model("local"), open().with("budget_sensitive", true)];
    for asked in asks {
        assert_eq!(outcomes(&ask(&gateway, asked).await), [("local", "ok")]);
    }
    assert_eq!(gateway.cloud().calls().await, 0);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_unlikely_to_its_own_model_is_escalated_where_that_is_looked_at() {
    let unsure = |least: &str| Setup::default().extra(&format!("{ON}min_mean_logprob = {least}\n"));
    let gateway = unsure("-0.000001").warm().await;
    let record = ask(&gateway, Ask::chat("Tell me a story").max_tokens(6)).await;
    assert_eq!(outcomes(&record), ESCALATED);
    assert!(counted(&gateway, "unsure", "escalated").await);
    gateway.shutdown().await;
    let gateway = unsure("-50").warm().await;
    let record = ask(&gateway, Ask::chat("Tell me a story").max_tokens(6)).await;
    assert_eq!(outcomes(&record), [("local", "ok")]);
    assert_eq!(
        record.body.as_ref().unwrap()["choices"][0]["logprobs"],
        serde_json::Value::Null,
        "nobody asked for them"
    );
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cascade_is_off_by_default() {
    let gateway = cut_after(4, "").warm().await;
    for asked in [open(), open().stream()] {
        let record = ask(&gateway, asked).await;
        assert_eq!((outcomes(&record), record.finish_reason.as_deref()), (vec![("local", "ok")], Some("length")));
    }
    gateway.shutdown().await;
}
