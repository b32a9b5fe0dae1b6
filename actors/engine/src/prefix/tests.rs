//! The books against a picture that copies everything: what is found is there, what is counted is held.

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn rows(texts: &[&[Token]]) -> Rows {
    let mut rows = Rows::new(texts.len());
    for (sequence, tokens) in (0..).zip(texts) {
        rows.append(sequence, tokens, false);
    }
    rows
}

#[test]
fn the_longest_common_beginning_is_found_and_never_more() {
    let rows = rows(&[&[1, 2, 3], &[1, 2, 9, 4], &[7]]);
    assert_eq!(rows.longest(0, &[1, 2, 9, 5]), Some((1, 3)));
    assert_eq!(rows.longest(0, &[1, 2, 3, 4, 5]), Some((0, 3)));
    assert_eq!(rows.longest(0, &[2, 3]), None, "the same tokens at other positions are another text");
    assert_eq!(rows.longest(0, &[]), None);
}

#[test]
fn a_shared_cell_counts_once_and_is_free_when_nobody_holds_it() {
    let mut rows = rows(&[&[1, 2, 3], &[]]);
    rows.share(0, 1, 0, 2);
    rows.append(1, &[8], false);
    assert_eq!((rows.tokens(1), rows.used()), (&[1, 2, 8][..], 4));
    assert_eq!(rows.truncate(0, 0), 1);
    assert_eq!(rows.used(), 3);
    assert_eq!(rows.truncate(1, 0), 3);
    assert_eq!(rows.used(), 0);
}

#[test]
fn room_is_taken_from_the_row_left_longest_ago_and_never_from_a_live_one() {
    let mut rows = rows(&[&[1; 100], &[2; 100], &[3; 100]]);
    for sequence in [1, 0, 2] {
        rows.set_live(sequence, true);
    }
    rows.set_live(1, false);
    rows.set_live(0, false);
    assert_eq!(rows.reclaim(10), [Change::Truncate { sequence: 1, len: 36 }]);
    let all = rows.reclaim(1_000);
    assert_eq!(all, [Change::Truncate { sequence: 1, len: 0 }, Change::Truncate { sequence: 0, len: 0 }]);
    assert_eq!((rows.used(), rows.live_used()), (100, 100));
}

#[test]
fn canonical_tokens_end_where_the_first_other_batch_began() {
    let mut rows = rows(&[&[], &[]]);
    rows.append(0, &[1, 2], true);
    rows.append(0, &[3], false);
    rows.append(0, &[4], true);
    assert_eq!(rows.canonical(0), 2);
    rows.share(0, 1, 0, 4);
    assert_eq!(rows.canonical(1), 2);
    rows.truncate(0, 1);
    assert_eq!(rows.canonical(0), 1);
}

proptest! {
    /// Any history of use: the counts are those of the sets of cells held, and every row keeps its own text.
    #[test]
    fn the_counts_are_those_of_the_cells_held(acts in proptest::collection::vec((0u8..6, 0u32..4, 0u32..4, 0usize..40), 1..60)) {
        let mut rows = Rows::new(4);
        let mut texts: Vec<Vec<Token>> = vec![vec![]; 4];
        for (act, a, b, n) in acts {
            match act {
                0 | 1 => {
                    let tokens: Vec<Token> = (0..n as Token).map(|token| token % 3).collect();
                    rows.append(a, &tokens, act == 0);
                    texts[a as usize].extend(tokens);
                }
                2 => {
                    rows.truncate(a, n);
                    texts[a as usize].truncate(n);
                }
                3 if a != b => {
                    let end = texts[a as usize].len().min(n);
                    rows.truncate(b, 0);
                    rows.share(a, b, 0, end);
                    texts[b as usize] = texts[a as usize][..end].to_vec();
                }
                4 => rows.set_live(a, n % 2 == 0),
                _ => for change in rows.reclaim(n) {
                    let Change::Truncate { sequence, len } = change else { panic!("{change:?}") };
                    prop_assert!(!rows.is_live(sequence));
                    texts[sequence as usize].truncate(len);
                },
            }
            for (sequence, text) in (0..).zip(&texts) {
                prop_assert_eq!(rows.tokens(sequence), &text[..]);
                prop_assert!(rows.canonical(sequence) <= text.len());
            }
            let held: HashSet<Cell> = rows.rows.iter().flat_map(|row| row.cells.clone()).collect();
            let live: HashSet<Cell> = rows.rows.iter().filter(|row| row.live).flat_map(|row| row.cells.clone()).collect();
            prop_assert_eq!((rows.used(), rows.live_used()), (held.len(), live.len()));
        }
    }
}
