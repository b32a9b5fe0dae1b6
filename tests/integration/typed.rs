//! Real answers, of the local engine and of a simulated provider, parse into the types that another project made of OpenAI's
//! own description.

use crate::support::{Gateway, Setup, setup::MODEL};
use async_openai::types::{
    chat::{CreateChatCompletionResponse, CreateChatCompletionStreamResponse},
    completions::CreateCompletionResponse,
    embeddings::CreateEmbeddingResponse,
    models::{ListModelResponse, Model},
    responses::{Response, ResponseStreamEvent},
};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const VECTORS: &str = "[[cloud.models]]\nname = \"vectors\"\nkind = \"embedding\"\nupstream = \"ok\"\n\
    input_usd_per_mtok = 0.02\n[[cloud.models]]\nname = \"texts\"\nkind = \"completion\"\nupstream = \"ok\"\n\
    input_usd_per_mtok = 0.02\noutput_usd_per_mtok = 0.02\n";

async fn sent(gateway: &Gateway, path: &str, body: &Value) -> String {
    let (status, _, bytes) = gateway.client.send(Method::POST, &gateway.url(path), body.to_string()).await;
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    assert_eq!(status, 200, "{path} {body}: {text}");
    text
}

fn parsed<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// An answer in one piece as `W`, and the events of the same answer streamed as `S`.
async fn both<W: DeserializeOwned, S: DeserializeOwned>(gateway: &Gateway, path: &str, body: Value) -> (W, Vec<S>) {
    let whole = parsed(&sent(gateway, path, &body).await);
    let mut streamed = body;
    streamed["stream"] = true.into();
    if path != "/v1/responses" {
        streamed["stream_options"] = json!({"include_usage": true});
    }
    let text = sent(gateway, path, &streamed).await;
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    (whole, data.map(parsed).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_parses_into_openais_types() {
    let gateway = Setup { ok: VECTORS.to_owned(), ..Setup::default() }.warm().await;
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
    for model in ["local", "ok"] {
        let messages = json!([{"role": "user", "content": "Say hello."}]);
        for extra in [
            json!({}),
            json!({"n": 2, "logprobs": true, "top_logprobs": 2}),
            json!({"tools": tools, "tool_choice": "required"}),
            json!({"response_format": {"type": "json_object"}}),
        ] {
            let mut body = json!({"model": model, "messages": messages, "max_tokens": 24});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let answers: (CreateChatCompletionResponse, Vec<CreateChatCompletionStreamResponse>) =
                both(&gateway, "/v1/chat/completions", body.clone()).await;
            assert_eq!(answers.0.choices.len(), body["n"].as_u64().unwrap_or(1) as usize);
            assert!(answers.1.last().is_some_and(|last| last.usage.is_some()));
        }
        let body = json!({"model": model, "input": "Say hello.", "max_output_tokens": 24});
        let answers: (Response, Vec<ResponseStreamEvent>) = both(&gateway, "/v1/responses", body).await;
        assert!(!answers.0.output.is_empty() && !answers.1.is_empty());
    }
    for (model, extra) in [
        ("local", json!({"logprobs": 2, "n": 2})),
        ("ok", json!({})),
        ("texts", json!({"echo": true, "suffix": "end", "logprobs": 1})),
    ] {
        let mut body = json!({"model": model, "prompt": "Once upon", "max_tokens": 5});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answers: (CreateCompletionResponse, Vec<CreateCompletionResponse>) =
            both(&gateway, "/v1/completions", body).await;
        assert!(!answers.0.choices.is_empty() && !answers.1.is_empty());
    }
    for model in [MODEL, "vectors"] {
        let vectors: CreateEmbeddingResponse =
            parsed(&sent(&gateway, "/v1/embeddings", &json!({"model": model, "input": ["a", "b"]})).await);
        assert_eq!(vectors.data.len(), 2);
    }
    let list = gateway.client.raw().get(gateway.url("/v1/models")).send().await.unwrap().text().await.unwrap();
    assert!(parsed::<ListModelResponse>(&list).data.iter().any(|model| model.id == "vectors"));
    let one = gateway.client.raw().get(gateway.url("/v1/models/ok")).send().await.unwrap().text().await.unwrap();
    assert_eq!(parsed::<Model>(&one).id, "ok");
    gateway.shutdown().await;
}
