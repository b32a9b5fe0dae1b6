//! What a grammar allows satisfies its schema, whatever the schema and whatever the dice say; what it cannot promise is
//! refused by name.

use super::{derive::Grammar, ways::Ways, *};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

/// Texts of the grammar validate.
fn hold(schema: &Value, seeds: u64) {
    let grammar = schema_grammar(schema).unwrap_or_else(|unfit| panic!("{schema}: {unfit}"));
    let grammar = Grammar::read(&grammar);
    let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
    for seed in 0..seeds {
        let mut random = StdRng::seed_from_u64(seed);
        let text = grammar.text(&mut |sides| random.random_range(0..sides));
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{schema}: {error}: {text}"));
        if let Err(error) = validator.validate(&value) {
            panic!("{schema}: {error}: {text}");
        }
    }
}

fn refusal(schema: &Value) -> Unfit {
    match schema_grammar(schema) {
        Err(unfit) => unfit,
        Ok(grammar) => panic!("{schema} is not refused: {grammar}"),
    }
}

#[test]
fn what_one_part_says_of_the_rest_holds_for_what_the_other_names() {
    for schema in [
        json!({"type": "array", "allOf": [
            {"items": {"type": "number"}, "minItems": 2, "maxItems": 3},
            {"prefixItems": [{"enum": [1, 4, "x"]}], "items": {}}
        ]}),
        json!({"type": "array", "prefixItems": [{"type": ["string", "null"]}], "items": {"type": "integer"}, "minItems": 3,
            "allOf": [{"prefixItems": [{"type": ["null", "integer"]}, {"type": "number", "minimum": 2}], "maxItems": 4}]}),
        json!({"type": "object", "required": ["a", "b"], "allOf": [
            {"properties": {"a": {"enum": [1, 2, "x"]}}, "additionalProperties": {"type": "string"}},
            {"properties": {"b": {"enum": [null, "y", 7]}}, "additionalProperties": {"type": ["integer", "null"]}}
        ]}),
    ] {
        hold(&schema, 60);
    }
}

#[test]
fn schemas_as_clients_send_them_are_obeyed() {
    let person = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Person", "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Full name", "minLength": 1, "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "mail": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}], "default": null},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "ü\n"]}, "minItems": 1, "maxItems": 3},
            "friends": {"type": "array", "items": {"$ref": "#"}},
        },
        "required": ["name", "age"], "additionalProperties": false
    });
    let shapes = json!({
        "$defs": {
            "circle": {"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"type": "number", "exclusiveMinimum": 0}}, "required": ["kind", "r"]},
            "square": {"type": "object", "properties": {"kind": {"const": "square"}, "side": {"type": "number", "minimum": -2.5, "maximum": 7}}, "required": ["kind", "side"]},
            "tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}, "value": {"type": ["integer", "string"]}}, "required": ["value"]}
        },
        "type": "array", "items": {"oneOf": [{"$ref": "#/$defs/circle"}, {"$ref": "#/$defs/square"}, {"$ref": "#/$defs/tree"}]}
    });
    let odd = [
        json!({}),
        json!({"type": "object"}),
        json!({"type": ["string", "null", "number", "integer", "boolean"]}),
        json!({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1}),
        json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": false, "minItems": 1}),
        json!({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3, "maxItems": 5}),
        json!({"type": "string", "minLength": 70, "maxLength": 200}),
        json!({"type": "string", "maxLength": 20000}),
        json!({"const": {"a": [1, null, "\"\\"]}}),
        json!({"enum": [1, "1", null, 1.5], "type": ["string", "integer"]}),
        json!({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "string"}, "a": {"minimum": 3}}, "required": ["b"]}], "type": "object"}),
        json!({"type": "object", "properties": {"\"q\\ü": {"type": "null"}}, "required": ["\"q\\ü", "more"]}),
        json!({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}}),
        json!({"$ref": "#/definitions/x", "maxLength": 3, "definitions": {"x": {"type": "string"}}}),
        json!({"type": "integer", "anyOf": [{"minimum": 5, "maximum": 9}, {"type": "string"}, {"const": 77}]}),
        json!({"type": "number", "minimum": 0.25, "maximum": 0.75}),
    ];
    for schema in [person, shapes].iter().chain(&odd) {
        hold(schema, 60);
    }
}

#[test]
fn every_format_and_pattern_gives_what_it_says() {
    for format in ["date", "time", "date-time", "duration", "uuid", "email", "hostname", "ipv4", "ipv6", "uri", "color"]
    {
        hold(&json!({"type": "string", "format": format}), 40);
    }
    for pattern in [
        "^[A-Z]{2}-\\d{2,3}$",
        "^(foo|ba[rz])+$",
        "abc",
        "^x",
        "y$",
        "^a|b$",
        "^\\w+@\\w+\\.com$",
        "^[^a-c\\s]{1,5}$",
        "^\"quoted\\\\\"$",
        "^(?:a?b*c+){2}d??$",
        "",
        "^$",
        "^.{3}$",
        "^[\\]\\-x]$",
        "^\\u00e9\\x41$",
        "^[+-]?\\d+(\\.\\d+)?$",
        "^\\S\\D\\W$",
        "^a{0}b{0,0}c$",
        "^[é-ü]$",
    ] {
        hold(&json!({"type": "string", "pattern": pattern}), 40);
    }
}

#[test]
fn what_no_grammar_promises_is_refused_with_its_place() {
    for (schema, place, said) in [
        (json!({"properties": {"a": {"not": {"type": "string"}}}}), "properties.a", "'not'"),
        (json!({"items": {"properties": {"b": {"multipleOf": 3}}}}), "items.properties.b", "'multipleOf'"),
        (json!({"type": "array", "uniqueItems": true}), "", "'uniqueItems'"),
        (json!({"type": "string", "pattern": "^?[0-9]$"}), "", "a pattern"),
        (json!({"type": "string", "pattern": "(?=a)b"}), "", "look-around"),
        (json!({"type": "string", "pattern": "(a)\\1"}), "", "escape"),
        (json!({"type": "string", "pattern": "^a$b"}), "", "anchor"),
        (json!({"type": "string", "pattern": "a)"}), "", "group"),
        (json!({"type": "string", "pattern": "("}), "", "group"),
        (json!({"type": "string", "pattern": "[a"}), "", "class"),
        (json!({"type": "string", "pattern": "a{70000}"}), "", "repetition"),
        (json!({"type": "string", "pattern": "(a{5000}|b{5000})"}), "", "too much"),
        (json!({"type": "string", "pattern": "a".repeat(26_000)}), "", "bytes"),
        (json!({"type": "string", "pattern": "(".repeat(500)}), "", "groups"),
        (json!({"type": "string", "pattern": "^a$", "minLength": 1}), "", "only one"),
        (json!({"type": "string", "format": "regex"}), "", "format"),
        (json!({"type": "string", "minLength": 5, "maxLength": 4}), "", "above"),
        (json!({"type": "string", "maxLength": 100_000}), "", "maxLength"),
        (json!({"type": "string", "minLength": -1}), "", "minLength"),
        (json!({"type": "array", "minItems": 5000}), "", "minItems"),
        (json!({"type": "integer", "minimum": 1.2, "maximum": 1.8}), "", "whole"),
        (json!({"type": "number", "minimum": 9, "maximum": 3}), "", "bounds"),
        (json!({"type": "number", "minimum": "1"}), "", "minimum"),
        (json!({"type": "strange"}), "", "'type'"),
        (json!({"type": []}), "", "'type'"),
        (json!({"type": 3}), "", "'type'"),
        (json!({"enum": []}), "", "values"),
        (json!({"enum": 1}), "", "'enum'"),
        (json!({"const": 1, "type": "string"}), "", "values"),
        (json!({"anyOf": []}), "", "'anyOf'"),
        (json!({"anyOf": 1}), "", "'anyOf'"),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "", "'oneOf'"),
        (json!({"oneOf": [{"type": "object"}, {"type": "object", "properties": {"a": {}}}]}), "", "'oneOf'"),
        (json!({"allOf": [{"type": "string"}, {"type": "null"}]}), "", "contradict"),
        (json!({"allOf": 1}), "", "'allOf'"),
        (json!({"$ref": "#"}), "$ref", "without end"),
        (
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}}),
            "$ref.anyOf",
            "without end",
        ),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a", "minLength": 1}}}), "$ref", "without end"),
        (json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}), "", "without end"),
        (json!({"$ref": "#/nowhere"}), "", "nothing"),
        (json!({"$ref": "https://example.com/a"}), "", "itself"),
        (json!({"properties": {"a": false}, "required": ["a"]}), "properties.a", "not allowed"),
        (json!({"properties": {"a": {}}, "required": ["b"], "additionalProperties": false}), "", "not allowed"),
        (json!({"properties": {"a": {}, "b": {}}, "minProperties": 1}), "", "minProperties"),
        (json!({"properties": [1]}), "", "'properties'"),
        (json!({"required": "a"}), "", "'required'"),
        (json!({"items": 5}), "items", "object"),
        (json!({"patternProperties": {"^a": {}}}), "", "'patternProperties'"),
        (json!(false), "", "nothing"),
        (json!([]), "", "object"),
    ] {
        let unfit = refusal(&schema);
        assert!(unfit.at == place && unfit.why.contains(said), "{schema}: {unfit}");
    }
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_before_it_costs_anything() {
    let mut deep = json!({"type": "string"});
    for _ in 0..100 {
        deep = json!({"type": "array", "items": deep});
    }
    assert!(refusal(&deep).why.contains("deep"));
    let wide: serde_json::Map<String, Value> = (0..1100).map(|n| (format!("p{n}"), json!({}))).collect();
    assert!(refusal(&json!({"properties": wide})).why.contains("1024 properties"));
    let values: Vec<u32> = (0..2100).collect();
    assert!(refusal(&json!({"enum": values})).why.contains("2048 enum values"));
    assert!(refusal(&json!({"title": "x".repeat(70_000)})).why.contains("bytes"));
    // Three references side by side, twelve levels: half a million parts if each were written out.
    let mut defs = serde_json::Map::new();
    for level in 0..12 {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1), "minItems": 0});
        defs.insert(format!("d{level}"), json!({"type": "array", "prefixItems": [next, next, next]}));
    }
    defs.insert("d12".into(), json!({"type": "array"}));
    assert!(refusal(&json!({"$ref": "#/$defs/d0", "$defs": defs})).why.contains("parts"));
}

#[test]
fn loosely_read_a_schema_gives_its_types_and_drops_what_has_no_rule() {
    let schema = json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "integer", "multipleOf": 7, "not": {"const": 0}},
        "b": {"type": "string", "pattern": "(?=x)", "maxLength": 99_999_999},
    }});
    let mut rules = Rules::default();
    let rule = schema::rule_of(&schema, Strictness::Loose, &mut rules).unwrap();
    let grammar = Grammar::read(&rules.finish(&rule).unwrap());
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..50 {
        let value: Value = serde_json::from_str(&grammar.text(&mut |sides| random.random_range(0..sides))).unwrap();
        assert!(value["a"].is_i64(), "{value}");
    }
}

#[test]
fn any_object_is_an_object() {
    let grammar = Grammar::read(&object_grammar());
    let mut random = StdRng::seed_from_u64(2);
    for _ in 0..200 {
        let text = grammar.text(&mut |sides| random.random_range(0..sides));
        assert!(serde_json::from_str::<Value>(&text).expect(&text).is_object(), "{text}");
    }
}

fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({})),
        Just(json!({"type": "null"})),
        Just(json!({"type": "boolean"})),
        Just(json!({"$ref": "#"})),
        (-2000_i64..2000, 0_i64..300)
            .prop_map(|(least, span)| json!({"type": "integer", "minimum": least, "maximum": least + span})),
        (-50.0..50.0_f64, 1.5..300.0_f64)
            .prop_map(|(least, span)| json!({"type": "number", "minimum": least, "maximum": least + span})),
        (-500_i64..500).prop_map(|least| json!({"type": "number", "exclusiveMinimum": least})),
        (0_usize..80, 0_usize..200)
            .prop_map(|(least, span)| json!({"type": "string", "minLength": least, "maxLength": least + span})),
        proptest::collection::vec("[a-z\"\\\\é]{0,4}", 1..4).prop_map(|values| json!({"enum": values})),
        "[ab.]{1,3}[+*?]?(\\|c)?".prop_map(|pattern| json!({"type": "string", "pattern": pattern})),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let named = proptest::collection::btree_map("[a-e]", (inner.clone(), any::<bool>()), 0..4);
        prop_oneof![
            (named, any::<bool>()).prop_map(|(named, is_closed)| {
                let required: Vec<&String> = named.iter().filter(|(_, (_, required))| *required).map(|(name, _)| name).collect();
                let properties: serde_json::Map<String, Value> = named.iter().map(|(name, (schema, _))| (name.clone(), schema.clone())).collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": !is_closed})
            }),
            (inner.clone(), 0_usize..3, 0_usize..3).prop_map(|(items, least, span)| json!({"type": "array", "items": items, "minItems": least, "maxItems": least + span})),
            proptest::collection::vec(inner.clone(), 1..3).prop_map(|any| json!({"anyOf": any})),
            proptest::collection::vec(inner.clone(), 1..3).prop_map(|all| json!({"allOf": all})),
            proptest::collection::vec(inner.clone(), 1..3).prop_map(|one| json!({"oneOf": one})),
            (inner.clone(), inner).prop_map(|(first, rest)| json!({"type": "array", "prefixItems": [first], "items": rest, "maxItems": 3})),
        ]
    })
}

/// A schema that asks for itself without end has no finite answer; nothing can be derived.
fn is_endless(schema: &Value) -> bool {
    schema.to_string().contains("$ref")
}

proptest! {
    #[test]
    fn whatever_is_accepted_is_obeyed(schema in schemas()) {
        if is_endless(&schema) {
            let _ = schema_grammar(&schema);
        } else if schema_grammar(&schema).is_ok() {
            hold(&schema, 5);
        }
    }

    #[test]
    fn arbitrary_patterns_never_panic(pattern in "\\PC{0,40}") {
        let _ = schema_grammar(&json!({"type": "string", "pattern": pattern}));
    }

    #[test]
    fn patterns_of_pattern_signs_never_panic_and_hold(pattern in "[ab\\\\^$()\\[\\]{}?*+|.,0-9dws-]{0,16}") {
        let schema = json!({"type": "string", "pattern": pattern});
        if schema_grammar(&schema).is_ok() && jsonschema::options().build(&schema).is_ok() {
            hold(&schema, 3);
        }
    }
}

/// Patterns that llama.cpp would follow in very many ways at once if they were written as they are.
const HOSTILE: [&str; 13] = [
    "^(.?){500}$",
    "^(a?){0,1000}b$",
    "^((a?){30}){30}$",
    "^(a{0,100}){0,100}$",
    "^((.?){100}){100}$",
    "^(.{0,1000}){1000}$",
    "^(.?){200}$",
    "^(.?){50}$",
    "^(a|b)*a(a|b){12}$",
    "^(a{0,30}b?){30}$",
    "^(a*)*(a*)*b$",
    "^((a|aa)+)+$",
    "^a?b?c?d?e?f?g?h?i?j?k?l?m?n?o?p?q?r?s?t?u?v?w?x?y?z?$",
];

#[test]
fn a_pattern_that_can_be_read_in_many_ways_is_written_for_one_or_refused() {
    for pattern in HOSTILE {
        let schema = json!({"type": "string", "pattern": pattern});
        match schema_grammar(&schema) {
            Ok(grammar) => {
                let ways = Ways::of(&grammar).most(12);
                assert!(ways <= 64, "{pattern}: {ways} ways at once");
                if jsonschema::options().build(&schema).is_ok() {
                    hold(&schema, 20);
                }
            }
            Err(unfit) => assert!(unfit.why.contains("too m"), "{pattern}: {unfit}"),
        }
    }
    for refused in ["^(a|b)*a(a|b){12}$", "^(.{0,1000}){1000}$"] {
        refusal(&json!({"type": "string", "pattern": refused}));
    }
    for written in ["^(.?){500}$", "^((a?){30}){30}$", "^(a{0,100}){0,100}$", "^((.?){100}){100}$", "^((a|aa)+)+$"] {
        assert!(schema_grammar(&json!({"type": "string", "pattern": written})).is_ok(), "{written}");
    }
}

#[test]
fn nothing_under_a_repetition_is_nothing() {
    for pattern in ["^(|a)+$", "^(|||)*$", "^(a|)*b$", "^(()|x)?$", "^(a?|b?)+$", "^(){3}$"] {
        let schema = json!({"type": "string", "pattern": pattern});
        let grammar = schema_grammar(&schema).unwrap_or_else(|unfit| panic!("{pattern}: {unfit}"));
        assert!(!["\"\"?", "\"\"*", "\"\"+", "\"\"{"].iter().any(|bad| grammar.contains(bad)), "{pattern}: {grammar}");
        hold(&schema, 20);
    }
}

#[test]
fn alternatives_that_begin_alike_and_hold_each_other_are_told_apart_or_refused() {
    let expression = |kinds: [Value; 2]| {
        let [plus, times] = kinds.map(|kind| {
            let sides = json!({"left": {"$ref": "#/$defs/e"}, "right": {"$ref": "#/$defs/e"}});
            let mut properties = serde_json::Map::new();
            properties.insert("kind".into(), kind);
            properties.extend(sides.as_object().unwrap().clone());
            json!({"type": "object", "properties": properties, "required": ["kind", "left", "right"], "additionalProperties": false})
        });
        json!({"$ref": "#/$defs/e", "$defs": {"e": {"anyOf": [plus, times, {"type": "integer"}]}}})
    };
    let told_apart = expression([json!({"const": "plus"}), json!({"const": "times"})]);
    assert!(schema_grammar(&told_apart).is_ok());
    let alike = expression([json!({"type": "string"}), json!({"type": "string", "maxLength": 9})]);
    assert!(refusal(&alike).why.contains("begin alike"));
    let lists = json!({"$ref": "#/$defs/l", "$defs": {"l": {"anyOf": [
        {"type": "array", "items": {"$ref": "#/$defs/l"}, "maxItems": 3},
        {"type": "array", "items": {"$ref": "#/$defs/l"}, "maxItems": 4}]}}});
    assert!(refusal(&lists).why.contains("begin alike"));
    let leaf_or_node = json!({"$ref": "#/$defs/t", "$defs": {"t": {"anyOf": [
        {"type": "object", "properties": {"leaf": {"type": "string"}}},
        {"type": "object", "properties": {"nodes": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}]}}});
    assert!(schema_grammar(&leaf_or_node).is_ok());
    // Two ways a level without recursion, forty levels: llama.cpp would not even finish reading it.
    let mut defs = serde_json::Map::new();
    for level in 0..40 {
        let both = json!([{"$ref": format!("#/$defs/a{}", level + 1)}, {"$ref": format!("#/$defs/b{}", level + 1)}]);
        let mut more = both.clone();
        more.as_array_mut().unwrap().push(json!({"const": level}));
        defs.insert(format!("a{level}"), json!({"anyOf": both}));
        defs.insert(format!("b{level}"), json!({"anyOf": more}));
    }
    defs.insert("a40".into(), json!({"type": "string"}));
    defs.insert("b40".into(), json!({"type": "number"}));
    refusal(&json!({"$ref": "#/$defs/a0", "$defs": defs}));
    // By its types only, it is any object.
    let mut rules = Rules::default();
    let whole = json!({"type": "object", "properties": {"l": {"$ref": "#/$defs/l"}}, "$defs": lists["$defs"]});
    assert_eq!(schema::rule_of(&whole, Strictness::Loose, &mut rules).unwrap(), "object");
}

#[test]
fn repetitions_inside_repetitions_are_read_in_one_way() {
    let mut nested = json!({"type": "null"});
    for _ in 0..6 {
        nested = json!({"type": "array", "items": nested, "maxItems": 200});
    }
    let grammar = schema_grammar(&nested).unwrap();
    assert!(Ways::of(&grammar).most(14) <= 16, "{grammar}");
    let optional: serde_json::Map<String, Value> =
        (0..20).map(|n| (format!("p{n}"), json!({"type": "null"}))).collect();
    let grammar = schema_grammar(&json!({"type": "object", "properties": optional})).unwrap();
    assert!(Ways::of(&grammar).most(6) <= 32);
}

fn patterns() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![Just("a".to_owned()), Just("b".into()), Just("[ab]".into()), Just(".".into()), Just(String::new())];
    let body = leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("{one}{other}")),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one}|{other})")),
            (inner.clone(), prop_oneof![Just("?"), Just("*"), Just("+")])
                .prop_map(|(item, sign)| format!("({item}){sign}")),
            (inner, 0_usize..4, 0_usize..40)
                .prop_map(|(item, least, span)| format!("({item}){{{least},{}}}", least + span)),
        ]
    });
    (body, any::<(bool, bool)>()).prop_map(|(body, (begins, ends))| {
        format!("{}({body}){}", if begins { "^" } else { "" }, if ends { "$" } else { "" })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_pattern_is_accepted_leaves_few_ways_open(pattern in patterns()) {
        let schema = json!({"type": "string", "pattern": pattern});
        if let Ok(grammar) = schema_grammar(&schema) {
            let ways = Ways::of(&grammar).most(8);
            prop_assert!(ways <= 64, "{}: {} ways at once in {}", pattern, ways, grammar);
            if jsonschema::options().build(&schema).is_ok() {
                hold(&schema, 3);
            }
        }
    }
}
