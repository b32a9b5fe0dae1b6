//! Stories of one limit, and whatever may happen to it: it stays between floor and maximum, and classes keep their order.

use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// So many windows of requests that were planned after `delay`.
fn windows(admission: &mut Admission, from: Instant, count: u32, running: usize, delay: Duration) -> Instant {
    for window in 0..count {
        let now = from + WINDOW * window;
        admission.admits(Priority::Normal, running, now);
        admission.planned(delay, now + MS);
    }
    from + WINDOW * count
}

#[tokio::test(start_paused = true)]
async fn a_standing_queue_of_our_own_lowers_the_limit_and_its_end_brings_it_back() {
    let began = Instant::now();
    let mut admission = Admission::new(512, true, began);
    let now = windows(&mut admission, began, 10, 512, TARGET * 2);
    assert_eq!(admission.limit(), 460);
    let now = windows(&mut admission, now, 200, 400, TARGET * 2);
    assert_eq!(admission.limit(), 360, "nine tenths of what runs, for as long as it runs");
    let now = windows(&mut admission, now, 20, 300, MS);
    assert_eq!(admission.limit(), 512);
    windows(&mut admission, now, 200, 10, TARGET * 2);
    assert_eq!(admission.limit(), FLOOR);
}

#[tokio::test(start_paused = true)]
async fn one_stall_of_a_gateway_that_has_little_to_do_does_not_refuse_the_burst_behind_it() {
    let began = Instant::now();
    let mut admission = Admission::new(512, true, began);
    let now = windows(&mut admission, began, 1, 5, TARGET * 20);
    assert!(admission.admits(Priority::Normal, 300, now), "{}", admission.limit());
    windows(&mut admission, now, 40, 5, TARGET * 20);
    assert_eq!(admission.limit(), FLOOR, "it is no stall any more");
}

#[tokio::test(start_paused = true)]
async fn a_burst_that_drains_is_no_overload_and_nor_are_streams_that_stay() {
    let began = Instant::now();
    let mut admission = Admission::new(512, true, began);
    for window in 0..100 {
        let now = began + WINDOW * window;
        admission.admits(Priority::Normal, 511, now);
        // The last of each burst waits long, the first does not.
        for delay in [TARGET * 20, TARGET * 10, MS] {
            admission.planned(delay, now + MS);
        }
    }
    assert_eq!(admission.limit(), 512);
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_is_the_configured_number() {
    let began = Instant::now();
    let mut admission = Admission::new(100, false, began);
    let now = windows(&mut admission, began, 50, 100, TARGET * 9);
    assert_eq!(admission.limit(), 100);
    admission.configure(200, true);
    assert_eq!(admission.limit(), 200, "nothing was limited");
    let now = windows(&mut admission, now, 50, 150, TARGET * 9);
    let limited = admission.limit();
    admission.configure(1000, true);
    assert_eq!(admission.limit(), limited, "a larger maximum is no reason to let more in at once");
    windows(&mut admission, now, 500, 1, MS);
    assert_eq!(admission.limit(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_class_that_is_alone_has_every_place_and_gives_way_to_those_above_while_they_ask() {
    let now = Instant::now();
    let mut admission = Admission::new(10, true, now);
    assert!(admission.admits(Priority::Low, 9, now) && !admission.admits(Priority::Low, 10, now));
    assert!(admission.admits(Priority::Normal, 9, now));
    let mut room = |running, now| {
        [Priority::Low, Priority::Normal, Priority::High].map(|priority| admission.admits(priority, running, now))
    };
    assert_eq!(room(0, now), [true; 3]);
    assert_eq!(room(5, now), [true, true, true]);
    assert_eq!(room(6, now), [false, true, true]);
    assert_eq!(room(9, now), [false, false, true]);
    assert_eq!(room(10, now), [false; 3]);
    let later = now + ABSENT;
    assert!(admission.admits(Priority::Low, 9, later), "nobody else has come for a minute");
}

#[tokio::test(start_paused = true)]
async fn a_small_number_of_places_is_kept_for_nobody() {
    let now = Instant::now();
    let mut admission = Admission::new(2, true, now);
    admission.admits(Priority::High, 0, now);
    admission.admits(Priority::Normal, 0, now);
    assert!(admission.admits(Priority::Low, 1, now));
}

#[derive(Debug, Clone)]
enum Step {
    Planned(u64),
    Asks(u8, usize),
    Wait(u64),
    Configure(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..5000_u64).prop_map(Step::Planned),
        (0..3_u8, 0..2000_usize).prop_map(|(class, running)| Step::Asks(class, running)),
        (0..1000_u64).prop_map(Step::Wait),
        (1..2000_usize, any::<bool>()).prop_map(|(most, adaptive)| Step::Configure(most, adaptive)),
    ]
}

proptest! {
    #[test]
    fn the_limit_stays_between_floor_and_maximum_and_no_class_has_more_room_than_one_above(
        most in 1..2000_usize,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut now = Instant::now();
        let mut admission = Admission::new(most, true, now);
        for step in steps {
            match step {
                Step::Planned(ms) => admission.planned(MS * ms as u32, now),
                Step::Asks(class, running) => {
                    let priority = [Priority::Low, Priority::Normal, Priority::High][usize::from(class)];
                    let admitted = admission.admits(priority, running, now);
                    prop_assert!(!admitted || running < admission.most());
                    prop_assert!(admitted || running >= admission.limit_for(Priority::Low, now));
                }
                Step::Wait(ms) => now += MS * ms as u32,
                Step::Configure(most, adaptive) => admission.configure(most, adaptive),
            }
            let floor = FLOOR.min(admission.most());
            prop_assert!((floor..=admission.most()).contains(&admission.limit()));
            let [low, normal, high] =
                [Priority::Low, Priority::Normal, Priority::High].map(|class| admission.limit_for(class, now));
            prop_assert!(low <= normal && normal <= high && high == admission.limit());
            prop_assert!(low * 2 >= high, "even the last class has half of the places");
        }
    }
}
