//! As much of protobuf's wire format as OTLP needs to be written, and to be understood in an answer. A crate for it would bring
//! a code generator along whose features have llama.cpp compiled anew; see the decision in `docs/adr`.

/// How a field's value is laid out.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;

/// One message, being written. Fields go out in the order they are put; empty texts and zeros are left out, as the format's
/// third version has it.
#[derive(Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, layout: u32) {
        self.varint(u64::from(field << 3 | layout));
    }

    #[must_use]
    pub fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.key(field, VARINT);
            self.varint(value);
        }
        self
    }

    #[must_use]
    pub fn fixed64(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.key(field, FIXED64);
            self.0.extend(value.to_le_bytes());
        }
        self
    }

    #[must_use]
    pub fn fixed32(mut self, field: u32, value: u32) -> Self {
        if value != 0 {
            self.key(field, FIXED32);
            self.0.extend(value.to_le_bytes());
        }
        self
    }

    #[must_use]
    pub fn bytes(self, field: u32, bytes: &[u8]) -> Self {
        if bytes.is_empty() { self } else { self.whole(field, bytes) }
    }

    #[must_use]
    pub fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    #[must_use]
    pub fn message(self, field: u32, message: &Self) -> Self {
        self.whole(field, &message.0)
    }

    #[must_use]
    pub fn messages(self, field: u32, messages: impl IntoIterator<Item = Self>) -> Self {
        messages.into_iter().fold(self, |whole, message| whole.message(field, &message))
    }

    /// Also if it is empty or zero: of a choice between fields, being there is the meaning.
    #[must_use]
    fn whole(mut self, field: u32, bytes: &[u8]) -> Self {
        self.key(field, LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    #[must_use]
    pub fn chosen_text(self, field: u32, text: &str) -> Self {
        self.whole(field, text.as_bytes())
    }

    #[must_use]
    pub fn chosen_number(mut self, field: u32, value: u64) -> Self {
        self.key(field, VARINT);
        self.varint(value);
        self
    }

    #[must_use]
    pub fn chosen_double(mut self, field: u32, value: f64) -> Self {
        self.key(field, FIXED64);
        self.0.extend(value.to_bits().to_le_bytes());
        self
    }
}

/// A field that was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Read<'b> {
    Number(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'b [u8]),
}

/// The fields of a message in their order, up to the first that is none.
pub fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u32, Read<'_>)> {
    std::iter::from_fn(move || {
        let key = take_varint(&mut rest)?;
        let read = match u32::try_from(key & 7).ok()? {
            VARINT => Read::Number(take_varint(&mut rest)?),
            FIXED64 => Read::Fixed64(u64::from_le_bytes(*take::<8>(&mut rest)?)),
            FIXED32 => Read::Fixed32(u32::from_le_bytes(*take::<4>(&mut rest)?)),
            LENGTH => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                let (bytes, after) = rest.split_at_checked(length)?;
                rest = after;
                Read::Bytes(bytes)
            }
            _ => return None,
        };
        Some((u32::try_from(key >> 3).ok()?, read))
    })
}

fn take<'b, const N: usize>(rest: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (bytes, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(bytes)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for at in 0..10 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(at * 7)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_formats_own_documentation_come_out() {
        let written = Message::default().number(1, 150).into_bytes();
        assert_eq!(written, [0x08, 0x96, 0x01]);
        let written = Message::default().text(2, "testing").into_bytes();
        assert_eq!(written, [&[0x12, 0x07], &b"testing"[..]].concat());
        let written = Message::default().message(3, &Message::default().number(1, 150)).into_bytes();
        assert_eq!(written, [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert!(Message::default().number(1, 0).text(2, "").fixed64(3, 0).into_bytes().is_empty());
        assert_eq!(Message::default().chosen_number(2, 0).into_bytes(), [0x10, 0], "a choice is told");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(field in 1u32..1 << 28, number in 1u64.., text in ".{1,200}") {
            let written = Message::default().number(field, number).text(field, &text).fixed64(field, number);
            let written = written.into_bytes();
            let read: Vec<_> = fields(&written).collect();
            let expected = [Read::Number(number), Read::Bytes(text.as_bytes()), Read::Fixed64(number)];
            prop_assert_eq!(read, expected.map(|value| (field, value)));
        }

        #[test]
        fn no_bytes_break_the_reading(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}
