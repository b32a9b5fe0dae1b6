//! Calls in every dialect: what is read does not depend on how it came, what the grammar allows is a call, and what a model
//! is shown is what its template takes.

use super::*;
use crate::{
    constrain::derive::Grammar,
    domain::{Format, Message, OutputWish, Tool, ToolChoice, ToolWish},
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::sync::Arc;

const ALL: [Dialect; 5] = [Dialect::Generic, Dialect::Hermes, Dialect::Llama, Dialect::Mistral, Dialect::MistralArgs];

fn names() -> Vec<String> {
    vec!["weather".into(), "time".into()]
}

/// Text, and calls with their arguments.
fn read(dialect: Dialect, pieces: &[&str]) -> (String, Vec<(String, String)>) {
    let mut reader = Reader::new(dialect, names());
    let mut all: Vec<Piece> = pieces.iter().flat_map(|piece| reader.push(piece)).collect();
    all.extend(reader.finish(false));
    let (mut text, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for piece in all {
        match piece {
            Piece::Text(more) => text.push_str(&more),
            Piece::Call { index, name } => {
                assert_eq!(index, calls.len());
                calls.push((name, String::new()));
            }
            Piece::Arguments { index, text } => {
                assert_eq!(index + 1, calls.len(), "arguments belong to the last call");
                calls[index].1.push_str(&text);
            }
        }
    }
    assert_eq!(reader.calls(), calls.len());
    (text, calls)
}

#[test]
fn a_call_that_was_cut_before_its_name_is_neither_text_nor_call() {
    let cuts = [
        (Dialect::Generic, "{\n  \"tool_call"),
        (Dialect::Generic, "{\"tool_call\": {\"na"),
        (Dialect::Hermes, "<tool_call>\n{\"name\": \"wea"),
        (Dialect::Llama, "{\"name\": \"wea"),
        (Dialect::Mistral, "[TOOL_CALLS] [{\"na"),
    ];
    for (dialect, text) in cuts {
        let mut reader = Reader::new(dialect, names());
        let pieces = [reader.push(text), reader.finish(true)].concat();
        assert_eq!((pieces, reader.calls()), (Vec::new(), 0), "{dialect:?}");
    }
    let mut reader = Reader::new(Dialect::Hermes, names());
    let pieces = [reader.push("1 < 2, <tool"), reader.finish(true)].concat();
    let text: String = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            _ => "",
        })
        .collect();
    assert_eq!(text, "1 < 2, <tool", "it may be text as well");
}

fn call(name: &str, arguments: &str) -> (String, String) {
    (name.into(), arguments.into())
}

#[test]
fn every_dialect_is_read() {
    let (rome, none) = (call("weather", r#"{"city": "Rome"}"#), call("time", "{}"));
    for (dialect, text, said, calls) in [
        (
            Dialect::Hermes,
            "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
            "Let me see.",
            vec![rome.clone()],
        ),
        (
            Dialect::Hermes,
            "<tool_call>{\"arguments\": {\"city\": \"Rome\"}, \"name\": \"weather\"}</tool_call>\n<tool_call>{\"name\":\"time\"}</tool_call>",
            "",
            vec![rome.clone(), none.clone()],
        ),
        (Dialect::Hermes, "a <tool_calls> b < c <tool", "a <tool_calls> b < c <tool", vec![]),
        (Dialect::Hermes, "<tool_call>no json", "<tool_call>no json", vec![]),
        (
            Dialect::Hermes,
            "<tool_call>{\"name\": \"new\", \"arguments\": \"{\\\"a\\\": \\\"\\u00e9\\\"}\"}</tool_call> done",
            "done",
            vec![call("new", "{\"a\": \"é\"}")],
        ),
        (Dialect::Llama, "{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}", "", vec![rome.clone()]),
        (
            Dialect::Llama,
            " <|python_tag|>{\"type\": \"function\", \"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}; {\"name\": \"time\", \"parameters\": {}}",
            "",
            vec![rome.clone(), none.clone()],
        ),
        (Dialect::Llama, "{\"name\": \"Bob\", \"age\": 5}", "{\"name\": \"Bob\", \"age\": 5}", vec![]),
        (Dialect::Llama, "{\"answer\": 5}", "{\"answer\": 5}", vec![]),
        (Dialect::Llama, "Hello {\"name\": \"time\"}", "Hello {\"name\": \"time\"}", vec![]),
        (
            Dialect::Mistral,
            "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}, {\"name\": \"time\", \"arguments\": {}, \"id\": \"123456789\"}]",
            "",
            vec![rome.clone(), none.clone()],
        ),
        (Dialect::Mistral, "[TOOL_CALLS] maybe", "[TOOL_CALLS] maybe", vec![]),
        (
            Dialect::MistralArgs,
            "Hm.[TOOL_CALLS]weather[ARGS]{\"city\": \"Rome\"}[TOOL_CALLS]time[CALL_ID]abc[ARGS]{}",
            "Hm.",
            vec![rome.clone(), none.clone()],
        ),
        (
            Dialect::Generic,
            "{\"tool_call\": {\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}}",
            "",
            vec![rome.clone()],
        ),
        (
            Dialect::Generic,
            " { \"tool_calls\": [{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}, {\"name\": \"time\", \"arguments\": {}}]}\n",
            "",
            vec![rome, none],
        ),
        (Dialect::Generic, "{\"response\": \"Say \\\"hi\\\"\\n\\ud83d\\ude00 \"}", "Say \"hi\"\n😀 ", vec![]),
        (Dialect::Generic, "{\"response\": {\"a\": [1, 2]}}", "{\"a\": [1, 2]}", vec![]),
        (Dialect::Generic, "Plain text.", "Plain text.", vec![]),
        (Dialect::Generic, "{\"other\": 1}", "{\"other\": 1}", vec![]),
        (
            Dialect::Generic,
            "{\"tool_call\": {\"name\": \"unknown\"}}",
            "{\"tool_call\": {\"name\": \"unknown\"}}",
            vec![],
        ),
    ] {
        assert_eq!(read(dialect, &[text]), (said.to_owned(), calls), "{dialect:?}: {text}");
    }
}

#[test]
fn a_call_that_breaks_off_keeps_what_came() {
    let (text, calls) = read(Dialect::Hermes, &["<tool_call>{\"name\": \"weather\", \"arguments\": {\"ci"]);
    assert_eq!((text.as_str(), calls), ("", vec![call("weather", "{\"ci")]));
    let (text, calls) = read(Dialect::Generic, &["{\"response\": \"Half a"]);
    assert_eq!((text.as_str(), calls), ("Half a", vec![]));
}

fn tool(name: &str, parameters: Value, strict: bool) -> Tool {
    let function = json!({"name": name, "description": "Does it", "parameters": parameters});
    Tool { name: name.into(), function, parameters: Some(parameters), strict }
}

fn wish(choice: ToolChoice, parallel: Option<bool>) -> ToolWish {
    let city = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}, "days": {"type": "integer", "minimum": 1, "maximum": 14}}, "required": ["city"]});
    let tools = vec![tool("weather", city, true), tool("time", json!({"type": "object", "properties": {}}), false)];
    ToolWish { tools, choice, parallel, legacy: false }
}

fn output(choice: ToolChoice, parallel: Option<bool>) -> OutputWish {
    OutputWish { tools: Some(Arc::new(wish(choice, parallel))), ..OutputWish::default() }
}

#[test]
fn what_the_grammar_allows_is_read_as_calls_with_arguments_of_their_schema() {
    let schemas: Vec<_> = wish(ToolChoice::Auto, None)
        .tools
        .iter()
        .map(|tool| jsonschema::validator_for(tool.parameters.as_ref().unwrap()).unwrap())
        .collect();
    let mut seen = [0_usize; 3];
    for dialect in ALL {
        for (choice, parallel) in [
            (ToolChoice::Required, None),
            (ToolChoice::Required, Some(true)),
            (ToolChoice::Required, Some(false)),
            (ToolChoice::Named("time".into()), None),
            (ToolChoice::Auto, None),
        ] {
            let grammar = answer_grammar(&output(choice.clone(), parallel), dialect).unwrap().unwrap();
            let grammar = Grammar::read(&grammar);
            for seed in 0..80 {
                let mut random = StdRng::seed_from_u64(seed);
                let text = grammar.text(&mut |sides| random.random_range(0..sides));
                let (said, calls) = read(dialect, &[&text]);
                seen[calls.len().min(2)] += 1;
                let context = format!("{dialect:?} {choice:?} {text}");
                match &choice {
                    ToolChoice::Auto => {}
                    ToolChoice::Required => assert!(!calls.is_empty() && said.is_empty(), "{context}"),
                    ToolChoice::Named(name) => {
                        assert!(calls.len() == 1 && calls[0].0 == *name && said.is_empty(), "{context}");
                    }
                }
                assert!(parallel != Some(false) || calls.len() <= 1, "{context}");
                for (name, arguments) in &calls {
                    let at = names().iter().position(|known| known == name).expect(&context);
                    let arguments: Value = serde_json::from_str(arguments).expect(&context);
                    assert!(schemas[at].is_valid(&arguments), "{context}");
                }
            }
        }
    }
    assert!(seen.iter().all(|times| *times > 20), "{seen:?}");
}

#[test]
fn an_answer_in_a_format_stays_one_beside_tools() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
    for dialect in ALL {
        let output = OutputWish { format: Format::Schema(Arc::new(schema.clone())), ..output(ToolChoice::Auto, None) };
        let grammar = Grammar::read(&answer_grammar(&output, dialect).unwrap().unwrap());
        let mut answers = 0;
        for seed in 0..60 {
            let mut random = StdRng::seed_from_u64(seed);
            let text = grammar.text(&mut |sides| random.random_range(0..sides));
            let (said, calls) = read(dialect, &[&text]);
            if calls.is_empty() {
                let value: Value =
                    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{dialect:?} {error}: {text}"));
                assert!(value["a"].is_i64(), "{text}");
                answers += 1;
            }
        }
        assert!(answers > 5, "{dialect:?}");
    }
}

#[test]
fn a_schema_that_cannot_be_obeyed_is_told_by_its_field() {
    let bad = json!({"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 3}}});
    let with = |tool: Tool, legacy| {
        let mut wish = wish(ToolChoice::Auto, None);
        wish.legacy = legacy;
        wish.tools.push(tool);
        unmet(&OutputWish { tools: Some(Arc::new(wish)), ..OutputWish::default() }).map(|unmet| unmet.param)
    };
    assert_eq!(with(tool("x", bad.clone(), true), false).as_deref(), Some("tools[2].function.parameters"));
    assert_eq!(with(tool("x", bad.clone(), true), true).as_deref(), Some("functions[2].parameters"));
    assert_eq!(with(tool("x", bad.clone(), false), false), None, "not strict: the types are enough");
    assert_eq!(
        with(tool("x", json!({"type": "string"}), false), false).as_deref(),
        Some("tools[2].function.parameters")
    );
    let format = OutputWish { format: Format::Schema(Arc::new(bad)), ..OutputWish::default() };
    let told = unmet(&format).unwrap();
    assert!(
        told.param == "response_format" && told.message.contains("'multipleOf' is not supported"),
        "{}",
        told.message
    );
}

fn message(raw: Value) -> Message {
    let Value::Object(raw) = raw else { panic!("an object") };
    let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Message { role: text("role"), content: text("content"), raw }
}

fn conversation() -> Vec<Message> {
    [
        json!({"role": "developer", "content": "Be brief."}),
        json!({"role": "user", "content": "Weather and time?"}),
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}},
            {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}}]}),
        json!({"role": "tool", "tool_call_id": "call_1", "content": "sunny"}),
        json!({"role": "tool", "tool_call_id": "call_2", "content": "noon"}),
    ]
    .into_iter()
    .map(message)
    .collect()
}

#[test]
fn a_template_that_shows_tools_gets_them_as_they_are() {
    let traits = ChatTraits { dialect: Dialect::Mistral, ..ChatTraits::default() };
    let (messages, tools) = chat_prompt(&conversation(), &output(ToolChoice::Auto, None), traits);
    assert_eq!(messages[0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(
        messages[2]["tool_calls"][0],
        json!({"id": "call00000", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}})
    );
    let result = json!({"role": "tool", "content": "noon", "name": "time", "tool_call_id": "call00001"});
    assert_eq!(messages[4], result);
    let tools = tools.unwrap();
    assert_eq!((tools[0]["type"].as_str(), tools[1]["function"]["name"].as_str()), (Some("function"), Some("time")));
    let (_, tools) = chat_prompt(&conversation(), &output(ToolChoice::Named("time".into()), None), traits);
    assert_eq!(tools.unwrap().as_array().unwrap().len(), 1);
    let knows = ChatTraits { developer: true, dialect: Dialect::Hermes, ..ChatTraits::default() };
    let (messages, _) = chat_prompt(&conversation(), &OutputWish::default(), knows);
    assert_eq!((&messages[0]["role"], &messages[3]["tool_call_id"]), (&json!("developer"), &json!("call_1")));
}

#[test]
fn a_template_without_tools_gets_text_in_turns_it_knows() {
    let (messages, tools) = chat_prompt(&conversation(), &output(ToolChoice::Auto, None), ChatTraits::default());
    assert_eq!(tools, None);
    let text = |at: usize| messages[at]["content"].as_str().unwrap();
    assert!(text(0).starts_with("Be brief.\n\nYou can call") && text(0).contains("\"weather\""), "{}", text(0));
    let calls = r#"{"tool_calls":[{"name":"weather","arguments":{"city":"Rome"}},{"name":"time","arguments":{}}]}"#;
    assert_eq!(text(2), calls);
    let results = "{\"tool_response\":{\"name\":\"weather\",\"content\":\"sunny\"}}\n{\"tool_response\":{\"name\":\"time\",\"content\":\"noon\"}}";
    assert_eq!(messages[3], json!({"role": "user", "content": results}));
    let no_system = ChatTraits { system: false, ..ChatTraits::default() };
    let (messages, _) = chat_prompt(&conversation(), &OutputWish::default(), no_system);
    assert_eq!(messages[0], json!({"role": "user", "content": "Be brief.\n\nWeather and time?"}));
}

fn texts() -> impl Strategy<Value = String> {
    let parts = prop_oneof![
        Just("<tool_call>".to_owned()),
        Just("</tool_call>".to_owned()),
        Just("<|python_tag|>".to_owned()),
        Just("[TOOL_CALLS]".to_owned()),
        Just("[ARGS]".to_owned()),
        Just("[CALL_ID]".to_owned()),
        Just("{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}".to_owned()),
        Just("{\"name\": \"time\", \"parameters\": \"{\\\"a\\\":1}\"}".to_owned()),
        Just("{\"tool_call\":".to_owned()),
        Just("{\"tool_calls\":[".to_owned()),
        Just("{\"response\": \"x\\n".to_owned()),
        Just("weather".to_owned()),
        "[\\[\\]{},:;\"< \n\\\\a-u1é]{0,6}",
    ];
    proptest::collection::vec(parts, 0..7).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_cut_of_the_text_reads_the_same(text in texts(), cuts in proptest::collection::vec(0_usize..200, 0..12)) {
        let mut at: Vec<usize> = cuts.into_iter().map(|cut| text.floor_char_boundary(cut.min(text.len()))).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let pieces: Vec<&str> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        for dialect in ALL {
            prop_assert_eq!(read(dialect, &pieces), read(dialect, &[&text]));
        }
    }

    #[test]
    fn without_markers_nothing_but_white_space_is_lost(text in "[a-z \n<>\\[\\]\"]{0,40}") {
        for dialect in [Dialect::Hermes, Dialect::Mistral, Dialect::Generic] {
            let (said, calls) = read(dialect, &[&text]);
            prop_assert_eq!(&said, &text);
            prop_assert!(calls.is_empty());
        }
    }
}
