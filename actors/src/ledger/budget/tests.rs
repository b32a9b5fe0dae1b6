//! Periods, bounds, and a hundred thousand interleavings.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

const DOLLAR: u64 = 1_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn usd(dollars: u64) -> NanoUsd {
    NanoUsd::new(dollars * DOLLAR)
}

/// The last hour of November 2026.
fn eve() -> UnixMs {
    Day::parse("2026-11-30").unwrap().start().plus(HOUR * 23)
}

fn limits(day: Option<u64>, month: Option<u64>, total: Option<u64>) -> BudgetLimits {
    BudgetLimits { day: day.map(usd), month: month.map(usd), total: total.map(usd) }
}

impl Budgets {
    fn left(&mut self, key: Option<(&KeyId, BudgetLimits)>, now: UnixMs) -> Option<NanoUsd> {
        self.tightest(key, now).map(|bound| bound.left)
    }
}

#[test]
fn a_refusal_knows_whose_bound_it_was_which_and_until_when() {
    let ann = KeyId::from("ann");
    let (small, now) = (limits(None, Some(2), None), eve());
    let mut budgets = Budgets::new(limits(Some(5), None, None));
    let bound = budgets.reserve(Some((&ann, small)), usd(3), now).unwrap_err();
    let new_month = Day::parse("2026-12-01").unwrap().start();
    let of_ann =
        Bound { payer: Payer::Key, period: Period::Month, limit: usd(2), left: usd(2), renewed: Some(new_month) };
    assert_eq!(bound, of_ann);
    let early = Day::parse("2026-11-03").unwrap().start();
    let bound = Budgets::new(limits(Some(5), Some(5), None)).reserve(None, usd(6), early).unwrap_err();
    assert_eq!((bound.payer, bound.period, bound.renewed), (Payer::Operator, Period::Month, Some(new_month)));
    let bound = Budgets::new(limits(Some(5), Some(9), None)).reserve(None, usd(6), early).unwrap_err();
    assert_eq!((bound.period, bound.renewed), (Period::Day, Day::parse("2026-11-04").map(Day::start)));
    let bound = Budgets::new(limits(None, None, Some(1))).reserve(None, usd(6), early).unwrap_err();
    assert_eq!((bound.period, bound.renewed), (Period::Total, None));
}

#[test]
fn a_day_and_a_month_start_anew_and_a_total_does_not() {
    let (bounds, now) = (limits(Some(10), Some(20), Some(30)), eve());
    let mut budgets = Budgets::new(bounds);
    let booked = budgets.reserve(None, usd(10), now).unwrap();
    assert_eq!(budgets.reserve(None, NanoUsd::new(1), now).map_err(|bound| bound.payer), Err(Payer::Operator));
    budgets.settle(None, booked, usd(10), usd(8));
    assert_eq!(budgets.left(None, now), Some(usd(2)));
    let tomorrow = now.plus(HOUR);
    assert_eq!(budgets.left(None, tomorrow), Some(usd(10)), "a new day and a new month");
    budgets.reserve(None, usd(10), tomorrow).unwrap();
    let later = tomorrow.plus(HOUR * 24);
    assert_eq!(budgets.left(None, later), Some(usd(10)), "10 of the month, 12 of the total");
    budgets.reserve(None, usd(10), later).unwrap();
    assert_eq!(budgets.left(None, later.plus(HOUR * 24)), Some(NanoUsd::ZERO), "the month is spent");
    assert_eq!(budgets.left(None, later.plus(HOUR * 24 * 31)), Some(usd(2)), "the total goes on");
}

#[test]
fn a_reservation_that_outlives_its_day_leaves_the_day_it_was_booked_in() {
    let mut budgets = Budgets::new(limits(Some(10), None, None));
    let booked = budgets.reserve(None, usd(6), eve()).unwrap();
    let tomorrow = eve().plus(HOUR * 2);
    budgets.reserve(None, usd(3), tomorrow).unwrap();
    budgets.settle(None, booked, usd(6), usd(5));
    let [day, month, total] = budgets.all();
    assert_eq!((day.posted, day.reserved), (NanoUsd::ZERO, usd(3)), "yesterday is closed");
    assert_eq!(month.posted, NanoUsd::ZERO, "so is November");
    assert_eq!((total.posted, total.reserved), (usd(5), usd(3)));
}

#[test]
fn a_clock_that_is_set_back_gives_nothing_away() {
    let mut budgets = Budgets::new(limits(Some(10), None, None));
    let tomorrow = eve().plus(HOUR * 2);
    let booked = budgets.reserve(None, usd(7), tomorrow).unwrap();
    assert_eq!(budgets.left(None, eve()), Some(usd(3)));
    let back = budgets.reserve(None, usd(3), eve()).unwrap();
    for (booked, amount) in [(booked, 7), (back, 3)] {
        budgets.settle(None, booked, usd(amount), usd(1));
    }
    assert_eq!(budgets.left(None, tomorrow), Some(usd(8)), "nothing leaks");
}

#[test]
fn a_key_has_bounds_of_its_own_inside_the_operators() {
    let mut budgets = Budgets::new(limits(Some(10), None, None));
    let (ann, bob) = (KeyId::from("ann"), KeyId::from("bob"));
    let small = limits(Some(2), None, None);
    budgets.reserve(Some((&ann, small)), usd(2), eve()).unwrap();
    assert_eq!(
        budgets.reserve(Some((&ann, small)), NanoUsd::new(1), eve()).map_err(|bound| bound.payer),
        Err(Payer::Key)
    );
    assert_eq!(budgets.all()[0].reserved, usd(2), "a refusal changes nothing");
    assert_eq!(budgets.left(Some((&bob, small)), eve()), Some(usd(2)));
    budgets.reserve(Some((&bob, BudgetLimits::default())), usd(8), eve()).unwrap();
    assert_eq!(
        budgets.reserve(Some((&bob, BudgetLimits::default())), NanoUsd::new(1), eve()).map_err(|bound| bound.payer),
        Err(Payer::Operator)
    );
    let bounded = |group: &str, key: &KeyId, limits| Bounded { group: group.into(), key: key.clone(), limits };
    let keys = [bounded("shop", &ann, small), bounded("shop", &bob, limits(Some(16), None, None))];
    let told = |budgets: &mut Budgets, keys: &[Bounded]| -> Vec<(String, f64)> {
        budgets.remaining_ratios(keys, eve()).into_iter().map(|(group, ratio)| (group.to_string(), ratio)).collect()
    };
    assert_eq!(told(&mut budgets, &keys), [("all".to_owned(), 0.0), ("shop".to_owned(), 0.0)]);
    assert_eq!(told(&mut budgets, &keys[1..]), [("all".to_owned(), 0.0), ("shop".to_owned(), 0.5)], "ann has ended");
    budgets.set_limits(limits(Some(0), None, None));
    assert_eq!(told(&mut budgets, &[]), [], "where nothing may be spent, nothing is used up");
}

#[test]
fn f27_of_a_thousand_requests_of_ten_cents_exactly_fifty_fit_into_five_dollars() {
    let mut budgets = Budgets::new(limits(None, Some(5), None));
    let ten_cents = NanoUsd::new(100_000_000);
    let admitted = (0..1000).filter(|_| budgets.reserve(None, ten_cents, eve()).is_ok()).count();
    assert_eq!(admitted, 50);
}

#[test]
fn what_a_provider_counted_beyond_the_reservation_is_spent() {
    let mut budgets = Budgets::new(limits(Some(10), None, None));
    let booked = budgets.reserve(None, usd(10), eve()).unwrap();
    budgets.settle(None, booked, usd(10), usd(11));
    assert_eq!(budgets.all()[0], Amounts { posted: usd(11), reserved: NanoUsd::ZERO });
    assert_eq!(budgets.reserve(None, NanoUsd::new(1), eve()).map_err(|bound| bound.payer), Err(Payer::Operator));
}

#[test]
fn with_a_budget_of_nothing_not_even_the_cheapest_call_starts() {
    let mut budgets = Budgets::new(limits(Some(0), None, None));
    assert_eq!(budgets.reserve(None, NanoUsd::ZERO, eve()).map_err(|bound| bound.payer), Err(Payer::Operator));
}

#[derive(Debug, Clone)]
enum Step {
    Reserve {
        key: usize,
        cents: u64,
    },
    /// The oldest, newest or middle open reservation ends at this share of its amount.
    Settle {
        which: usize,
        percent: u64,
    },
    Wait {
        hours: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..3, 0u64..120).prop_map(|(key, cents)| Step::Reserve { key, cents }),
        5 => (any::<usize>(), 0u64..=100).prop_map(|(which, percent)| Step::Settle { which, percent }),
        1 => (0u32..40).prop_map(|hours| Step::Wait { hours }),
    ]
}

/// What happened, kept the naive way: every settled cost and every open amount with its time.
#[derive(Default)]
struct Model {
    open: Vec<(usize, Booked, NanoUsd, UnixMs)>,
    spent: Vec<(usize, NanoUsd, UnixMs)>,
}

impl Model {
    fn sum(&self, belongs: impl Fn(usize, UnixMs) -> bool) -> NanoUsd {
        let open = self.open.iter().filter(|(key, _, _, at)| belongs(*key, *at)).map(|(_, _, amount, _)| *amount);
        let spent = self.spent.iter().filter(|(key, _, at)| belongs(*key, *at)).map(|(_, cost, _)| *cost);
        open.chain(spent).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A thousand runs of a hundred steps: no bound is ever broken, and at the end nothing is left reserved.
    #[test]
    fn no_interleaving_exceeds_a_bound_or_leaks(steps in prop::collection::vec(step(), 100)) {
        let all = limits(Some(3), Some(9), Some(20));
        let bounds = [limits(Some(1), None, None), limits(None, Some(4), None), limits(None, None, None)];
        let keys = ["a", "b", "c"].map(KeyId::from);
        let (mut budgets, mut model, mut now) = (Budgets::new(all), Model::default(), eve());
        let close = |budgets: &mut Budgets, model: &mut Model, at: usize, percent: u64| {
            let (key, booked, amount, when) = model.open.remove(at);
            let cost = NanoUsd::new(amount.get() * percent / 100);
            budgets.settle(Some(&keys[key]), booked, amount, cost);
            model.spent.push((key, cost, when));
        };
        for step in steps {
            match step {
                Step::Reserve { key, cents } => {
                    let amount = NanoUsd::new(cents * DOLLAR / 100);
                    if let Ok(booked) = budgets.reserve(Some((&keys[key], bounds[key])), amount, now) {
                        model.open.push((key, booked, amount, now));
                    }
                }
                Step::Settle { which, percent } if !model.open.is_empty() => {
                    let at = which % model.open.len();
                    close(&mut budgets, &mut model, at, percent);
                }
                Step::Settle { .. } => {}
                Step::Wait { hours } => now = now.plus(HOUR * hours),
            }
            let (day, month) = (now.day(), now.day().month());
            prop_assert!(model.sum(|_, at| at.day() == day) <= all.day.unwrap());
            prop_assert!(model.sum(|_, at| at.day().month() == month) <= all.month.unwrap());
            prop_assert!(model.sum(|_, _| true) <= all.total.unwrap());
            prop_assert!(model.sum(|key, at| key == 0 && at.day() == day) <= bounds[0].day.unwrap());
            prop_assert!(model.sum(|key, at| key == 1 && at.day().month() == month) <= bounds[1].month.unwrap());
            budgets.left(None, now);
            let [_, _, total] = budgets.all();
            prop_assert_eq!(total.posted + total.reserved, model.sum(|_, _| true));
        }
        while !model.open.is_empty() {
            close(&mut budgets, &mut model, 0, 50);
        }
        prop_assert!(budgets.all().iter().all(|amounts| amounts.reserved == NanoUsd::ZERO));
        for key in &keys {
            prop_assert!(budgets.of_key(key).is_none_or(|own| own.iter().all(|a| a.reserved == NanoUsd::ZERO)));
        }
    }
}
