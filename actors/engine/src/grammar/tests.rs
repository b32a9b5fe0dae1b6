//! What is refused before llama.cpp sees it, and that ordinary schemas are not.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn schema(schema: &Value) -> Result<(), BadGrammar> {
    check(&Grammar::JsonSchema(schema.to_string()))
}

fn pattern(pattern: &str) -> Result<(), BadGrammar> {
    schema(&json!({"type": "object", "properties": {"secret": {"type": "string", "pattern": pattern}}}))
}

#[test]
fn ordinary_schemas_pass() {
    schema(&json!({"type": "object"})).unwrap();
    schema(&json!({
        "type": "object", "required": ["name"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 80},
            "kind": {"enum": ["a", "b", null]},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 5},
        },
        "$defs": {"tag": {"type": "string", "pattern": "^[a-z0-9_-]{1,20}$"}},
    }))
    .unwrap();
}

#[test]
fn patterns_that_translate_faithfully_pass() {
    for fine in ["^[0-9]+$", "^(?:a|bc)*$", "^\\(?[0-9]{3}\\)? [0-9]{3,}$", "^[^\\]\\\\]x.$", "^$", "^a{2,3}b?$"] {
        assert_eq!(pattern(fine), Ok(()), "{fine}");
    }
}

#[test]
fn patterns_that_crash_or_are_not_obeyed_are_refused_without_quoting_them() {
    let long = format!("^{}$", "a".repeat(MAX_PATTERN_BYTES));
    let deep = format!("^{}a{}$", "(".repeat(9), ")".repeat(9));
    let refused = [
        "^?[0-9]$",
        "[0-9]+",
        "^a",
        "^*$",
        "^a**$",
        "^(|*)$",
        "^(a$",
        "^a)$",
        "^[a$",
        "^[]$",
        "^a{2$",
        "^a{5,2}$",
        "^a{9999}$",
        "^a{x}$",
        "^(?=a)b$",
        "^(?<n>a)$",
        "^a\\d$",
        "^[\\w]$",
        "^a^b$",
        "^a$b$",
        "^a\\$",
        "^[[:alpha:]]$",
        "^(a{1,2}){1,x}$",
        &long,
        &deep,
    ];
    for bad in refused {
        let error = pattern(bad).expect_err(bad).to_string();
        assert!(!error.contains("secret") && !error.contains(bad), "{error}");
    }
}

#[test]
fn what_would_grow_without_bound_is_refused() {
    let mut deep = json!({"type": "string"});
    for _ in 0..40 {
        deep = json!({"type": "array", "items": deep});
    }
    let many: Map<String, Value> = (0..=MAX_PROPERTIES).map(|n| (n.to_string(), json!({}))).collect();
    let refused = [
        deep,
        json!({"properties": many}),
        json!({"enum": (0..=MAX_ENUM_VALUES).collect::<Vec<_>>()}),
        json!({"anyOf": vec![json!({}); MAX_NODES]}),
        json!({"type": "string", "maxLength": 1_000_000}),
        json!({"type": "array", "minItems": -1}),
        json!({"type": "integer", "minimum": 1e300}),
        json!({"$ref": "https://example.com/schema.json"}),
        json!([]),
        json!("text"),
    ];
    for bad in refused {
        assert!(schema(&bad).is_err(), "{}", bad.to_string().chars().take(60).collect::<String>());
    }
    assert!(check(&Grammar::JsonSchema(format!("{{\"title\":\"{}\"}}", "x".repeat(MAX_BYTES)))).is_err());
    assert!(check(&Grammar::JsonSchema("{".into())).is_err());
    assert!(check(&Grammar::JsonSchema("[".repeat(10_000))).is_err());
}

#[test]
fn grammars_are_bounded_in_size_nesting_and_repetition() {
    let gbnf = |text: String| check(&Grammar::Gbnf(text));
    gbnf("root ::= \"((((\" [({]{1,3} ( \"a\" | \"b\" )* # ((((\n".into()).unwrap();
    assert!(gbnf(format!("root ::= {}", "(".repeat(65))).is_err());
    assert!(gbnf("root ::= \"a\"{1,99999}".into()).is_err());
    assert!(gbnf("root ::= \"a\0\"".into()).is_err());
    assert!(gbnf("a".repeat(MAX_BYTES + 1)).is_err());
}

proptest! {
    #[test]
    fn any_text_is_checked_without_a_crash(text in "[\\^\\$\\(\\)\\[\\]\\{\\}\\?\\*\\+\\|\\\\,:a0\"#\n]{0,40}") {
        let _ = check(&Grammar::Gbnf(text.clone()));
        let _ = check(&Grammar::JsonSchema(text.clone()));
        let _ = pattern(&text);
        let _ = pattern(&format!("^{text}$"));
    }
}
