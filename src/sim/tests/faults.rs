use super::*;

/// For answers that stop, and for those that never begin.
const NO_PAUSE: Timeouts = Timeouts { idle: Duration::from_millis(300), ..NEVER };
const NO_DELAY: Timeouts =
    Timeouts { first_byte: Duration::from_millis(100), first_byte_unstreamed: Duration::from_millis(100), ..NEVER };
const NEVER: Timeouts = Timeouts {
    connect: LONG,
    first_byte: LONG,
    first_byte_unstreamed: LONG,
    first_token: None,
    idle: LONG,
    tail: LONG,
};

#[tokio::test]
async fn an_unknown_model_answers_in_full_either_way() {
    let sim = default_sim().await;
    for stream in [true, false] {
        let seen = sim.seen(ask("deepseek-v3.2", stream)).await;
        assert_words(&seen.text, 0, 60);
        assert_eq!((seen.reason.as_deref(), seen.usage.unwrap().completion_tokens), (Some("stop"), 60));
        assert_eq!(seen.error, None);
    }
}

#[tokio::test]
async fn statuses_are_what_the_name_says() {
    let sim = default_sim().await;
    for (model, kind, retry_after) in [
        ("error-500", ErrorKind::Upstream, None),
        ("error-503", ErrorKind::Upstream, None),
        ("429", ErrorKind::RateLimited, None),
        ("gpt-4.1-429-2", ErrorKind::RateLimited, Some(2)),
        ("context-length", ErrorKind::ContextLengthExceeded, None),
        ("content-filter", ErrorKind::ContentFilter, None),
        ("401", ErrorKind::Unauthorized, None),
        ("402", ErrorKind::InsufficientQuota, None),
        ("403", ErrorKind::Forbidden, None),
    ] {
        for stream in [true, false] {
            let error = sim.seen(ask(model, stream)).await.error.unwrap();
            assert_eq!((error.kind, error.retry_after), (kind, retry_after.map(Duration::from_secs)), "{model}");
        }
        assert_eq!(sim.last_record().await["outcome"], "fault");
    }
}

#[tokio::test]
async fn counted_faults_end() {
    let sim = default_sim().await;
    let mut kinds = Vec::new();
    for model in ["error-500-2", "error-500-2", "error-500-2", "429-once", "429-once"] {
        kinds.push(sim.seen(ask(model, true)).await.kind());
    }
    let failed = Some(ErrorKind::Upstream);
    assert_eq!(kinds, [failed, failed, None, Some(ErrorKind::RateLimited), None]);
}

#[tokio::test]
async fn streams_break_after_their_count() {
    let sim = default_sim().await;
    for (model, tokens, outcome) in [
        ("cut-40", 40, Some("fault")),
        ("x-cut-7", 7, Some("fault")),
        ("sse-error", 5, Some("fault")),
        ("truncate", 60, Some("fault")),
        ("stall-9", 9, Some("client_gone")),
        // The rest follows, unless the client is faster to leave.
        ("malformed", 5, None),
    ] {
        let limits = if model.starts_with("stall") { NO_PAUSE } else { Timeouts::default() };
        let seen = sim.seen_with(ask(model, true), limits).await;
        assert_words(&seen.text, 0, tokens);
        assert_eq!((seen.kind(), seen.reason), (Some(ErrorKind::Upstream), None), "{model}");
        let record = sim.last_record().await;
        if let Some(outcome) = outcome {
            assert_eq!(
                (&record["outcome"], &record["completion_tokens"]),
                (&json!(outcome), &json!(tokens)),
                "{model}"
            );
        }
    }
}

#[tokio::test]
async fn a_cut_is_a_tcp_reset_and_loses_nothing_before_it() {
    let sim = default_sim().await;
    let mut response = sim.send(Method::POST, "/v1/chat/completions", &ask("cut-40", true)).await;
    let error = loop {
        match response.chunk().await {
            Ok(piece) => assert!(piece.is_some(), "the stream ended in order"),
            Err(error) => break error,
        }
    };
    assert!(format!("{error:?}").contains("ConnectionReset"), "{error:?}");
}

#[tokio::test]
async fn whole_answers_break_in_their_middle() {
    let sim = default_sim().await;
    for model in ["cut-40", "stall", "malformed", "truncate"] {
        let limits = if model == "stall" { NO_PAUSE } else { Timeouts::default() };
        let seen = sim.seen_with(ask(model, false), limits).await;
        assert_eq!(seen.kind(), Some(ErrorKind::Upstream), "{model}");
    }
}

#[tokio::test]
async fn hang_and_reset_never_answer() {
    let sim = default_sim().await;
    for stream in [true, false] {
        assert_eq!(sim.seen_with(ask("hang", stream), NO_DELAY).await.kind(), Some(ErrorKind::Upstream));
        assert_eq!(sim.last_record().await["outcome"], "client_gone");
        let reset = sim.seen(ask("reset", stream)).await.error.unwrap();
        assert!(reset.message.contains("connection reset"), "{reset}");
        assert_eq!(sim.last_record().await["outcome"], "fault");
    }
}

#[tokio::test]
async fn a_200_may_be_no_answer() {
    let sim = default_sim().await;
    for model in ["error-body", "html", "empty"] {
        for stream in [true, false] {
            assert_eq!(sim.seen(ask(model, stream)).await.kind(), Some(ErrorKind::Upstream), "{model}");
            assert_eq!(sim.last_record().await["status"], 200);
        }
    }
}

#[tokio::test]
async fn untidy_streams_are_complete() {
    let sim = default_sim().await;
    for model in ["no-done", "no-usage", "split-utf8"] {
        let seen = sim.seen(ask(model, true)).await;
        assert_words(&seen.text, 0, 60);
        assert_eq!((seen.error, seen.pieces, seen.reason.as_deref()), (None, 60, Some("stop")), "{model}");
        assert_eq!(seen.usage.is_none(), model == "no-usage", "{model}");
        assert_eq!(seen.text.matches("é日🦀").count(), if model == "split-utf8" { 59 } else { 0 });
    }
    assert_eq!(sim.seen(ask("no-usage", false)).await.usage, None);
}

#[tokio::test]
async fn characters_are_split_between_packets() {
    let sim = default_sim().await;
    let mut response = sim.send(Method::POST, "/v1/chat/completions", &ask("split-utf8", true)).await;
    let mut split = 0;
    while let Some(piece) = response.chunk().await.unwrap() {
        split += usize::from(std::str::from_utf8(&piece).is_err_and(|error| error.error_len().is_none()));
    }
    assert!(split > 0, "no packet ended inside a character");
}

#[tokio::test]
async fn a_prefix_is_continued_ignored_or_rejected() {
    let sim = default_sim().await;
    let whole = sim.seen(ask("prefix-ok", true)).await.text;
    let prefix: String = whole.split_inclusive(' ').take(40).collect::<String>().trim_end().into();
    let continued = |model: &str| {
        let mut body = ask(model, true);
        body["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": prefix}));
        body
    };
    assert_eq!(prefix.clone() + &sim.seen(continued("prefix-ok")).await.text, whole);
    for model in ["prefix-ignored", "ok"] {
        assert_words(&sim.seen(continued(model)).await.text, 0, 60);
    }
    assert_eq!(sim.seen(continued("prefix-rejected")).await.kind(), Some(ErrorKind::InvalidRequest));
    assert_eq!(sim.seen(ask("prefix-rejected", true)).await.kind(), None);
}

#[tokio::test]
async fn slowness_is_before_the_first_token_and_between_tokens() {
    let sim = sim(SimOptions { tokens: 11, tokens_per_second: Some(100.0), ..SimOptions::default() }).await;
    for (stream, least) in [(true, 250), (false, 260)] {
        let started = Instant::now();
        assert_eq!(sim.seen(ask("slow-150", stream)).await.kind(), None);
        assert!(started.elapsed() >= Duration::from_millis(least), "{stream} {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let sim = sim(SimOptions { tokens_per_second: Some(20.0), tokens: 100_000, ..SimOptions::default() }).await;
    let mut response = sim.send(Method::POST, "/v1/chat/completions", &ask("ok", true)).await;
    response.chunk().await.unwrap();
    assert_eq!(sim.get("/sim/stats").await["open"], 1);
    drop(response);
    let record = sim.last_record().await;
    assert_eq!((&record["outcome"], &record["status"]), (&json!("client_gone"), &json!(200)));
    assert!(record["completion_tokens"].as_u64().unwrap() < 1000);
}

#[tokio::test]
async fn faults_are_set_and_cleared_at_run_time() {
    let sim = default_sim().await;
    let set = json!({"model": "deepseek-v3.2", "fault": "error-503"});
    assert_eq!(sim.send(Method::PUT, "/sim/faults", &set).await.status(), 204);
    assert_eq!(sim.get("/sim/faults").await, json!({"deepseek-v3.2": "error-503"}));
    assert_eq!(sim.seen(ask("deepseek-v3.2", true)).await.kind(), Some(ErrorKind::Upstream));
    assert_eq!(sim.seen(ask("gpt-4.1", true)).await.kind(), None);
    assert_eq!(sim.send(Method::DELETE, "/sim/faults", &Value::Null).await.status(), 204);
    assert_eq!(sim.seen(ask("deepseek-v3.2", true)).await.kind(), None);
}

#[tokio::test]
async fn shutdown_ends_what_would_never_end() {
    let sim = default_sim().await;
    let mut response = sim.send(Method::POST, "/v1/chat/completions", &ask("stall", true)).await;
    response.chunk().await.unwrap();
    sim.stop().await;
    while let Ok(Some(_)) = response.chunk().await {}
}
