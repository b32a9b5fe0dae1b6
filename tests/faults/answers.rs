//! F12, F13, F17: answers that refuse the request itself, and answers that are none.

use super::{IMPATIENT, ask, both_answered_by, told, two_providers};
use crate::support::{Ask, Setup};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_context_overflow_is_told_and_asked_at_no_target_of_the_same_size() {
    let gateway = two_providers().start().await;
    gateway.cloud().fault("ok", "context-length").await;
    for asked in [Ask::hard().model("ok"), Ask::hard(), Ask::hard().stream()] {
        let record = ask(&gateway, asked).await;
        assert_eq!(told(&record), (400, "context_length_exceeded".to_owned()));
    }
    assert_eq!((gateway.cloud().calls().await, gateway.backup().calls().await), (3, 0));
    assert_eq!(gateway.status().await.breaker("ok"), "passing", "the provider is well");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_context_overflow_goes_to_a_target_with_more_room() {
    let setup = Setup { spare: "context_tokens = 1000000\n".to_owned(), ..two_providers() };
    let gateway = setup.start().await;
    gateway.cloud().fault("*", "context-length").await;
    both_answered_by(&gateway, "backup").await;
    assert_eq!(gateway.cloud().calls().await, 2);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_a_content_filter_is_told_and_asked_nowhere_else() {
    let gateway = two_providers().start().await;
    gateway.cloud().fault("ok", "content-filter").await;
    for asked in [Ask::hard(), Ask::hard().stream()] {
        let record = ask(&gateway, asked).await;
        assert_eq!(told(&record), (400, "content_filter".to_owned()), "{record:#?}");
    }
    assert_eq!((gateway.cloud().calls().await, gateway.backup().calls().await), (2, 0));
    assert_eq!(gateway.status().await.breaker("ok"), "passing");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f17_a_200_that_is_no_answer_sends_the_request_on() {
    for fault in ["error-body", "html", "empty", "sse-error", "malformed"] {
        let gateway = two_providers().provider(IMPATIENT).start().await;
        gateway.cloud().fault("ok", fault).await;
        let record = ask(&gateway, Ask::hard()).await;
        assert_eq!(record.assert_complete().target(), "backup", "{fault}: {record:#?}");
        gateway.shutdown().await;
    }
    // Streams that had shown nothing yet.
    for fault in ["error-body", "html", "empty"] {
        let gateway = two_providers().provider(IMPATIENT).start().await;
        gateway.cloud().fault("ok", fault).await;
        both_answered_by(&gateway, "backup").await;
        gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f17_with_nobody_else_to_ask_it_is_a_clear_error() {
    for fault in ["error-body", "html", "empty", "sse-error"] {
        let gateway = Setup::default().without_local().provider(IMPATIENT).start().await;
        gateway.cloud().fault("*", fault).await;
        for asked in [Ask::hard(), Ask::hard().stream()] {
            let record = ask(&gateway, asked).await;
            let (status, _) = told(&record);
            let in_stream = record.stream && fault == "sse-error";
            assert!(matches!(status, 502 | 503) || in_stream && status == 200, "{fault}: {record:#?}");
        }
        gateway.shutdown().await;
    }
}
