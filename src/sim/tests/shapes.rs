use super::*;

/// The JSON of each event, `[DONE]` as a string.
async fn events(response: Response) -> Vec<Value> {
    let body = response.text().await.unwrap();
    let data = body.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
    data.map(|data| if data == "[DONE]" { data.into() } else { serde_json::from_str(data).unwrap() }).collect()
}

#[tokio::test]
async fn a_chat_stream_has_openais_shape() {
    let sim = sim(SimOptions { tokens: 2, ..SimOptions::default() }).await;
    for path in ["/v1/chat/completions", "/chat/completions"] {
        let response = sim.send(Method::POST, path, &ask("deepseek-v3.2", true)).await;
        for (header, value) in [
            ("x-spillway-simulated", "true"),
            ("x-request-id", "req_1"),
            ("content-type", "text/event-stream; charset=utf-8"),
        ] {
            assert_eq!(response.headers()[header], value);
        }
        let events = events(response).await;
        assert_eq!(events.len(), 6, "role, two tokens, finish, usage, [DONE]");
        let delta = |at: usize| &events[at]["choices"][0]["delta"];
        assert_eq!(delta(0), &json!({"role": "assistant", "content": "", "refusal": null}));
        assert_eq!(delta(1), &json!({"content": "sim0-simulated"}));
        assert!(delta(2)["content"].as_str().unwrap().starts_with(" sim1-"));
        assert_eq!(events[1]["choices"][0]["finish_reason"], Value::Null);
        assert_eq!(events[3]["choices"][0]["finish_reason"], "stop");
        assert_eq!((&events[4]["choices"], &events[4]["usage"]["completion_tokens"]), (&json!([]), &json!(2)));
        assert_eq!(events[5], "[DONE]");
        for event in &events[..5] {
            assert_eq!((&event["id"], &event["created"]), (&events[0]["id"], &events[0]["created"]));
            assert_eq!(event["object"], "chat.completion.chunk");
            assert_eq!((&event["model"], &event["system_fingerprint"]), (&json!("deepseek-v3.2"), &json!("simulated")));
            assert!(event.get("usage").is_some(), "null until the usage chunk");
        }
    }
}

#[tokio::test]
async fn usage_comes_in_streams_only_when_asked_for() {
    let sim = default_sim().await;
    let mut body = ask("ok", true);
    body["stream_options"] = Value::Null;
    let events = events(sim.send(Method::POST, "/v1/chat/completions", &body).await).await;
    assert!(events.iter().all(|event| event.get("usage").is_none()));
}

#[tokio::test]
async fn whole_answers_have_openais_shape_and_the_same_text_as_streams() {
    let sim = default_sim().await;
    let whole: Value = sim.send(Method::POST, "/v1/chat/completions", &ask("ok", false)).await.json().await.unwrap();
    assert_eq!((&whole["object"], &whole["usage"]["total_tokens"]), (&json!("chat.completion"), &json!(66)));
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert_words(text, 0, 60);
    assert_eq!(sim.seen(ask("ok", true)).await.text, text);
    let mut two = ask("ok", false);
    two["n"] = 2.into();
    let two: Value = sim.send(Method::POST, "/v1/chat/completions", &two).await.json().await.unwrap();
    assert_eq!((&two["choices"][1]["index"], &two["usage"]["completion_tokens"]), (&json!(1), &json!(120)));
}

#[tokio::test]
async fn text_completions_have_openais_shape() {
    let sim = sim(SimOptions { tokens: 2, ..SimOptions::default() }).await;
    let mut body = json!({"model": "ok", "prompt": "hello", "stream": true, "n": 2});
    let events = events(sim.send(Method::POST, "/v1/completions", &body).await).await;
    assert_eq!(events.len(), 7, "two tokens and a finish for each choice, [DONE]");
    assert_eq!(
        (&events[0]["object"], &events[0]["choices"][0]["text"]),
        (&json!("text_completion"), &json!("sim0-simulated"))
    );
    assert_eq!(events[1]["choices"][0]["index"], 1);
    body["stream"] = false.into();
    let whole: Value = sim.send(Method::POST, "/completions", &body).await.json().await.unwrap();
    assert!(whole["choices"][1]["text"].as_str().unwrap().starts_with("sim0-simulated sim1-"));
}

#[tokio::test]
async fn caps_end_an_answer_with_length() {
    let sim = default_sim().await;
    for (field, stream) in [("max_tokens", true), ("max_completion_tokens", false)] {
        let mut body = ask("ok", stream);
        body[field] = 3.into();
        let seen = sim.seen(body).await;
        assert_words(&seen.text, 0, 3);
        assert_eq!((seen.reason.as_deref(), seen.usage.unwrap().completion_tokens), (Some("length"), 3));
    }
}

#[tokio::test]
async fn models_are_listed_as_simulated() {
    let sim = default_sim().await;
    for path in ["/models", "/v1/models"] {
        let models = sim.get(path).await;
        let listed = models["data"].as_array().unwrap();
        assert!(listed.iter().all(|model| model["owned_by"] == "spillway-sim" && model["object"] == "model"));
        for id in listed.iter().map(|model| model["id"].as_str().unwrap()) {
            let real = ["deepseek-v3.2", "gpt-4.1", "claude-sonnet-4.5"].contains(&id);
            assert!(real || fault::Fault::named(id).is_some(), "{id}");
        }
    }
}

#[tokio::test]
async fn errors_have_openais_shape() {
    let sim = sim(SimOptions { api_key: Some("sk-right".into()), ..SimOptions::default() }).await;
    for (method, path, body, status) in [
        (Method::POST, "/v1/chat/completions", json!({"model": 7}), 400),
        (Method::POST, "/v1/chat/completions", ask("ok", false), 401),
        (Method::GET, "/v1/models", json!({}), 401),
        (Method::GET, "/nowhere", json!({}), 404),
        (Method::GET, "/v1/chat/completions", json!({}), 405),
        (Method::PUT, "/sim/faults", json!({"model": "m", "fault": "nonsense"}), 400),
    ] {
        let response = sim.send(method, path, &body).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["x-spillway-simulated"], "true");
        let error: Value = response.json().await.unwrap();
        assert_eq!(
            error["error"].as_object().unwrap().keys().collect::<Vec<_>>(),
            ["message", "type", "param", "code"]
        );
    }
    let url = format!("{}/v1/models", sim.url);
    assert_eq!(sim.client.get(url).bearer_auth("sk-right").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_was_served_is_on_record() {
    let sim = default_sim().await;
    let answer = sim.client.post(format!("{}/v1/chat/completions", sim.url)).bearer_auth("sk-0123456789abcd");
    answer.header("x-request-id", "req_9").json(&ask("gpt-4.1", true)).send().await.unwrap().bytes().await.unwrap();
    let mut record = sim.last_record().await;
    assert!(record["received_unix_ns"].take().as_u64().unwrap() > 1_700_000_000_000_000_000);
    assert_eq!(
        record,
        json!({
            "request_id": "req_9", "model": "gpt-4.1", "received_unix_ns": null, "prompt_tokens": 6, "stream": true,
            "key_tail": "abcd", "completion_tokens": 60, "status": 200, "outcome": "completed"
        })
    );
    sim.seen(ask("error-500", false)).await;
    assert_eq!(
        sim.get("/sim/stats").await,
        json!({
            "simulated": true, "requests": 2, "open": 0, "completed": 1, "client_gone": 0, "fault": 1,
            "prompt_tokens": 12, "completion_tokens": 60
        })
    );
    sim.send(Method::DELETE, "/sim/requests", &Value::Null).await;
    assert_eq!(sim.get("/sim/requests").await, json!([]));
    assert_eq!(sim.get("/sim/stats").await["requests"], 0);
}
