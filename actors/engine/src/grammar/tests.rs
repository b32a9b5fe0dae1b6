//! What is refused before llama.cpp sees it, and that ordinary grammars are not.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use spillway_actors::constrain::schema_grammar;

#[test]
fn grammars_are_bounded_in_size_nesting_and_repetition() {
    check("root ::= \"((((\" [({]{1,3} ( \"a\" | \"b\" )* # ((((\n").unwrap();
    assert!(check(&format!("root ::= {}", "(".repeat(65))).is_err());
    assert!(check("root ::= \"a\"{1,99999}").is_err());
    assert!(check("root ::= \"a\0\"").is_err());
    assert!(check(&"a".repeat(MAX_BYTES + 1)).is_err());
}

#[test]
fn grammars_of_schemas_pass() {
    let schema = json!({"type": "object", "properties": {
        "text": {"type": "string", "minLength": 2000, "maxLength": 60_000},
        "many": {"type": "array", "items": {"type": "integer", "minimum": -7, "maximum": 999}, "maxItems": 1024},
        "id": {"type": "string", "pattern": "^[\"\\\\\\](){}]{3}-(a|b(c|d)){2,70}$"},
    }});
    check(&schema_grammar(&schema).unwrap()).unwrap();
}

proptest! {
    #[test]
    fn any_text_is_checked_without_a_crash(text in "[\\^\\$\\(\\)\\[\\]\\{\\}\\?\\*\\+\\|\\\\,:a0\"#\n]{0,40}") {
        let _ = check(&text);
    }
}
