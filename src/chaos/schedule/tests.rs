use super::*;
use proptest::prelude::*;

fn cast() -> Cast {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Cast {
        actors: names(&["ledger", "gpu/a", "gpu/server", "router", "cloud/sim/0"]),
        engines: names(&["gpu/a"]),
        providers: names(&["one", "two"]),
    }
}

fn scenario(more: &str) -> Scenario {
    let load = "[load]\nrequests_per_second = 1\nstreams = 0\nstream_share = 0\nhard_share = 0\nmax_tokens = [1]\n";
    format!("seconds = 60\n{load}{more}").parse().unwrap()
}

fn everything(every_ms: u64) -> Scenario {
    scenario(&format!(
        "[[kill]]\nactors = [\"*\"]\nhow = [\"kill\", \"sigstop\"]\nevery_ms = {every_ms}\n\
         [[fault]]\ntargets = [\"*\"]\nkind = \"error\"\nshare = 0.5\nfor_ms = 700\nevery_ms = {every_ms}\n"
    ))
}

proptest! {
    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_one_another(seed: u64, every in 500_u64..5000) {
        let scenario = everything(every);
        let planned = schedule(&scenario, seed, &cast()).unwrap();
        prop_assert_eq!(&planned, &schedule(&scenario, seed, &cast()).unwrap());
        prop_assert_ne!(&planned, &schedule(&scenario, seed.wrapping_add(1), &cast()).unwrap());
    }

    #[test]
    fn orders_come_in_time_and_no_actor_dies_too_often(seed: u64, every in 100_u64..5000) {
        let planned = schedule(&everything(every), seed, &cast()).unwrap();
        prop_assert!(planned.is_sorted_by_key(|due| due.at_ms));
        let mut last = BTreeMap::new();
        for due in planned {
            match due.order {
                Order::Kill { actor, how } => {
                    prop_assert!(due.at_ms < 59_000);
                    prop_assert!(!is_of_engine(how.0) || actor == "gpu/a", "{actor} has no engine of ours");
                    if let Some(before) = last.insert(actor, due.at_ms) {
                        prop_assert!(due.at_ms >= before + SAME_ACTOR_MS);
                    }
                }
                Order::Fault(wish) => {
                    prop_assert!(due.at_ms + wish.for_ms.unwrap() <= 59_000);
                    prop_assert_eq!(wish.check(), Ok(()));
                }
            }
        }
    }
}

#[test]
fn an_entry_for_all_breaks_everybody_it_names_at_once() {
    let blackout = scenario(
        "[[fault]]\ntargets = [\"*\"]\nkind = \"cut\"\nafter_tokens = 2\nfor_ms = 100\nevery_ms = 20000\nall = true\n",
    );
    let planned = schedule(&blackout, 1, &cast()).unwrap();
    assert!(planned.len() >= 4 && planned.len().is_multiple_of(2), "{planned:?}");
    assert_eq!(planned[0].at_ms, planned[1].at_ms);
}

#[test]
fn an_entry_that_means_nobody_is_told() {
    let nobody = scenario("[[kill]]\nactors = [\"gpu/server\"]\nhow = [\"sigkill\"]\nevery_ms = 1000\n");
    let told = schedule(&nobody, 1, &cast()).unwrap_err();
    assert_eq!(told, "[[kill]] number 1: nobody here is called gpu/server and ends by sigkill");
}
