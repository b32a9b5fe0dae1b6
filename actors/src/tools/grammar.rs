//! What a model may write, so that every call it begins is a call: a name that was offered, arguments of its schema.
//!
//! With the choice left to the model, text is free up to the marker of its dialect; from there on it is a call. What a
//! call's arguments must be is the tool's schema, to the letter for a `strict` tool, by its types for others.

use super::dialect::Dialect;
use crate::{
    constrain::{Rules, Strictness, Unfit, literal, object_grammar, rule_of, schema_grammar},
    domain::{Format, OutputWish, Tool, ToolChoice, ToolWish, Unmet},
};
use serde_json::{Map, Value};

/// Calls in one answer at most.
const MAX_CALLS: usize = 16;
/// As `frame::MAX_LOGIT_BIAS`.
const MAX_BIASES: usize = 1024;

/// The grammar of an answer; `None` = any text.
///
/// # Errors
/// A schema cannot be obeyed, which [`unmet`] would have told.
pub fn answer_grammar(output: &OutputWish, dialect: Dialect) -> Result<Option<String>, Unfit> {
    match (&output.tools, &output.format) {
        (Some(tools), format) => with_tools(tools, format, dialect).map(Some),
        (None, Format::Text) => Ok(None),
        (None, Format::Object) => Ok(Some(object_grammar())),
        (None, Format::Schema(schema)) => schema_grammar(schema).map(Some),
    }
}

/// What of a request no local target can promise.
pub fn unmet(output: &OutputWish) -> Option<Unmet> {
    let told = |param: String, what: &str, unfit: Unfit| Unmet {
        message: format!("Invalid schema for {what} '{param}': {unfit}."),
        param,
    };
    if let Format::Schema(schema) = &output.format
        && let Err(unfit) = schema_grammar(schema)
    {
        return Some(told("response_format".into(), "the answer in", unfit));
    }
    for (index, tool) in output.tools.iter().flat_map(|wish| wish.tools.iter().enumerate()) {
        let legacy = output.tools.as_ref().is_some_and(|wish| wish.legacy);
        if let Err(unfit) = arguments(tool, &mut Rules::default()) {
            let param = if legacy {
                format!("functions[{index}].parameters")
            } else {
                format!("tools[{index}].function.parameters")
            };
            return Some(told(param, "the arguments in", unfit));
        }
    }
    if output.logit_bias.len() > MAX_BIASES {
        let message = format!("Invalid 'logit_bias': at most {MAX_BIASES} entries are possible locally.");
        return Some(Unmet { param: "logit_bias".into(), message });
    }
    // All together may still be too large.
    match answer_grammar(output, Dialect::Hermes) {
        Err(unfit) => Some(Unmet { param: "tools".into(), message: format!("Invalid 'tools': {unfit}.") }),
        Ok(_) => None,
    }
}

fn with_tools(wish: &ToolWish, format: &Format, dialect: Dialect) -> Result<String, Unfit> {
    let mut rules = Rules::default();
    let (marker, calls) = calls(wish, dialect, &mut rules)?;
    let whole = format!("{marker} {calls}");
    let root = match (&wish.choice, dialect) {
        (ToolChoice::Required | ToolChoice::Named(_), _) => whole,
        (ToolChoice::Auto, Dialect::Generic) => {
            let response = match answer(format, &mut rules)? {
                Some(value) => value,
                None => rules.string(),
            };
            format!(r#"{calls} | "{{" ws "\"response\":" ws {response} ws "}}""#)
        }
        (ToolChoice::Auto, dialect) => match answer(format, &mut rules)? {
            Some(value) => format!("{whole} | {value}"),
            None => text_or_calls(&calls, dialect, &mut rules),
        },
    };
    rules.finish(&root)
}

/// The rule of an answer that is no call, where it is not free text.
fn answer(format: &Format, rules: &mut Rules) -> Result<Option<String>, Unfit> {
    match format {
        Format::Text => Ok(None),
        Format::Object => Ok(Some(rules.any_object())),
        Format::Schema(schema) => rule_of(schema, Strictness::Exact, rules).map(Some),
    }
}

/// One call or several: the marker that begins the first one, and the rule of what follows it.
fn calls(wish: &ToolWish, dialect: Dialect, rules: &mut Rules) -> Result<(&'static str, String), Unfit> {
    let mut alternatives = Vec::new();
    for tool in wish.callable() {
        alternatives.push(call(tool, dialect, rules)?);
    }
    let call = rules.rule(&alternatives.join(" | "));
    // A model of our own format was not trained to know when it has called enough.
    let several = match (&wish.choice, dialect) {
        (ToolChoice::Named(_), _) => false,
        (_, Dialect::Generic | Dialect::Llama) => wish.parallel == Some(true),
        _ => wish.parallel != Some(false),
    };
    let most = MAX_CALLS - 1;
    let repeated = |first: &str, separator: &str| match several {
        true => format!("{first} ({separator} {first}){{0,{most}}}"),
        false => first.to_owned(),
    };
    let (marker, body) = match dialect {
        Dialect::Generic if several => {
            let list = repeated(&call, r#""," ws"#);
            ("", format!(r#""{{" ws "\"tool_calls\":" ws "[" ws {list} ws "]" ws "}}""#))
        }
        Dialect::Generic => ("", format!(r#""{{" ws "\"tool_call\":" ws {call} ws "}}""#)),
        Dialect::Hermes => {
            let marked = rules.rule(&format!(r#""\n"? {call} "\n"? "</tool_call>""#));
            (r#""<tool_call>""#, repeated(&marked, r#""\n"? "<tool_call>""#))
        }
        Dialect::Llama => (r#""<|python_tag|>"?"#, repeated(&call, r#"";" " "?"#)),
        Dialect::Mistral => (r#""[TOOL_CALLS]""#, format!(r#"" "? "[" {} "]""#, repeated(&call, r#""," ws"#))),
        Dialect::MistralArgs => (r#""[TOOL_CALLS]""#, repeated(&call, r#""[TOOL_CALLS]""#)),
    };
    Ok((marker, rules.rule(&body)))
}

fn call(tool: &Tool, dialect: Dialect, rules: &mut Rules) -> Result<String, Unfit> {
    let arguments = arguments(tool, rules)?;
    if dialect == Dialect::MistralArgs {
        return Ok(rules.rule(&format!("{} {arguments}", literal(&format!("{}[ARGS]", tool.name)))));
    }
    let name = literal(&format!("{},", Value::from(tool.name.as_str())));
    let key = if dialect == Dialect::Llama { "parameters" } else { "arguments" };
    Ok(rules.rule(&format!(r#""{{" ws "\"name\":" ws {name} ws "\"{key}\":" ws {arguments} ws "}}""#)))
}

/// Always an object.
fn arguments(tool: &Tool, rules: &mut Rules) -> Result<String, Unfit> {
    let Some(Value::Object(schema)) = &tool.parameters else { return Ok(rules.rule(r#""{" ws "}""#)) };
    if schema.is_empty() {
        return Ok(rules.any_object());
    }
    let has = |word: &str| schema.contains_key(word);
    let names_none = schema.get("properties").and_then(Value::as_object).is_some_and(Map::is_empty);
    let is_plain = !["$ref", "allOf", "anyOf", "oneOf"].into_iter().any(has);
    if names_none && is_plain && !has("required") && !has("additionalProperties") {
        // No arguments are named, and none are meant.
        return Ok(rules.rule(r#""{" ws "}""#));
    }
    let mut schema = schema.clone();
    match schema.get("type") {
        Some(kind) if kind == "object" => {}
        Some(_) => return Err(Unfit::new("the arguments of a function must be an object")),
        None if is_plain => drop(schema.insert("type".into(), "object".into())),
        None => {}
    }
    let strictness = if tool.strict { Strictness::Exact } else { Strictness::Loose };
    rule_of(&Value::Object(schema), strictness, rules)
}

/// Free text that may become calls at any place, by the marker of the dialect.
fn text_or_calls(calls: &str, dialect: Dialect, rules: &mut Rules) -> String {
    let trigger: Vec<char> = dialect.trigger().unwrap_or_default().chars().collect();
    let states: Vec<String> = trigger.iter().map(|_| rules.reserve()).collect();
    let after = |matched: usize| states.get(matched).map_or(calls, String::as_str);
    for (matched, state) in states.iter().enumerate() {
        let body = text_state(&trigger, matched, &after);
        rules.define(state, &body);
    }
    if dialect == Dialect::Llama { llama_text(calls, after(0), after(1), rules) } else { after(0).to_owned() }
}

/// Text whose last characters are the first `matched` of the trigger. `after(n)` names the rule after n of them.
fn text_state<'n>(trigger: &[char], matched: usize, after: &impl Fn(usize) -> &'n str) -> String {
    let mut body = String::from("\"\"");
    let mut telling = String::new();
    let mut seen = Vec::new();
    for &char in trigger {
        let next = matched_after(trigger, matched, char);
        if next == 0 || seen.contains(&char) {
            continue;
        }
        seen.push(char);
        let code = format!("\\x{:02X}", u32::from(char));
        body.push_str(&format!(" | [{code}] {}", after(next)));
        telling.push_str(&code);
    }
    format!("{body} | [^{telling}] {}", after(0))
}

/// How much of the trigger the text ends with, once `char` follows.
fn matched_after(trigger: &[char], matched: usize, char: char) -> usize {
    let mut text: Vec<char> = trigger.get(..matched).unwrap_or_default().to_vec();
    text.push(char);
    (1..=text.len()).rev().find(|length| text.ends_with(trigger.get(..*length).unwrap_or_default())).unwrap_or(0)
}

/// A brace at the beginning begins a call if "name" follows; JSON of other kinds is text.
fn llama_text(calls: &str, text: &str, marked: &str, rules: &mut Rules) -> String {
    let (start, brace) = (rules.reserve(), rules.reserve());
    let quote = rules.rule(&format!(r#""" | [^n<] {text} | "<" {marked}"#));
    rules.define(&brace, &format!(r#""" | [ \t\r\n] {brace} | "\"" {quote} | "<" {marked} | [^" \t\r\n<] {text}"#));
    rules.define(&start, &format!(r#""" | [ \t\r\n] {start} | "{{" {brace} | "<" {marked} | [^{{ \t\r\n<] {text}"#));
    format!("{calls} | {start}")
}
