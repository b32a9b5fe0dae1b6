use super::*;

fn record(prompt: &str, text: &str, outcome: Outcome) -> Record {
    let mut record = reading::Record::unasked();
    record.prompt = prompt.to_owned();
    record.text = text.to_owned();
    record.outcome = outcome;
    record
}

#[test]
fn an_unharmed_answer_says_what_can_be_checked_of_its_kind() {
    let told = |prompt: &str, text: &str| {
        let found = reference(&record(prompt, text, Outcome::Complete));
        (found.counts, found.words)
    };
    assert_eq!(told(COUNT, " 13, 14, 15"), (true, None), "a real model counts on: tokens, not words");
    assert_eq!(told(COUNT, " I like numbers"), (false, None), "a model that does not count");
    assert_eq!(told("", "sim0-simulated sim1-ba"), (true, Some(2)));
    assert_eq!(told("", "A fine analysis."), (true, None), "nobody was asked to count");
}

#[test]
fn a_harvest_tells_the_first_violations_in_full_and_counts_the_others() {
    let mut harvest = Harvest::default();
    for _ in 0..TOLD + 3 {
        harvest.add(record("", "", Outcome::Broken("gone".to_owned())), None);
    }
    assert_eq!((harvest.violations.len(), harvest.more_violations, harvest.seen.len()), (TOLD, 3, TOLD + 3));
}

#[test]
fn what_cannot_be_told_is_not_called_torn() {
    let (mute, telling) = (Reference { counts: false, words: None }, Reference { counts: true, words: Some(3) });
    let mut harvest = Harvest::default();
    harvest.add(record(COUNT, " I like numbers", Outcome::Complete), Some(mute));
    assert_eq!((harvest.checked, harvest.violations.len()), (0, 0));
    harvest.add(record("", "sim0-simulated sim1-ba", Outcome::Complete), Some(telling));
    assert_eq!((harvest.checked, harvest.violations.len(), harvest.seen[1].false_end), (1, 1, true));
    harvest.add(record("", "A fine analysis.", Outcome::Complete), Some(telling));
    harvest.add(record(COUNT, " 13, 14", Outcome::Complete), Some(telling));
    assert_eq!((harvest.checked, harvest.violations.len()), (2, 1));
}
