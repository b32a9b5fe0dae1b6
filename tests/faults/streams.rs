//! F08 to F11 and F14: streams that are cut, stall or lie. No cut stream is ever shown as complete.

use super::{IMPATIENT, ask, both_answered_by, told, two_providers};
use crate::support::{Ask, Record, Setup, checks::continuity};
use spillway::sim::SimOptions;

/// Sixty tokens each.
fn long() -> SimOptions {
    SimOptions { tokens: 60, ..SimOptions::default() }
}

fn two_long() -> Setup {
    two_providers().cloud(long()).backup(long()).provider(IMPATIENT)
}

fn hard() -> Ask {
    Ask::hard().max_tokens(60)
}

/// What came is untorn, and no end was pretended.
fn assert_honest_cut(record: &Record, words: usize) {
    told(record);
    assert_eq!(record.finish_reason, None, "{record:#?}");
    assert_eq!(record.text.split_whitespace().count(), words, "{record:#?}");
    continuity("", &record.text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_a_stream_cut_at_40_of_60_tokens_is_never_shown_as_complete() {
    let gateway = two_long().start().await;
    gateway.cloud().fault("ok", "cut-40").await;
    assert_honest_cut(&ask(&gateway, hard().stream()).await, 40);
    // In one piece nothing was shown yet: the next target answers.
    let record = ask(&gateway, hard()).await;
    assert_eq!(record.assert_complete().target(), "backup");
    assert_eq!(record.text.split_whitespace().count(), 60);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_a_cut_stream_goes_on_where_a_prefix_is_honoured() {
    let setup = Setup { spare: "upstream = \"prefix-ok\"\nprefill_style = \"assistant\"\n".to_owned(), ..two_long() };
    let gateway = setup.start().await;
    for cut in ["cut-1", "cut-7", "cut-40", "cut-59"] {
        gateway.cloud().fault("ok", cut).await;
        let record = ask(&gateway, hard().stream()).await;
        record.assert_complete();
        continuity("", &record.text).unwrap_or_else(|what| panic!("{cut}: {what}"));
        assert_eq!(record.text.split_whitespace().count(), 60, "{cut}: {record:#?}");
        assert_eq!(record.attempts(), 2, "{cut}: {record:#?}");
        // A whole answer between two cuts, or the breaker would spare the provider.
        gateway.cloud().fault("ok", "ok").await;
        assert_eq!(ask(&gateway, hard()).await.assert_complete().target(), "sim");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f09_a_stalled_stream_is_cut_at_the_idle_limit_and_told() {
    let gateway = two_long().start().await;
    gateway.cloud().fault("ok", "stall-40").await;
    assert_honest_cut(&ask(&gateway, hard().stream()).await, 40);
    let record = ask(&gateway, hard()).await;
    assert_eq!(record.assert_complete().target(), "backup");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_a_malformed_chunk_is_a_failure_and_split_characters_are_not() {
    let gateway = two_long().start().await;
    gateway.cloud().fault("ok", "split-utf8").await;
    both_answered_by(&gateway, "sim").await;
    let record = ask(&gateway, hard().stream()).await;
    assert!(record.text.contains('🦀'), "{record:#?}");
    gateway.cloud().fault("ok", "malformed").await;
    assert_honest_cut(&ask(&gateway, hard().stream()).await, 5);
    let record = ask(&gateway, hard()).await;
    assert_eq!(record.assert_complete().target(), "backup");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_no_done_is_forgiven_after_a_finish_reason_only() {
    let gateway = two_long().start().await;
    gateway.cloud().fault("ok", "no-done").await;
    both_answered_by(&gateway, "sim").await;
    gateway.cloud().fault("ok", "truncate").await;
    assert_honest_cut(&ask(&gateway, hard().max_tokens(61).stream()).await, 60);
    let record = ask(&gateway, hard().stream()).await;
    assert_eq!(record.assert_complete().finish_reason.as_deref(), Some("length"), "it had reached its limit");
    assert_eq!(record.text.split_whitespace().count(), 60);
    let record = ask(&gateway, hard()).await;
    assert_eq!(record.assert_complete().target(), "backup");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f14_a_fallback_that_rejects_the_prefill_leaves_the_first_cause_to_be_read() {
    let setup =
        Setup { spare: "upstream = \"prefix-rejected\"\nprefill_style = \"assistant\"\n".to_owned(), ..two_long() };
    let gateway = setup.start().await;
    gateway.cloud().fault("ok", "cut-9").await;
    let record = ask(&gateway, hard().stream()).await;
    assert_honest_cut(&record, 9);
    let crate::support::Outcome::Error { message, .. } = &record.outcome else { panic!("{record:#?}") };
    assert!(message.contains("connection"), "the cut, not the rejected prefill: {message}");
    assert_eq!(gateway.backup().calls().await, 1, "it was tried");
    gateway.shutdown().await;
}
