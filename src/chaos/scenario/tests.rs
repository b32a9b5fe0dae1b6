use super::*;

const GOOD: &str = r#"
seconds = 10

[load]
requests_per_second = 5
streams = 4
stream_share = 0.5
hard_share = 0.25
max_tokens = [8, 16]

[[kill]]
actors = ["gpu/*", "router"]
how = ["sigkill", "panic"]
every_ms = 1000

[[fault]]
targets = ["*"]
kind = "429"
retry_after_s = 1
every_ms = 2000
for_ms = 500
"#;

fn refusal(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replace(from, to).parse::<Scenario>().unwrap_err().to_string()
}

#[test]
fn a_scenario_is_read_with_its_defaults() {
    let scenario: Scenario = GOOD.parse().unwrap();
    assert_eq!((scenario.load.model.as_str(), scenario.expect), ("auto", Expect::default()));
    assert_eq!(scenario.faults[0].wish("sim", 3).for_ms, Some(500));
    assert_eq!(scenario.kills[0].how.0[1], How(KillWay::Panic));
}

#[test]
fn what_is_wrong_is_told_with_line_and_column() {
    for (from, to, place, why) in [
        ("streams = 4", "stream = 4", "line 6, column 1", "unknown field `stream`"),
        ("streams = 4", "streams = 5000", "line 6, column 11", "must be 0 to 512"),
        ("streams = 4", "streams = -1", "line 6, column 11", "must be 0 to 512"),
        ("seconds = 10", "seconds = 90000", "line 2, column 11", "must be 2 to 86400"),
        ("second = 5", "second = 501", "line 5, column 23", "must be 0 to 500"),
        ("second = 5", "second = nan", "line 5, column 23", "must be 0 to 500"),
        ("[8, 16]", "[]", "line 9, column 14", "must have 1 to 32 entries"),
        ("\"panic\"", "\"tickle\"", "line 13, column 7", "tickle is no way to end an actor"),
        ("\"gpu/*\"", "\"*/gpu\"", "line 12, column 10", "its beginning and one `*` at the end"),
        ("\"429\"", "\"428\"", "line 18, column 8", "unknown variant `428`"),
        ("seconds = 10", "seconds 10", "line 2, column 9", "key"),
    ] {
        let told = refusal(from, to);
        assert!(told.contains(place) && told.contains(why), "{to}: {told}");
    }
    let told = refusal("retry_after_s = 1", "status = 500");
    assert!(told.contains("[[fault]] number 1 (429): status means nothing for 429"), "{told}");
}

#[test]
fn a_pattern_is_a_name_or_a_beginning() {
    let pattern = |text: &str| Pattern(text.to_owned());
    assert!(pattern("*").matches("gpu/local") && pattern("gpu/*").matches("gpu/local"));
    assert!(pattern("router").matches("router") && !pattern("router").matches("routers"));
    assert!(!pattern("gpu/*").matches("cloud/sim/0"));
}
