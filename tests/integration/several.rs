//! Several answers to one request: `n`, batches of prompts, `best_of`, `echo` and `suffix`, on the real engine.

use crate::support::{Ask, Gateway, History, Setup, checks};
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::mpsc;

async fn post(gateway: &Gateway, ask: &Ask) -> (u16, Value) {
    let (status, _, bytes) = gateway.client.send(Method::POST, &gateway.url(ask.path), ask.body.to_string()).await;
    let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
    if status != 200 {
        checks::error_object(&answer).unwrap();
    }
    (status, answer)
}

async fn answered(gateway: &Gateway, ask: &Ask) -> Value {
    let (status, answer) = post(gateway, ask).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The texts by index, which must be 0, 1, 2, …
fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let text = |(at, choice): (usize, &Value)| {
        assert_eq!(choice["index"], at, "{answer}");
        assert!(choice["finish_reason"].is_string(), "{answer}");
        choice["text"].as_str().or_else(|| choice["message"]["content"].as_str()).unwrap().to_owned()
    };
    choices.iter().enumerate().map(text).collect()
}

/// What a stream of several answers amounts to.
#[derive(Debug, Default)]
struct Streamed {
    texts: BTreeMap<u64, String>,
    finishes: BTreeMap<u64, Vec<String>>,
    /// Indices in the order of their pieces.
    order: Vec<u64>,
    usage: Value,
    routing: Value,
    done: bool,
    error: Option<Value>,
}

impl Streamed {
    fn hear(&mut self, data: &str) {
        if data == "[DONE]" {
            self.done = true;
            return;
        }
        assert!(!self.done, "spoke after its end: {data}");
        let chunk: Value = serde_json::from_str(data).expect("JSON");
        if !chunk["error"].is_null() {
            self.error = Some(chunk);
            return;
        }
        for choice in chunk["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap();
            assert!(!self.finishes.contains_key(&index), "spoke after its finish: {data}");
            let text = choice["text"].as_str().or_else(|| choice["delta"]["content"].as_str()).unwrap_or_default();
            self.texts.entry(index).or_default().push_str(text);
            if !text.is_empty() {
                self.order.push(index);
            }
            if let Some(reason) = choice["finish_reason"].as_str() {
                self.finishes.entry(index).or_default().push(reason.to_owned());
            }
        }
        if !chunk["usage"].is_null() {
            (self.usage, self.routing) = (chunk["usage"].clone(), chunk["routing"].clone());
        }
    }

    fn assert_whole(&self, answers: u64) -> &Self {
        assert!(self.done && self.error.is_none(), "{self:#?}");
        assert_eq!(self.finishes.keys().copied().collect::<Vec<_>>(), (0..answers).collect::<Vec<_>>(), "{self:#?}");
        assert!(self.finishes.values().all(|reasons| reasons.len() == 1), "{self:#?}");
        self
    }
}

/// Reads a stream to its end; `pieces` hears of every piece of text.
async fn streamed(gateway: &Gateway, ask: Ask, pieces: Option<mpsc::Sender<()>>) -> Streamed {
    let ask = ask.stream();
    let asked = gateway.client.raw().post(gateway.url(ask.path)).json(&ask.body).timeout(Duration::from_secs(90));
    let mut answer = asked.send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let (mut buffer, mut heard) = (Vec::new(), Streamed::default());
    while let Some(bytes) = answer.chunk().await.expect("the stream is whole") {
        buffer.extend_from_slice(&bytes);
        while let Some(end) = buffer.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..end + 2).collect();
            let event = String::from_utf8(event).expect("UTF-8");
            if let Some(data) = event.trim_end().strip_prefix("data: ") {
                let before = heard.order.len();
                heard.hear(data);
                if let Some(pieces) = pieces.as_ref().filter(|_| heard.order.len() > before) {
                    let _ = pieces.send(()).await;
                }
            }
        }
    }
    heard
}

fn count(answer: &Value, path: &str) -> u64 {
    answer.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}: {answer}"))
}

fn counting(from: u32) -> String {
    (from..from + 12).map(|n| format!("{n},")).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_answers_differ_repeat_with_their_seed_and_count_their_prompt_once() {
    let gateway = Setup::default().without_cloud().parallel(1).warm().await;
    let story = "Tell me a story about a ship, a storm, a lighthouse and the people who live there, and begin with the";
    for ask in [Ask::chat(story), Ask::completion(story)] {
        let ask = ask.max_tokens(12).with("temperature", 1.0);
        let one = answered(&gateway, &ask.clone().with("seed", 7)).await;
        let three = answered(&gateway, &ask.clone().with("seed", 7).with("n", 3)).await;
        let (one_text, three_texts) = (texts(&one), texts(&three));
        assert_eq!(three_texts.len(), 3);
        assert_eq!(one_text[0], three_texts[0], "the first answer is that of the seed alone");
        assert!(three_texts[0] != three_texts[1] && three_texts[1] != three_texts[2], "{three_texts:?}");
        assert_eq!(count(&one, "/usage/prompt_tokens"), count(&three, "/usage/prompt_tokens"));
        assert!(count(&three, "/usage/completion_tokens") <= 36);
        let attempts = three["routing"]["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0]["completion_tokens"], three["usage"]["completion_tokens"]);
        let again = answered(&gateway, &ask.clone().with("seed", 7).with("n", 3)).await;
        assert_eq!(texts(&again), three_texts, "one sequence at a time: the same seed, the same answers");
        let stream = streamed(&gateway, ask.clone().with("seed", 7).with("n", 3), None).await;
        stream.assert_whole(3);
        assert_eq!(stream.texts.values().cloned().collect::<Vec<_>>(), three_texts);
        assert_eq!(stream.usage["prompt_tokens"], three["usage"]["prompt_tokens"]);
    }
    let by_chance = Ask::chat(story).max_tokens(12).with("temperature", 1.0).with("n", 2);
    let other = answered(&gateway, &by_chance).await;
    assert_ne!(texts(&other)[0], texts(&other)[1], "without a seed by chance");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_share_the_engine_and_interleave_and_an_old_prompt_is_counted_as_cached_once() {
    let gateway = Setup::default().without_cloud().parallel(4).warm().await;
    let ask = Ask::count().max_tokens(20).with("n", 4);
    let first = streamed(&gateway, ask.clone(), None).await;
    first.assert_whole(4);
    for text in first.texts.values() {
        checks::continuity(checks::COUNT, text).unwrap();
    }
    let switches = first.order.windows(2).filter(|two| two[0] != two[1]).count();
    assert!(switches > 8, "they come side by side: {:?}", first.order);
    let prompt = count(&first.usage, "/prompt_tokens");
    assert_eq!(count(&first.usage, "/prompt_tokens_details/cached_tokens"), 0, "nobody had read it before");
    let again = answered(&gateway, &ask).await;
    let cached = count(&again, "/usage/prompt_tokens_details/cached_tokens");
    assert!(cached > prompt / 2 && cached < prompt, "{cached} of {prompt}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_gives_each_prompt_its_answers_in_the_order_of_openai() {
    let gateway = Setup::default().parallel(2).warm().await;
    let prompts: Vec<String> = (0..6).map(|n| counting(1 + 20 * n)).collect();
    let ask = Ask { body: json!({"prompt": prompts, "max_tokens": 12, "temperature": 0, "n": 2}), ..Ask::count() };
    let whole = answered(&gateway, &ask).await;
    let found = texts(&whole);
    assert_eq!(found.len(), 12);
    for (at, text) in found.iter().enumerate() {
        let next = 1 + 20 * (at / 2) + 12;
        assert!(text.trim_start().starts_with(&next.to_string()), "prompt {}: {text:?} goes on at {next}", at / 2);
    }
    assert_eq!(whole["routing"]["target"], "local");
    let alone: u64 = {
        let mut sum = 0;
        for prompt in &prompts {
            let one = answered(&gateway, &Ask::completion(prompt).max_tokens(1).model("local")).await;
            sum += count(&one, "/usage/prompt_tokens");
        }
        sum
    };
    assert_eq!(count(&whole, "/usage/prompt_tokens"), alone, "every prompt once");
    let stream = streamed(&gateway, ask.clone(), None).await;
    stream.assert_whole(12);
    for (index, text) in &stream.texts {
        assert!(text.trim_start().starts_with(&(1 + 20 * (index / 2) + 12).to_string()), "{index}: {text:?}");
    }
    let ids = Ask { body: json!({"prompt": [[504, 28], [504]], "max_tokens": 2}), ..Ask::count() };
    assert_eq!(texts(&answered(&gateway, &ids).await).len(), 2);
    assert_eq!(gateway.cloud().calls().await, 0, "a batch stays here");
    gateway.shutdown().await;
}

/// While a batch of 128 answers is in work, single requests are served as if it were not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_batch_starves_nobody_and_ends_whole() {
    let gateway = Setup::default().without_cloud().parallel(4).warm().await;
    let history = History::default();
    let batch = Ask::count().max_tokens(6).with("n", 128);
    let (pieces, mut heard) = mpsc::channel(1 << 16);
    let singles = async {
        heard.recv().await.expect("the batch has begun");
        let mut done = 0;
        for _ in 0..3 {
            let record = gateway.client.ask(&gateway.api, Ask::count().max_tokens(6)).await;
            record.assert_complete();
            history.add(record);
            done += 1;
        }
        (done, heard.is_closed())
    };
    let (stream, (done, over)) = tokio::join!(streamed(&gateway, batch, Some(pieces)), singles);
    stream.assert_whole(128);
    assert_eq!((done, over), (3, false), "the singles did not wait for the batch's end");
    for text in stream.texts.values() {
        checks::continuity(checks::COUNT, text).unwrap();
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing() {
    let gateway = Setup::default().without_cloud().parallel(2).warm().await;
    let history = History::default();
    let prompts = vec![checks::COUNT; 4];
    let ask = Ask { body: json!({"prompt": prompts, "max_tokens": 30, "temperature": 0}), ..Ask::count() };
    let undisturbed = streamed(&gateway, ask.clone(), None).await;
    undisturbed.assert_whole(4);
    // Among the first two answers, and when they have ended and the next two run.
    for after in [5, 75] {
        let (pieces, mut heard) = mpsc::channel(1 << 16);
        let killing = async {
            for _ in 0..after {
                heard.recv().await.expect("the stream goes on");
            }
            history.note(gateway.kill("gpu/local", "sigkill").await);
            while heard.recv().await.is_some() {}
        };
        let (stream, ()) = tokio::join!(streamed(&gateway, ask.clone(), Some(pieces)), killing);
        stream.assert_whole(4);
        for (index, text) in &stream.texts {
            checks::continuity(checks::COUNT, text).unwrap_or_else(|why| panic!("answer {index}, {after}: {why}"));
        }
        assert_eq!(stream.finishes, undisturbed.finishes);
        for path in ["/prompt_tokens", "/completion_tokens"] {
            assert_eq!(count(&stream.usage, path), count(&undisturbed.usage, path), "{path} after {after} pieces");
        }
        assert_eq!(stream.routing["attempts"].as_array().map(Vec::len), Some(2), "{}", stream.routing);
        gateway.until_serving().await;
    }
    // Nothing of a whole answer was seen, so it is made anew.
    let before = gateway.gpu().await;
    let asking = post(&gateway, &ask);
    let killing = async {
        gateway.until_status("it runs", Duration::from_secs(20), |status| status.gpu().leases > 0).await;
        history.note(gateway.kill("gpu/local", "sigkill").await);
    };
    let ((status, answer), ()) = tokio::join!(asking, killing);
    assert_eq!(status, 200, "{answer}");
    for text in texts(&answer) {
        checks::continuity(checks::COUNT, &text).unwrap();
    }
    assert_eq!(texts(&answer).len(), 4);
    gateway.until_status("the death is declared", Duration::from_secs(20), |s| s.gpu().epoch > before.epoch).await;
    history.assert_rules();
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_a_batch_frees_every_sequence() {
    let gateway = Setup::default().without_cloud().parallel(2).warm().await;
    let ask = Ask::count().max_tokens(400).with("n", 16).stream();
    let asked = gateway.client.raw().post(gateway.url(ask.path)).json(&ask.body);
    let mut answer = asked.send().await.expect("an answer");
    answer.chunk().await.expect("it has begun");
    drop(answer);
    gateway.until_status("the lease is back", Duration::from_secs(5), |status| status.gpu().leases == 0).await;
    // An engine that went on would decode thousands of tokens first.
    let quick = tokio::time::timeout(Duration::from_secs(20), answered(&gateway, &Ask::count().max_tokens(4))).await;
    checks::continuity(checks::COUNT, &texts(&quick.expect("the sequences are free"))[0]).unwrap();
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn echo_gives_the_prompt_back_and_best_of_shows_the_likeliest() {
    let gateway = Setup::default().parallel(2).warm().await;
    let ask = Ask::count().max_tokens(8).with("echo", true);
    let whole = answered(&gateway, &ask).await;
    let text = &texts(&whole)[0];
    let rest = text.strip_prefix(checks::COUNT).unwrap_or_else(|| panic!("{text:?}"));
    checks::continuity(checks::COUNT, rest).unwrap();
    assert_eq!(count(&whole, "/usage/completion_tokens"), 8);
    let stream = streamed(&gateway, ask.clone().with("n", 2), None).await;
    stream.assert_whole(2);
    assert!(stream.texts.values().all(|echoed| echoed == text), "{stream:#?}");
    let ids = Ask { body: json!({"prompt": [[504, 28], [504]], "max_tokens": 2, "echo": true}), ..Ask::count() };
    assert!(texts(&answered(&gateway, &ids).await).iter().all(|text| !text.is_empty()));
    let best = Ask::count().max_tokens(8).with("temperature", 1.5).with("best_of", 4).with("n", 2);
    let best = answered(&gateway, &best).await;
    assert_eq!(texts(&best).len(), 2);
    assert!(count(&best, "/usage/completion_tokens") > 16, "all four are charged: {}", best["usage"]);
    assert_eq!(gateway.cloud().calls().await, 0);
    gateway.shutdown().await;
}

/// Tokens and how likely each was.
fn likelihoods(choice: &Value) -> Vec<(String, Option<f64>)> {
    let list = |name: &str| choice["logprobs"][name].as_array().unwrap_or_else(|| panic!("{name}: {choice}")).clone();
    let tokens = list("tokens").into_iter().map(|token| token.as_str().unwrap().to_owned());
    tokens.zip(list("token_logprobs").iter().map(Value::as_f64)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_tells_how_likely_each_token_of_its_prompt_was() {
    let gateway = Setup::default().without_cloud().parallel(2).warm().await;
    let asked = Ask::count().max_tokens(8).with("logprobs", 2).with("temperature", 0);
    let generated = answered(&gateway, &asked).await;
    let generated = likelihoods(&generated["choices"][0]);
    let (kept, _) = generated.split_at(6);
    let text: String = kept.iter().map(|(token, _)| token.as_str()).collect();
    // What was generated is part of the prompt now: it is as likely as it was, and so is what follows.
    let prompt = format!("{}{text}", checks::COUNT);
    let echo = asked.clone().with("prompt", prompt.as_str()).with("echo", true).max_tokens(2);
    let whole = answered(&gateway, &echo).await;
    let told = likelihoods(&whole["choices"][0]);
    let joined: String = told.iter().map(|(token, _)| token.as_str()).collect();
    assert_eq!(joined, texts(&whole)[0]);
    assert!(joined.starts_with(&prompt), "{joined:?}");
    assert_eq!(told.len() as u64, count(&whole, "/usage/prompt_tokens") + count(&whole, "/usage/completion_tokens"));
    assert!(
        told[0].1.is_none() && told[1..].iter().all(|(_, logprob)| logprob.is_some_and(|it| it <= 0.0)),
        "{told:?}"
    );
    let again = &told[told.len() - 8..];
    for ((token, was), (same, is)) in generated.iter().zip(again) {
        assert_eq!(token, same);
        assert!((was.unwrap() - is.unwrap()).abs() < 0.2, "{generated:?} {again:?}");
    }
    let tops = whole["choices"][0]["logprobs"]["top_logprobs"].as_array().unwrap();
    assert!(tops[0].is_null() && tops[1..].iter().all(|top| top.as_object().unwrap().len() == 2), "{whole}");
    let plain = answered(&gateway, &echo.clone().with("logprobs", 0).with("n", 2)).await;
    for choice in plain["choices"].as_array().unwrap() {
        assert!(choice["logprobs"]["top_logprobs"].is_null(), "{choice}");
        assert_eq!(likelihoods(choice).len(), told.len());
    }
    let stream = streamed(&gateway, echo.clone(), None).await;
    assert_eq!(stream.assert_whole(1).texts[&0], joined);
    // Nothing after it: the prompt alone is scored.
    let scored = echo.max_tokens(0);
    let whole = answered(&gateway, &scored).await;
    let of_prompt = likelihoods(&whole["choices"][0]);
    assert_eq!((texts(&whole)[0].as_str(), count(&whole, "/usage/completion_tokens")), (prompt.as_str(), 0), "{whole}");
    assert_eq!(of_prompt.len() as u64, count(&whole, "/usage/prompt_tokens"));
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(of_prompt.last().unwrap().0, told[of_prompt.len() - 1].0);
    let stream = streamed(&gateway, scored, None).await;
    assert_eq!(stream.assert_whole(1).texts[&0], prompt);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_completions_are_passed_on_as_they_are_where_a_provider_serves_them() {
    let gateway = Setup { ok: "kind = \"completion\"".to_owned(), ..Setup::default() }.warm().await;
    let extras = json!({"model": "ok", "echo": true, "logprobs": 1, "suffix": "end", "best_of": 0, "max_tokens": 3});
    let mut ask = Ask::completion("Please analyze this.");
    ask.body.as_object_mut().unwrap().extend(extras.as_object().unwrap().clone());
    let whole = answered(&gateway, &ask).await;
    assert_eq!(whole["routing"]["target"], "sim", "{whole}");
    let text = &texts(&whole)[0];
    assert!(text.starts_with("Please analyze this.sim0-simulated sim1-"), "{text:?}");
    assert_eq!(likelihoods(&whole["choices"][0]).len(), 1 + 3, "the prompt, and three words: {whole}");
    let stream = streamed(&gateway, ask, None).await;
    assert_eq!(&stream.assert_whole(1).texts[&0], text);
    let batch = Ask { body: json!({"prompt": ["a", "b"], "model": "ok", "n": 2, "max_tokens": 2}), ..Ask::count() };
    assert_eq!(texts(&answered(&gateway, &batch).await).len(), 4);
    // It takes no chats, and nobody else is meant.
    let (status, answer) = post(&gateway, &Ask::chat("hi").with("model", "ok")).await;
    assert_eq!((status, answer["error"]["param"].as_str()), (400, Some("model")), "{answer}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_target_can_do_is_refused_by_name() {
    let gateway = Setup::default().warm().await;
    let cases = [
        (json!({"suffix": "the end"}), "suffix"),
        (json!({"best_of": 2, "stream": true}), "best_of"),
        (json!({"n": 129}), "n"),
        (json!({"n": 33, "prompt": ["a", "b", "c", "d"]}), "prompt"),
    ];
    for (extra, param) in cases {
        let mut ask = Ask::count();
        ask.body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let (status, answer) = post(&gateway, &ask).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{extra}: {answer}");
    }
    // The cloud does several answers too, but no batch.
    let two = answered(&gateway, &Ask::hard().with("n", 2)).await;
    assert_eq!((texts(&two).len(), two["routing"]["target"].as_str()), (2, Some("sim")));
    let batch = Ask { body: json!({"prompt": ["a", "b"], "model": "ok"}), ..Ask::count() };
    let (status, answer) = post(&gateway, &batch).await;
    assert_eq!((status, answer["error"]["param"].as_str()), (400, Some("prompt")), "{answer}");
    gateway.shutdown().await;
}
