use super::*;
use proptest::prelude::*;

fn wish(json: &str) -> FaultWish {
    serde_json::from_str(json).unwrap()
}

fn added(wishes: &[&str]) -> Faults {
    let faults = Faults::default();
    wishes.iter().for_each(|json| faults.add(wish(json), Instant::now()).unwrap());
    faults
}

#[tokio::test(start_paused = true)]
async fn a_fault_hits_its_target_so_often_and_no_other() {
    let faults = added(&[r#"{"target": "gpt", "kind": "error", "status": 503, "times": 2}"#]);
    let refused =
        Some(Befalls { delay: Duration::ZERO, mishap: Some(Mishap::Refused { status: 503, retry_after: None }) });
    assert_eq!(faults.befall(&["sim", "claude"]), None);
    assert_eq!([faults.befall(&["sim", "gpt"]), faults.befall(&["gpt"])], [refused, refused]);
    assert_eq!(faults.befall(&["gpt"]), None);
    assert_eq!(faults.list(Instant::now()), [], "it is over");
}

#[tokio::test(start_paused = true)]
async fn a_fault_ends_with_its_time_or_when_all_are_cleared() {
    let faults = added(&[
        r#"{"target": "a", "kind": "cut", "after_tokens": 3, "for_ms": 50}"#,
        r#"{"target": "b", "kind": "stall"}"#,
    ]);
    assert_eq!(faults.list(Instant::now()).len(), 2);
    tokio::time::advance(Duration::from_millis(50)).await;
    assert_eq!(faults.befall(&["a"]), None);
    assert!(faults.befall(&["b"]).is_some());
    assert_eq!(faults.clear(Instant::now()), 1);
    assert_eq!(faults.befall(&["b"]), None);
}

#[tokio::test(start_paused = true)]
async fn delays_add_up_and_the_oldest_mishap_wins() {
    let faults = added(&[
        r#"{"target": "a", "kind": "latency", "ms": 20}"#,
        r#"{"target": "a", "kind": "429", "retry_after_s": 2}"#,
        r#"{"target": "p", "kind": "latency", "ms": 5}"#,
        r#"{"target": "p", "kind": "error", "times": 1}"#,
    ]);
    let befalls = faults.befall(&["p", "a"]).unwrap();
    assert_eq!(befalls.delay, Duration::from_millis(25));
    assert_eq!(befalls.mishap, Some(Mishap::Refused { status: 429, retry_after: Some(Duration::from_secs(2)) }));
    assert_eq!(faults.list(Instant::now()).last().unwrap().hit, 0, "who does not come to it has not hit");
}

#[tokio::test(start_paused = true)]
async fn there_are_only_so_many_and_those_that_are_over_make_room() {
    let faults = Faults::default();
    for _ in 0..MAX_FAULTS {
        faults.add(wish(r#"{"target": "a", "kind": "stall", "for_ms": 10}"#), Instant::now()).unwrap();
    }
    let more = || faults.add(wish(r#"{"target": "a", "kind": "stall"}"#), Instant::now());
    assert_eq!(more(), Err(Full));
    tokio::time::advance(Duration::from_millis(10)).await;
    assert_eq!(more(), Ok(()));
    assert_eq!(faults.list(Instant::now()).len(), 1);
}

#[test]
fn every_number_must_belong_to_its_kind_and_lie_inside_its_bound() {
    for (json, field) in [
        (r#"{"target": "a", "kind": "latency"}"#, "ms"),
        (r#"{"target": "a", "kind": "latency", "ms": 0}"#, "ms"),
        (r#"{"target": "a", "kind": "error", "ms": 5}"#, "ms"),
        (r#"{"target": "a", "kind": "error", "status": 200}"#, "status"),
        (r#"{"target": "a", "kind": "cut", "status": 500}"#, "status"),
        (r#"{"target": "a", "kind": "429", "after_tokens": 1}"#, "after_tokens"),
        (r#"{"target": "a", "kind": "stall", "retry_after_s": 1}"#, "retry_after_s"),
        (r#"{"target": "a", "kind": "stall", "times": 0}"#, "times"),
        (r#"{"target": "a", "kind": "stall", "for_ms": 0}"#, "for_ms"),
        (r#"{"target": "a", "kind": "stall", "share": 1.5}"#, "share"),
        (r#"{"target": "a", "kind": "stall", "share": 0}"#, "share"),
    ] {
        assert_eq!(wish(json).check().unwrap_err().field, field, "{json}");
    }
    assert!(serde_json::from_str::<FaultWish>(r#"{"target": "a", "kind": "stall", "tims": 1}"#).is_err());
}

proptest! {
    #[test]
    fn the_same_seed_hits_the_same_calls_and_about_its_share(seed: u64, percent in 1_u32..=99) {
        let share = f64::from(percent) / 100.0;
        let one = FaultWish { share: Some(share), seed, ..wish(r#"{"target": "a", "kind": "stall"}"#) };
        let hit: Vec<bool> = (0..4000).map(|call| one.hits(call)).collect();
        prop_assert_eq!(&hit, &(0..4000).map(|call| one.clone().hits(call)).collect::<Vec<_>>());
        let found = hit.iter().filter(|hit| **hit).count() as f64 / 4000.0;
        // Six standard deviations.
        prop_assert!((found - share).abs() < 0.048, "{found} for {share}");
    }
}
