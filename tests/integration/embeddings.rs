//! `/v1/embeddings`, locally by the default model and in the cloud by a simulated provider.

use crate::support::{Ask, Gateway, History, Setup, checks, setup::MODEL};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// The one model that has a price for vectors.
const VECTORS: &str = "[[cloud.models]]\nname = \"vectors\"\nkind = \"embedding\"\nupstream = \"ok\"\n\
    input_usd_per_mtok = 0.02\ncontext_tokens = 64\n";

async fn embed(gateway: &Gateway, body: Value) -> (u16, Value) {
    embed_at(gateway, "/v1/embeddings", body).await
}

async fn embed_at(gateway: &Gateway, path: &str, body: Value) -> (u16, Value) {
    let (status, headers, bytes) = gateway.client.send(Method::POST, &gateway.url(path), body.to_string()).await;
    let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
    if status == 200 {
        assert!(headers.contains_key("x-request-id") && headers.contains_key("x-spillway-target"), "{headers:?}");
    } else {
        checks::error_object(&answer).unwrap();
    }
    (status, answer)
}

async fn vectors(gateway: &Gateway, input: Value) -> Vec<Vec<f64>> {
    let (status, answer) = embed(gateway, json!({"input": input})).await;
    assert_eq!(status, 200, "{answer}");
    vectors_of(&answer)
}

fn vectors_of(answer: &Value) -> Vec<Vec<f64>> {
    let data = answer["data"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let vector = |(at, datum): (usize, &Value)| {
        assert_eq!((&datum["index"], &datum["object"]), (&json!(at), &json!("embedding")));
        match &datum["embedding"] {
            Value::String(coded) => floats(coded),
            numbers => numbers.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect(),
        }
    };
    data.iter().enumerate().map(vector).collect()
}

fn floats(coded: &str) -> Vec<f64> {
    let bytes = BASE64_STANDARD.decode(coded).unwrap();
    bytes.chunks_exact(4).map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap()))).collect()
}

/// Of vectors of length 1.
fn cosine(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

fn assert_same(one: &[f64], other: &[f64], what: &str) {
    assert_within(1e-4, one, other, what);
}

fn assert_within(bound: f64, one: &[f64], other: &[f64], what: &str) {
    let (same, distance) = (cosine(one, other), one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max));
    assert!(same > 1.0 - bound && distance < 1e-2, "{what}: cosine {same}, largest difference {distance}");
}

const TEXTS: [&str; 4] = [
    "The cat sat quietly on the warm mat.",
    "A kitten was sitting on the warm rug.",
    "The central bank raised its interest rates by half a point.",
    "She opened the window, because the room was full of smoke and the children were coughing.",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_has_the_same_vector_alone_in_a_batch_and_in_either_form_and_alike_texts_are_near() {
    let gateway = Setup::default().without_cloud().warm().await;
    let together = vectors(&gateway, json!(TEXTS)).await;
    let mut lengths = Vec::new();
    for (text, in_batch) in TEXTS.iter().zip(&together) {
        assert!((cosine(in_batch, in_batch) - 1.0).abs() < 1e-4, "length 1");
        lengths.push(in_batch.len());
        let alone = vectors(&gateway, json!(text)).await;
        assert_same(&alone[0], in_batch, text);
        for path in ["/v1/embeddings", "/embeddings"] {
            let body = json!({"input": [text], "encoding_format": "base64", "model": "local"});
            let (_, answer) = embed_at(&gateway, path, body).await;
            assert_same(&vectors_of(&answer)[0], in_batch, path);
        }
    }
    lengths.dedup();
    assert_eq!(lengths, [576], "the model's own length");
    let (near, far) = (cosine(&together[0], &together[1]), cosine(&together[0], &together[2]));
    assert!(near > far + 0.02, "alike {near}, unlike {far}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_tells_its_tokens_its_model_and_where_it_came_from() {
    let gateway = Setup::default().warm().await;
    let (_, one) = embed(&gateway, json!({"input": "hello world"})).await;
    let (_, two) = embed(&gateway, json!({"input": ["hello world", "hello world"], "model": MODEL})).await;
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&one) >= 2 && tokens(&two) == 2 * tokens(&one), "{} {}", one["usage"], two["usage"]);
    assert_eq!(two["usage"]["total_tokens"], two["usage"]["prompt_tokens"]);
    assert_eq!((&one["object"], &one["model"]), (&json!("list"), &json!(MODEL)));
    let routing = &one["routing"];
    assert_eq!((&routing["target"], &routing["attempts"][0]["outcome"]), (&json!("local"), &json!("ok")), "{routing}");
    assert_eq!(routing["attempts"][0]["prompt_tokens"], one["usage"]["prompt_tokens"]);
    // Token ids are taken as they are; a text of many is computed in portions.
    let ids: Vec<u64> = (0..600).map(|n| 1000 + n % 300).collect();
    let (status, long) = embed(&gateway, json!({"input": [ids, [1001, 1002]]})).await;
    assert_eq!((status, tokens(&long)), (200, 602), "{}", long["usage"]);
    let alone = vectors(&gateway, json!(ids)).await;
    assert_same(&alone[0], &vectors_of(&long)[0], "six hundred tokens");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_embedded_is_a_clear_error() {
    let gateway =
        Setup { local_extra: "embedding_tokens = 64".to_owned(), ..Setup::default() }.extra(VECTORS).warm().await;
    let long = "word ".repeat(100);
    for (body, status, param, code) in [
        (json!({"input": ["a", long]}), 400, Some("input"), Some("context_length_exceeded")),
        (json!({"input": "a", "dimensions": 64}), 400, Some("dimensions"), None),
        (json!({"input": "a", "model": "ok"}), 400, Some("model"), None),
        (json!({"input": "a", "model": "vectors", "local_only": true}), 400, Some("model"), None),
        (json!({"input": "a", "model": "nobody"}), 404, Some("model"), Some("model_not_found")),
        (json!({"input": [[1, 99_999_999]]}), 400, Some("input"), None),
        (json!({"input": ""}), 400, Some("input"), None),
        (json!({}), 400, Some("input"), None),
    ] {
        let (got, answer) = embed(&gateway, body.clone()).await;
        assert_eq!(got, status, "{body}: {answer}");
        assert_eq!(answer["error"]["param"].as_str(), param, "{body}: {answer}");
        if code.is_some() {
            assert_eq!(answer["error"]["code"].as_str(), code, "{answer}");
        }
    }
    let chat = Ask::chat("hi").model("vectors");
    let (status, _, bytes) = gateway.client.send(Method::POST, &gateway.url(chat.path), chat.body.to_string()).await;
    assert_eq!(status, 400, "{}", String::from_utf8_lossy(&bytes));
    assert_eq!(gateway.cloud().calls().await, 0);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_in_the_cloud_is_asked_by_name_and_charged_by_its_input() {
    let gateway = Setup::default().extra(VECTORS).warm().await;
    let texts = ["one two three four", "one two three five", "six"];
    let (status, answer) = embed(&gateway, json!({"model": "vectors", "input": texts, "dimensions": 32})).await;
    assert_eq!(status, 200, "{answer}");
    let found = vectors_of(&answer);
    assert!(
        found.iter().all(|vector| vector.len() == 32) && cosine(&found[0], &found[1]) > cosine(&found[0], &found[2])
    );
    let routing = &answer["routing"];
    assert_eq!((&routing["target"], &answer["model"]), (&json!("sim"), &json!("vectors")), "{routing}");
    let tokens = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let page = gateway.client.get_json(&gateway.admin_url("/admin/usage/attempts?from=0&limit=100")).await.unwrap();
    let rows: Vec<&Value> =
        page["attempts"].as_array().unwrap().iter().filter(|row| row["model"] == "vectors").collect();
    assert_eq!(rows.len(), 1, "{page}");
    // 0.02 USD per million tokens are 20 nano-dollars a token.
    assert_eq!((&rows[0]["outcome"], rows[0]["cost"].as_u64()), (&json!("ok"), Some(20 * tokens)), "{page}");
    assert!(rows[0]["reserved"].as_u64().unwrap() >= 20 * tokens || rows[0]["reserved"] == 0, "{page}");
    assert_eq!((rows[0]["usage"]["completion_tokens"].as_u64(), gateway.cloud().calls().await), (Some(0), 1));
    // Whatever is wrong there, no other model stands in.
    for (fault, status) in [("error-500", 502), ("401", 502), ("error-body", 502), ("empty", 502), ("html", 502)] {
        gateway.cloud().fault("ok", fault).await;
        let (got, answer) = embed(&gateway, json!({"model": "vectors", "input": "a"})).await;
        assert!(got >= 500 || got == 429, "{fault}: {got} instead of about {status}: {answer}");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vectors_and_streams_share_an_engine_and_a_killed_one_loses_neither() {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    let texts: Vec<String> = (0..96).map(|n| format!("{} number {n}", TEXTS[n % 4])).collect();
    let undisturbed = vectors(&gateway, json!(texts)).await;
    let stream = Ask::count().model("local").max_tokens(60).stream();
    let before = gateway.gpu().await;
    let (pieces, mut heard) = tokio::sync::mpsc::channel(4096);
    let killing = async {
        for _ in 0..3 {
            heard.recv().await.expect("the stream goes on");
        }
        history.note(gateway.kill("gpu/local", "sigkill").await);
        while heard.recv().await.is_some() {}
    };
    let (found, record, ()) = tokio::join!(
        vectors(&gateway, json!(texts)),
        gateway.client.ask_telling(&gateway.api, stream, Some(pieces)),
        killing
    );
    record.assert_complete();
    checks::continuity(checks::COUNT, &record.text).unwrap();
    history.add(record);
    assert_eq!(found.len(), texts.len());
    for ((one, other), text) in found.iter().zip(&undisturbed).zip(&texts) {
        // Beside a stream texts are computed in other portions, which round differently.
        assert_within(1e-3, one, other, text);
    }
    gateway.until_status("the death is declared", Duration::from_secs(20), |s| s.gpu().epoch > before.epoch).await;
    gateway.until_serving().await;
    history.assert_rules();
    gateway.shutdown().await;
}
