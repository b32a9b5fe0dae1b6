//! A pattern as an expression over the characters of JSON text, simplified as it is built: nothing empty is repeated, and
//! nested repetitions become one where they mean the same.

use super::super::{
    charset::CharSet,
    gbnf::{MAX_REPEAT, Rules, literal},
};

/// Groups may be absent up to this often in a row; llama.cpp writes each one out.
const MAX_GROUP_REPEAT: usize = 1023;
/// Places where the next character may stand, in what is written as it is.
const MAX_WIDTH: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expr {
    Set(CharSet),
    /// One character of a JSON string, escapes among them.
    Char,
    Sequence(Vec<Expr>),
    /// At least two, none of them empty.
    Any(Vec<Expr>),
    Repeat(Box<Expr>, usize, Option<usize>),
}

/// What may come next, and at how many places of the expression.
#[derive(Clone)]
struct Next {
    set: CharSet,
    places: usize,
}

impl Next {
    fn nothing() -> Self {
        Self { set: CharSet::of([]), places: 0 }
    }

    fn or(self, other: Self) -> Self {
        Self { set: self.set.or(other.set), places: self.places + other.places }
    }

    fn meets(&self, other: &Self) -> bool {
        !self.set.and(&other.set).is_empty()
    }
}

impl Expr {
    pub(super) const fn empty() -> Self {
        Self::Sequence(Vec::new())
    }

    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Sequence(parts) if parts.is_empty())
    }

    pub(super) fn sequence(parts: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Self::Sequence(parts) => flat.extend(parts),
                part => flat.push(part),
            }
        }
        if flat.len() == 1 { flat.swap_remove(0) } else { Self::Sequence(flat) }
    }

    pub(super) fn any(alternatives: Vec<Self>) -> Self {
        let mut some: Vec<Self> = Vec::with_capacity(alternatives.len());
        let mut has_empty = false;
        for alternative in alternatives {
            if alternative.is_empty() {
                has_empty = true;
            } else if !some.contains(&alternative) {
                some.push(alternative);
            }
        }
        let any = match some.len() {
            0 => Self::empty(),
            1 => some.swap_remove(0),
            _ => Self::Any(some),
        };
        if has_empty { any.repeat(0, Some(1)).unwrap_or_else(Self::empty) } else { any }
    }

    /// `None`: more often than any answer is long.
    pub(super) fn repeat(self, least: usize, most: Option<usize>) -> Option<Self> {
        if self.is_empty() || most == Some(0) {
            return Some(Self::empty());
        }
        let (item, least, most) = match self {
            Self::Repeat(item, inner_least, inner_most) => match joined((inner_least, inner_most), (least, most)) {
                Some((least, most)) => (*item, least, most),
                None => (Self::Repeat(item, inner_least, inner_most), least, most),
            },
            item => (item, least, most),
        };
        if least > MAX_REPEAT || most.is_some_and(|most| most > MAX_REPEAT) {
            return None;
        }
        Some(if (least, most) == (1, Some(1)) { item } else { Self::Repeat(Box::new(item), least, most) })
    }

    fn may_be_empty(&self) -> bool {
        match self {
            Self::Set(_) | Self::Char => false,
            Self::Sequence(parts) => parts.iter().all(Self::may_be_empty),
            Self::Any(alternatives) => alternatives.iter().any(Self::may_be_empty),
            Self::Repeat(item, least, _) => *least == 0 || item.may_be_empty(),
        }
    }

    fn first(&self) -> Next {
        match self {
            Self::Set(set) => Next { set: set.clone(), places: 1 },
            Self::Char => Next { set: plain().or(CharSet::of([('\\', '\\')])), places: 2 },
            Self::Sequence(parts) => {
                let begins = parts.iter().position(|part| !part.may_be_empty()).map_or(parts.len(), |at| at + 1);
                parts.iter().take(begins).fold(Next::nothing(), |next, part| next.or(part.first()))
            }
            Self::Any(alternatives) => alternatives.iter().fold(Next::nothing(), |next, part| next.or(part.first())),
            Self::Repeat(item, ..) => item.first(),
        }
    }

    /// Whether each character says which part of the expression it belongs to, so that a reader that follows every
    /// possibility follows one.
    pub(super) fn is_plain(&self) -> bool {
        self.first().places <= MAX_WIDTH && self.is_plain_before(&Next::nothing())
    }

    fn is_plain_before(&self, after: &Next) -> bool {
        match self {
            Self::Set(_) | Self::Char => after.places <= MAX_WIDTH,
            Self::Sequence(parts) => {
                let mut after = after.clone();
                for part in parts.iter().rev() {
                    if !part.is_plain_before(&after) {
                        return false;
                    }
                    after = if part.may_be_empty() { part.first().or(after) } else { part.first() };
                }
                after.places <= MAX_WIDTH
            }
            Self::Any(alternatives) => {
                let mut before = if self.may_be_empty() { after.clone() } else { Next::nothing() };
                for alternative in alternatives {
                    let first = alternative.first();
                    if before.meets(&first) || !alternative.is_plain_before(after) {
                        return false;
                    }
                    before = before.or(first);
                }
                true
            }
            Self::Repeat(item, least, most) => {
                let first = item.first();
                let is_open = *most != Some(*least);
                let again = if *most == Some(1) { after.clone() } else { first.clone().or(after.clone()) };
                let is_long_group = most.is_some_and(|most| most - least > MAX_GROUP_REPEAT) && !item.is_one();
                let is_unclear = item.may_be_empty() || (is_open && first.meets(after));
                !is_unclear && !is_long_group && item.is_plain_before(&again)
            }
        }
    }

    /// One character of the text, for which a long repetition may be written in blocks.
    const fn is_one(&self) -> bool {
        matches!(self, Self::Set(_) | Self::Char)
    }

    /// As it is, in a grammar's notation.
    pub(super) fn write(&self, rules: &mut Rules) -> String {
        match self {
            Self::Set(set) => set.only().map_or_else(|| set.class(), |char| literal(&char.to_string())),
            Self::Char => rules.char(),
            Self::Sequence(parts) if parts.is_empty() => r#""""#.to_owned(),
            Self::Sequence(parts) => {
                let written: Vec<String> = parts.iter().map(|part| part.write_part(rules)).collect();
                written.join(" ")
            }
            Self::Any(alternatives) => {
                let written: Vec<String> = alternatives.iter().map(|part| part.write(rules)).collect();
                written.join(" | ")
            }
            Self::Repeat(item, least, most) => {
                let written = item.write_part(rules);
                let item =
                    if item.is_one() && (*least, *most) == (0, Some(1)) { written } else { rules.rule(&written) };
                rules.repeat(&item, *least, *most)
            }
        }
    }

    fn write_part(&self, rules: &mut Rules) -> String {
        let written = self.write(rules);
        if matches!(self, Self::Any(_)) { format!("({written})") } else { written }
    }
}

/// What `inner` times of something `outer` times is, if that leaves no gaps.
fn joined(inner: (usize, Option<usize>), outer: (usize, Option<usize>)) -> Option<(usize, Option<usize>)> {
    let most = inner.1.zip(outer.1).map(|(inner, outer)| inner.saturating_mul(outer));
    match (inner, outer) {
        ((0, _), _) => Some((0, most)),
        ((1, _), _) => Some((outer.0, most)),
        ((least, None), (1.., _)) => Some((least.saturating_mul(outer.0), None)),
        ((least, Some(exactly)), (times, Some(and_no_more))) if least == exactly && times == and_no_more => {
            Some((least.saturating_mul(times), most))
        }
        _ => None,
    }
}

/// Characters that stand in a JSON string as they are.
pub(super) fn plain() -> CharSet {
    CharSet::of([('\0', '\u{1f}'), ('"', '"'), ('\\', '\\'), ('\u{7f}', '\u{7f}')]).not()
}

/// [`Expr::Char`] as the characters it is written with.
pub(super) fn char_spelled() -> Expr {
    let set = |ranges: &[(char, char)]| Expr::Set(CharSet::of(ranges.iter().copied()));
    let hex = || set(&[('0', '9'), ('a', 'f'), ('A', 'F')]);
    let pairless =
        Expr::sequence(vec![set(&[('0', '9'), ('a', 'c'), ('A', 'C'), ('e', 'f'), ('E', 'F')]), hex(), hex(), hex()]);
    let before_pairs = Expr::sequence(vec![set(&[('d', 'd'), ('D', 'D')]), set(&[('0', '7')]), hex(), hex()]);
    let code = Expr::sequence(vec![set(&[('u', 'u')]), Expr::any(vec![pairless, before_pairs])]);
    let short = ['"', '\\', '/', 'b', 'f', 'n', 'r', 't'].map(|char| (char, char));
    let escape = Expr::sequence(vec![set(&[('\\', '\\')]), Expr::any(vec![set(&short), code])]);
    Expr::any(vec![Expr::Set(plain()), escape])
}
