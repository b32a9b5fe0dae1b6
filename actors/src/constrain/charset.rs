//! Sets of characters, for the classes of patterns.

use std::{collections::BTreeSet, fmt::Write};

const LAST: u32 = 0x0010_FFFF;

/// Sorted ranges that neither touch nor overlap, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CharSet(Vec<(u32, u32)>);

impl CharSet {
    pub(super) fn of(ranges: impl IntoIterator<Item = (char, char)>) -> Self {
        Self::tidy(ranges.into_iter().map(|(from, to)| (u32::from(from), u32::from(to))).collect())
    }

    fn tidy(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut tidy: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (from, to) in ranges {
            match tidy.last_mut() {
                Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
                _ => tidy.push((from, to)),
            }
        }
        Self(tidy)
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self::tidy(self.0.into_iter().chain(other.0).collect())
    }

    pub(super) fn not(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        let mut next = 0;
        for &(from, to) in &self.0 {
            if next < from {
                gaps.push((next, from - 1));
            }
            next = to.saturating_add(1);
        }
        if next <= LAST {
            gaps.push((next, LAST));
        }
        Self(gaps)
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        self.not().or(other.not()).not()
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        let touches = |(from, to): &(u32, u32)| other.0.iter().any(|(least, most)| from <= most && least <= to);
        self.0.iter().any(touches)
    }

    /// The character, if there is but one.
    pub(super) fn only(&self) -> Option<char> {
        match self.0[..] {
            [(from, to)] if from == to => char::from_u32(from),
            _ => None,
        }
    }

    /// Cuts what is in any of `sets` into pieces that each lie wholly inside or wholly outside of every one.
    pub(super) fn pieces(sets: &[Self]) -> Vec<Self> {
        let ranges = || sets.iter().flat_map(|set| &set.0);
        let cuts: BTreeSet<u32> = ranges().flat_map(|(from, to)| [*from, to.saturating_add(1)]).collect();
        let cuts: Vec<u32> = cuts.into_iter().collect();
        let pieces = cuts.windows(2).filter_map(|cut| match cut {
            [from, next] => Some(Self(vec![(*from, next - 1)])),
            _ => None,
        });
        pieces.filter(|piece| sets.iter().any(|set| set.meets(piece))).collect()
    }

    pub(super) fn has(&self, char: char) -> bool {
        let code = u32::from(char);
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&code))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a grammar's character class.
    pub(super) fn class(&self) -> String {
        let mut class = String::from("[");
        for &(from, to) in &self.0 {
            push(&mut class, from);
            if to > from {
                class.push('-');
                push(&mut class, to);
            }
        }
        class.push(']');
        class
    }
}

fn push(class: &mut String, code: u32) {
    match char::from_u32(code) {
        Some(plain) if plain.is_ascii_alphanumeric() => class.push(plain),
        _ if code <= 0xFFFF => drop(write!(class, "\\u{code:04X}")),
        _ => drop(write!(class, "\\U{code:08X}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_join_turn_round_and_are_written() {
        let letters = CharSet::of([('b', 'd'), ('a', 'c'), ('x', 'x')]);
        assert_eq!(letters.class(), "[a-dx]");
        assert_eq!(letters.not().not(), letters);
        assert_eq!(letters.and(&CharSet::of([('b', 'b')]).not()).class(), "[ac-dx]");
        assert_eq!(CharSet::of([('-', '-'), ('😀', '😀')]).class(), r"[\u002D\U0001F600]");
        assert!(letters.meets(&CharSet::of([('d', 'w')])) && !letters.meets(&CharSet::of([('e', 'w')])));
        let pieces = CharSet::pieces(&[letters.clone(), CharSet::of([('c', 'y')])]);
        let written: Vec<String> = pieces.iter().map(CharSet::class).collect();
        assert_eq!(written, ["[a-b]", "[c-d]", "[e-w]", "[x]", "[y]"]);
        assert!(letters.has('c') && !letters.has('e') && letters.and(&letters.not()).is_empty());
    }
}
