//! Comma-separated values as RFC 4180 has them, in a form that no spreadsheet takes for a formula. Pure.

/// Appends one record.
pub(crate) fn record<'f>(fields: impl IntoIterator<Item = Field<'f>>, out: &mut String) {
    for (at, field) in fields.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        match field {
            Field::Number(number) => out.push_str(&number),
            Field::Text(text) => quoted(text, out),
        }
    }
    out.push_str("\r\n");
}

pub(crate) enum Field<'f> {
    /// Digits of ours.
    Number(String),
    /// Anything: a name that somebody chose.
    Text(&'f str),
}

impl From<u64> for Field<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number.to_string())
    }
}

fn quoted(text: &str, out: &mut String) {
    // A spreadsheet would run these; an apostrophe makes it text.
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let needs_quotes = is_formula || text.contains(['"', ',', '\r', '\n']) || text.trim() != text;
    if !needs_quotes {
        out.push_str(text);
        return;
    }
    out.push('"');
    if is_formula {
        out.push('\'');
    }
    out.push_str(&text.replace('"', "\"\""));
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        let mut out = String::new();
        record([Field::Text(text), Field::from(7)], &mut out);
        out
    }

    #[test]
    fn text_is_quoted_when_it_must_be_and_only_then() {
        for (text, written) in [
            ("gpt-4.1", "gpt-4.1,7\r\n"),
            ("", ",7\r\n"),
            ("a,b", "\"a,b\",7\r\n"),
            ("say \"hi\"", "\"say \"\"hi\"\"\",7\r\n"),
            ("two\nlines", "\"two\nlines\",7\r\n"),
            (" padded ", "\" padded \",7\r\n"),
            ("é日🦀", "é日🦀,7\r\n"),
        ] {
            assert_eq!(line(text), written);
        }
    }

    #[test]
    fn no_name_becomes_a_formula() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=HYPERLINK(\"http://x\",\"y\")"] {
            let written = line(text);
            assert!(written.starts_with("\"'"), "{written}");
        }
    }
}
