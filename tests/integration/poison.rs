//! F22: a prompt that ends the engine does so twice at most, whatever its request ids; the others of its batch go on,
//! local-only ones too. The engine dies of a marked prompt, as llama.cpp has died of prompts, because chaos lets it.

use crate::support::{Ask, Gateway, History, Outcome, Record, Setup, Status};
use spillway_actors::gpu::frame::CHAOS_POISON;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn poison() -> Ask {
    Ask::chat(&format!("Please read {CHAOS_POISON} aloud."))
}

fn assert_barred(record: &Record) {
    let Outcome::Error { status, code, message, .. } = &record.outcome else { panic!("a clear error: {record:#?}") };
    assert_eq!((*status, code.as_str()), (503, Some("local_only_unavailable")), "{record:#?}");
    assert!(message.contains("died of this prompt"), "{message}");
    assert!(record.headers.contains_key("retry-after"), "{record:#?}");
    assert_eq!(record.faults, Vec::<String>::new());
}

async fn ask(gateway: &Gateway, ask: Ask) -> Record {
    gateway.client.ask(&gateway.api, ask).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_a_prompt_that_was_alone_at_a_death_is_refused_at_once_from_then_on() {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    let before = gateway.gpu().await.epoch;
    for round in 0..3 {
        let asked = if round == 1 { poison().stream() } else { poison() };
        let record = ask(&gateway, asked.local_only()).await;
        assert_barred(&record);
        history.add(record);
    }
    let innocent = ask(&gateway, Ask::count().local_only()).await;
    assert_eq!(innocent.assert_complete().target(), "local");
    history.add(innocent);
    assert_eq!(gateway.gpu().await.epoch, before + 1, "one death in all");
    assert!(gateway.cloud().arrived().await.is_empty());
    gateway.assert_account(&history).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_who_may_leave_the_machine_is_answered_by_the_cloud() {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    let before = gateway.gpu().await.epoch;
    for attempts in [2, 1] {
        let record = ask(&gateway, poison()).await;
        assert_eq!(record.assert_complete().target(), "sim");
        assert_eq!(record.attempts(), attempts, "{record:#?}");
        history.add(record);
        gateway.until_serving().await;
    }
    assert_eq!(gateway.gpu().await.epoch, before + 1);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_the_others_of_its_batch_go_on_and_the_engine_dies_twice() {
    // One after the other, on a machine that may be busy.
    let setup = Setup { request_timeout: Duration::from_secs(85), ..Setup::default() };
    let gateway = setup.without_cloud().warm().await;
    let history = History::default();
    let before = gateway.gpu().await.epoch;
    let innocent = |at: usize| {
        let asked = Ask::count().max_tokens(60).with("seed", at);
        // Each is another prompt to the table, or they would all be one.
        let asked = asked.with("prompt", format!("{}{}", " ".repeat(at), crate::support::checks::COUNT));
        let asked = if at == 0 { asked } else { asked.local_only() };
        if at == 1 { asked } else { asked.stream() }
    };
    let mut asking = tokio::task::JoinSet::new();
    let mut send = |asked: Ask| {
        let (client, api, records) = (gateway.client.clone(), gateway.api.clone(), history.clone());
        asking.spawn(async move {
            let record = client.ask(&api, asked).await;
            records.add(record.clone());
            record
        });
    };
    (0..3).for_each(|at| send(innocent(at)));
    gateway.until_status("three in work", SOON, |status: &Status| status.leases == 3).await;
    send(poison().local_only());
    let records = asking.join_all().await;
    let (barred, answered): (Vec<Record>, Vec<Record>) = records.into_iter().partition(|record| !record.is_complete());
    assert_eq!((barred.len(), answered.len()), (1, 3), "{barred:#?}");
    assert_barred(&barred[0]);
    for record in &answered {
        assert_eq!(record.assert_complete().target(), "local");
        assert!(record.attempts() >= 2, "it was there at the first death: {record:#?}");
    }
    assert_eq!(gateway.gpu().await.epoch, before + 2, "once in a batch, once alone");
    // Another id, another client: the same prompt.
    let again = ask(&gateway, poison().with("user", "somebody else")).await;
    let Outcome::Error { message, .. } = &again.outcome else { panic!("a clear error: {again:#?}") };
    assert!(message.contains("died of this prompt"), "{message}");
    history.add(again);
    assert_eq!(gateway.gpu().await.epoch, before + 2);
    gateway.assert_account(&history).await;
    gateway.shutdown().await;
}

/// Being there when somebody else kills the engine is no guilt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_a_request_whose_engine_is_killed_from_outside_is_no_suspect() {
    let gateway = Setup::default().without_cloud().parallel(1).warm().await;
    let history = History::default();
    for how in ["sigkill", "sigabrt", "hang-decode"] {
        let asking = ask(&gateway, Ask::count().max_tokens(60).local_only());
        let killing = async {
            gateway.until_status("it has a lease", SOON, |status: &Status| status.leases == 1).await;
            gateway.kill("gpu/local", how).await
        };
        let (record, kill) = tokio::join!(asking, killing);
        history.note(kill);
        assert_eq!(record.assert_complete().attempts(), 2, "{how}: {record:#?}");
        history.add(record);
        gateway.until_serving().await;
    }
    gateway.finish(&history).await;
}
