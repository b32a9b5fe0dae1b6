//! What a provider's JSON says, in our words: one stream chunk, or one whole answer. Pure.
//!
//! Strict about what decides completeness (choices, `finish_reason`), lenient about everything else: providers add
//! fields, send nulls, and repeat usage.

use crate::domain::{Delta, ErrorKind, GenerationEvent, Imprint, TokenUsage};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, json};
use std::{collections::VecDeque, fmt};

/// More choices than any API allows: an index beyond is malformed, so that what is kept per choice stays bounded.
const MAX_CHOICES: u32 = 128;
/// A longer fingerprint or tier is not repeated in every chunk of an answer.
const MAX_IMPRINT: usize = 256;

/// Why a chunk or an answer is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Not the JSON that the API promises.
    Shape,
    /// An error object inside a 200.
    InBandError,
    /// An error object inside a 200 that says of which kind.
    Refused(ErrorKind),
}

#[derive(Deserialize)]
struct Chunk<'a> {
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Value,
    #[serde(default)]
    error: Value,
    #[serde(borrow)]
    system_fingerprint: Option<Word<'a>>,
    #[serde(borrow)]
    service_tier: Option<Word<'a>>,
}

/// What comes with every chunk and is wanted once: read where it lies. Anything but a plain string is nobody's loss.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word<'a> {
    Text(&'a str),
    Other(IgnoredAny),
}

impl Word<'_> {
    fn note(this: Option<Self>, into: &mut Option<Box<str>>) {
        if let (None, Some(Word::Text(text))) = (&into, this)
            && !text.is_empty()
            && text.len() <= MAX_IMPRINT
        {
            *into = Some(text.into());
        }
    }
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    delta: Option<Fields>,
    /// Of a text completion, in place of a delta.
    text: Option<String>,
    logprobs: Option<Value>,
    finish_reason: Option<String>,
}

/// Reads the chunks of one stream in order and knows whether what came so far is a complete answer.
#[derive(Debug, Default)]
pub struct ChunkReader {
    /// Choices that were asked for; 0 = one.
    asked: u32,
    /// Bit per choice that has begun, and per choice that has finished.
    begun: u128,
    finished: u128,
    usage: Option<TokenUsage>,
    imprint: Imprint,
}

impl ChunkReader {
    /// For an answer of so many choices.
    pub fn of(asked: u32) -> Self {
        Self { asked, ..Self::default() }
    }

    /// Appends the chunk's events to `out`. Usage is kept back: it may come in every chunk and counts once, at the end.
    ///
    /// # Errors
    /// The chunk is no chunk, or an error object.
    pub fn read(&mut self, data: &str, out: &mut VecDeque<GenerationEvent>) -> Result<(), Malformed> {
        let chunk: Chunk<'_> = serde_json::from_str(data).map_err(|_| Malformed::Shape)?;
        if !chunk.error.is_null() {
            return Err(Malformed::InBandError);
        }
        let usage = usage_of(&chunk.usage);
        if chunk.choices.is_none() && usage.is_none() {
            return Err(Malformed::Shape);
        }
        self.usage = usage.or(self.usage);
        Word::note(chunk.system_fingerprint, &mut self.imprint.system_fingerprint);
        Word::note(chunk.service_tier, &mut self.imprint.service_tier);
        for choice in chunk.choices.unwrap_or_default() {
            self.choice(choice, out)?;
        }
        Ok(())
    }

    /// Every choice that was asked for, or that began all the same, has a `finish_reason`.
    pub fn is_complete(&self) -> bool {
        self.may_end() && self.finished.count_ones() >= self.asked
    }

    /// Every choice that began has a `finish_reason`, and one did: an answer, if the provider says that nothing follows.
    /// Some make one choice whatever was asked.
    pub fn may_end(&self) -> bool {
        self.finished != 0 && self.begun == self.finished
    }

    pub fn usage(&self) -> Option<TokenUsage> {
        self.usage
    }

    pub fn imprint(&self) -> &Imprint {
        &self.imprint
    }

    fn choice(&mut self, choice: Choice, out: &mut VecDeque<GenerationEvent>) -> Result<(), Malformed> {
        if choice.index >= MAX_CHOICES {
            return Err(Malformed::Shape);
        }
        let bit = 1 << choice.index;
        if self.finished & bit != 0 {
            // Some providers repeat the finish, or add an empty delta beside the usage.
            return Ok(());
        }
        self.begun |= bit;
        let Fields { content, other } = choice.delta.unwrap_or_default();
        let (content, logprobs) = (content.or(choice.text), choice.logprobs.map(as_of_chats));
        let delta = Delta { choice: choice.index, content, other, logprobs, tokens: Vec::new() };
        if delta.is_visible() {
            out.push_back(GenerationEvent::Delta(delta));
        }
        if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
            self.finished |= bit;
            out.push_back(GenerationEvent::Finish { choice: choice.index, reason });
        }
        Ok(())
    }
}

/// Logprobs as chats have them: those of text completions are four lists. A token's bytes are those of its text, though
/// text completions spell what is no character in their own way.
fn as_of_chats(logprobs: Value) -> Value {
    let Some(tokens) = logprobs.get("tokens").and_then(Value::as_array) else { return logprobs };
    let at = |list: &str, index: usize| logprobs.get(list).and_then(|list| list.get(index));
    let one = |token: &str, logprob: &Value| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
    let entry = |(index, token): (usize, &Value)| {
        let token = token.as_str().unwrap_or_default();
        let mut entry = one(token, at("token_logprobs", index).unwrap_or(&Value::Null));
        let top = at("top_logprobs", index).and_then(Value::as_object).into_iter().flatten();
        entry["top_logprobs"] = top.map(|(token, logprob)| one(token, logprob)).collect();
        entry
    };
    json!({"content": tokens.iter().enumerate().map(entry).collect::<Vec<_>>(), "refusal": null})
}

/// A delta's fields. Nearly every one has text and nothing else: nothing is made of the rest until it is there.
#[derive(Debug, Default)]
struct Fields {
    content: Option<String>,
    /// But for the role, and for what is nothing: `"refusal": null` or `"tool_calls": []` no client would notice.
    other: Map<String, Value>,
}

enum Field {
    Role,
    Content,
    Other(String),
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Field, E> {
                Ok(match name {
                    "role" => Field::Role,
                    "content" => Field::Content,
                    other => Field::Other(other.to_owned()),
                })
            }
        }
        deserializer.deserialize_identifier(Name)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key()? {
                    match name {
                        Field::Role => {
                            map.next_value::<IgnoredAny>()?;
                        }
                        Field::Content => match map.next_value()? {
                            Value::String(text) => fields.content = Some(text),
                            // Content in parts: not ours to read, the client gets it as it came.
                            parts => fields.keep("content".to_owned(), parts),
                        },
                        Field::Other(name) => fields.keep(name, map.next_value()?),
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(All)
    }
}

impl Fields {
    fn keep(&mut self, name: String, value: Value) {
        if !value.is_null() && value.as_array().is_none_or(|array| !array.is_empty()) {
            self.other.insert(name, value);
        }
    }
}

/// Token counts, `None` unless both are there and sane.
pub fn usage_of(usage: &Value) -> Option<TokenUsage> {
    let prompt_tokens = usage.get("prompt_tokens").and_then(tokens)?;
    let completion_tokens = usage.get("completion_tokens").and_then(tokens)?;
    let detail = |of: &str, name: &str| usage.get(of).and_then(|details| details.get(name));
    let cached = detail("prompt_tokens_details", "cached_tokens")
        .or_else(|| usage.get("prompt_cache_hit_tokens"))
        .and_then(tokens)
        .unwrap_or(0);
    let reasoning = detail("completion_tokens_details", "reasoning_tokens").and_then(tokens).unwrap_or(0);
    Some(TokenUsage {
        prompt_tokens,
        completion_tokens,
        cached_tokens: cached.min(prompt_tokens),
        reasoning_tokens: reasoning.min(completion_tokens),
        estimated: false,
        ..TokenUsage::default()
    })
}

/// A count of tokens; `10.0` is one, because some servers know no other numbers.
pub(super) fn tokens(count: &Value) -> Option<u64> {
    // Beyond this a decimal is no longer exact, and no count of tokens.
    let whole = |number: &f64| number.fract() == 0.0 && (0.0..9e15).contains(number);
    count.as_u64().or_else(|| count.as_f64().filter(whole).map(|number| number as u64))
}

/// One choice of a whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeChoice {
    pub index: u32,
    /// The provider's message as it came: role, content, tool_calls, ….
    pub message: Map<String, Value>,
    pub finish_reason: String,
    pub logprobs: Option<Value>,
}

/// An answer that came in one piece; at least one choice.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeAnswer {
    pub choices: Vec<WholeChoice>,
    /// The rest of the provider's object, without `choices`.
    pub raw: Map<String, Value>,
    pub usage: Option<TokenUsage>,
}

impl WholeAnswer {
    /// For the client of a stream, of which nothing else in `raw` is told.
    pub fn imprint(&self) -> Imprint {
        let said = |name: &str| self.raw.get(name).and_then(Value::as_str).filter(|said| said.len() <= MAX_IMPRINT);
        Imprint {
            system_fingerprint: said("system_fingerprint").map(Box::from),
            service_tier: said("service_tier").map(Box::from),
        }
    }
}

/// Reads a non-streaming answer.
///
/// # Errors
/// It is not a chat completion, or an error object.
pub fn read_whole(body: &[u8]) -> Result<WholeAnswer, Malformed> {
    let mut raw: Map<String, Value> = serde_json::from_slice(body).map_err(|_| Malformed::Shape)?;
    if raw.get("error").is_some_and(|error| !error.is_null()) {
        return Err(Malformed::InBandError);
    }
    let Some(Value::Array(choices)) = raw.shift_remove("choices") else { return Err(Malformed::Shape) };
    let choices: Vec<WholeChoice> = (0..)
        .zip(choices)
        .map(|(place, choice)| whole_choice(place, choice))
        .collect::<Option<_>>()
        .ok_or(Malformed::Shape)?;
    if choices.is_empty() {
        return Err(Malformed::Shape);
    }
    let usage = raw.get("usage").and_then(usage_of);
    Ok(WholeAnswer { choices, raw, usage })
}

fn whole_choice(place: u32, mut choice: Value) -> Option<WholeChoice> {
    let fields = choice.as_object_mut()?;
    let message = match (fields.shift_remove("message"), fields.shift_remove("text")) {
        (Some(Value::Object(message)), _) => message,
        (None, Some(text @ Value::String(_))) => Map::from_iter([("content".to_owned(), text)]),
        _ => return None,
    };
    // The JSON was complete, so the answer is: a missing reason is only untidy.
    let finish_reason = fields.get("finish_reason").and_then(Value::as_str).unwrap_or("stop").to_owned();
    let index =
        fields.get("index").and_then(Value::as_u64).and_then(|index| u32::try_from(index).ok()).unwrap_or(place);
    let logprobs = fields.shift_remove("logprobs").filter(|logprobs| !logprobs.is_null()).map(as_of_chats);
    Some(WholeChoice { index, message, finish_reason, logprobs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(chunks: &[Value]) -> (Vec<GenerationEvent>, ChunkReader) {
        let (mut reader, mut out) = (ChunkReader::default(), VecDeque::new());
        for chunk in chunks {
            reader.read(&chunk.to_string(), &mut out).unwrap();
        }
        (out.into(), reader)
    }

    fn text(choice: u32, text: &str) -> GenerationEvent {
        GenerationEvent::Delta(Delta { choice, content: Some(text.into()), ..Delta::default() })
    }

    fn finish(choice: u32, reason: &str) -> GenerationEvent {
        GenerationEvent::Finish { choice, reason: reason.into() }
    }

    #[test]
    fn a_plain_stream_is_read() {
        let (events, reader) = read_all(&[
            json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "", "refusal": null}, "finish_reason": null}]}),
            json!({"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": null}], "usage": null}),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}}),
        ]);
        assert_eq!(events, [text(0, "a"), finish(0, "stop")]);
        assert!(reader.is_complete());
        let usage = TokenUsage {
            prompt_tokens: 3,
            completion_tokens: 1,
            cached_tokens: 2,
            estimated: false,
            ..TokenUsage::default()
        };
        assert_eq!(reader.usage(), Some(usage));
    }

    #[test]
    fn what_was_thought_and_who_made_it_is_kept() {
        let chunk = |fingerprint: Value, usage: Value| json!({"choices": [], "system_fingerprint": fingerprint, "service_tier": "default", "usage": usage});
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 7}});
        let (_, reader) = read_all(&[
            json!({"choices": [], "system_fingerprint": null}),
            chunk(json!("fp_1"), json!(null)),
            chunk(json!("fp_2"), usage),
        ]);
        let counted = reader.usage().unwrap();
        assert_eq!((counted.completion_tokens, counted.reasoning_tokens, counted.cached_tokens), (9, 7, 2));
        let said: Vec<_> = reader.imprint().fields().collect();
        assert_eq!(said, [("service_tier", "default"), ("system_fingerprint", "fp_1")]);
        for odd in
            [json!(null), json!(3), json!({"a": ["b"]}), json!("with \"escapes\""), json!("x".repeat(999)), json!("")]
        {
            let (_, reader) = read_all(&[json!({"choices": [], "system_fingerprint": odd})]);
            assert!(reader.imprint().is_empty(), "{odd}");
        }
        let more =
            json!({"prompt_tokens": 3, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 7}});
        assert_eq!(usage_of(&more).unwrap().reasoning_tokens, 1, "never more than the completion");
    }

    #[test]
    fn unknown_delta_fields_and_logprobs_go_through() {
        let (events, _) = read_all(&[json!({"choices": [{
            "delta": {"tool_calls": [{"index": 0}], "reasoning_content": "hm", "audio": null, "parts": []}, "logprobs": {"content": []}
        }]})]);
        let Some(GenerationEvent::Delta(delta)) = events.first() else { panic!("a delta") };
        assert_eq!(
            Value::Object(delta.other.clone()),
            json!({"tool_calls": [{"index": 0}], "reasoning_content": "hm"})
        );
        assert_eq!((delta.content.as_ref(), &delta.logprobs), (None, &Some(json!({"content": []}))));
    }

    #[test]
    fn text_completions_are_read_as_chats_are() {
        let choice = json!({"index": 1, "text": "a b", "finish_reason": "stop", "logprobs": {
            "tokens": ["a", " b"], "token_logprobs": [null, -0.5], "top_logprobs": [null, {" b": -0.5, "index": -1.5}],
            "text_offset": [0, 1]
        }});
        let logprobs = json!({"content": [
            {"token": "a", "logprob": null, "bytes": [97], "top_logprobs": []},
            {"token": " b", "logprob": -0.5, "bytes": [32, 98], "top_logprobs": [
                {"token": " b", "logprob": -0.5, "bytes": [32, 98]},
                {"token": "index", "logprob": -1.5, "bytes": [105, 110, 100, 101, 120]}
            ]}
        ], "refusal": null});
        let (events, reader) = read_all(&[json!({"choices": [choice]})]);
        let delta =
            Delta { choice: 1, content: Some("a b".into()), logprobs: Some(logprobs.clone()), ..Delta::default() };
        assert_eq!(events, [GenerationEvent::Delta(delta), finish(1, "stop")]);
        assert!(reader.is_complete());
        let whole = read_whole(json!({"choices": [choice]}).to_string().as_bytes()).unwrap();
        let content = &whole.choices[0].message["content"];
        assert_eq!((whole.choices[0].index, content, &whole.choices[0].logprobs), (1, &json!("a b"), &Some(logprobs)));
    }

    #[test]
    fn an_answer_is_complete_when_every_begun_choice_is() {
        let chunk = |index: u32, reason: Option<&str>| json!({"choices": [{"index": index, "delta": {"content": "x"}, "finish_reason": reason}]});
        assert!(!read_all(&[]).1.is_complete());
        assert!(!read_all(&[chunk(0, None), chunk(1, Some("stop"))]).1.is_complete());
        let (events, reader) =
            read_all(&[chunk(0, None), chunk(1, Some("stop")), chunk(0, Some("length")), chunk(0, Some("stop"))]);
        assert!(reader.is_complete());
        assert_eq!(events, [text(0, "x"), text(1, "x"), finish(1, "stop"), text(0, "x"), finish(0, "length")]);
    }

    #[test]
    fn choices_that_were_asked_for_and_never_began_are_missing() {
        let mut reader = ChunkReader::of(3);
        let mut read = |index: u32| {
            let chunk = json!({"choices": [{"index": index, "delta": {"content": "x"}, "finish_reason": "stop"}]});
            reader.read(&chunk.to_string(), &mut VecDeque::new()).unwrap();
            (reader.may_end(), reader.is_complete())
        };
        assert_eq!([read(0), read(2), read(1)], [(true, false), (true, false), (true, true)]);
    }

    #[test]
    fn usage_in_every_chunk_counts_once_and_nonsense_is_none() {
        let chunk = |n: u32| json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": n}});
        assert_eq!(read_all(&[chunk(1), chunk(2)]).1.usage().unwrap().completion_tokens, 2);
        for usage in [
            json!(null),
            json!({}),
            json!(3),
            json!({"prompt_tokens": -1, "completion_tokens": 1}),
            json!({"prompt_tokens": "1"}),
        ] {
            assert_eq!(usage_of(&usage), None, "{usage}");
        }
        let decimals =
            json!({"prompt_tokens": 10.0, "completion_tokens": 3.0, "prompt_tokens_details": {"cached_tokens": 4.0}});
        let usage = usage_of(&decimals).unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens), (10, 3, 4));
        for odd in [json!(1.5), json!(-1.0), json!(1e300)] {
            assert_eq!(usage_of(&json!({"prompt_tokens": odd, "completion_tokens": 1})), None, "{odd}");
        }
        let deepseek = json!({"prompt_tokens": 3, "completion_tokens": 1, "prompt_cache_hit_tokens": 9});
        assert_eq!(usage_of(&deepseek).unwrap().cached_tokens, 3, "never more than the prompt");
    }

    #[test]
    fn what_is_no_chunk_is_malformed() {
        let mut out = VecDeque::new();
        for (data, why) in [
            ("{\"choices\": [{\"delta\"", Malformed::Shape),
            ("[]", Malformed::Shape),
            ("{}", Malformed::Shape),
            ("{\"choices\": {}}", Malformed::Shape),
            ("{\"choices\": [{\"index\": 128, \"delta\": {}}]}", Malformed::Shape),
            ("{\"choices\": [{\"index\": -1, \"delta\": {}}]}", Malformed::Shape),
            ("{\"error\": {\"message\": \"m\"}}", Malformed::InBandError),
            ("{\"error\": \"m\", \"choices\": []}", Malformed::InBandError),
        ] {
            assert_eq!(ChunkReader::default().read(data, &mut out), Err(why), "{data}");
        }
        assert!(out.is_empty());
    }

    #[test]
    fn a_whole_answer_is_read() {
        let body = json!({
            "id": "x", "service_tier": "d", "usage": {"prompt_tokens": 3, "completion_tokens": 1},
            "choices": [{"message": {"role": "assistant", "content": "a"}, "logprobs": null}]
        });
        let answer = read_whole(body.to_string().as_bytes()).unwrap();
        assert_eq!((answer.choices[0].index, answer.choices[0].finish_reason.as_str()), (0, "stop"));
        assert_eq!(answer.choices[0].message["content"], "a");
        assert_eq!(answer.usage.unwrap().completion_tokens, 1);
        assert_eq!(answer.raw.keys().collect::<Vec<_>>(), ["id", "service_tier", "usage"]);
    }

    #[test]
    fn what_is_no_whole_answer_is_malformed() {
        for body in [
            "",
            "<html>",
            "[]",
            "{}",
            "{\"choices\": []}",
            "{\"choices\": [{}]}",
            "{\"choices\": [{\"message\": \"a\"}]}",
        ] {
            assert_eq!(read_whole(body.as_bytes()), Err(Malformed::Shape), "{body}");
        }
        assert_eq!(read_whole(b"{\"error\": {\"message\": \"m\"}, \"choices\": []}"), Err(Malformed::InBandError));
    }
}
