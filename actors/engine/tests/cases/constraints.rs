//! Grammars, biases and likelihoods: what was asked for is what comes out.

use crate::{
    alone,
    support::{Engine, SECRET, greedy},
};
use serde_json::{Value, json};
use spillway_actors::constrain::schema_grammar;
use spillway_actors::gpu::frame::{JobEvent, JobFailureKind, JobSpec, Prompt, Sampling, StopReason};

fn schema(schema: &Value) -> Option<String> {
    Some(schema_grammar(schema).unwrap())
}

fn person() -> Option<String> {
    schema(&json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age", "colour"],
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "colour": {"enum": ["red", "green"]},
        },
    }))
}

fn hot(seed: u32) -> Sampling {
    Sampling { temperature: 1.5, seed: Some(seed), ..Sampling::default() }
}

#[test]
fn a_schema_is_obeyed_greedy_or_hot_and_survives_a_replay() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(1, 2048, &[]);
    let samplings = [Sampling { temperature: 0.0, ..Sampling::default() }, hot(1), hot(2), hot(3)];
    for (job, sampling) in (0..).step_by(10).zip(samplings) {
        let spec = |job| JobSpec { grammar: person(), sampling, ..greedy(job, "Describe a person.", 100) };
        let whole = engine.run_one(spec(job));
        assert_eq!(whole.reason(), StopReason::Stop, "{}", whole.text);
        let value: Value = serde_json::from_str(&whole.text).expect(&whole.text);
        assert!(value["age"].as_u64().is_some_and(|age| age <= 120), "{value}");
        assert!(value["name"].is_string() && ["red", "green"].contains(&value["colour"].as_str().unwrap()), "{value}");
        let cut = whole.tokens.len() / 2;
        let rest = engine.run_one(JobSpec { replay: whole.tokens[..cut].to_vec(), ..spec(job + 1) });
        assert_eq!((rest.tokens, rest.text), (whole.tokens[cut..].to_vec(), whole.text));
    }
    let other = JobSpec { grammar: person(), replay: vec![500, 501], ..greedy(90, "Describe a person.", 100) };
    assert!(
        matches!(engine.run_one(other).end, Some(JobEvent::Failed(failure)) if failure.kind == JobFailureKind::Invalid)
    );
}

#[test]
fn a_grammar_of_its_own_is_obeyed_and_its_end_ends_the_text() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(2, 2048, &[]);
    let gbnf = |text: &str| Some(text.to_owned());
    let heard = engine.run_one(JobSpec {
        grammar: gbnf("root ::= [0-9]{3} \"-\" [a-c]+ \"!\""),
        sampling: hot(7),
        ..greedy(1, "Say", 60)
    });
    let (digits, rest) = heard.text.split_once('-').expect(&heard.text);
    assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{}", heard.text);
    assert!(rest.trim_end_matches('!').bytes().all(|byte| (b'a'..=b'c').contains(&byte)), "{}", heard.text);
    let nothing = engine.run_one(JobSpec { grammar: gbnf("root ::= \"\""), ..greedy(2, "Say", 60) });
    assert_eq!((nothing.text.as_str(), nothing.reason()), ("", StopReason::Stop));
    let patterned = json!({"type": "object", "required": ["id"], "properties": {"id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{2,3}$"}}});
    let heard = engine.run_one(JobSpec { grammar: schema(&patterned), ..greedy(3, "Give an id.", 60) });
    let value: Value = serde_json::from_str(&heard.text).expect(&heard.text);
    let id = value["id"].as_str().unwrap();
    assert!((5..=6).contains(&id.len()) && id.as_bytes()[2] == b'-', "{id}");
}

#[test]
fn what_cannot_be_a_grammar_is_refused_unquoted_and_harms_nobody() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(2, 2048, &[]);
    let bad = [
        format!("root ::= \"{SECRET}"),
        format!("root ::= {SECRET}"),
        "other ::= \"a\"".into(),
        format!("root ::= root \"{SECRET}\""),
        String::new(),
        "root ::= \"a\"{99999}".into(),
    ];
    for (job, grammar) in (0..).zip(bad) {
        let heard = engine.run_one(JobSpec { grammar: Some(grammar.clone()), ..greedy(job, "Say", 8) });
        let Some(JobEvent::Failed(failure)) = heard.end else { panic!("{grammar:?}: {:?}", heard.end) };
        assert_eq!(failure.kind, JobFailureKind::Invalid, "{grammar:?}");
        assert!(!failure.message.contains(SECRET), "{}", failure.message);
    }
    // Odd but legal: it may say anything, it may not die.
    let odd = [json!({}), json!({"type": "array", "items": false}), json!({"type": "array", "items": {"$ref": "#"}})];
    for (job, odd) in (50..).zip(odd) {
        assert!(engine.run_one(JobSpec { grammar: schema(&odd), ..greedy(job, "Say", 8) }).end.is_some(), "{odd}");
    }
    engine.run_one(greedy(99, "Hi", 3)).reason();
}

#[test]
fn patterns_that_could_be_read_in_many_ways_cost_no_more_than_others() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(1, 2048, &[]);
    let hostile = [
        "^(.?){500}$",
        "^(a?){0,1000}b$",
        "^((a?){30}){30}$",
        "^(a{0,100}){0,100}$",
        "^((.?){100}){100}$",
        "^(.{0,1000}){1000}$",
        "^((a|aa)+)+$",
        "^a?b?c?d?e?f?g?h?i?j?k?l?m?n?$",
        "(ab|ba){3}.*c",
        "^(|a)+$",
        "^(|||)*$",
    ];
    for (job, pattern) in (0..).zip(hostile) {
        let Ok(grammar) = schema_grammar(&json!({"type": "string", "pattern": pattern})) else { continue };
        let began = std::time::Instant::now();
        let heard =
            engine.run_one(JobSpec { grammar: Some(grammar), sampling: hot(job), ..greedy(job.into(), "Say aab", 24) });
        assert!(matches!(heard.end, Some(JobEvent::Finished { .. })), "{pattern}: {:?}", heard.end);
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{pattern}: {:?}", began.elapsed());
    }
}

#[test]
fn likelihoods_are_those_of_the_model_and_biases_change_what_is_chosen() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(1, 2048, &[]);
    let plain = engine.run_one(JobSpec { logprobs: Some(20), ..greedy(1, "Name a colour.", 8) });
    assert_eq!(plain.logprobs.len(), plain.tokens.len());
    for (logprob, token) in plain.logprobs.iter().zip(&plain.tokens) {
        assert_eq!((logprob.chosen.token, &logprob.chosen), (*token, &logprob.top[0]), "greedy takes the most likely");
        assert!(logprob.top.len() == 20 && logprob.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        let sum: f32 = logprob.top.iter().map(|top| top.logprob.exp()).sum();
        assert!(sum > 0.1 && sum < 1.001, "{sum}");
    }
    let (first, second) = (plain.tokens[0], plain.logprobs[0].top[1].token);
    let banned = engine.run_one(JobSpec {
        logit_bias: vec![(first, -100.0)],
        logprobs: Some(0),
        ..greedy(2, "Name a colour.", 8)
    });
    assert_eq!(banned.tokens[0], second);
    assert!((banned.logprobs[0].chosen.logprob - plain.logprobs[0].top[1].logprob).abs() < 1e-3, "before the bias");
    let forced = engine.run_one(JobSpec { logit_bias: vec![(second, 100.0)], ..greedy(3, "Name a colour.", 4) });
    assert_eq!(forced.tokens, [second; 4]);
    let unknown = engine.run_one(JobSpec {
        logit_bias: vec![(i32::MAX, 1.0)],
        prompt: Prompt::Text("a".into()),
        ..greedy(4, "", 4)
    });
    assert!(matches!(unknown.end, Some(JobEvent::Failed(failure)) if failure.kind == JobFailureKind::Invalid));
}
