//! From bytes to facts. Bounds first: no length from the file is believed before it was compared with a limit and with
//! what is left of the file, and nothing is allocated by it.

use super::{
    Gguf, GgufError, kinds,
    model::{Facts, MAX_TEXT, Tensors, Value},
};
use std::{
    collections::BTreeSet,
    io::{BufReader, Read, Seek, SeekFrom},
};

const MAGIC: [u8; 4] = *b"GGUF";
/// Versions llama.cpp reads (version 1 is no longer supported).
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// Pairs of any model; a file that claims more is damaged.
const MAX_PAIRS: u64 = 16_384;
const MAX_TENSORS: u64 = 262_144;
/// Bytes of a key or a tensor's name.
const MAX_NAME: u64 = 4096;
/// Numbers kept of one list: one for each layer.
const MAX_NUMBERS: u64 = 4096;
/// Dimensions of a tensor, as in ggml.
const MAX_DIMENSIONS: u32 = 4;
/// Where tensors begin when the file does not say.
const ALIGNMENT: u64 = 32;

/// Reads a file of `size` bytes from its beginning.
///
/// # Errors
/// It is no GGUF, contradicts itself, or ends before its tensors do.
pub fn read(source: impl Read + Seek, size: u64) -> Result<Gguf, GgufError> {
    let (version, facts, tensors) = scan(source, size)?;
    facts.into_model(version, size, tensors)
}

/// A later part of a split model: it has tensors, and no facts but that it is a part.
pub(super) fn read_part(source: impl Read + Seek, size: u64) -> Result<Tensors, GgufError> {
    scan(source, size).map(|(_, _, tensors)| tensors)
}

fn scan(source: impl Read + Seek, size: u64) -> Result<(u32, Facts, Tensors), GgufError> {
    let mut reader = Reader { source: BufReader::with_capacity(1 << 16, source), at: 0, size };
    let (version, tensor_count, pair_count) = header(&mut reader)?;
    let mut facts = Facts::default();
    for _ in 0..pair_count {
        pair(&mut reader, &mut facts)?;
    }
    let layers = facts.layers()?.unwrap_or(0);
    let mut tensors = Sums::new(layers);
    for _ in 0..tensor_count {
        tensors.add(&mut reader)?;
    }
    let alignment = facts.number("general.alignment").unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(corrupt(format!("an alignment of {alignment}")));
    }
    let needed = reader.at.next_multiple_of(alignment).saturating_add(tensors.end);
    if tensors.end > 0 && needed > size {
        return Err(GgufError::Truncated { needed, size });
    }
    Ok((version, facts, tensors.sums))
}

fn header<R: Read + Seek>(reader: &mut Reader<R>) -> Result<(u32, u64, u64), GgufError> {
    if reader.size < 24 {
        return Err(GgufError::NotGguf("it is shorter than a GGUF header".to_owned()));
    }
    if reader.bytes::<4>()? != MAGIC {
        return Err(GgufError::NotGguf("it does not begin with GGUF".to_owned()));
    }
    let version = reader.u32()?;
    if !VERSIONS.contains(&version) {
        return Err(GgufError::NotGguf(format!("GGUF version {version} is unknown")));
    }
    let (tensors, pairs) = (reader.u64()?, reader.u64()?);
    if tensors > MAX_TENSORS || pairs > MAX_PAIRS {
        return Err(corrupt(format!("it claims {tensors} tensors and {pairs} facts")));
    }
    Ok((version, tensors, pairs))
}

fn pair<R: Read + Seek>(reader: &mut Reader<R>, facts: &mut Facts) -> Result<(), GgufError> {
    let key = reader.name()?;
    let kind = reader.u32()?;
    let value = match kind {
        9 if key == "tokenizer.ggml.tokens" => tokens(reader, facts)?,
        9 => list(reader)?,
        _ => scalar(reader, kind)?,
    };
    if facts.values.insert(key, value).is_some() {
        return Err(corrupt("it states a fact twice".to_owned()));
    }
    Ok(())
}

fn scalar<R: Read + Seek>(reader: &mut Reader<R>, kind: u32) -> Result<Value, GgufError> {
    Ok(match kind {
        0 => Value::Unsigned(u64::from(reader.bytes::<1>()?[0])),
        1 => Value::Signed(i64::from(i8::from_le_bytes(reader.bytes()?))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes(reader.bytes()?))),
        3 => Value::Signed(i64::from(i16::from_le_bytes(reader.bytes()?))),
        4 => Value::Unsigned(u64::from(reader.u32()?)),
        5 => Value::Signed(i64::from(i32::from_le_bytes(reader.bytes()?))),
        6 => Value::Float(f64::from(f32::from_le_bytes(reader.bytes()?))),
        7 => Value::Bool(reader.bytes::<1>()?[0] != 0),
        8 => text(reader)?,
        10 => Value::Unsigned(reader.u64()?),
        11 => Value::Signed(i64::from_le_bytes(reader.bytes()?)),
        12 => Value::Float(f64::from_le_bytes(reader.bytes()?)),
        _ => return Err(corrupt(format!("a value of the unknown type {kind}"))),
    })
}

/// The beginning of a text; the rest is passed over.
fn text<R: Read + Seek>(reader: &mut Reader<R>) -> Result<Value, GgufError> {
    let length = reader.u64()?;
    let kept = length.min(MAX_TEXT as u64);
    let beginning = reader.take(kept)?;
    reader.skip(length - kept)?;
    Ok(Value::Text(String::from_utf8_lossy(&beginning).into_owned(), length))
}

/// Bytes of one element of a list of numbers.
const fn width(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

fn list<R: Read + Seek>(reader: &mut Reader<R>) -> Result<Value, GgufError> {
    let (kind, length) = (reader.u32()?, reader.u64()?);
    if kind == 8 {
        for _ in 0..reader.plausible(length, 8)? {
            let bytes = reader.u64()?;
            reader.skip(bytes)?;
        }
        return Ok(Value::List(length, Vec::new()));
    }
    let Some(width) = width(kind) else { return Err(corrupt(format!("a list of the unknown type {kind}"))) };
    reader.plausible(length, width)?;
    let mut numbers = Vec::new();
    if length <= MAX_NUMBERS && matches!(kind, 0..=5 | 10 | 11) {
        for _ in 0..length {
            match scalar(reader, kind)? {
                Value::Unsigned(number) => numbers.push(number),
                Value::Signed(number) => numbers.push(u64::try_from(number).unwrap_or(0)),
                _ => {}
            }
        }
    } else {
        reader.skip(length.saturating_mul(width))?;
    }
    Ok(Value::List(length, numbers))
}

/// The vocabulary: counted, and looked through for the spellings of the tokens that mark a hole.
fn tokens<R: Read + Seek>(reader: &mut Reader<R>, facts: &mut Facts) -> Result<Value, GgufError> {
    const LONGEST: u64 = 32;
    let (kind, length) = (reader.u32()?, reader.u64()?);
    if kind != 8 {
        return Err(corrupt("its vocabulary is no list of texts".to_owned()));
    }
    for id in 0..reader.plausible(length, 8)? {
        let bytes = reader.u64()?;
        if bytes > LONGEST {
            reader.skip(bytes)?;
            continue;
        }
        let spelled = reader.take(bytes)?;
        let mark = match std::str::from_utf8(&spelled).unwrap_or_default() {
            "<|fim_prefix|>" | "<fim-prefix>" | "<fim_prefix>" | "<PRE>" | "<｜fim▁begin｜>" => {
                &mut facts.fim.prefix
            }
            "<|fim_suffix|>" | "<fim-suffix>" | "<fim_suffix>" | "<SUF>" | "<｜fim▁hole｜>" => {
                &mut facts.fim.suffix
            }
            "<|fim_middle|>" | "<fim-middle>" | "<fim_middle>" | "<MID>" | "<｜fim▁end｜>" => &mut facts.fim.middle,
            _ => continue,
        };
        *mark = mark.or(u32::try_from(id).ok());
    }
    Ok(Value::List(length, Vec::new()))
}

/// Tensors while they are counted.
struct Sums {
    sums: Tensors,
    /// Last byte that any of them needs, from where tensors begin.
    end: u64,
    names: BTreeSet<String>,
}

impl Sums {
    fn new(layers: u32) -> Self {
        let layers = vec![0; usize::try_from(layers).unwrap_or(0)];
        Self { sums: Tensors { layers, ..Tensors::default() }, end: 0, names: BTreeSet::new() }
    }

    fn add<R: Read + Seek>(&mut self, reader: &mut Reader<R>) -> Result<(), GgufError> {
        let name = reader.name()?;
        let dimensions = reader.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(corrupt(format!("a tensor of {dimensions} dimensions")));
        }
        let (mut elements, mut row) = (1_u64, 1_u64);
        for dimension in 0..dimensions {
            let extent = reader.u64()?;
            row = if dimension == 0 { extent } else { row };
            elements = elements.checked_mul(extent).ok_or_else(|| corrupt("a tensor beyond all size".to_owned()))?;
        }
        let (kind, offset) = (reader.u32()?, reader.u64()?);
        self.sums.count += 1;
        self.sums.parameters = self.sums.parameters.saturating_add(elements);
        match kinds::block(kind) {
            Some((per_block, _)) if row % per_block != 0 => {
                return Err(corrupt("a tensor whose rows are no whole blocks".to_owned()));
            }
            Some((per_block, bytes)) => {
                let bytes = (elements / per_block).checked_mul(bytes);
                let bytes = bytes.ok_or_else(|| corrupt("a tensor beyond all size".to_owned()))?;
                self.end = self.end.max(offset.saturating_add(bytes));
                self.file(&name, bytes);
            }
            None => self.sums.of_unknown_type += 1,
        }
        if !self.names.insert(name) {
            return Err(corrupt("it names a tensor twice".to_owned()));
        }
        Ok(())
    }

    fn file(&mut self, name: &str, bytes: u64) {
        self.sums.bytes = self.sums.bytes.saturating_add(bytes);
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let sum = match layer.and_then(|layer| self.sums.layers.get_mut(layer)) {
            Some(layer) => layer,
            None if name.starts_with("token_embd") || name.starts_with("per_layer_token_embd") => {
                &mut self.sums.embedding
            }
            None => &mut self.sums.output,
        };
        *sum = sum.saturating_add(bytes);
    }
}

/// A source that knows where it is and where it ends.
struct Reader<R: Read + Seek> {
    source: BufReader<R>,
    at: u64,
    size: u64,
}

impl<R: Read + Seek> Reader<R> {
    fn left(&self) -> u64 {
        self.size.saturating_sub(self.at)
    }

    fn ended(&self) -> GgufError {
        corrupt("it ends inside its own description".to_owned())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        if self.left() < N as u64 {
            return Err(self.ended());
        }
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).map_err(GgufError::Unreadable)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// `length` elements of at least `width` bytes each could still be there.
    fn plausible(&self, length: u64, width: u64) -> Result<u64, GgufError> {
        if length.saturating_mul(width) > self.left() { Err(self.ended()) } else { Ok(length) }
    }

    /// The next bytes; the caller has bounded `length`.
    fn take(&mut self, length: u64) -> Result<Vec<u8>, GgufError> {
        let length = usize::try_from(self.plausible(length, 1)?).map_err(|_| self.ended())?;
        let mut bytes = vec![0; length];
        self.source.read_exact(&mut bytes).map_err(GgufError::Unreadable)?;
        self.at += length as u64;
        Ok(bytes)
    }

    fn skip(&mut self, length: u64) -> Result<(), GgufError> {
        self.plausible(length, 1)?;
        match i64::try_from(length) {
            Ok(step) => self.source.seek_relative(step).map_err(GgufError::Unreadable)?,
            Err(_) => {
                self.source.seek(SeekFrom::Start(self.at.saturating_add(length))).map_err(GgufError::Unreadable)?;
            }
        }
        self.at += length;
        Ok(())
    }

    fn name(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        if length > MAX_NAME {
            return Err(corrupt(format!("a name of {length} bytes")));
        }
        String::from_utf8(self.take(length)?).map_err(|_| corrupt("a name that is no text".to_owned()))
    }
}

fn corrupt(what: String) -> GgufError {
    GgufError::Corrupt(what)
}
