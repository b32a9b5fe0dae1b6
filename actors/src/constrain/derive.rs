//! Reads a grammar back and makes texts of it by chance: what tests hold against the schema it came from.

use std::collections::HashMap;

#[derive(Debug, Clone)]
pub(super) enum Atom {
    Text(String),
    Class { ranges: Vec<(u32, u32)>, is_negated: bool },
    Rule(String),
    Group(Vec<Sequence>),
}

/// Atoms with their least and most repetitions.
pub(super) type Sequence = Vec<(Atom, usize, usize)>;

/// A grammar that can be walked.
pub(crate) struct Grammar {
    rules: HashMap<String, Vec<Sequence>>,
    /// Steps to the nearest end, by rule.
    costs: HashMap<String, usize>,
}

/// Stands for "without bound"; texts stay short.
const MANY: usize = 4;

/// The text, and what "without bound" is read as.
struct Reader<'t>(std::iter::Peekable<std::str::Chars<'t>>, usize);

impl Reader<'_> {
    fn spaces(&mut self) {
        while self.0.next_if(|char| *char == ' ').is_some() {}
    }

    fn alternatives(&mut self) -> Vec<Sequence> {
        let mut all = vec![self.sequence()];
        while self.0.next_if(|char| *char == '|').is_some() {
            all.push(self.sequence());
        }
        all
    }

    fn sequence(&mut self) -> Sequence {
        let mut atoms = Vec::new();
        loop {
            self.spaces();
            let atom = match self.0.peek() {
                None | Some('|' | ')') => return atoms,
                Some('"') => self.text(),
                Some('[') => self.class(),
                Some('(') => {
                    self.0.next();
                    let group = self.alternatives();
                    assert_eq!(self.0.next(), Some(')'));
                    Atom::Group(group)
                }
                Some(_) => self.name(),
            };
            let (least, most) = self.repetition();
            atoms.push((atom, least, most));
        }
    }

    fn repetition(&mut self) -> (usize, usize) {
        match self.0.peek() {
            Some('*') => (self.0.next(), (0, self.1)).1,
            Some('+') => (self.0.next(), (1, self.1)).1,
            Some('?') => (self.0.next(), (0, 1)).1,
            Some('{') => {
                self.0.next();
                let inside: String = std::iter::from_fn(|| self.0.next_if(|char| *char != '}')).collect();
                self.0.next();
                match inside.split_once(',') {
                    None => (inside.parse().unwrap(), inside.parse().unwrap()),
                    Some((least, most)) => (least.parse().unwrap(), most.parse().unwrap()),
                }
            }
            _ => (1, 1),
        }
    }

    fn name(&mut self) -> Atom {
        let name: String = std::iter::from_fn(|| self.0.next_if(char::is_ascii_alphanumeric)).collect();
        assert!(!name.is_empty(), "unexpected {:?}", self.0.peek());
        Atom::Rule(name)
    }

    fn char(&mut self) -> char {
        let hex = |reader: &mut Self, digits: usize| {
            let code: String = (0..digits).map(|_| reader.0.next().unwrap()).collect();
            // Halves of surrogate pairs stand at the ends of ranges only.
            char::from_u32(u32::from_str_radix(&code, 16).unwrap()).unwrap_or('\u{e000}')
        };
        match self.0.next().unwrap() {
            '\\' => match self.0.next().unwrap() {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'x' => hex(self, 2),
                'u' => hex(self, 4),
                'U' => hex(self, 8),
                other @ ('"' | '\\' | ']' | '[') => other,
                other => panic!("escape {other}"),
            },
            char => char,
        }
    }

    fn text(&mut self) -> Atom {
        self.0.next();
        let mut text = String::new();
        while self.0.peek() != Some(&'"') {
            text.push(self.char());
        }
        self.0.next();
        Atom::Text(text)
    }

    fn class(&mut self) -> Atom {
        self.0.next();
        let is_negated = self.0.next_if(|char| *char == '^').is_some();
        let mut ranges = Vec::new();
        while self.0.peek() != Some(&']') {
            let from = self.char();
            let mut ahead = self.0.clone();
            let is_range = ahead.next() == Some('-') && ahead.next() != Some(']');
            let to = if is_range { (self.0.next(), self.char()).1 } else { from };
            ranges.push((u32::from(from), u32::from(to)));
        }
        self.0.next();
        Atom::Class { ranges, is_negated }
    }
}

impl Grammar {
    pub(crate) fn read(text: &str) -> Self {
        let mut grammar = Self::parse(text, MANY);
        for _ in 0..200 {
            let costs = grammar.rules.iter().map(|(name, body)| (name.clone(), grammar.cheapest(body).0)).collect();
            grammar.costs = costs;
        }
        grammar
    }

    /// For reading only: what has no bound keeps none.
    pub(super) fn read_unbounded(text: &str) -> Self {
        Self::parse(text, usize::MAX)
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = (&str, &[Sequence])> {
        self.rules.iter().map(|(name, body)| (name.as_str(), body.as_slice()))
    }

    fn parse(text: &str, many: usize) -> Self {
        let rules: HashMap<String, Vec<Sequence>> = text
            .lines()
            .map(|line| {
                let (name, body) = line.split_once(" ::= ").unwrap();
                let mut reader = Reader(body.chars().peekable(), many);
                let alternatives = reader.alternatives();
                assert_eq!(reader.0.next(), None, "{line}");
                (name.to_owned(), alternatives)
            })
            .collect();
        Self { rules, costs: HashMap::new() }
    }

    fn cost(&self, sequence: &Sequence) -> usize {
        sequence
            .iter()
            .filter(|(_, least, _)| *least > 0)
            .map(|(atom, ..)| match atom {
                Atom::Text(_) | Atom::Class { .. } => 1,
                Atom::Rule(name) => self.costs.get(name).copied().unwrap_or(usize::MAX / 4).saturating_add(1),
                Atom::Group(group) => self.cheapest(group).0,
            })
            .max()
            .unwrap_or(0)
    }

    fn cheapest<'s>(&self, body: &'s [Sequence]) -> (usize, &'s Sequence) {
        body.iter().map(|sequence| (self.cost(sequence), sequence)).min_by_key(|(cost, _)| *cost).unwrap()
    }

    /// A text of the grammar; `dice(n)` gives a number below n.
    pub(crate) fn text(&self, dice: &mut impl FnMut(usize) -> usize) -> String {
        let mut out = String::new();
        let mut fuel = 400_i32;
        self.walk(&self.rules["root"], dice, &mut out, &mut fuel);
        out
    }

    fn walk(&self, body: &[Sequence], dice: &mut impl FnMut(usize) -> usize, out: &mut String, fuel: &mut i32) {
        *fuel -= 1;
        let sequence = if *fuel > 0 { &body[dice(body.len())] } else { self.cheapest(body).1 };
        for (atom, least, most) in sequence {
            let times = if *fuel > 0 { least + dice(most.min(&(least + MANY)) - least + 1) } else { *least };
            for _ in 0..times {
                match atom {
                    Atom::Text(text) => out.push_str(text),
                    Atom::Class { ranges, is_negated } => out.push(pick(ranges, *is_negated, dice)),
                    Atom::Rule(name) => self.walk(&self.rules[name], dice, out, fuel),
                    Atom::Group(group) => self.walk(group, dice, out, fuel),
                }
            }
        }
    }
}

fn pick(ranges: &[(u32, u32)], is_negated: bool, dice: &mut impl FnMut(usize) -> usize) -> char {
    let is_in = |char: char| ranges.iter().any(|(from, to)| (*from..=*to).contains(&u32::from(char)));
    if is_negated {
        let chars = ['a', 'Z', '0', ' ', '{', '<', 'é', '😀', '"', '\\', '/', '\u{2028}', 'b'];
        return (0..100).map(|_| chars[dice(chars.len())]).find(|char| !is_in(*char)).unwrap();
    }
    let (from, to) = ranges[dice(ranges.len())];
    let at = from + u32::try_from(dice((to - from + 1) as usize)).unwrap();
    char::from_u32(at).unwrap_or('\u{d7ff}')
}
