//! JSON as it arrives, character by character: where a value ends, what a string says, which parts of an object are the
//! name and the arguments of a call.

/// What a character is to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belongs {
    /// Part of it.
    Inside,
    /// Its last part.
    Last,
    /// It ended before.
    After,
    /// No value looks like this.
    Never,
}

/// The extent of one value. Looks at brackets and quotes only: what is between is taken as it comes.
#[derive(Debug, Clone, Default)]
pub(super) struct Extent {
    begun: bool,
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl Extent {
    pub(super) fn step(&mut self, char: char) -> Belongs {
        if !self.begun {
            return self.begin(char);
        }
        if self.in_string {
            return self.string(char);
        }
        match char {
            '"' if self.depth > 0 => self.in_string = true,
            '{' | '[' if self.depth > 0 => self.depth += 1,
            '}' | ']' if self.depth > 0 => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Belongs::Last;
                }
            }
            _ if self.depth > 0 => {}
            ',' | '}' | ']' => return Belongs::After,
            char if char.is_ascii_whitespace() => return Belongs::After,
            char if char.is_ascii_alphanumeric() || matches!(char, '.' | '+' | '-') => {}
            _ => return Belongs::Never,
        }
        Belongs::Inside
    }

    fn begin(&mut self, char: char) -> Belongs {
        self.begun = true;
        match char {
            '{' | '[' => self.depth = 1,
            '"' => self.in_string = true,
            '-' | '0'..='9' | 't' | 'f' | 'n' => {}
            _ => return Belongs::Never,
        }
        Belongs::Inside
    }

    fn string(&mut self, char: char) -> Belongs {
        match char {
            _ if self.escaped => self.escaped = false,
            '\\' => self.escaped = true,
            '"' => {
                self.in_string = false;
                if self.depth == 0 {
                    return Belongs::Last;
                }
            }
            _ => {}
        }
        Belongs::Inside
    }
}

/// The text that the inside of a JSON string says.
#[derive(Debug, Clone, Default)]
pub(super) struct Unescape {
    escaped: bool,
    /// Hexadecimal digits of an escape so far.
    hex: Option<String>,
    /// First half of a surrogate pair.
    high: Option<u32>,
}

impl Unescape {
    /// `None`: more is needed to know. What is no escape is taken as it stands.
    pub(super) fn step(&mut self, char: char) -> Option<char> {
        if let Some(hex) = &mut self.hex {
            hex.push(char);
            if hex.len() < 4 {
                return None;
            }
            let code = u32::from_str_radix(hex, 16).unwrap_or(0xFFFD);
            self.hex = None;
            return self.code(code);
        }
        if self.escaped {
            self.escaped = false;
            return match char {
                'n' => Some('\n'),
                't' => Some('\t'),
                'r' => Some('\r'),
                'b' => Some('\u{8}'),
                'f' => Some('\u{c}'),
                'u' => {
                    self.hex = Some(String::new());
                    None
                }
                other => Some(other),
            };
        }
        if char == '\\' {
            self.escaped = true;
            return None;
        }
        Some(char)
    }

    fn code(&mut self, code: u32) -> Option<char> {
        match (self.high.take(), code) {
            (Some(high), 0xDC00..=0xDFFF) => char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (code - 0xDC00)),
            (_, 0xD800..=0xDBFF) => {
                self.high = Some(code);
                None
            }
            (_, code) => Some(char::from_u32(code).unwrap_or('\u{FFFD}')),
        }
    }
}

/// What a character of a call's object brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Name(String),
    /// More of the arguments, as JSON.
    Arguments(String),
    /// The object is complete.
    End,
    /// It is not the object of a call.
    NoCall,
}

#[derive(Debug, Clone)]
enum At {
    Open,
    Key(String, Extent),
    Colon(Field),
    Value(Field, Extent, String),
    /// Arguments inside a string, as some models write them.
    Quoted(Extent, Unescape),
    Comma,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    Other,
}

/// The object of one call, from its opening brace on.
#[derive(Debug, Clone)]
pub(super) struct CallObject {
    at: At,
}

impl Default for CallObject {
    fn default() -> Self {
        Self { at: At::Open }
    }
}

impl CallObject {
    /// After the opening brace.
    pub(super) fn step(&mut self, char: char) -> Found {
        match std::mem::replace(&mut self.at, At::Comma) {
            At::Open | At::Comma if char == '}' => Found::End,
            At::Open if char == '"' => self.go(At::Key(String::from('"'), begun('"'))),
            At::Open if char.is_ascii_whitespace() => self.go(At::Open),
            At::Comma if char == ',' => self.go(At::Open),
            At::Comma if char.is_ascii_whitespace() => Found::Nothing,
            At::Key(key, extent) => self.key(key, extent, char),
            At::Colon(field) if char.is_ascii_whitespace() || char == ':' => self.go(At::Colon(field)),
            At::Colon(Field::Arguments) if char == '"' => self.go(At::Quoted(begun('"'), Unescape::default())),
            At::Colon(field) => self.value(field, Extent::default(), String::new(), char),
            At::Value(field, extent, text) => self.value(field, extent, text, char),
            At::Quoted(extent, unescape) => self.quoted(extent, unescape, char),
            At::Open | At::Comma => Found::NoCall,
        }
    }

    fn go(&mut self, at: At) -> Found {
        self.at = at;
        Found::Nothing
    }

    fn key(&mut self, mut key: String, mut extent: Extent, char: char) -> Found {
        key.push(char);
        if extent.step(char) != Belongs::Last {
            return self.go(At::Key(key, extent));
        }
        match serde_json::from_str::<String>(&key).as_deref() {
            Ok("name") => self.go(At::Colon(Field::Name)),
            Ok("arguments" | "parameters") => self.go(At::Colon(Field::Arguments)),
            Ok("id" | "type" | "call_id") => self.go(At::Colon(Field::Other)),
            _ => Found::NoCall,
        }
    }

    fn value(&mut self, field: Field, mut extent: Extent, mut text: String, char: char) -> Found {
        let belongs = extent.step(char);
        match (belongs, field) {
            (Belongs::Never, _) => Found::NoCall,
            (Belongs::After, Field::Name) => Found::NoCall,
            // The character is the object's own.
            (Belongs::After, _) => self.step(char),
            (Belongs::Inside, Field::Arguments) => {
                self.at = At::Value(field, extent, text);
                Found::Arguments(char.into())
            }
            (Belongs::Last, Field::Arguments) => Found::Arguments(char.into()),
            (Belongs::Inside, Field::Other) => self.go(At::Value(field, extent, text)),
            (Belongs::Last, Field::Other) => Found::Nothing,
            (Belongs::Inside, Field::Name) => {
                text.push(char);
                self.go(At::Value(field, extent, text))
            }
            (Belongs::Last, Field::Name) => {
                text.push(char);
                serde_json::from_str(&text).map_or(Found::NoCall, Found::Name)
            }
        }
    }

    fn quoted(&mut self, mut extent: Extent, mut unescape: Unescape, char: char) -> Found {
        if extent.step(char) == Belongs::Last {
            return Found::Nothing;
        }
        let said = unescape.step(char);
        self.at = At::Quoted(extent, unescape);
        said.map_or(Found::Nothing, |said| Found::Arguments(said.into()))
    }
}

/// An extent whose first character has been read.
fn begun(char: char) -> Extent {
    let mut extent = Extent::default();
    extent.step(char);
    extent
}
