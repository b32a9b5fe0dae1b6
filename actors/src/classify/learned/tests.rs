use super::*;
use crate::domain::ModelChoice;
use proptest::prelude::*;

const GOLDEN: &str = include_str!("golden.tsv");

fn line(prompt: &str) -> String {
    let opinion = opinion(&prompt.replace("\\n", "\n"));
    format!("{:.3}\t{}\t{prompt}", opinion.score, Cuts::trained().grade(opinion.fails))
}

/// After training anew this fails with the new lines: read the differences, then take them over.
#[test]
fn the_golden_prompts_keep_their_scores_and_grades() {
    let found: Vec<String> = GOLDEN.lines().filter_map(|known| Some(line(known.splitn(3, '\t').nth(2)?))).collect();
    let known: Vec<&str> = GOLDEN.lines().collect();
    assert!(known.len() >= 20, "the file is cut short");
    assert_eq!(found, known, "\n{}\n", found.join("\n"));
}

#[test]
fn the_built_in_weights_are_whole_and_survive_a_round_trip() {
    let weights = Weights::built_in();
    assert_eq!(weights.scales.len(), crate::classify::sketch::DENSE, "the file does not decode");
    assert_eq!(Weights::decode(&weights.encode().unwrap()).as_ref(), Some(weights));
    let bytes = weights.encode().unwrap();
    assert!(bytes.len() <= 300_000, "{} bytes", bytes.len());
    assert_eq!(Weights::decode(&bytes[1..]), None);
    assert_eq!(Weights::decode(&bytes[..bytes.len() - 1]), None);
}

#[test]
fn the_middle_of_a_long_prompt_changes_only_its_length() {
    let with = |middle: &str| format!("{}{}{}", "Prove it. ".repeat(300), middle.repeat(20_000), " why?".repeat(200));
    assert_eq!(opinion(&with("a")).score, opinion(&with("b")).score);
}

#[test]
fn a_second_try_is_graded_harder() {
    let plain = ChatRequest::plain("What is the capital of France?");
    let mut tools = plain.clone();
    tools.body.insert("tools".into(), serde_json::json!([{}]));
    let cuts = Cuts::trained();
    assert!(by_weights(&tools, cuts).score > by_weights(&plain, cuts).score);
}

#[test]
fn the_confidence_of_a_rule_is_the_probability_that_its_side_is_right() {
    let request = ChatRequest::plain("What is the capital of France?");
    let local = by_weights(&request, Cuts::new([0.99, 1.0, 1.0]).unwrap());
    let cloud = by_weights(&request, Cuts::new([0.0, 0.0, 0.99]).unwrap());
    assert_eq!((local.complexity, cloud.complexity), (Complexity::Trivial, Complexity::Complex));
    assert!((local.confidence + cloud.confidence - 1.0).abs() < 1e-12);
    let named = ChatRequest { model: ModelChoice::Local, ..request };
    assert_eq!(by_weights(&named, Cuts::trained()).confidence, 0.9);
}

#[test]
fn signals_never_show_the_prompt() {
    let grade = by_weights(&ChatRequest::plain("xyzzy plugh frobnicate"), Cuts::trained());
    let shown: Vec<String> = grade.signals.iter().map(ToString::to_string).collect();
    assert!(!shown.is_empty());
    for word in ["xyzzy", "plugh", "frobnicate"] {
        assert!(!shown.iter().any(|signal| signal.contains(word)), "{shown:?}");
    }
}

proptest! {
    #[test]
    fn any_text_gets_a_score_between_0_and_1(prompt in "\\PC{0,300}|(\\PC{1,3}[\n\t ]?){0,200}") {
        let opinion = opinion(&prompt);
        prop_assert!((0.0..=1.0).contains(&opinion.score), "{opinion:?}");
        prop_assert!((0.0..=1.0).contains(&opinion.fails), "{opinion:?}");
        prop_assert_eq!(super::opinion(&prompt), opinion);
    }
}
