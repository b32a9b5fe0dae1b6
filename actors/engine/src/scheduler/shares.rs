//! How the prompts of one step divide its budget.
//!
//! Half goes to the shortest rests first, so that a short prompt is not stuck behind a long one; half in equal shares, so
//! that a long one moves on however many short ones come. With a budget of at least two the prompt that came first gets
//! something in every step.

/// Divides `budget`; never more than needed, and all of it if needed.
pub(super) fn split(budget: usize, needs: &[usize]) -> Vec<usize> {
    let first = shortest_first(budget / 2, needs);
    let rest: Vec<usize> = needs.iter().zip(&first).map(|(need, share)| need - share).collect();
    let second = equally(budget - first.iter().sum::<usize>(), &rest);
    first.into_iter().zip(second).map(|(one, other)| one + other).collect()
}

/// As [`split`] among groups, and again among the jobs of each: a request of many prompts gets no more than one of one.
/// `needs`: (group, tokens) of each job.
pub(super) fn split_by_group(budget: usize, needs: &[(u64, usize)]) -> Vec<usize> {
    let mut groups: Vec<(u64, Vec<usize>)> = Vec::new();
    for (index, (group, _)) in needs.iter().enumerate() {
        match groups.iter_mut().find(|(known, _)| known == group) {
            Some((_, members)) => members.push(index),
            None => groups.push((*group, vec![index])),
        }
    }
    let need = |index: &usize| needs.get(*index).map_or(0, |(_, need)| *need);
    let sums: Vec<usize> = groups.iter().map(|(_, members)| members.iter().map(need).sum()).collect();
    let mut shares = vec![0; needs.len()];
    for ((_, members), share) in groups.iter().zip(split(budget, &sums)) {
        let inner: Vec<usize> = members.iter().map(need).collect();
        for (index, part) in members.iter().zip(split(share, &inner)) {
            if let Some(slot) = shares.get_mut(*index) {
                *slot = part;
            }
        }
    }
    shares
}

fn shortest_first(budget: usize, needs: &[usize]) -> Vec<usize> {
    let mut order: Vec<(usize, usize)> = needs.iter().copied().enumerate().map(|(index, need)| (need, index)).collect();
    order.sort_unstable();
    let (mut shares, mut left) = (vec![0; needs.len()], budget);
    for (need, index) in order {
        let share = need.min(left);
        left -= share;
        if let Some(slot) = shares.get_mut(index) {
            *slot = share;
        }
    }
    shares
}

/// Nobody gets more than needed, and nobody less than another unless satisfied (or by one token, to whom comes first).
fn equally(budget: usize, needs: &[usize]) -> Vec<usize> {
    let mut sorted = needs.to_vec();
    sorted.sort_unstable();
    let (mut left, mut takers, mut level) = (budget, needs.len(), usize::MAX);
    for need in sorted {
        let equal = left / takers.max(1);
        if need > equal {
            level = equal;
            break;
        }
        left -= need;
        takers -= 1;
    }
    let mut shares: Vec<usize> = needs.iter().map(|need| *need.min(&level)).collect();
    let mut left = budget - shares.iter().sum::<usize>();
    for (share, need) in shares.iter_mut().zip(needs) {
        if *share < *need && left > 0 {
            *share += 1;
            left -= 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_prompt_is_done_beside_a_long_one_and_the_long_one_moves_on() {
        assert_eq!(split(16, &[2_000, 8]), [8, 8]);
        assert_eq!(split(16, &[2_000, 3]), [13, 3]);
        assert_eq!(split(16, &[40, 40, 40]), [11, 3, 2]);
    }

    #[test]
    fn a_request_of_many_prompts_gets_no_more_than_one_of_one() {
        let needs = [(1, 40), (1, 40), (1, 40), (2, 40)];
        assert_eq!(split_by_group(16, &needs).iter().take(3).sum::<usize>(), 4);
        assert_eq!(split_by_group(16, &[(1, 40), (2, 40), (3, 40)]), split(16, &[40, 40, 40]));
    }

    proptest! {
        #[test]
        fn groups_spend_the_budget_too(
            budget in 0usize..64, needs in proptest::collection::vec((0u64..4, 0usize..40), 0..10),
        ) {
            let shares = split_by_group(budget, &needs);
            prop_assert_eq!(shares.iter().sum::<usize>(), budget.min(needs.iter().map(|(_, need)| need).sum()));
            prop_assert!(shares.iter().zip(&needs).all(|(share, (_, need))| share <= need));
        }

        #[test]
        fn a_split_spends_the_budget_and_the_first_always_gets_something(
            budget in 0usize..64, needs in proptest::collection::vec(0usize..40, 0..8),
        ) {
            let shares = split(budget, &needs);
            prop_assert_eq!(shares.iter().sum::<usize>(), budget.min(needs.iter().sum()));
            prop_assert!(shares.iter().zip(&needs).all(|(share, need)| share <= need));
            if let Some(first) = needs.iter().position(|need| *need > 0).filter(|_| budget >= 2) {
                prop_assert!(shares[first] > 0);
            }
        }

        #[test]
        fn everybody_gets_an_equal_part_of_half_the_budget(
            budget in 0usize..200, needs in proptest::collection::vec(1usize..400, 1..8),
        ) {
            let fair = (budget - budget / 2) / needs.len();
            for (share, need) in split(budget, &needs).iter().zip(&needs) {
                prop_assert!(*share >= fair.min(*need), "{share} of {need}");
            }
        }

        #[test]
        fn equal_shares_are_fair(budget in 0usize..64, needs in proptest::collection::vec(0usize..40, 0..8)) {
            let shares = equally(budget, &needs);
            prop_assert_eq!(shares.iter().sum::<usize>(), budget.min(needs.iter().sum()));
            for (share, need) in shares.iter().zip(&needs) {
                prop_assert!(share <= need);
                if share < need {
                    prop_assert!(shares.iter().all(|other| *other <= share + 1));
                }
            }
        }
    }
}
