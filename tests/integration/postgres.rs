//! A whole gateway whose ledger is a PostgreSQL database.

use crate::support::{Ask, Folder, Gateway, History, Setup, postgres::Postgres};
use serde_json::Value;

async fn gateway(server: &Postgres, folder: &Folder) -> Gateway {
    let journal = folder.path().join("journal");
    let ledger = format!("url = \"{}\"\njournal_dir = \"{}\"\n", server.url(), journal.display());
    Setup::default().ledger(ledger).warm().await
}

async fn attempts(gateway: &Gateway) -> Vec<Value> {
    let page = gateway.client.get_json(&gateway.admin_url("/admin/usage/attempts")).await.expect("a page of attempts");
    page["attempts"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_spent_is_in_postgresql_after_a_restart() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else {
        eprintln!("PostgreSQL is not installed here: nothing was tested (scripts/deps.sh test installs it)");
        return;
    };
    let folder = Folder::new().expect("a temporary folder");
    let first = gateway(&server, &folder).await;
    let history = History::default();
    for ask in [Ask::hard().max_tokens(5), Ask::hard().max_tokens(5).stream(), Ask::count().max_tokens(2)] {
        let record = first.client.ask(&first.api, ask).await;
        record.assert_complete();
        history.add(record);
    }
    first.finish(&history).await;
    let second = gateway(&server, &folder).await;
    let kept = attempts(&second).await;
    let targets: Vec<&str> = kept.iter().filter_map(|attempt| attempt["target"].as_str()).collect();
    assert_eq!(targets, ["sim", "sim", "local"], "{kept:?}");
    let cost: u64 = kept.iter().filter_map(|attempt| attempt["cost"].as_u64()).sum();
    assert!(cost > 0, "{kept:?}");
    let history = History::default();
    history.add(second.client.ask(&second.api, Ask::hard().max_tokens(5)).await.assert_complete().clone());
    second.finish(&history).await;
}
