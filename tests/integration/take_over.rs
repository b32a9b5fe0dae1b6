//! F08, F09 and F14 in full: a stream that was cut goes on elsewhere, or ends with an error. What the client reads is
//! what it had before the cut and then what the continuing target itself says it sent, to the byte.

use crate::support::{
    Ask, Gateway, History, Outcome, Record, Setup, accounts::Books, checks::continuity, cloud::Arrived, cloud::Cloud,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use spillway::sim::SimOptions;

const WORDS: u32 = 60;
const IMPATIENT: &str = "first_byte_timeout_ms = 1000\nidle_timeout_ms = 400\n";

fn long() -> SimOptions {
    SimOptions { tokens: WORDS, ..SimOptions::default() }
}

/// Hard requests go to `ok` of `sim`; `spare` of `backup` is of this kind and continues prefixes, as its configuration
/// says.
fn spare(upstream: &str) -> Setup {
    let spare = format!("upstream = \"{upstream}\"\nprefill_style = \"assistant\"\n");
    Setup { spare, ..Setup::default().without_local().cloud(long()).backup(long()).provider(IMPATIENT) }
}

fn hard() -> Ask {
    Ask::hard().max_tokens(WORDS).stream()
}

async fn ask(gateway: &Gateway, ask: Ask) -> Record {
    gateway.client.ask(&gateway.api, ask).await
}

fn routing(record: &Record) -> &Value {
    record.routing.as_ref().unwrap_or_else(|| panic!("a routing object: {record:#?}"))
}

fn outcomes(record: &Record) -> Vec<&str> {
    let attempts = routing(record)["attempts"].as_array().unwrap();
    attempts.iter().filter_map(|attempt| attempt["outcome"].as_str()).collect()
}

async fn last_of(cloud: &Cloud, record: &Record) -> Arrived {
    let id = record.id.as_deref().unwrap();
    let mut arrived = cloud.arrived().await;
    arrived.retain(|arrived| arrived.request_id == id);
    arrived.pop().unwrap_or_else(|| panic!("{id} never arrived"))
}

/// The text ends with all that the continuing target sent, and begins with what the first one said.
fn assert_seam(record: &Record, first: &str, continuing: &str) {
    record.assert_complete();
    let head = record
        .text
        .strip_suffix(continuing)
        .unwrap_or_else(|| panic!("the answer ends with the continuing target's own text {continuing:?}: {record:#?}"));
    assert!(!head.is_empty() && first.starts_with(head), "{head:?} is what was said before the cut: {first:?}");
    assert_eq!(routing(record)["resumed"], "cloud_prefill");
}

/// Prompt once, tokens of all attempts that the client has part of, as engines counted them.
fn assert_usage_is_the_sum(record: &Record) {
    let attempts = routing(record)["attempts"].as_array().unwrap();
    let sum: u64 = attempts.iter().filter_map(|attempt| attempt["completion_tokens"].as_u64()).sum();
    let usage = record.usage.as_ref().unwrap();
    assert_eq!(usage["completion_tokens"], sum, "{record:#?}");
    assert_eq!(usage["prompt_tokens"], attempts[0]["prompt_tokens"], "{record:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_f09_a_cut_or_stalled_cloud_stream_goes_on_from_the_sent_text_wherever_it_was_cut() {
    let gateway = spare("prefix-ok").start().await;
    let (history, mut books) = (History::default(), Books::default());
    let mut random = StdRng::seed_from_u64(8);
    for turn in 0..12 {
        let at = random.random_range(1..WORDS);
        let how = ["cut", "cut", "stall", "malformed", "truncate"][turn % 5];
        let fault = if matches!(how, "cut" | "stall") { format!("{how}-{at}") } else { how.to_owned() };
        gateway.cloud().fault("ok", &fault).await;
        // One token more than there is: an answer that is cut at its limit has ended.
        let record = ask(&gateway, hard().max_tokens(WORDS + 1)).await;
        let (first, second) = (last_of(gateway.cloud(), &record).await, last_of(gateway.backup(), &record).await);
        assert_seam(&record, first.text.as_deref().unwrap(), second.text.as_deref().unwrap_or_default());
        continuity("", &record.text).unwrap_or_else(|what| panic!("{fault}: {what}"));
        assert_eq!(outcomes(&record), ["upstream", "ok"], "{fault}");
        // Nobody counted the tokens of the part that was cut: they are those that its client has.
        let usage = record.usage.as_ref().unwrap();
        assert_eq!(usage["completion_tokens"], record.text.split_whitespace().count(), "{fault}: {record:#?}");
        assert_eq!(usage["prompt_tokens"], routing(&record)["attempts"][0]["prompt_tokens"], "{record:#?}");
        history.add(record.clone());
        books.client(record);
        // A whole answer between two cuts, or the breaker would spare the provider.
        gateway.cloud().fault("ok", "ok").await;
        let whole = ask(&gateway, hard()).await;
        assert_eq!(whole.assert_complete().target(), "sim");
        assert_eq!(routing(&whole).get("resumed"), None);
        history.add(whole.clone());
        books.client(whole);
    }
    books.read_ledger(&gateway).await;
    books.read_provider(gateway.cloud().arrived().await);
    books.read_provider(gateway.backup().arrived().await);
    books.assert_equal();
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_a_continuation_that_repeats_the_answer_so_far_is_cut_to_what_is_new() {
    // It knows no prefix and says the same as the first provider, from the start.
    let gateway = spare("prefix-ignored").start().await;
    for at in [2, 17, 59] {
        gateway.cloud().fault("ok", &format!("cut-{at}")).await;
        let record = ask(&gateway, hard()).await;
        record.assert_complete();
        continuity("", &record.text).unwrap();
        let again = last_of(gateway.backup(), &record).await.text.unwrap();
        assert!(record.text == again || record.text.starts_with(&again), "{again:?}: {record:#?}");
        gateway.cloud().fault("ok", "ok").await;
        ask(&gateway, hard()).await.assert_complete();
    }
    gateway.shutdown().await;
}

/// Explicit error, text untorn, no finish.
fn assert_honest(record: &Record, said: &str) {
    let Outcome::Error { message, .. } = &record.outcome else { panic!("an explicit error: {record:#?}") };
    assert!(message.contains(said), "{said} in {message}");
    assert_eq!((record.finish_reason.as_deref(), &record.faults), (None, &Vec::new()), "{record:#?}");
    continuity("", &record.text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_a_model_that_begins_anew_is_found_out_before_the_client_sees_it() {
    let other_words = SimOptions { seed: 7, ..long() };
    let gateway = spare("prefix-ignored").backup(other_words).start().await;
    gateway.cloud().fault("ok", "cut-12").await;
    let record = ask(&gateway, hard()).await;
    assert_honest(&record, "connection");
    assert_eq!(record.text.split_whitespace().count(), 12);
    assert_eq!(gateway.backup().calls().await, 1);
    gateway.until_logged("prefill_style should be none").await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_there_is_one_take_over_and_no_second() {
    // The continuation is cut, too, after it has shown something.
    let gateway = spare("cut-30").start().await;
    gateway.cloud().fault("ok", "cut-10").await;
    let record = ask(&gateway, hard()).await;
    assert_honest(&record, "backup");
    assert_eq!(record.text.split_whitespace().count(), 30);
    assert_eq!((gateway.cloud().calls().await, gateway.backup().calls().await), (1, 1));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_what_no_prefix_can_continue_ends_with_the_first_cause() {
    let gateway = Setup { spare: "upstream = \"prefix-ignored\"\n".to_owned(), ..spare("") }.start().await;
    gateway.cloud().fault("ok", "cut-5").await;
    assert_honest(&ask(&gateway, hard()).await, "connection");
    assert_eq!(gateway.backup().calls().await, 0, "a model of no prefill style is never asked to continue");
    gateway.shutdown().await;

    let gateway = spare("prefix-ok").start().await;
    gateway.cloud().fault("ok", "cut-5").await;
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let history =
        json!([{"role": "user", "content": "Please analyze this."}, {"role": "assistant", "content": "Well, "}]);
    let format = json!({"type": "json_object"});
    let asks = [hard().with("tools", tool), hard().with("response_format", format), hard().with("messages", history)];
    for asked in asks {
        assert_honest(&ask(&gateway, asked).await, "connection");
        gateway.cloud().fault("ok", "ok").await;
        ask(&gateway, hard()).await.assert_complete();
        gateway.cloud().fault("ok", "cut-5").await;
    }
    assert_eq!(gateway.backup().calls().await, 0);
    gateway.shutdown().await;
}

/// Kills the engine after so many pieces of a stream.
async fn cut_by_a_kill(gateway: &Gateway, history: &History, asked: Ask, after_pieces: usize) -> Record {
    let (pieces, mut heard) = tokio::sync::mpsc::channel(4096);
    let killing = async {
        for _ in 0..after_pieces {
            heard.recv().await.expect("the stream goes on");
        }
        history.note(gateway.kill("gpu/local", "sigkill").await);
        while heard.recv().await.is_some() {}
    };
    tokio::join!(gateway.client.ask_telling(&gateway.api, asked, Some(pieces)), killing).0
}

/// One local target, and a cloud model of this kind that continues prefixes.
async fn with_a_gpu(upstream: &str) -> Gateway {
    let ok = format!("upstream = \"{upstream}\"\nprefill_style = \"assistant\"\n");
    let cloud = SimOptions { tokens: 4000, ..SimOptions::default() };
    Setup { ok, ..Setup::default().parallel(1).cloud(cloud) }.warm().await
}

fn count() -> Ask {
    Ask::count().max_tokens(120).stream()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_a_local_stream_whose_engine_dies_goes_on_in_the_cloud_from_the_sent_text() {
    let gateway = with_a_gpu("prefix-ok").await;
    let history = History::default();
    let undisturbed = ask(&gateway, count()).await;
    assert_eq!(undisturbed.assert_complete().target(), "local");
    let mut random = StdRng::seed_from_u64(9);
    for _ in 0..4 {
        let record = cut_by_a_kill(&gateway, &history, count(), random.random_range(1..30)).await;
        let continuing = last_of(gateway.cloud(), &record).await;
        assert_seam(&record, &undisturbed.text, continuing.text.as_deref().unwrap());
        assert_eq!(outcomes(&record), ["engine_died", "ok"]);
        assert_eq!(routing(&record)["target"], "sim");
        assert_usage_is_the_sum(&record);
        let sent = routing(&record)["attempts"][0]["completion_tokens"].as_u64().unwrap();
        assert_eq!(continuing.completion_tokens, 120 - sent, "the cloud was asked for what was left");
        history.add(record);
        gateway.until_serving().await;
    }
    history.add(undisturbed);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f14_a_rejected_prefill_leaves_the_stream_to_the_restarted_engine() {
    let gateway = with_a_gpu("prefix-rejected").await;
    let history = History::default();
    let undisturbed = ask(&gateway, count()).await;
    let record = cut_by_a_kill(&gateway, &history, count(), 7).await;
    assert_eq!(outcomes(&record), ["engine_died", "invalid_request", "ok"], "{record:#?}");
    assert_eq!(record.assert_complete().text, undisturbed.text);
    assert_eq!(routing(&record)["resumed"], "replay");
    assert_usage_is_the_sum_of_local(&record, &undisturbed);
    history.add(record);
    history.add(undisturbed);
    gateway.finish(&history).await;
}

/// Replayed tokens are read again, not generated again.
fn assert_usage_is_the_sum_of_local(record: &Record, undisturbed: &Record) {
    assert_eq!(record.usage, undisturbed.usage);
    assert_usage_is_the_sum(record);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_only_stream_is_replayed_and_its_text_never_reaches_a_cloud_that_would_continue_it() {
    let gateway = with_a_gpu("prefix-ok").await;
    let history = History::default();
    for asked in [count().local_only(), count().model("local")] {
        let record = cut_by_a_kill(&gateway, &history, asked, 5).await;
        assert_eq!(record.assert_complete().target(), "local");
        assert_eq!(routing(&record)["resumed"], "replay");
        history.add(record);
        gateway.until_serving().await;
    }
    assert_eq!(gateway.cloud().calls().await, 0);
    gateway.finish(&history).await;
}
