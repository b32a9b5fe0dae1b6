//! Several local targets: two of one model share the load and take each other's streams over; two of different models
//! are told apart by name.

use crate::support::{Ask, Gateway, History, Record, Setup, Status};
use std::{collections::BTreeSet, time::Duration};

const SOON: Duration = Duration::from_secs(20);

/// A second target of the same model, in an engine of its own.
fn two(parallel: u32) -> Setup {
    let second = format!(
        "[[local]]\nname = \"second\"\nmodel = \"smollm2-135m\"\ngpu = \"cpu\"\ncontext_tokens = 2048\nparallel = {parallel}\n"
    );
    Setup { extra: second, ..Setup::default().parallel(parallel) }
}

async fn both_warm(gateway: &Gateway) {
    let all = |status: &Status| status.gpus.len() == 2 && status.gpus.iter().all(|gpu| gpu.serving);
    gateway.until_status("both serve", Duration::from_secs(60), all).await;
}

fn attempts(record: &Record) -> Vec<(String, String)> {
    let attempts = record.routing.as_ref().unwrap()["attempts"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    attempts.iter().map(|attempt| (text(&attempt["target"]), text(&attempt["outcome"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_engine_dies_goes_on_at_the_other_warm_target_to_the_very_same_text() {
    let gateway = two(1).without_cloud().warm().await;
    let history = History::default();
    both_warm(&gateway).await;
    let asked = Ask::count().max_tokens(80).stream();
    let undisturbed = gateway.client.ask(&gateway.api, asked.clone()).await;
    undisturbed.assert_complete();
    for (how, after_pieces) in [("sigkill", 3), ("sigabrt", 20)] {
        let (pieces, mut heard) = tokio::sync::mpsc::channel(4096);
        let killing = async {
            for _ in 0..after_pieces {
                heard.recv().await.expect("the stream goes on");
            }
            let status = gateway.status().await;
            let working = status.gpus.iter().find(|gpu| gpu.leases == 1).expect("one of them works").name.clone();
            history.note(gateway.kill(&format!("gpu/{working}"), how).await);
            while heard.recv().await.is_some() {}
            working
        };
        let asking = gateway.client.ask_telling(&gateway.api, asked.clone(), Some(pieces));
        let (record, dead) = tokio::join!(asking, killing);
        let other = if dead == "local" { "second" } else { "local" };
        let went = attempts(&record);
        assert_eq!(went, [(dead, "engine_died".to_owned()), (other.to_owned(), "ok".to_owned())], "{how}");
        assert_eq!(record.assert_complete().text, undisturbed.text, "{how} after {after_pieces} pieces");
        assert_eq!(record.routing.as_ref().unwrap()["resumed"], "replay");
        assert_eq!(record.usage, undisturbed.usage);
        history.add(record);
        both_warm(&gateway).await;
    }
    history.add(undisturbed);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_targets_of_one_model_share_the_load_and_either_can_be_named() {
    let gateway = two(1).warm().await;
    let history = History::default();
    both_warm(&gateway).await;
    let ask = |asked: Ask| gateway.client.ask(&gateway.api, asked);
    let long = || Ask::count().max_tokens(60);
    let (one, other) = tokio::join!(ask(long()), ask(long()));
    let went: BTreeSet<String> = [&one, &other].map(|record| record.assert_complete().target().to_owned()).into();
    assert_eq!(went, BTreeSet::from(["local".to_owned(), "second".to_owned()]), "neither waits for the other");
    history.add(one);
    history.add(other);
    for name in ["local", "second"] {
        let named = ask(Ask::count().model(name)).await;
        if name == "second" {
            assert_eq!(named.assert_complete().target(), name);
        }
        history.add(named);
    }
    // One is gone: the other serves alone.
    let extra = gateway.kill("gpu/second", "sigstop").await;
    history.note(extra);
    let gone = |status: &Status| status.gpus.iter().any(|gpu| gpu.name == "second" && !gpu.serving);
    gateway.until_status("the second is gone", SOON, gone).await;
    let record = ask(Ask::count().local_only()).await;
    assert_eq!(record.assert_complete().target(), "local");
    history.add(record);
    gateway.finish(&history).await;
}

/// A conversation stays where its cache is while the other is as free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_stays_where_its_cache_is() {
    let gateway = two(2).without_cloud().warm().await;
    let history = History::default();
    both_warm(&gateway).await;
    let turn = |turns: &[&str]| {
        let roles = ["user", "assistant"].into_iter().cycle();
        let messages = roles.zip(turns).map(|(role, text)| serde_json::json!({"role": role, "content": text}));
        Ask::chat("").with("messages", messages.collect::<Vec<_>>())
    };
    let first = gateway.client.ask(&gateway.api, turn(&["Tell me of rivers and the towns beside them."])).await;
    let home = first.assert_complete().target().to_owned();
    let said = first.text.clone();
    history.add(first);
    for _ in 0..3 {
        let next = turn(&["Tell me of rivers and the towns beside them.", &said, "And of bridges?"]);
        let record = gateway.client.ask(&gateway.api, next).await;
        assert_eq!(record.assert_complete().target(), home);
        history.add(record);
    }
    gateway.finish(&history).await;
}
