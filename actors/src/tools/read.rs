//! From a model's text to text and calls, as it arrives. What was said does not depend on how the text was cut.
//!
//! A beginning that may become a call is held back; if it does not become one, it was text. White space before a call is
//! nobody's. A text that breaks off inside a call (a token limit) leaves that call's arguments unfinished, as it must.

use super::{
    dialect::Dialect,
    json::{Belongs, CallObject, Extent, Found, Unescape},
};

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// The next call begins; it is number `index`, from 0.
    Call {
        index: usize,
        name: String,
    },
    /// More of that call's arguments.
    Arguments {
        index: usize,
        text: String,
    },
}

#[derive(Debug)]
enum State {
    /// Nothing but white space yet, where a brace would begin a call or its wrapping.
    Start,
    Text,
    /// Behind a marker.
    Marked,
    Call(Box<Calling>),
    /// A call has ended: another one may follow.
    After {
        in_list: bool,
    },
    /// A name without quotes, up to its arguments' brace.
    BareName(String),
    BareArguments(Extent),
    /// Our own wrapping: its key, what follows it.
    WrapKey(String),
    WrapColon(Wrapped),
    Response(Extent, Option<Unescape>),
    /// Behind everything: white space and closing brackets.
    Rest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrapped {
    Call,
    Calls,
    Response,
}

#[derive(Debug, Default)]
struct Calling {
    object: CallObject,
    name: Option<String>,
    /// Arguments that came before the name.
    early: String,
    has_arguments: bool,
    in_list: bool,
}

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    dialect: Dialect,
    names: Vec<String>,
    state: State,
    /// Not yet known to be text or call.
    held: String,
    /// White space not yet known to be followed by text.
    spaces: String,
    calls: usize,
    out: Vec<Piece>,
}

impl Reader {
    /// For a model of this dialect that may call tools of these names.
    pub fn new(dialect: Dialect, names: impl IntoIterator<Item = String>) -> Self {
        let state = if matches!(dialect, Dialect::Generic | Dialect::Llama) { State::Start } else { State::Text };
        Self {
            dialect,
            names: names.into_iter().collect(),
            state,
            held: String::new(),
            spaces: String::new(),
            calls: 0,
            out: Vec::new(),
        }
    }

    /// Calls begun so far.
    pub const fn calls(&self) -> usize {
        self.calls
    }

    /// Takes more of the model's text; gives what is sure.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        text.chars().for_each(|char| self.step(char));
        std::mem::take(&mut self.out)
    }

    /// The text has ended: what was held back is text. But if it was cut, what would have become a call is nobody's.
    pub fn finish(&mut self, cut: bool) -> Vec<Piece> {
        if cut && !matches!(self.state, State::Start | State::Text) {
            self.held.clear();
            self.spaces.clear();
        }
        if self.calls == 0 || matches!(self.state, State::Text) {
            self.give_up();
            let spaces = std::mem::take(&mut self.spaces);
            self.say(&spaces);
        } else if let State::Call(calling) = &self.state
            && calling.name.is_none()
        {
            self.give_up();
        }
        std::mem::take(&mut self.out)
    }

    fn step(&mut self, char: char) {
        match std::mem::replace(&mut self.state, State::Rest) {
            State::Start => self.start(char),
            State::Text => self.text(char),
            State::Marked => self.marked(char),
            State::Call(calling) => self.call(calling, char),
            State::After { in_list } => self.after(in_list, char),
            State::BareName(name) => self.bare_name(name, char),
            State::BareArguments(extent) => self.bare_arguments(extent, char),
            State::WrapKey(key) => self.wrap_key(key, char),
            State::WrapColon(wrapped) => self.wrap_colon(wrapped, char),
            State::Response(extent, unescape) => self.response(extent, unescape, char),
            State::Rest => {}
        }
    }

    fn start(&mut self, char: char) {
        match char {
            '{' => {
                self.held.push(char);
                let is_own = self.dialect == Dialect::Generic;
                self.state = if is_own { State::WrapKey(String::new()) } else { State::Call(Box::default()) };
            }
            char if char.is_whitespace() => {
                self.spaces.push(char);
                self.state = State::Start;
            }
            char => self.text(char),
        }
    }

    /// Keeps what may be the beginning of a marker.
    fn text(&mut self, char: char) {
        self.state = State::Text;
        let Some(trigger) = self.dialect.trigger() else {
            self.say_char(char);
            return;
        };
        self.held.push(char);
        while !trigger.starts_with(&self.held) {
            let first = self.held.remove(0);
            self.say_char(first);
        }
        if self.held == trigger {
            self.state = State::Marked;
        }
    }

    fn marked(&mut self, char: char) {
        self.held.push(char);
        let is_list = matches!(self.dialect, Dialect::Mistral | Dialect::MistralArgs);
        match char {
            '{' => self.state = State::Call(Box::default()),
            '[' if is_list => self.state = State::After { in_list: true },
            char if char.is_whitespace() => self.state = State::Marked,
            char if is_list && is_of_name(char) => self.state = State::BareName(char.into()),
            _ => self.give_up(),
        }
    }

    fn call(&mut self, mut calling: Box<Calling>, char: char) {
        if calling.name.is_none() {
            self.held.push(char);
        }
        match calling.object.step(char) {
            Found::Nothing => {}
            Found::Name(name) => {
                let is_marked = !matches!(self.dialect, Dialect::Llama | Dialect::Generic);
                if calling.name.is_some() || !(is_marked || self.names.contains(&name)) {
                    return self.no_call(&calling);
                }
                self.begin(&name);
                let early = std::mem::take(&mut calling.early);
                self.argue(&early);
                calling.name = Some(name);
            }
            Found::Arguments(text) => {
                calling.has_arguments = true;
                match calling.name {
                    Some(_) => self.argue(&text),
                    None => calling.early.push_str(&text),
                }
            }
            Found::End if calling.name.is_some() => {
                if !calling.has_arguments {
                    self.argue("{}");
                }
                self.state = State::After { in_list: calling.in_list };
                return;
            }
            Found::End | Found::NoCall => return self.no_call(&calling),
        }
        self.state = State::Call(calling);
    }

    /// Before its name is known it was text; after that, what follows has no meaning.
    fn no_call(&mut self, calling: &Calling) {
        if calling.name.is_none() {
            self.give_up();
        }
    }

    fn after(&mut self, in_list: bool, char: char) {
        match char {
            '{' if in_list || self.dialect == Dialect::Llama => {
                self.held.push(char);
                self.state = State::Call(Box::new(Calling { in_list, ..Calling::default() }));
            }
            ']' if in_list => self.state = State::After { in_list: false },
            ',' if in_list => self.state = State::After { in_list },
            ';' if self.dialect == Dialect::Llama => self.state = State::After { in_list },
            char if char.is_whitespace() => self.state = State::After { in_list },
            // In a list nothing else stands before the first call.
            char if in_list && self.calls == 0 => {
                self.held.push(char);
                self.give_up();
            }
            _ if self.dialect == Dialect::Generic => {}
            char => self.closing_or_text(char),
        }
    }

    /// A closing marker belongs to the call, another opening marker begins the next one.
    fn closing_or_text(&mut self, char: char) {
        const CLOSING: &str = "</tool_call>";
        self.held.push(char);
        let trigger = self.dialect.trigger().unwrap_or_default();
        if self.held == trigger {
            self.state = State::Marked;
        } else if self.held == CLOSING {
            self.held.clear();
            self.state = State::After { in_list: false };
        } else if CLOSING.starts_with(&self.held) || trigger.starts_with(&self.held) {
            self.state = State::After { in_list: false };
        } else {
            let held = std::mem::take(&mut self.held);
            self.state = State::Text;
            held.chars().for_each(|char| self.text(char));
        }
    }

    fn bare_name(&mut self, mut name: String, char: char) {
        self.held.push(char);
        if char != '{' {
            // Markers may stand in the name: "[CALL_ID]…", "[ARGS]".
            name.push(char);
            if name.len() > 256 {
                return self.give_up();
            }
            self.state = State::BareName(name);
            return;
        }
        let end = name.find('[').unwrap_or(name.len());
        let bare = name.get(..end).unwrap_or_default().trim();
        if bare.is_empty() || !bare.chars().all(is_of_name) {
            return self.give_up();
        }
        self.begin(bare);
        let mut extent = Extent::default();
        extent.step(char);
        self.argue("{");
        self.state = State::BareArguments(extent);
    }

    fn bare_arguments(&mut self, mut extent: Extent, char: char) {
        let belongs = extent.step(char);
        self.argue(char.encode_utf8(&mut [0; 4]));
        self.state =
            if belongs == Belongs::Last { State::After { in_list: false } } else { State::BareArguments(extent) };
    }

    fn wrap_key(&mut self, mut key: String, char: char) {
        self.held.push(char);
        if key.is_empty() && char.is_whitespace() {
            self.state = State::WrapKey(key);
            return;
        }
        key.push(char);
        self.state = match key.as_str() {
            "\"tool_call\"" => State::WrapColon(Wrapped::Call),
            "\"tool_calls\"" => State::WrapColon(Wrapped::Calls),
            "\"response\"" => State::WrapColon(Wrapped::Response),
            key if ["\"tool_calls\"", "\"tool_call\"", "\"response\""].iter().any(|known| known.starts_with(key)) => {
                State::WrapKey(key.to_owned())
            }
            _ => return self.give_up(),
        };
    }

    fn wrap_colon(&mut self, wrapped: Wrapped, char: char) {
        self.held.push(char);
        if char == ':' || char.is_whitespace() {
            self.state = State::WrapColon(wrapped);
            return;
        }
        match (wrapped, char) {
            (Wrapped::Call, '{') => self.state = State::Call(Box::default()),
            (Wrapped::Calls, '[') => self.state = State::After { in_list: true },
            (Wrapped::Response, char) => {
                let mut extent = Extent::default();
                if extent.step(char) == Belongs::Never {
                    return self.give_up();
                }
                self.held.clear();
                self.spaces.clear();
                let is_text = char == '"';
                if !is_text {
                    self.say_char(char);
                }
                self.state = State::Response(extent, is_text.then(Unescape::default));
            }
            _ => self.give_up(),
        }
    }

    fn response(&mut self, mut extent: Extent, mut unescape: Option<Unescape>, char: char) {
        let belongs = extent.step(char);
        match (belongs, &mut unescape) {
            (Belongs::Inside, Some(unescape)) => {
                if let Some(said) = unescape.step(char) {
                    self.say(said.encode_utf8(&mut [0; 4]));
                }
            }
            (Belongs::Inside, None) => self.say_char(char),
            (Belongs::Last, None) => return self.say_char(char),
            (Belongs::Last, Some(_)) | (Belongs::After | Belongs::Never, _) => return,
        }
        self.state = State::Response(extent, unescape);
    }

    /// What is held was text after all, and all that follows is.
    fn give_up(&mut self) {
        let held = std::mem::take(&mut self.held);
        held.chars().for_each(|char| self.say_char(char));
        self.state = State::Text;
    }

    fn begin(&mut self, name: &str) {
        self.held.clear();
        self.spaces.clear();
        self.out.push(Piece::Call { index: self.calls, name: name.to_owned() });
        self.calls += 1;
    }

    fn argue(&mut self, more: &str) {
        let Some(last) = self.calls.checked_sub(1) else { return };
        match self.out.last_mut() {
            Some(Piece::Arguments { index, text }) if *index == last => text.push_str(more),
            _ if more.is_empty() => {}
            _ => self.out.push(Piece::Arguments { index: last, text: more.to_owned() }),
        }
    }

    fn say_char(&mut self, char: char) {
        if char.is_whitespace() {
            self.spaces.push(char);
            return;
        }
        let spaces = std::mem::take(&mut self.spaces);
        self.say(&spaces);
        self.say(char.encode_utf8(&mut [0; 4]));
    }

    fn say(&mut self, more: &str) {
        match self.out.last_mut() {
            Some(Piece::Text(text)) => text.push_str(more),
            _ if more.is_empty() => {}
            _ => self.out.push(Piece::Text(more.to_owned())),
        }
    }
}

const fn is_of_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.')
}
