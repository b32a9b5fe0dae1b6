//! A regular expression of a schema's `pattern` as rules for the inside of a JSON string.
//!
//! Knows literals, classes, `.`, `\d \w \s` and their opposites, groups, `|`, repetitions, and anchors at the ends; the rest
//! is refused. A pattern without anchors may match anywhere in the string, so anything may stand around it. Characters that
//! JSON must escape come from literals only, never from a class.
//!
//! A pattern whose every character says where in it it stands is written as it is. Any other becomes an automaton, and is
//! refused where that would be too large.

mod automaton;
mod expr;

use super::{
    charset::CharSet,
    gbnf::{MAX_REPEAT, Rules},
    schema::Unfit,
};
use automaton::{Automaton, TooAmbiguous};
use expr::{Expr, plain};

const MAX_BYTES: usize = 1024;
const MAX_DEPTH: usize = 16;
/// Pieces of one pattern once repetitions are written out.
const MAX_REPEATED: usize = 8192;

/// The grammar of what stands between the quotes.
pub(super) fn inside(pattern: &str, rules: &mut Rules) -> Result<String, Unfit> {
    if pattern.len() > MAX_BYTES {
        return Err(Unfit::new(format!("a pattern has more than {MAX_BYTES} bytes")));
    }
    if let Some(known) = rules.pattern(pattern) {
        return Ok(known);
    }
    let expr = Parser { chars: pattern.chars().rev().collect(), depth: 0, repeated: 0 }.top()?;
    let name = if expr.is_plain() {
        let body = expr.write(rules);
        rules.rule(&body)
    } else {
        let automaton = Automaton::of(&expr, rules.pattern_work()).or_else(|TooAmbiguous| {
            no("can be read in too many ways at once (optional parts in a row, or repetitions inside repetitions)")
        })?;
        automaton.write(rules)
    };
    rules.keep_pattern(pattern, &name);
    Ok(name)
}

struct Parser {
    /// Reversed.
    chars: Vec<char>,
    depth: usize,
    repeated: usize,
}

fn no<T>(why: &str) -> Result<T, Unfit> {
    Err(Unfit::new(format!("a pattern {why}")))
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.last().copied()
    }

    fn takes(&mut self, char: char) -> bool {
        let is_it = self.peek() == Some(char);
        if is_it {
            self.chars.pop();
        }
        is_it
    }

    /// Alternatives, each with its own anchors.
    fn top(&mut self) -> Result<Expr, Unfit> {
        let mut alternatives = Vec::new();
        loop {
            let begins = self.takes('^');
            let sequence = self.sequence()?;
            let ends = self.takes('$');
            let anything = || Expr::Repeat(Box::new(Expr::Char), 0, None);
            // Nothing between two stretches of anything is one stretch.
            let is_open = !begins && (ends || !sequence.is_empty());
            let before = if is_open { anything() } else { Expr::empty() };
            let after = if ends { Expr::empty() } else { anything() };
            alternatives.push(Expr::sequence(vec![before, sequence, after]));
            if !self.takes('|') {
                break;
            }
        }
        match self.peek() {
            None => Ok(Expr::any(alternatives)),
            Some(')') => no("closes a group that is not open"),
            Some(_) => no("has an anchor in the middle"),
        }
    }

    fn group(&mut self) -> Result<Expr, Unfit> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return no("nests too many groups");
        }
        if self.takes('?') && !self.takes(':') {
            return no("has a kind of group that is not supported (look-around or a name)");
        }
        let mut alternatives = Vec::new();
        loop {
            alternatives.push(self.sequence()?);
            if !self.takes('|') {
                break;
            }
        }
        self.depth -= 1;
        if self.takes(')') { Ok(Expr::any(alternatives)) } else { no("has an open group") }
    }

    fn sequence(&mut self) -> Result<Expr, Unfit> {
        let mut parts = Vec::new();
        while let Some(char) = self.peek() {
            if matches!(char, '|' | ')' | '^' | '$') {
                break;
            }
            self.chars.pop();
            let atom = self.atom(char)?;
            parts.push(self.repetition(atom)?);
        }
        Ok(Expr::sequence(parts))
    }

    fn atom(&mut self, char: char) -> Result<Expr, Unfit> {
        match char {
            '(' => self.group(),
            '[' => {
                let set = self.class()?;
                spelled(&set)
            }
            '.' => spelled(&CharSet::of([('\u{2028}', '\u{2029}')]).not()),
            '\\' => match self.escape()? {
                Escaped::Char(char) => Ok(one(char)),
                Escaped::Set { sure, .. } => spelled(&sure),
            },
            '*' | '+' | '?' | '{' => no("repeats nothing"),
            char => Ok(one(char)),
        }
    }

    fn repetition(&mut self, atom: Expr) -> Result<Expr, Unfit> {
        let (least, most) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => self.counts()?,
            _ => return Ok(atom),
        };
        self.chars.pop();
        // Lazy or greedy is the same here.
        let _ = self.takes('?');
        if matches!(self.peek(), Some('*' | '+' | '?' | '{')) {
            return no("repeats a repetition");
        }
        self.repeated += most.unwrap_or(least).max(1);
        if self.repeated > MAX_REPEATED {
            return no("repeats too much");
        }
        atom.repeat(least, most).map_or_else(|| no("repeats too much"), Ok)
    }

    /// From `{m,n}`, up to its last bracket.
    fn counts(&mut self) -> Result<(usize, Option<usize>), Unfit> {
        self.chars.pop();
        let mut inside = String::new();
        while let Some(char) = self.chars.pop() {
            if char == '}' {
                self.chars.push(char);
                break;
            }
            inside.push(char);
        }
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number <= MAX_REPEAT);
        let bounds: Vec<&str> = inside.split(',').collect();
        let (least, most) = match bounds[..] {
            [exactly] => (number(exactly), number(exactly)),
            [least, ""] => (number(least), None),
            [least, most] if number(most).is_some() => (number(least), number(most)),
            _ => (None, None),
        };
        match least.filter(|least| most.is_none_or(|most| *least <= most)) {
            Some(least) => Ok((least, most)),
            None => no("has a repetition that is not {m}, {m,} or {m,n}"),
        }
    }

    fn class(&mut self) -> Result<CharSet, Unfit> {
        let is_negated = self.takes('^');
        let mut set = CharSet::of([]);
        loop {
            let Some(char) = self.chars.pop() else { return no("has an open character class") };
            let from = match char {
                ']' => break,
                '\\' => match self.escape()? {
                    Escaped::Char(char) => char,
                    Escaped::Set { sure, maybe } => {
                        set = set.or(if is_negated { maybe } else { sure });
                        continue;
                    }
                },
                char => char,
            };
            let to = self.range_end(from)?;
            set = set.or(CharSet::of([(from, to)]));
        }
        Ok(if is_negated { set.not() } else { set })
    }

    fn range_end(&mut self, from: char) -> Result<char, Unfit> {
        let is_range = self.peek() == Some('-') && self.chars.iter().rev().nth(1).is_some_and(|next| *next != ']');
        if !is_range {
            return Ok(from);
        }
        self.chars.pop();
        let to = match self.chars.pop() {
            Some('\\') => match self.escape()? {
                Escaped::Char(char) => char,
                Escaped::Set { .. } => return no("has a range that ends in a class"),
            },
            Some(char) => char,
            None => return no("has an open character class"),
        };
        if from <= to { Ok(to) } else { no("has a range whose end comes before its beginning") }
    }

    fn escape(&mut self) -> Result<Escaped, Unfit> {
        let digits = CharSet::of([('0', '9')]);
        let words = CharSet::of([('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_')]);
        let spaces = CharSet::of([('\t', '\r'), (' ', ' ')]);
        // Readers of patterns differ beyond ASCII, and about which spaces are some.
        let foreign = CharSet::of([('\u{80}', char::MAX)]);
        let odd_spaces = CharSet::of([
            ('\u{1c}', '\u{1f}'),
            ('\u{80}', '\u{a0}'),
            ('\u{1680}', '\u{1680}'),
            ('\u{180e}', '\u{180e}'),
            ('\u{2000}', '\u{206f}'),
            ('\u{3000}', '\u{3000}'),
            ('\u{feff}', '\u{feff}'),
        ]);
        Ok(match self.chars.pop() {
            Some('d') => Escaped::set(digits, foreign),
            Some('D') => Escaped::not(&digits, foreign),
            Some('w') => Escaped::set(words, foreign),
            Some('W') => Escaped::not(&words, foreign),
            Some('s') => Escaped::set(spaces, odd_spaces),
            Some('S') => Escaped::not(&spaces, odd_spaces),
            Some('n') => Escaped::Char('\n'),
            Some('r') => Escaped::Char('\r'),
            Some('t') => Escaped::Char('\t'),
            Some('f') => Escaped::Char('\u{c}'),
            Some('v') => Escaped::Char('\u{b}'),
            Some('0') => Escaped::Char('\0'),
            Some('x') => self.hex(2)?,
            Some('u') => self.hex(4)?,
            Some(char) if char.is_ascii_punctuation() || char == ' ' => Escaped::Char(char),
            _ => return no("has an escape that is not supported"),
        })
    }

    fn hex(&mut self, digits: usize) -> Result<Escaped, Unfit> {
        let code: String = (0..digits).filter_map(|_| self.chars.pop()).collect();
        let char = u32::from_str_radix(&code, 16).ok().filter(|_| code.len() == digits).and_then(char::from_u32);
        char.map_or_else(|| no("has an escape that is not supported"), |char| Ok(Escaped::Char(char)))
    }
}

enum Escaped {
    Char(char),
    /// What every reader takes it for, and what some may.
    Set {
        sure: CharSet,
        maybe: CharSet,
    },
}

impl Escaped {
    fn set(sure: CharSet, unsure: CharSet) -> Self {
        Self::Set { maybe: sure.clone().or(unsure), sure }
    }

    fn not(set: &CharSet, unsure: CharSet) -> Self {
        Self::Set { sure: set.clone().or(unsure).not(), maybe: set.not() }
    }
}

/// A character as JSON writes it inside a string.
fn one(char: char) -> Expr {
    let json = serde_json::Value::from(char.to_string()).to_string();
    let written = json.get(1..json.len() - 1).unwrap_or_default();
    Expr::sequence(written.chars().map(|char| Expr::Set(CharSet::of([(char, char)]))).collect())
}

/// One character of a set, unescaped: what JSON must escape is left out.
fn spelled(set: &CharSet) -> Result<Expr, Unfit> {
    let plain = set.and(&plain());
    if !plain.is_empty() {
        return Ok(Expr::Set(plain));
    }
    match ['"', '\\', '\n', '\t', '\r'].into_iter().find(|char| set.has(*char)) {
        Some(char) => Ok(one(char)),
        None => no("has a character class that holds nothing"),
    }
}
