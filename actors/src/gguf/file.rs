//! A model on disk: one file, or the parts of a split one. The only place here that opens files.

use super::{Gguf, GgufError, Tensors, reader};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// Parts of any model.
const MAX_PARTS: u32 = 999;

/// Reads what `path` says of its model; of a split one (`…-00001-of-00003.gguf`) every part.
///
/// # Errors
/// A file is absent, unreadable, no GGUF, damaged or cut short. The error of a later part names it.
pub fn inspect(path: &Path) -> Result<Gguf, GgufError> {
    let (file, size) = open(path)?;
    let mut model = reader::read(file, size)?;
    if model.parts <= 1 {
        return Ok(model);
    }
    if model.parts > MAX_PARTS {
        return Err(GgufError::Corrupt(format!("it claims {} parts", model.parts)));
    }
    for number in 2..=model.parts {
        let part = part_path(path, number, model.parts)
            .ok_or_else(|| GgufError::Corrupt(format!("it is split into {}: name the first part", model.parts)))?;
        let read = open(&part).and_then(|(file, size)| Ok((reader::read_part(file, size)?, size)));
        let (tensors, size) = read.map_err(|error| named(&part, error))?;
        add(&mut model.tensors, &tensors);
        model.bytes = model.bytes.saturating_add(size);
    }
    Ok(model)
}

/// Whether this one file, a model or a part of one, is whole: says nothing about other parts.
///
/// # Errors
/// As `inspect`.
pub fn check_one(path: &Path) -> Result<(), GgufError> {
    let (file, size) = open(path)?;
    reader::read_part(file, size).map(drop)
}

fn open(path: &Path) -> Result<(File, u64), GgufError> {
    let file = File::open(path).map_err(GgufError::Unreadable)?;
    let about = file.metadata().map_err(GgufError::Unreadable)?;
    if about.is_dir() {
        return Err(GgufError::Unreadable(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    Ok((file, about.len()))
}

/// `name-00001-of-00003.gguf` → `name-00002-of-00003.gguf`. `None` if `path` is not the first part of so many.
fn part_path(path: &Path, number: u32, parts: u32) -> Option<PathBuf> {
    let stem = path.file_name()?.to_str()?.strip_suffix(&format!("-00001-of-{parts:05}.gguf"))?;
    Some(path.with_file_name(format!("{stem}-{number:05}-of-{parts:05}.gguf")))
}

fn named(part: &Path, error: GgufError) -> GgufError {
    let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match error {
        GgufError::Unreadable(source) => {
            GgufError::Unreadable(io::Error::new(source.kind(), format!("its part {name}: {source}")))
        }
        other => GgufError::Corrupt(format!("its part {name} {other}")),
    }
}

fn add(sum: &mut Tensors, more: &Tensors) {
    sum.count += more.count;
    sum.bytes = sum.bytes.saturating_add(more.bytes);
    sum.parameters = sum.parameters.saturating_add(more.parameters);
    sum.embedding = sum.embedding.saturating_add(more.embedding);
    sum.of_unknown_type += more.of_unknown_type;
    // A part does not repeat how many layers there are: what it holds of them is spread evenly.
    let rest = more.bytes.saturating_sub(more.embedding);
    let layers = sum.layers.len() as u64;
    if layers == 0 {
        sum.output = sum.output.saturating_add(rest);
    }
    for layer in &mut sum.layers {
        *layer = layer.saturating_add(rest / layers.max(1));
    }
}
