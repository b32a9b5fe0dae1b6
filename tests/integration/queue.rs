//! The queue for leases: drained to the cloud in order of admission when the GPU dies, and kept when RouterActor dies.

use crate::support::{Ask, Gateway, History, Setup, Status};
use std::{collections::BTreeSet, time::Duration};
use tokio::task::JoinSet;

const QUEUED: u64 = 8;

/// One long local stream in work and [`QUEUED`] whole answers behind it, one after the other.
async fn fill(gateway: &Gateway, history: &History) -> (JoinSet<()>, JoinSet<(u64, String)>) {
    let mut first = JoinSet::new();
    let (client, api, records) = (gateway.client.clone(), gateway.api.clone(), history.clone());
    first.spawn(async move {
        let ask = Ask::count().model("local").max_tokens(150).stream();
        records.add(client.ask(&api, ask).await);
    });
    gateway.until_status("the first is in work", Duration::from_secs(10), |status| status.leases == 1).await;
    let mut queued = JoinSet::new();
    for number in 0..QUEUED {
        let (client, api, history) = (gateway.client.clone(), gateway.api.clone(), history.clone());
        queued.spawn(async move {
            let record = client.ask(&api, Ask::count().max_tokens(4)).await;
            let id = record.id.clone().unwrap_or_default();
            history.add(record);
            (number, id)
        });
        let waits = |status: &Status| status.queue == Some(number + 1);
        gateway.until_status("it waits", Duration::from_secs(10), waits).await;
    }
    (first, queued)
}

/// Ids in order of admission.
async fn ids(queued: JoinSet<(u64, String)>) -> Vec<String> {
    let mut ids = queued.join_all().await;
    ids.sort_unstable();
    ids.into_iter().map(|(_, id)| id).collect()
}

async fn drains_to_the_cloud(how: &str) {
    let gateway = Setup { log: "info,spillway_actors=debug".to_owned(), ..Setup::default() }.parallel(1).warm().await;
    let history = History::default();
    let (first, queued) = fill(&gateway, &history).await;
    let kill = gateway.kill("gpu/local", how).await;
    history.note(kill.clone());
    let admitted = ids(queued).await;
    first.join_all().await;
    let arrived = gateway.cloud().arrived().await;
    let seen: BTreeSet<&str> = arrived.iter().map(|arrived| arrived.request_id.as_str()).collect();
    assert_eq!(arrived.len(), admitted.len(), "every queued request went to the cloud, once:\n{}", gateway.log_tail());
    assert!(admitted.iter().all(|id| seen.contains(id.as_str())), "{admitted:?} {arrived:?}");
    // On their separate connections neighbours may overtake each other; the decisions fell in order.
    let decided: Vec<String> = gateway.decided("sim");
    assert_eq!(decided, admitted);
    for arrived in &arrived {
        let after = Duration::from_nanos(arrived.received_unix_ns.saturating_sub(kill.unix_ns));
        assert!(after < Duration::from_secs(1), "at once, not after {after:?}");
    }
    gateway.until_serving().await;
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_goes_to_the_cloud_in_order_of_admission_when_the_engine_dies() {
    drains_to_the_cloud("sigkill").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_goes_to_the_cloud_in_order_of_admission_when_the_gpu_actor_dies() {
    drains_to_the_cloud("kill").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_outlives_the_router() {
    // However slow the machine, nobody spills, for a bound or for a deadline in sight: this is about the queue.
    let long = Duration::from_secs(3600);
    let patient = Setup { max_latency: long, request_timeout: long, ..Setup::default() };
    let gateway = patient.parallel(1).warm().await;
    let history = History::default();
    let (first, queued) = fill(&gateway, &history).await;
    for how in ["kill", "panic"] {
        let restarts = gateway.actor("router").await.restarts;
        history.note(gateway.kill("router", how).await);
        gateway.until_restarted("router", restarts).await;
    }
    let admitted = ids(queued).await;
    first.join_all().await;
    assert_eq!(admitted.len() as u64, QUEUED);
    for record in history.records() {
        assert_eq!(record.assert_complete().target(), "local", "the queue stayed where it was");
    }
    let mut ended: Vec<_> = history.records();
    ended.sort_by_key(|record| record.ended_ns);
    let order: Vec<String> = ended.iter().filter_map(|record| record.id.clone()).skip(1).collect();
    assert_eq!(order, admitted, "and its order too");
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_longer_than_the_latency_bound_spills_to_the_cloud() {
    let setup = Setup { max_latency: Duration::from_millis(1500), ..Setup::default().parallel(1) };
    let gateway = setup.warm().await;
    let history = History::default();
    // A few answers teach the gateway how long one takes.
    for _ in 0..3 {
        let record = gateway.client.ask(&gateway.api, Ask::count().model("local").max_tokens(40)).await;
        record.assert_complete();
        history.add(record);
    }
    let mut asking = JoinSet::new();
    for _ in 0..24 {
        let (client, api) = (gateway.client.clone(), gateway.api.clone());
        asking.spawn(async move { client.ask(&api, Ask::count().max_tokens(40)).await });
    }
    let records = asking.join_all().await;
    let spilled = records.iter().filter(|record| record.assert_complete().target() == "sim").count();
    assert!((1..24).contains(&spilled), "some stay, some spill: {spilled} of 24");
    records.into_iter().for_each(|record| history.add(record));
    gateway.finish(&history).await;
}
