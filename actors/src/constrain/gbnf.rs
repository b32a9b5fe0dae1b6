//! A grammar in llama.cpp's notation (GBNF) as it grows: named rules, each body written once, bounded in size.

use super::schema::Unfit;
use std::{collections::HashMap, fmt::Write};

/// Largest grammar, in bytes. llama.cpp reads it once per request; beyond this that takes longer than the answer.
const MAX_BYTES: usize = 512 << 10;
/// Exact repetitions are written in blocks of this many: llama.cpp refuses repetitions of thousands.
const BLOCK: usize = 64;
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
#[derive(Debug, Default)]
pub(crate) struct Rules {
    text: String,
    /// By body, so that equal parts are written once.
    names: HashMap<String, String>,
    count: usize,
}

impl Rules {
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
        self.text.len() > MAX_BYTES
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

    /// Whole blocks, then less than one: two places at a time for the engine to keep, not one per length.
    fn at_most(&mut self, item: &str, times: usize) -> String {
        let (blocks, rest) = (times / BLOCK, times % BLOCK);
        if blocks == 0 {
            return if rest == 0 { String::new() } else { format!("{item}{{0,{rest}}}") };
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
            return Err(Unfit::new(format!("it has more than {MAX_BYTES} bytes once written out as a grammar")));
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
