//! A grammar in llama.cpp's notation (GBNF) as it grows: named rules, each body written once, bounded in size.

use super::schema::Unfit;
use std::{collections::HashMap, fmt::Write};

/// Largest grammar, in bytes. llama.cpp reads it once per request; beyond this that takes longer than the answer.
const MAX_BYTES: usize = 512 << 10;
/// Exact repetitions are written in blocks of this many: llama.cpp refuses repetitions of thousands.
const BLOCK: usize = 64;
/// Most repetitions that are written as they are.
const MAX_PLAIN: usize = 1023;
/// Of all of them together.
const MAX_REPEATED: usize = 128 << 10;
/// What all patterns of a grammar may cost, in looks at the places of a pattern.
const PATTERN_WORK: usize = 4_000_000;
/// Largest bound of a repetition.
pub(super) const MAX_REPEAT: usize = 64 << 10;

/// White space between tokens: enough for one line per value with its indent, not enough for a model to get lost in.
const WS: &str = r#"" "? | "\n" [ \t]{0,20}"#;
/// One character of a string, written as JSON; a lone half of a surrogate pair is none.
const CHAR: &str =
    r#"[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-Ce-fE-F] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))"#;
const NUMBER: &str = r#""-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?"#;
const INTEGER: &str = r#""0" | "-"? [1-9] [0-9]{0,14}"#;

/// Rules so far. A rule's name is its handle.
#[derive(Debug)]
pub(crate) struct Rules {
    text: String,
    /// By body, so that equal parts are written once.
    names: HashMap<String, String>,
    patterns: HashMap<String, String>,
    pattern_work: usize,
    /// Repetitions that llama.cpp writes out.
    repeated: usize,
    count: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            text: String::new(),
            names: HashMap::new(),
            patterns: HashMap::new(),
            pattern_work: PATTERN_WORK,
            repeated: 0,
            count: 0,
        }
    }
}

impl Rules {
    /// The rule of a pattern that was written before.
    pub(super) fn pattern(&self, pattern: &str) -> Option<String> {
        self.patterns.get(pattern).cloned()
    }

    pub(super) fn keep_pattern(&mut self, pattern: &str, name: &str) {
        self.patterns.insert(pattern.to_owned(), name.to_owned());
    }

    /// What patterns may still cost.
    pub(super) const fn pattern_work(&mut self) -> &mut usize {
        &mut self.pattern_work
    }

    /// The name of a rule with this body.
    pub(crate) fn rule(&mut self, body: &str) -> String {
        if let Some(name) = self.names.get(body) {
            return name.clone();
        }
        let name = self.reserve();
        self.define(&name, body);
        self.names.insert(body.to_owned(), name.clone());
        name
    }

    /// A name to be defined later: for what refers to itself.
    pub(crate) fn reserve(&mut self) -> String {
        self.count += 1;
        format!("r{}", self.count)
    }

    pub(crate) fn define(&mut self, name: &str, body: &str) {
        // Beyond the bound only the fact matters.
        if self.text.len() <= MAX_BYTES {
            let _ = writeln!(self.text, "{name} ::= {body}");
        }
    }

    fn builtin(&mut self, name: &'static str, body: &str) -> String {
        if !self.names.contains_key(name) {
            self.names.insert(name.to_owned(), name.to_owned());
            self.define(name, body);
        }
        name.to_owned()
    }

    pub(crate) fn is_too_large(&self) -> bool {
        self.text.len() > MAX_BYTES || self.repeated > MAX_REPEATED
    }

    pub(super) fn char(&mut self) -> String {
        self.builtin("char", CHAR)
    }

    pub(crate) fn string(&mut self) -> String {
        self.char();
        self.builtin("string", r#""\"" char* "\"""#)
    }

    pub(super) fn number(&mut self) -> String {
        self.builtin("number", NUMBER)
    }

    pub(super) fn integer(&mut self) -> String {
        self.builtin("integer", INTEGER)
    }

    /// Any JSON value.
    pub(crate) fn any_value(&mut self) -> String {
        self.string();
        self.number();
        self.builtin("value", r#"object | array | string | number | "true" | "false" | "null""#);
        self.builtin("array", r#""[" ws (value ("," ws value)*)? ws "]""#);
        self.builtin("member", r#"string ":" ws value"#);
        self.builtin("object", r#""{" ws (member ("," ws member)*)? ws "}""#);
        "value".to_owned()
    }

    pub(crate) fn any_object(&mut self) -> String {
        self.any_value();
        "object".to_owned()
    }

    /// `item` at least `least` and at most `most` times; `None` = without bound.
    pub(super) fn repeat(&mut self, item: &str, least: usize, most: Option<usize>) -> String {
        let Some(most) = most else {
            return match least {
                0 => format!("{item}*"),
                1 => format!("{item}+"),
                _ => format!("{} {item}*", self.exactly(item, least)),
            };
        };
        let open = most.saturating_sub(least);
        let parts: Vec<String> =
            [self.exactly(item, least), self.at_most(item, open)].into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(" ")
    }

    fn exactly(&mut self, item: &str, times: usize) -> String {
        let (blocks, rest) = (times / BLOCK, times % BLOCK);
        let block = if blocks > 0 { self.rule(&format!("{item}{{{BLOCK}}}")) } else { String::new() };
        match (blocks, rest) {
            (0, 0) => String::new(),
            (0, rest) => format!("{item}{{{rest}}}"),
            (blocks, 0) => format!("{block}{{{blocks}}}"),
            (blocks, rest) => format!("{block}{{{blocks}}} {item}{{{rest}}}"),
        }
    }

    /// Whole blocks, then less than one: places at a time for the engine to keep are few, but more than one. They would
    /// multiply where such repetitions nest, so only characters of strings and what is very long are written in blocks.
    fn at_most(&mut self, item: &str, times: usize) -> String {
        let (blocks, rest) = (times / BLOCK, times % BLOCK);
        if blocks == 0 || (item != "char" && times <= MAX_PLAIN) {
            self.repeated += times;
            return if times == 0 { String::new() } else { format!("{item}{{0,{times}}}") };
        }
        let block = self.rule(&format!("{item}{{{BLOCK}}}"));
        let tail = if rest == 0 { String::new() } else { format!(" {item}{{0,{rest}}}") };
        let fewer = if blocks > 1 { format!("{block}{{0,{}}} ", blocks - 1) } else { String::new() };
        self.rule(&format!("{fewer}{item}{{0,{}}} | {block}{{{blocks}}}{tail}", BLOCK - 1))
    }

    /// The whole grammar.
    ///
    /// # Errors
    /// It is too large.
    pub(crate) fn finish(mut self, root: &str) -> Result<String, Unfit> {
        self.builtin("ws", WS);
        self.define("root", root);
        if self.is_too_large() {
            return Err(Unfit::new("it is too large once written out as a grammar"));
        }
        Ok(self.text)
    }
}

/// `text` as it is.
pub(crate) fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            char if char.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(char));
            }
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}
