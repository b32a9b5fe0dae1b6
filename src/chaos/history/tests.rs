use super::*;
use proptest::prelude::*;
use serde_json::json;

fn answer(text: &str) -> Record {
    let mut record = Record::unasked();
    record.stream = true;
    record.text = text.to_owned();
    record.outcome = Outcome::Complete;
    record.routing = Some(json!({"target": "local", "attempts": [{"outcome": "ok"}]}));
    record
}

fn numbered(places: impl IntoIterator<Item = usize>) -> String {
    places.into_iter().map(|place| format!("sim{place}-ba")).collect::<Vec<_>>().join(" ")
}

fn broken(record: &Record) -> String {
    violations(record, Some(6)).join("\n")
}

#[test]
fn a_whole_answer_breaks_no_rule() {
    assert_eq!(broken(&answer(&numbered(0..6))), "");
}

#[test]
fn a_doubled_token_is_caught_and_so_is_a_missing_one() {
    assert!(broken(&answer(&numbered([0, 1, 2, 2, 3, 4, 5]))).contains("torn text: 2 where 3 was due"));
    assert!(broken(&answer(&numbered([0, 1, 3, 4, 5, 6]))).contains("torn text: 3 where 2 was due"));
    let run_together = format!("sim0-ba{}", numbered(0..6));
    assert!(broken(&answer(&run_together)).contains("torn text: ? where 0 was due"), "no space at the seam");
}

#[test]
fn a_lost_request_is_caught() {
    let lost = Record { outcome: Outcome::Broken("reset".to_owned()), ..answer("") };
    assert!(broken(&lost).contains("no terminal outcome: reset"));
    assert_eq!(Tally::of(&[Seen::of(&lost)], &[]).lost, 1);
}

#[test]
fn a_truncated_stream_shown_as_complete_is_caught() {
    assert!(broken(&answer(&numbered(0..4))).contains("shown as complete with 4 words where an unharmed answer has 6"));
    let mut died = answer(&numbered(0..6));
    died.routing = Some(json!({"target": "local", "attempts": [{"outcome": "ok"}, {"outcome": "engine_died"}]}));
    assert!(broken(&died).contains("shown as complete though its last attempt ended in engine_died"));
    assert!(Seen::of(&died).false_end);
}

#[test]
fn what_a_model_said_before_numbered_words_began_is_not_held_against_them() {
    assert_eq!(broken(&answer(&format!(" {}", numbered(0..5)))), "", "its first token was white space");
}

#[test]
fn an_explicit_error_is_an_outcome_and_its_text_may_be_short_but_not_torn() {
    let error = Outcome::Error { status: 200, kind: "server_error".into(), code: json!(null), message: "cut".into() };
    let cut = Record { outcome: error, ..answer(&numbered(0..2)) };
    assert_eq!(broken(&cut), "");
    assert!(broken(&Record { text: numbered([0, 0]), ..cut }).contains("torn text"));
}

#[test]
fn a_500_is_a_violation_and_another_explicit_error_is_none() {
    let failed = |status, code: &str| {
        let outcome = Outcome::Error { status, kind: "server_error".into(), code: json!(code), message: "m".into() };
        broken(&Record { outcome, ..answer("") })
    };
    assert!(failed(500, "x").contains("a 500 is a bug: m"));
    assert!(failed(200, "internal_error").contains("a 500 is a bug: m"), "at the end of a stream");
    assert_eq!((failed(503, "unavailable"), failed(429, "x")), (String::new(), String::new()));
}

#[test]
fn errors_that_no_trouble_explains_are_a_small_share_or_none() {
    let told = too_many_failed(614, 618, 99.0).unwrap();
    assert!(told.contains("614 of 618") && told.contains("0.65 % were answered"), "{told}");
    assert!(too_many_failed(4, 100, 99.0).is_some() && too_many_failed(4, 400, 99.0).is_none());
    assert_eq!(too_many_failed(3, 20, 99.0), None, "so few are no share");
    assert!(too_many_failed(1, 10_000, 100.0).is_some() && too_many_failed(0, 10_000, 100.0).is_none());
    assert_eq!(too_many_failed(0, 0, 100.0), None);
}

fn seen(sent: u64, first: Option<u64>, ended: u64, end: End) -> Seen {
    let ms = 1_000_000;
    Seen { sent_ns: sent * ms, first_ns: first.map(|at| at * ms), ended_ns: ended * ms, end, ..Seen::of(&answer("")) }
}

#[test]
fn who_had_text_when_something_broke_is_committed() {
    let kill = [Trouble::at(100_000_000)];
    let blackout = [Trouble { from_ns: 100_000_000, until_ns: 200_000_000 }];
    for (one, troubles, standing) in [
        (seen(0, Some(50), 90, End::Complete), &kill, Standing::Untouched),
        (seen(110, Some(120), 190, End::Complete), &kill, Standing::Untouched),
        (seen(0, Some(50), 190, End::Complete), &kill, Standing::Committed),
        (seen(0, Some(115), 190, End::Complete), &kill, Standing::Committed),
        (seen(0, Some(150), 190, End::Complete), &kill, Standing::Uncommitted),
        (seen(0, None, 190, End::Error(503)), &kill, Standing::Uncommitted),
        (seen(110, Some(150), 190, End::Error(200)), &blackout, Standing::Committed),
        (seen(110, Some(150), 190, End::Complete), &blackout, Standing::Uncommitted),
        (seen(110, None, 190, End::Error(503)), &blackout, Standing::Uncommitted),
    ] {
        assert_eq!(one.standing(troubles), standing, "{one:?}");
    }
}

proptest! {
    #[test]
    fn any_change_of_one_word_of_a_whole_answer_is_caught(words in 3_usize..40, at in 0_usize..40, by in 1_usize..5) {
        let at = at % (words - 1);
        let mut places: Vec<usize> = (0..words).collect();
        prop_assert!(violations(&answer(&numbered(places.clone())), Some(words)).is_empty());
        places[at] += by;
        prop_assert!(!violations(&answer(&numbered(places.clone())), Some(words)).is_empty());
        places[at] -= by;
        places.insert(at, at);
        prop_assert!(!violations(&answer(&numbered(places.clone())), Some(words)).is_empty(), "doubled");
        places.remove(at);
        places.remove(at);
        prop_assert!(!violations(&answer(&numbered(places)), Some(words)).is_empty(), "missing");
    }

    #[test]
    fn a_tally_counts_every_request_once(ends in prop::collection::vec((0_u64..300, 0_u64..3), 0..50)) {
        let all: Vec<Seen> = ends
            .iter()
            .map(|(sent, end)| {
                let end = [End::Complete, End::Error(503), End::Lost][*end as usize];
                seen(*sent, None, sent + 50, end)
            })
            .collect();
        let tally = Tally::of(&all, &[Trouble::at(100_000_000)]);
        prop_assert_eq!(tally.requests, tally.complete + tally.explicit_errors + tally.lost);
        prop_assert_eq!(tally.requests, tally.untouched + tally.uncommitted + tally.committed);
        prop_assert_eq!(tally.uncommitted_success_percent().is_none(), tally.uncommitted == 0);
        prop_assert!(tally.uncommitted_complete <= tally.uncommitted && tally.uncommitted <= tally.requests);
    }
}
