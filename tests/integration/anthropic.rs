//! A provider that is spoken to in Anthropic's wire format, behind the same OpenAI API. The simulated one refuses what
//! Anthropic refuses, so every answer here also says that its request was fit to be sent.

use crate::support::{Ask, Gateway, History, Outcome, Record, Setup};
use reqwest::Method;
use serde_json::{Value, json};

/// Nano-dollars per token of the model `ok`, in and out.
const PRICE: u64 = 420;

async fn gateway() -> Gateway {
    Setup { wire: "anthropic", ..Setup::default() }.warm().await
}

async fn ask(gateway: &Gateway, history: &History, ask: Ask) -> Record {
    let record = gateway.client.ask(&gateway.api, ask).await;
    history.add(record.clone());
    record
}

/// A chat that asks much of a translation, answered by the provider.
fn rich() -> Ask {
    Ask::chat("Please analyze this.")
        .with(
            "messages",
            json!([
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello."},
                {"role": "assistant", "content": ""},
                {"role": "user", "content": [
                    {"type": "text", "text": "Please analyze this."},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]}
            ]),
        )
        .with("temperature", 1.7)
        .with("top_p", 0.9)
        .with("frequency_penalty", 0.5)
        .with("seed", 7)
        .with("user", "somebody")
        .with("stop", json!(["END"]))
        .with("x_unknown", true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chats_and_completions_are_answered_streamed_and_whole_and_billed_by_the_providers_count() {
    let gateway = gateway().await;
    let history = History::default();
    for asked in [Ask::hard().max_tokens(100), Ask::completion("Please analyze this.").max_tokens(100), rich()] {
        let mut texts = Vec::new();
        for asked in [asked.clone(), asked.stream()] {
            let record = ask(&gateway, &history, asked).await;
            record.assert_complete();
            assert_eq!(record.target(), "sim", "{record:#?}");
            assert_eq!(record.attempts(), 1, "{record:#?}");
            texts.push(record.text);
        }
        assert!(texts[0] == texts[1] && texts[0].starts_with("sim0-simulated sim1-"), "{texts:?}");
    }
    let capped = ask(&gateway, &history, Ask::hard().max_tokens(3)).await;
    assert_eq!(capped.finish_reason.as_deref(), Some("length"));
    assert_eq!(capped.usage.as_ref().unwrap()["completion_tokens"], 3);
    let stats = gateway.client.get_json(&format!("http://{}/sim/stats", gateway.cloud().addr)).await.unwrap();
    let books = gateway.client.get_json(&gateway.admin_url("/admin/usage")).await.unwrap();
    let row = &books["by_model"]["sim/ok"];
    for count in ["prompt_tokens", "completion_tokens"] {
        assert_eq!(row[count], stats[count], "{books} {stats}");
    }
    let tokens = stats["prompt_tokens"].as_u64().unwrap() + stats["completion_tokens"].as_u64().unwrap();
    assert_eq!(row["cost_nanousd"].as_u64(), Some(tokens * PRICE), "{books}");
    gateway.finish(&history).await;
}

fn with_tools(messages: Value, stream: bool) -> Value {
    json!({
        "model": "ok", "stream": stream, "messages": messages, "max_tokens": 100, "parallel_tool_calls": false,
        "tools": [{"type": "function", "function": {
            "name": "say", "description": "Says it.", "parameters": {"properties": {"text": {"type": "string"}}}}}]
    })
}

/// The message of an answer, put together from deltas if it came as a stream, and its finish_reason.
async fn message(gateway: &Gateway, body: &Value) -> (Value, String) {
    let (status, _, bytes) =
        gateway.client.send(Method::POST, &gateway.url("/v1/chat/completions"), body.to_string()).await;
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(status, 200, "{text}");
    if body["stream"] == false {
        let answer: Value = serde_json::from_str(&text).unwrap();
        let choice = &answer["choices"][0];
        return (choice["message"].clone(), choice["finish_reason"].as_str().unwrap().to_owned());
    }
    let (mut call, mut arguments, mut said, mut reason) = (Value::Null, String::new(), String::new(), String::new());
    for data in text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
        let chunk: Value = serde_json::from_str(data).unwrap();
        let choice = &chunk["choices"][0];
        said += choice["delta"]["content"].as_str().unwrap_or_default();
        reason += choice["finish_reason"].as_str().unwrap_or_default();
        for piece in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            assert_eq!(piece["index"], 0, "{piece}");
            if call.is_null() {
                call =
                    json!({"id": piece["id"], "type": piece["type"], "function": {"name": piece["function"]["name"]}});
            }
            arguments += piece["function"]["arguments"].as_str().unwrap();
        }
    }
    let mut message = json!({"role": "assistant", "content": if said.is_empty() { Value::Null } else { said.into() }});
    if !call.is_null() {
        call["function"]["arguments"] = arguments.into();
        message["tool_calls"] = json!([call]);
    }
    (message, reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_is_called_and_its_result_answered_streamed_and_whole() {
    let gateway = gateway().await;
    for stream in [true, false] {
        let user = json!({"role": "user", "content": "Say something."});
        let (called, reason) = message(&gateway, &with_tools(json!([user]), stream)).await;
        assert_eq!((reason.as_str(), &called["content"]), ("tool_calls", &Value::Null), "{called}");
        let call = &called["tool_calls"][0];
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("say")), "{called}");
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["text"].as_str().unwrap().starts_with("sim0-simulated sim1-"), "{arguments}");
        // The simulated provider checks that the result names the call it made.
        let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "said"});
        let (answer, reason) = message(&gateway, &with_tools(json!([user, called, result]), stream)).await;
        assert_eq!((reason.as_str(), answer.get("tool_calls")), ("stop", None), "{answer}");
        assert!(answer["content"].as_str().unwrap().starts_with("sim0-simulated"), "{answer}");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_goes_to_the_next_model_and_a_cut_stream_is_never_complete() {
    let gateway = gateway().await;
    let history = History::default();
    gateway.cloud().fault("ok", "error-529").await;
    let elsewhere = ask(&gateway, &history, Ask::hard()).await;
    elsewhere.assert_complete();
    assert_eq!(elsewhere.routing.as_ref().unwrap()["model"], "other", "{elsewhere:#?}");
    assert_eq!(elsewhere.attempts(), 2, "{elsewhere:#?}");
    for fault in ["cut-5", "sse-error", "truncate"] {
        gateway.cloud().fault("other", fault).await;
        let record = gateway.client.ask(&gateway.api, Ask::hard().model("other").max_tokens(100).stream()).await;
        assert!(matches!(record.outcome, Outcome::Error { .. }), "{fault}: {record:#?}");
        assert!(record.faults.is_empty() && record.finish_reason.is_none(), "{fault}: {record:#?}");
        assert!(record.text.starts_with("sim0-simulated"), "{fault}: {record:#?}");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_anthropic_has_no_words_for_is_refused_before_it_is_sent() {
    let gateway = gateway().await;
    for (field, value, said) in [
        ("n", json!(2), "n > 1"),
        ("logprobs", json!(true), "logprobs"),
        ("logit_bias", json!({"5": 1}), "logit_bias"),
        ("response_format", json!({"type": "json_object"}), "response_format of type json_object"),
        ("stop", json!(["\n"]), "white space"),
    ] {
        let record = gateway.client.ask(&gateway.api, Ask::hard().model("ok").with(field, value)).await;
        let Outcome::Error { status, kind, message, .. } = &record.outcome else { panic!("{field}: {record:#?}") };
        assert_eq!((*status, kind.as_str()), (400, "invalid_request_error"), "{field}");
        assert!(message.contains(said), "{field}: {message}");
    }
    let broken = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x.test"}}]}]);
    let record = gateway.client.ask(&gateway.api, Ask::hard().model("ok").with("messages", broken)).await;
    assert!(matches!(record.outcome, Outcome::Error { status: 400, .. }), "{record:#?}");
    assert!(gateway.cloud().arrived().await.is_empty(), "nothing was sent");
    let books = gateway.client.get_json(&gateway.admin_url("/admin/usage")).await.unwrap();
    assert_eq!(books["cost_nanousd"], 0, "and nothing charged: {books}");
    gateway.shutdown().await;
}
