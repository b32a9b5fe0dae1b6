//! Refuses grammars that llama.cpp would crash on or expand without bound.
//!
//! Pure: turning a grammar into a sampler is llama.cpp's. Texts of refusals name the rule that was broken, never the
//! grammar's words: those are a client's data.

const MAX_BYTES: usize = 640 << 10;
/// Largest repetition; llama.cpp writes each one out.
const MAX_REPEAT: u64 = 1024;
/// Brackets inside brackets in a grammar; llama.cpp's parser calls itself for each.
const MAX_GROUP_DEPTH: usize = 64;

/// What is wrong, for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadGrammar(String);

fn bad<T>(what: impl Into<String>) -> Result<T, BadGrammar> {
    Err(BadGrammar(what.into()))
}

/// `Ok`: llama.cpp may see it. It may still refuse it.
pub fn check(grammar: &str) -> Result<(), BadGrammar> {
    if grammar.len() > MAX_BYTES {
        return bad(format!("the grammar has {} bytes, more than {MAX_BYTES}", grammar.len()));
    }
    if grammar.contains('\0') {
        return bad("the grammar holds a zero byte");
    }
    check_gbnf(grammar)
}

/// Only what costs or crashes: llama.cpp's parser finds the rest.
fn check_gbnf(text: &str) -> Result<(), BadGrammar> {
    let (mut depth, mut chars) = (0usize, text.chars());
    while let Some(char) = chars.next() {
        match char {
            '"' => skip_to(&mut chars, '"'),
            '[' => skip_to(&mut chars, ']'),
            '#' => drop(chars.by_ref().find(|char| *char == '\n')),
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '{' => check_repeat(&chars.by_ref().take_while(|char| *char != '}').collect::<String>())?,
            _ => {}
        }
        if depth > MAX_GROUP_DEPTH {
            return bad(format!("the grammar nests more than {MAX_GROUP_DEPTH} groups"));
        }
    }
    Ok(())
}

fn skip_to(chars: &mut std::str::Chars<'_>, end: char) {
    while let Some(char) = chars.next() {
        match char {
            '\\' => drop(chars.next()),
            char if char == end => return,
            _ => {}
        }
    }
}

/// The inside of `{m,n}`.
fn check_repeat(inside: &str) -> Result<(), BadGrammar> {
    let bounds: Vec<&str> = inside.split(',').map(str::trim).collect();
    let number = |text: &str| text.parse::<u64>().ok().filter(|count| *count <= MAX_REPEAT);
    let fine = match bounds[..] {
        [exactly] => number(exactly).is_some(),
        [least, ""] => number(least).is_some(),
        [least, most] => matches!((number(least), number(most)), (Some(least), Some(most)) if least <= most),
        _ => false,
    };
    if fine {
        Ok(())
    } else {
        bad(format!("a repetition must be {{m}}, {{m,}} or {{m,n}} with numbers up to {MAX_REPEAT}"))
    }
}

#[cfg(test)]
mod tests;
