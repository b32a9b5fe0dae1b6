//! F27: what a budget admits, and what is left when it is spent.

use super::{ask, told};
use crate::support::{Ask, Client, Gateway, Outcome, Record, Setup, cloud::Cloud};
use serde_json::Value;
use spillway::sim::SimOptions;
use tokio::task::JoinSet;

const REQUESTS: usize = 1000;

/// A gateway with a provider `dear` whose every answer is one token of ten cents.
async fn dear(budget: &str) -> Gateway {
    let cloud = Cloud::start(SimOptions { tokens: 1, ..SimOptions::default() }).await;
    let dear = format!(
        "[[cloud]]\nname = \"dear\"\nbase_url = \"{}\"\napi_keys_env = [\"{}\"]\nactors = 2\nmax_concurrency = 2000\n\
         [[cloud.models]]\nname = \"dear-ok\"\nupstream = \"ok\"\ninput_usd_per_mtok = 0\noutput_usd_per_mtok = 100000\n",
        cloud.base_url(),
        crate::support::setup::KEY_VAR
    );
    let setup = Setup { max_inflight: 2000, ..Setup::default().without_local().extra(&dear) };
    Gateway::start(&setup.ledger(format!("url = \"memory:\"\n{budget}\n")), Some(cloud), None).await
}

fn ten_cents() -> Ask {
    Ask::chat("One word, please.").model("dear-ok").max_tokens(1)
}

async fn all_at_once(client: &Client, api: &str) -> Vec<Record> {
    let mut asking = JoinSet::new();
    for number in 0..REQUESTS {
        let (client, api) = (client.clone(), api.to_owned());
        let asked = if number % 2 == 0 { ten_cents() } else { ten_cents().stream() };
        asking.spawn(async move { client.ask(&api, asked).await });
    }
    asking.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_of_a_thousand_concurrent_requests_of_ten_cents_five_dollars_admit_exactly_fifty() {
    let gateway = dear("budget_usd_per_day = 5").await;
    let records = all_at_once(&gateway.client, &gateway.api).await;
    let (complete, refused): (Vec<&Record>, Vec<&Record>) = records.iter().partition(|record| record.is_complete());
    assert_eq!((complete.len(), refused.len()), (50, REQUESTS - 50));
    for record in &refused {
        assert_eq!(told(record), (429, "insufficient_quota".to_owned()), "{record:#?}");
        assert!(!record.headers.contains_key("retry-after"), "a spent budget must not be asked again: {record:#?}");
    }
    assert_eq!(gateway.cloud().calls().await, 50, "the provider saw no more");
    let status = gateway.client.get_json(&gateway.admin_url("/admin/status")).await.unwrap();
    let day = &status["ledger"]["budget"]["day"];
    let five = Value::from(5_000_000_000_u64);
    assert_eq!((&day["posted_nanousd"], &day["reserved_nanousd"]), (&five, &Value::from(0)), "{status}");
    assert_eq!(gateway.metric("spillway_budget_remaining_ratio{key_group=\"all\"}").await, Some(0.0));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_a_request_that_no_budget_covers_is_refused_before_anything_is_sent() {
    let gateway = dear("budget_usd_per_month = 0.25").await;
    for asked in [ten_cents().max_tokens(3), ten_cents().max_tokens(3).stream()] {
        let record = ask(&gateway, asked).await;
        assert_eq!(told(&record), (429, "insufficient_quota".to_owned()), "thirty cents of twenty-five");
    }
    ask(&gateway, ten_cents()).await.assert_complete();
    ask(&gateway, ten_cents()).await.assert_complete();
    assert_eq!(told(&ask(&gateway, ten_cents()).await).0, 429, "five cents are left");
    assert_eq!(gateway.cloud().calls().await, 2);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_a_spent_budget_leaves_the_local_target() {
    let setup = Setup::default().ledger("url = \"memory:\"\nbudget_usd_per_day = 0.00001\n");
    let gateway = setup.warm().await;
    let mut by_cloud = 0;
    for _ in 0..12 {
        let record = ask(&gateway, Ask::hard()).await;
        by_cloud += usize::from(record.assert_complete().target() == "sim");
    }
    assert!(by_cloud < 12, "hard requests go to the cloud while there is money");
    let record = ask(&gateway, Ask::hard().stream()).await;
    assert_eq!(record.assert_complete().target(), "local");
    let record = ask(&gateway, Ask::hard().model("ok")).await;
    let Outcome::Error { status, kind, .. } = &record.outcome else { panic!("{record:#?}") };
    assert_eq!((*status, kind.as_str()), (429, "insufficient_quota"));
    gateway.shutdown().await;
}
